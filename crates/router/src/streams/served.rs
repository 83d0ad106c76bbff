//! The parts that a stream needs to be delivered: its issuer, its method's channel, its seal.

use std::sync::Arc;

use serde_json::Value as Json;
use setgate_delivery::{About, Fault, spi::AnyChannel};
use setgate_jose::UnknownAlgorithm;
use setgate_store::{StreamNo, Version};
use setgate_stream::{Owner, Stream};

use crate::{Inner, Issuer, number::Generation, seal::Seal, subscription::Served, vault::Secrets};

/// The reason why a stream cannot be delivered as it is configured, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The issuer is not one of this gateway's.
    #[error("`issuer` {issuer} is not among [[issuers]] ({})", known.join(", "))]
    Issuer {
        /// The issuer that the stream names.
        issuer: String,
        /// The issuers of this gateway.
        known: Vec<String>,
    },
    /// The method is not linked and enabled.
    #[error("`delivery.method` {method} is not linked and enabled; there are: {}", known.join(", "))]
    Method {
        /// The method that the stream names.
        method: String,
        /// The URIs of the methods that are.
        known: Vec<&'static str>,
    },
    /// The algorithm is unknown.
    #[error(transparent)]
    Algorithm(#[from] UnknownAlgorithm),
    /// The issuer has no key for the algorithm.
    #[error("`algorithm` {0}: the issuer has no such key; list it under `algorithms` of [[issuers]]")]
    NoKey(String),
    /// The method does not accept the terms or the grant.
    #[error(transparent)]
    Terms(#[from] Fault),
    /// The id is declared for another stream as well.
    #[error("it is declared twice")]
    Twice,
    /// The id is that of a stream which a receiver owns.
    #[error("a receiver's stream has this id: choose another")]
    OfReceiver,
    /// The audience or the issuer changed while SETs wait that were meant for the former one.
    #[error(
        "`audience` or `issuer` changed while {waiting} SETs wait: pause intake and let them drain, or delete the stream and declare it under a new id"
    )]
    Moved {
        /// The number of SETs that wait.
        waiting: u64,
    },
    /// The store gave no number.
    #[error("the store gave no number")]
    NoNumber,
}

impl Inner {
    pub(super) fn secrets(&self, method: &str) -> Secrets {
        setgate_delivery::find(&self.methods, method).map_or_else(Secrets::default, |method| Secrets {
            terms: method.secret_terms(),
            grant: method.secret_grant(),
        })
    }

    /// Returns what a stream needs to be delivered, or the reason why it cannot be.
    pub(super) fn served(&self, stream: &Arc<Stream>, filter_changed: Version) -> Result<Served, StreamError> {
        let issuer = self.issuer_of(&stream.issuer)?;
        let called = &stream.delivery.method;
        let method = setgate_delivery::find(&self.methods, called).ok_or_else(|| StreamError::Method {
            method: called.clone(),
            known: self.methods.iter().map(|method| method.entry().uri).collect(),
        })?;
        let algorithm = stream.algorithm.parse()?;
        let operator_owned = stream.owner == Owner::Operator;
        let about = About { stream: stream.id.shared(), issuer: stream.issuer.clone(), operator_owned };
        let channel = match self.channel_in_force(stream) {
            Some(channel) => channel,
            None => method.channel(&about, stream.delivery.terms.clone(), stream.delivery.grant.clone())?,
        };
        let mut profile = channel.profile();
        let at_most = |limit: usize, asked: Option<std::num::NonZeroU32>| {
            asked.and_then(|asked| usize::try_from(asked.get()).ok()).map_or(limit, |asked| asked.min(limit))
        };
        profile.limits.sets = at_most(profile.limits.sets, stream.batch.sets);
        profile.limits.bytes = at_most(profile.limits.bytes, stream.batch.bytes);
        let seal = Seal {
            iss_json: Json::from(&*stream.issuer).to_string(),
            aud_json: serde_json::to_string(&stream.audience).unwrap_or_default(),
            algorithm,
            form: profile.form,
            keyring: issuer.keyring.clone(),
        };
        let endpoint = profile.endpoint.as_ref().map(|name| self.shared.endpoint(name));
        Ok(Served {
            stream: stream.clone(),
            endpoint,
            channel,
            profile,
            seal: Arc::new(seal),
            method: method.entry().name,
            filter_changed,
            generation: Generation::default(),
        })
    }

    /// Returns the issuer with this URL.
    pub(super) fn issuer_of(&self, url: &str) -> Result<&Issuer, StreamError> {
        self.issuer(url).ok_or_else(|| StreamError::Issuer {
            issuer: url.to_owned(),
            known: self.issuers.iter().map(|issuer| issuer.url.to_string()).collect(),
        })
    }

    /// Returns the channel of a stream whose delivery stays as it is: what its method keeps there (waiting polls,
    /// windows) outlives a pause.
    fn channel_in_force(&self, stream: &Stream) -> Option<Arc<dyn AnyChannel>> {
        let served = self.subscription(StreamNo(stream.no))?.served.load_full();
        let before = &served.stream;
        let same = before.id == stream.id
            && before.delivery == stream.delivery
            && before.issuer == stream.issuer
            && before.owner == stream.owner;
        same.then(|| served.channel.clone())
    }
}
