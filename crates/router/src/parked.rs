//! Parked SETs: the calls that show them, issue them again and drop them.

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use setgate_set::{ErrorCode, Jti, Timestamp};
use setgate_store::{Done, Durability, Kind, Named, Parked, ParkedFilter, Position, StoreError, StreamNo, Unit};
use setgate_stream::Stream;

use crate::{ChangeError, Inner, Router, hash::Set};

/// The most records of the ledger that are read to find out whether a later SET was acknowledged.
const LOOK_BACK_MOST: u64 = 262_144;
/// The longest wait for acknowledgements that are on their way into the store.
const VISIBLE: Duration = Duration::from_secs(1);

/// A parked SET as shown to people.
#[derive(Clone, Debug, Serialize)]
pub struct ParkedView {
    /// The stream's id.
    pub stream: String,
    /// The stream's issuer.
    pub issuer: Option<String>,
    /// The `jti` of the parked SET.
    pub jti: Jti,
    /// The `txn` of its event: all SETs of the event have it, and the producer has it from the answer to the event.
    pub txn: Option<String>,
    /// The position in the ledger.
    pub at: Position,
    /// The time at which it was parked.
    pub parked_at: Timestamp,
    /// The time at which its event was accepted.
    pub accepted: Timestamp,
    /// The error code: the receiver's, or the gateway's own.
    pub code: ErrorCode,
    /// The receiver's words.
    pub text: String,
    /// The number of attempts made.
    pub attempts: u32,
    /// True when the fault was the stream's and not the SET's.
    pub stream_fault: bool,
    /// The claims; present only where one SET is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claims: Option<Json>,
}

/// The answer for one SET that was to be issued again.
#[derive(Clone, Debug, Serialize)]
pub struct Reissued {
    /// The `jti` of the parked SET.
    pub jti: String,
    /// The id of its stream, where such a SET is parked.
    pub stream: Option<String>,
    /// The `txn` of the parked SET and of the new one.
    pub txn: Option<String>,
    /// The `jti` of the new SET, which stands at the end of its lane.
    pub new_jti: Option<String>,
    /// The reason why it was not issued again.
    pub error: Option<String>,
}

/// The fate of later SETs of the order key of a parked one, as far as the gateway knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Later {
    /// The receiver has no later SET.
    None,
    /// The receiver acknowledged a later SET.
    Acknowledged,
    /// A later SET ended, by an acknowledgement or a rule; the ledger does not keep which.
    Ended,
    /// The ledger no longer holds what would tell.
    Unknown,
}

impl Later {
    /// Returns the objection to issuing the SET again, if there is one.
    const fn objection(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Acknowledged => Some(
                "a later SET of the same order key was acknowledged since: the receiver would see the older one last; repeat with --out-of-order if that is right",
            ),
            Self::Ended => Some(
                "a later SET of the same order key waits no more, so the receiver may have it and would see the older one last; repeat with --out-of-order if that is right",
            ),
            Self::Unknown => Some(
                "it is not known any more whether a later SET of the same order key was acknowledged: the receiver might see the older one last; repeat with --out-of-order if that is right",
            ),
        }
    }
}

impl Inner {
    /// Returns what is known of later SETs of its order key: from memory, where all of them were seen here, otherwise
    /// from the ledger.
    async fn later(&self, parked: &Parked) -> Result<Later, StoreError> {
        let subscription = self.subscription(parked.stream);
        match subscription.and_then(|subscription| subscription.acknowledged_after(parked.order, parked.at.seq)) {
            Some(true) => return Ok(Later::Acknowledged),
            Some(false) => return Ok(Later::None),
            None => {}
        }
        let store = &self.shared.store;
        tokio::select! {
            biased;
            () = self.shared.settler.flush() => {}
            () = self.shared.runtime.clock.sleep(VISIBLE) => return Ok(Later::Unknown),
        }
        let last = store.bounds().last;
        if last.seq.saturating_sub(parked.at.seq) > LOOK_BACK_MOST {
            return Ok(Later::Unknown);
        }
        let aside: Set<u64> = self.all_parked(parked.stream).await?.iter().map(|parked| parked.at.seq).collect();
        let mut after = parked.at;
        let mut whole = true;
        while after < last {
            let entries = store.tail(after, 1024, Duration::ZERO).await?;
            if entries.is_empty() {
                return Ok(Later::Unknown);
            }
            for entry in entries {
                let (at, head) = (entry.head.at, &entry.head);
                // A record that is owed to no stream any more may be gone from the ledger.
                whole &= at.seq == after.seq + 1;
                after = at;
                let older = matches!(head.kind, Kind::Reissue { of } if of <= parked.at);
                let its_own = head.order == parked.order && entry.targets.contains(parked.stream.0);
                if its_own && !older && !aside.contains(&at.seq) && !store.is_owed(parked.stream, at) {
                    return Ok(Later::Ended);
                }
            }
        }
        Ok(if whole { Later::None } else { Later::Unknown })
    }
}

impl Router {
    async fn parked_views(&self, parked: &[Parked], claims: bool) -> Vec<ParkedView> {
        let kept = self.0.kept.lock().await;
        let stream = |parked: &Parked| kept.streams.get(&parked.stream).map(|(stream, _)| stream.clone());
        parked.iter().map(|parked| Self::parked_view(parked, stream(parked).as_deref(), claims)).collect()
    }

    fn parked_view(parked: &Parked, stream: Option<&Stream>, claims: bool) -> ParkedView {
        ParkedView {
            stream: stream.map_or_else(|| format!("#{}", parked.stream), |stream| stream.id.to_string()),
            issuer: stream.map(|stream| stream.issuer.to_string()),
            jti: parked.jti,
            txn: txn(&parked.body),
            at: parked.at,
            parked_at: parked.parked_at,
            accepted: parked.accepted,
            code: parked.code.clone(),
            text: setgate_telemetry::clean(&parked.text, 512),
            attempts: parked.attempts,
            stream_fault: parked.stream_fault,
            claims: claims.then(|| serde_json::from_slice(&parked.body).unwrap_or_default()),
        }
    }

    /// Returns parked SETs by stream and age, at most `most`, after the one whose `jti` is `after`.
    ///
    /// # Errors
    /// [`ChangeError`] when the stream does not exist, or the store cannot be read.
    pub async fn parked(
        &self,
        stream: Option<&str>,
        code: Option<ErrorCode>,
        after: Option<String>,
        most: usize,
    ) -> Result<Vec<ParkedView>, ChangeError> {
        let stream = match stream {
            Some(id) => {
                let no = self.0.streams_by_id.load().get(id).copied();
                Some(no.ok_or_else(|| ChangeError::Unknown(format!("stream `{id}`")))?)
            }
            None => None,
        };
        let from = match &after {
            Some(jti) => {
                let named = self.named(jti)?;
                Some((named.stream, Position { seq: named.at.seq + 1, ..named.at }))
            }
            None => None,
        };
        let parked = self.0.shared.store.parked(ParkedFilter { stream, code, from, most }).await?;
        Ok(self.parked_views(&parked, false).await)
    }

    fn named(&self, jti: &str) -> Result<Named, ChangeError> {
        let unknown =
            || ChangeError::Unknown(format!("parked SET with the jti `{}`", setgate_telemetry::clean(jti, 64)));
        let jti: Jti = jti.parse().map_err(|_| unknown())?;
        self.0.shared.store.names().read(&jti).ok_or_else(unknown)
    }

    async fn find(&self, jti: &str) -> Result<Option<Parked>, ChangeError> {
        let named = self.named(jti)?;
        let filter =
            ParkedFilter { stream: Some(named.stream), code: None, from: Some((named.stream, named.at)), most: 1 };
        let found = self.0.shared.store.parked(filter).await?;
        Ok(found.into_iter().next().filter(|parked| parked.at == named.at && parked.jti.as_str() == jti))
    }

    /// Returns one parked SET with its claims.
    ///
    /// # Errors
    /// [`ChangeError`] when the `jti` is not one of this gateway's, or the store cannot be read.
    pub async fn parked_one(&self, jti: &str) -> Result<Option<ParkedView>, ChangeError> {
        let found = self.find(jti).await?;
        Ok(self.parked_views(found.as_slice(), true).await.pop())
    }

    /// Issues parked SETs again: new records at the end of the ledger, with the same `txn` and a new `jti`.
    ///
    /// Where a later SET of the same order key was acknowledged since, the order can no longer be kept, and the call
    /// needs `out_of_order`.
    ///
    /// # Errors
    /// [`ChangeError`] when the store does not accept it; the errors of single SETs are in their answers.
    pub async fn reissue(&self, jtis: Vec<String>, out_of_order: bool) -> Result<Vec<Reissued>, ChangeError> {
        let mut changed = BTreeSet::new();
        let answers = self.reissue_each(jtis, out_of_order, &mut changed).await;
        // The keys are let go after an error too: SETs that were issued until then are no longer parked.
        for stream in changed {
            self.0.let_go_what_is_not_parked(stream).await;
        }
        answers
    }

    async fn reissue_each(
        &self,
        jtis: Vec<String>,
        out_of_order: bool,
        changed: &mut BTreeSet<StreamNo>,
    ) -> Result<Vec<Reissued>, ChangeError> {
        let store = &self.0.shared.store;
        let mut answers = Vec::with_capacity(jtis.len());
        for jti in jtis {
            let parked = match self.find(&jti).await {
                Ok(Some(parked)) => parked,
                Ok(None) | Err(ChangeError::Unknown(_)) => {
                    let error = Some("no such SET is parked".into());
                    answers.push(Reissued { jti, stream: None, txn: None, new_jti: None, error });
                    continue;
                }
                Err(error) => return Err(error),
            };
            let view = self.parked_views(std::slice::from_ref(&parked), false).await.pop();
            let (stream, txn) = view.map(|view| (view.stream, view.txn)).unzip();
            let answer = |new_jti: Option<String>, error: Option<String>| {
                let (stream, txn) = (stream.clone(), txn.clone().flatten());
                Reissued { jti: jti.clone(), stream, txn, new_jti, error }
            };
            let later = if out_of_order { Later::None } else { self.0.later(&parked).await? };
            if let Some(why) = later.objection() {
                answers.push(answer(None, Some(why.into())));
                continue;
            }
            let unit = Unit::Reissue { fence: store.fence(), stream: parked.stream, of: parked.at };
            changed.insert(parked.stream);
            match store.commit(vec![unit], Durability::Sync).await?.into_iter().next() {
                Some(Done::Reissued(Some(at))) => {
                    let head = store.heads(vec![at]).await?.into_iter().next().flatten();
                    let new_jti = head.map(|head| store.names().jti(at, parked.stream, head.boot).to_string());
                    answers.push(answer(new_jti, None));
                }
                _ => answers.push(answer(None, Some("no such SET is parked".into()))),
            }
        }
        Ok(answers)
    }

    /// Drops parked SETs for good; returns their number.
    ///
    /// # Errors
    /// [`ChangeError`] when a `jti` is not one of this gateway's, or the store does not accept it.
    pub async fn discard(&self, jtis: Vec<String>) -> Result<usize, ChangeError> {
        let inner = &self.0;
        let mut what = Vec::with_capacity(jtis.len());
        for jti in &jtis {
            if let Some(parked) = self.find(jti).await? {
                what.push((parked.stream, parked.at));
            }
        }
        if what.is_empty() {
            return Ok(0);
        }
        let changed: BTreeSet<_> = what.iter().map(|(stream, _)| *stream).collect();
        let unit = Unit::Discard { fence: inner.shared.store.fence(), what };
        let done = inner.shared.store.commit(vec![unit], Durability::Sync).await?;
        for stream in changed {
            inner.let_go_what_is_not_parked(stream).await;
        }
        match done.into_iter().next() {
            Some(Done::Discarded(count)) => Ok(count),
            _ => Ok(0),
        }
    }
}

/// Returns the `txn` in a body; every body has one.
fn txn(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        txn: String,
    }
    serde_json::from_slice::<Named>(body).ok().map(|named| named.txn)
}
