//! The preparation of leased SETs: bodies are read and tokens sealed.

use std::sync::Arc;

use bytes::Bytes;
use setgate_delivery::Cause;
use setgate_set::Jti;
use setgate_store::{Kind, Position, Rule, StoreError};

use crate::{
    number::{BatchNo, KeyGeneration, LeaseNo},
    seal::{Job, SealError},
    slot::Slot,
    subscription::{FetchedBatch, Served, Subscription},
};

/// A fetched SET with its sealed token, or the reason why it has none.
pub(super) struct Prepared {
    pub(super) slot: Slot,
    pub(super) batch: BatchNo,
    pub(super) jti: Jti,
    pub(super) made: Made,
}

impl Prepared {
    pub(super) fn lease(&self) -> LeaseNo {
        LeaseNo { seq: self.slot.seq(), batch: self.batch }
    }
}

pub(super) enum Made {
    Token(Token),
    Gone(Rule),
    TooLarge(usize),
    /// The store has the SET and cannot read it.
    Unread(Cause),
}

pub(super) struct Token {
    pub(super) token: Bytes,
    pub(super) body: Bytes,
    /// The generation of the keyring when the token was sealed.
    pub(super) generation: KeyGeneration,
}

pub(super) struct Failed {
    pub(super) sets: Vec<LeaseNo>,
    pub(super) cause: Cause,
}

/// Reads the bodies of a batch in one range and seals them in one job.
pub(super) async fn prepare(
    subscription: Arc<Subscription>,
    served: Arc<Served>,
    batch: FetchedBatch,
) -> Result<Vec<Prepared>, Failed> {
    let FetchedBatch { no: batch, slots } = batch;
    let fail = |cause: Cause, slots: &[(Slot, Jti)]| Failed {
        sets: slots.iter().map(|(slot, _)| LeaseNo { seq: slot.seq(), batch }).collect(),
        cause,
    };
    let started = subscription.shared.runtime.clock.monotonic();
    let at = slots.iter().map(|(slot, _)| slot.head.at).collect();
    let bodies = match read(&subscription, at, &slots).await {
        Ok(bodies) => bodies,
        Err(error) => return Err(fail(store_cause(&error), &slots)),
    };
    let generation = KeyGeneration::of(&served.seal.keyring);
    let (jobs, cached) = jobs(&subscription, &slots, &bodies, generation);
    let count = jobs.len() as u64;
    let sealed = match served.seal.batch(&subscription.shared.pool, jobs).await {
        Ok(sealed) => sealed,
        Err(error) => return Err(fail(seal_cause(&error), &slots)),
    };
    subscription.shared.observed.sealed.inc_by(count);
    subscription
        .shared
        .observed
        .sealing
        .observe(subscription.shared.runtime.clock.monotonic().saturating_sub(started).as_secs_f64());
    let mut sealed = sealed.into_iter();
    let most = served.profile.limits.set_bytes;
    let mut prepared = Vec::with_capacity(slots.len());
    {
        let mut state = subscription.state.lock();
        for (((slot, jti), body), kept) in slots.into_iter().zip(bodies).zip(cached) {
            let made = match (body, kept) {
                (Err(cause), _) => Made::Unread(cause),
                (Ok(None), _) => Made::Gone(Rule::Lost),
                (Ok(Some(body)), Some(token)) => Made::Token(Token { token, body, generation }),
                (Ok(Some(body)), None) => match sealed.next() {
                    Some(token) if token.len() > most => Made::TooLarge(token.len()),
                    Some(token) => Made::Token(Token { token, body, generation }),
                    None => Made::Gone(Rule::Lost),
                },
            };
            if let (Made::Token(made), Some(leased)) = (&made, state.in_flight.leased.get_mut(&slot.seq()))
                && leased.batch == batch
            {
                leased.sealed = Some((generation, made.token.clone()));
            }
            prepared.push(Prepared { slot, batch, jti, made });
        }
    }
    Ok(prepared)
}

/// Returns the jobs to seal, and for each SET the kept token of an earlier attempt, so that a repeat leaves as it was.
fn jobs(
    subscription: &Subscription,
    slots: &[(Slot, Jti)],
    bodies: &[Result<Option<Bytes>, Cause>],
    generation: KeyGeneration,
) -> (Vec<Job>, Vec<Option<Bytes>>) {
    let mut jobs = Vec::with_capacity(slots.len());
    let mut cached = Vec::with_capacity(slots.len());
    for ((slot, jti), body) in slots.iter().zip(bodies) {
        let kept = if slot.attempts > 0 || slot.sealed_before {
            subscription.shared.cache.find(jti, generation)
        } else {
            None
        };
        if let (None, Ok(Some(body))) = (&kept, body) {
            jobs.push(Job { jti: *jti, iat: slot.head.accepted, body: body.clone() });
        }
        cached.push(kept);
    }
    (jobs, cached)
}

/// Reads bodies. Where one of them is corrupt, each is read by itself, so that it holds up no other.
async fn read(
    subscription: &Subscription,
    at: Vec<Position>,
    slots: &[(Slot, Jti)],
) -> Result<Vec<Result<Option<Bytes>, Cause>>, StoreError> {
    let store = &subscription.shared.store;
    match store.bodies(at.clone()).await {
        // A control SET travels alone, so a corrupt one makes its channel wait.
        Err(StoreError::Corrupt(_)) if slots.iter().all(|(slot, _)| slot.head.kind != Kind::Control) => {}
        read => return Ok(read?.into_iter().map(Ok).collect()),
    }
    let mut bodies = Vec::with_capacity(at.len());
    for at in at {
        bodies.push(match store.bodies(vec![at]).await {
            Ok(body) => Ok(body.into_iter().next().flatten()),
            Err(StoreError::Corrupt(why)) => Err(Cause::new("store", format!("record {at} does not read: {why}"))),
            Err(error) => return Err(error),
        });
    }
    Ok(bodies)
}

fn store_cause(error: &StoreError) -> Cause {
    Cause::new("store", error.to_string())
}

fn seal_cause(error: &SealError) -> Cause {
    let code = match error {
        SealError::NoKey(_) => "no_key",
        SealError::Sign(_) | SealError::PoolEnded => "sign",
    };
    Cause::new(code, error.to_string())
}
