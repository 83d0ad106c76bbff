//! What a stream needs to be delivered: its issuer, its method's channel, its seal.

use std::sync::Arc;

use serde_json::Value as Json;
use setgate_delivery::{About, Fault, spi::AnyChannel};
use setgate_jose::UnknownAlgorithm;
use setgate_store::{StreamNo, Version};
use setgate_stream::{Owner, Stream};

use crate::{Inner, Issuer, number::Generation, seal::Seal, subscription::Served, vault::Secrets};

/// Why a stream cannot be delivered as it is configured, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// Its issuer is none of this gateway's.
    #[error("`issuer` {issuer} is not among [[issuers]] ({})", known.join(", "))]
    Issuer {
        /// As the stream has it.
        issuer: String,
        /// Those of this gateway.
        known: Vec<String>,
    },
    /// Its method is not there.
    #[error("`delivery.method` {method} is not linked and enabled; there are: {}", known.join(", "))]
    Method {
        /// As the stream has it.
        method: String,
        /// The URIs of those that are.
        known: Vec<&'static str>,
    },
    /// Its algorithm is none.
    #[error(transparent)]
    Algorithm(#[from] UnknownAlgorithm),
    /// Its issuer has no key for its algorithm.
    #[error("`algorithm` {0}: the issuer has no such key; list it under `algorithms` of [[issuers]]")]
    NoKey(String),
    /// Its method does not take its terms or its grant.
    #[error(transparent)]
    Terms(#[from] Fault),
    /// Its id is declared for another stream as well.
    #[error("it is declared twice")]
    Twice,
    /// Its id is that of a stream which a receiver owns.
    #[error("a receiver's stream has this id: choose another")]
    OfReceiver,
    /// Its SETs would be for somebody else than those that wait.
    #[error(
        "`audience` or `issuer` changed while {waiting} SETs wait: pause intake and let them drain, or delete the stream and declare it under a new id"
    )]
    Moved {
        /// SETs that wait.
        waiting: u64,
    },
    /// The store did not number it.
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

    /// What a stream needs to be delivered, or why it cannot.
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

    /// The issuer of this URL.
    pub(super) fn issuer_of(&self, url: &str) -> Result<&Issuer, StreamError> {
        self.issuer(url).ok_or_else(|| StreamError::Issuer {
            issuer: url.to_owned(),
            known: self.issuers.iter().map(|issuer| issuer.url.to_string()).collect(),
        })
    }

    /// The channel of a stream whose delivery stays as it is: what its method keeps there (waiting polls, windows) outlives a pause.
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
