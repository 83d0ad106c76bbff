//! The ingest of `setgate listen`, which verifies SETs, detects duplicates, reports, and misbehaves if told to.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde::Serialize;
use setgate_clock::Runtime;
use setgate_delivery::{Answer, BoxFuture, ErrorCode, Incoming, Ingest, Refusal};
use setgate_discovery::IssuerUrl;

use crate::{
    Inbox, Misbehave, Mischief, NotTaken, Seen, Taken, Verify,
    verify::{refusal, refused},
};

/// A report of a receiver.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Report {
    /// The metadata and keys of an issuer have arrived.
    Learned {
        /// The issuer.
        issuer: IssuerUrl,
    },
    /// The metadata and keys of an issuer cannot be fetched yet; the receiver tries again.
    Waiting {
        /// The issuer.
        issuer: IssuerUrl,
        /// The reason in words.
        why: String,
    },
    /// A SET was verified and is new. It is acknowledged when the sink has accepted this report.
    Taken(Received),
    /// A SET was verified and had come before; it is acknowledged again (RFC 8935 §2).
    Duplicate {
        /// The SET.
        received: Received,
        /// Whether its claims are those of the first one, as they must be.
        same_claims: bool,
    },
    /// A SET was verified, has a critical subject member that is not understood, and is discarded (SSF 1.0 §3.6).
    Discarded(Received),
    /// A SET, or what was sent as one, was refused.
    Refused {
        /// The peer that sent it.
        peer: String,
        /// The time of arrival, in milliseconds since the epoch.
        at_millis: u64,
        /// The refusal that was sent as the answer.
        refusal: Refusal,
        /// Whether it was refused on purpose, though it was valid.
        on_purpose: bool,
    },
    /// A SET was put off, since the metadata or keys of its issuer are not there.
    PutOff {
        /// The peer that sent it.
        peer: String,
        /// The time of arrival, in milliseconds since the epoch.
        at_millis: u64,
        /// The reason in words.
        why: String,
    },
    /// A SET was answered with a status on purpose, without being verified.
    Failed {
        /// The peer that sent it.
        peer: String,
        /// The time of arrival, in milliseconds since the epoch.
        at_millis: u64,
        /// The HTTP status.
        status: u16,
    },
}

/// A verified SET, with its sender and its time of arrival.
#[derive(Clone, Debug)]
pub struct Received {
    /// The SET.
    pub taken: Taken,
    /// The peer that sent it, as far as the listener knows.
    pub peer: String,
    /// The time of arrival, in milliseconds since the epoch.
    pub at_millis: u64,
}

/// A function that accepts reports. A SET whose report the sink does not accept is not acknowledged.
pub type Sink = Arc<dyn Fn(&Report) -> io::Result<()> + Send + Sync>;

/// The numbers of SETs so far, by outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// The number of new SETs that were accepted.
    pub taken: u64,
    /// The number of SETs that had come before.
    pub duplicates: u64,
    /// The number of duplicates whose claims differ from those of the first one, which is a fault of the transmitter.
    pub changed: u64,
    /// The number of SETs that were acknowledged and discarded.
    pub discarded: u64,
    /// The number of SETs that were refused because they are not valid, by code. The receiver chooses the codes, so
    /// that there are few.
    pub refused: BTreeMap<String, u64>,
    /// The number of valid SETs that were refused on purpose.
    pub refused_on_purpose: u64,
    /// The number of SETs that were put off because keys were not there, the same SET was being accepted, or the sink
    /// failed.
    pub put_off: u64,
    /// The number of SETs that were answered with a status on purpose.
    pub failed: u64,
}

/// The ingest of a receiver.
///
/// A SET counts as accepted when the sink has accepted its report: an acknowledgement is as durable as the sink.
pub struct ListenIngest {
    verify: Verify,
    inbox: Inbox,
    misbehave: Misbehave,
    sink: Sink,
    counts: Mutex<Counts>,
    runtime: Runtime,
}

/// The time after which a transmitter is asked to come back while the same SET is being accepted, or when the sink
/// failed.
const LATER: Duration = Duration::from_secs(1);

impl ListenIngest {
    /// Creates an ingest that verifies with `verify` and reports to `sink`.
    #[must_use]
    pub fn new(verify: Verify, inbox: Inbox, misbehave: Misbehave, sink: Sink, runtime: Runtime) -> Self {
        Self { verify, inbox, misbehave, sink, counts: Mutex::default(), runtime }
    }

    /// Returns the numbers of SETs so far, by outcome.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts.lock().clone()
    }

    async fn ingest_one(&self, peer: &str, incoming: Incoming) -> Answer {
        if !self.misbehave.delay().is_zero() {
            self.runtime.clock.sleep(self.misbehave.delay()).await;
        }
        let mischief = self.misbehave.draw();
        if let Mischief::Fail(status) = mischief {
            self.count(|counts| counts.failed += 1);
            self.tell(&Report::Failed { peer: peer.to_owned(), at_millis: self.now(), status });
            return Answer::Status(status);
        }
        let taken = match incoming {
            Incoming::Set { named, token } => self.verify_one(named, &token).await,
            Incoming::Event { .. } => Err(refused(ErrorCode::InvalidRequest, "SETs are taken here, not events")),
        };
        match (taken, mischief) {
            (Ok(_), Mischief::Refuse(code)) => {
                self.count(|counts| counts.refused_on_purpose += 1);
                self.refuse(peer, refusal(code, "refused on purpose"), true)
            }
            (Ok(taken), _) => self.hand_over(peer, taken),
            (Err(NotTaken::Refused(refusal)), _) => self.refuse_invalid(peer, refusal),
            (Err(NotTaken::NotNow { after, why }), _) => {
                self.count(|counts| counts.put_off += 1);
                self.tell(&Report::PutOff { peer: peer.to_owned(), at_millis: self.now(), why });
                Answer::Busy { after }
            }
        }
    }

    async fn verify_one(&self, named: Option<Box<str>>, token: &[u8]) -> Result<Taken, NotTaken> {
        let taken = self.verify.check(token).await?;
        if named.is_some_and(|named| *named != *taken.jti) {
            return Err(refused(ErrorCode::InvalidRequest, "the SET is listed under another `jti` than its own"));
        }
        Ok(taken)
    }

    /// Reports a verified SET and returns its answer. It does not wait in between, so that no SET stays held when the
    /// caller goes away.
    fn hand_over(&self, peer: &str, taken: Taken) -> Answer {
        let (iss, jti) = (taken.iss.clone(), taken.jti.clone());
        let claims = serde_json::to_vec(&taken.claims).unwrap_or_default();
        let seen = self.inbox.look(&iss, &jti, &claims);
        let received = Received { taken, peer: peer.to_owned(), at_millis: self.now() };
        match seen {
            Seen::Busy => {
                self.count(|counts| counts.put_off += 1);
                Answer::Busy { after: LATER }
            }
            Seen::Duplicate { same_claims } => {
                self.count(|counts| {
                    counts.duplicates += 1;
                    counts.changed += u64::from(!same_claims);
                });
                self.tell(&Report::Duplicate { received, same_claims });
                Answer::Taken
            }
            Seen::New => {
                let discard = received.taken.discard.is_some();
                let report = if discard { Report::Discarded(received) } else { Report::Taken(received) };
                if self.tell(&report) {
                    self.inbox.taken(&iss, &jti);
                    self.count(|counts| if discard { counts.discarded += 1 } else { counts.taken += 1 });
                    Answer::Taken
                } else {
                    self.inbox.forget(&iss, &jti);
                    self.count(|counts| counts.put_off += 1);
                    Answer::Busy { after: LATER }
                }
            }
        }
    }

    /// Counts and reports a SET that is not acceptable, and returns its refusal.
    pub(crate) fn refuse_invalid(&self, peer: &str, refusal: Refusal) -> Answer {
        let code = refusal.code.as_str().to_owned();
        self.count(|counts| *counts.refused.entry(code).or_default() += 1);
        self.refuse(peer, refusal, false)
    }

    fn refuse(&self, peer: &str, refusal: Refusal, on_purpose: bool) -> Answer {
        let report =
            Report::Refused { peer: peer.to_owned(), at_millis: self.now(), refusal: refusal.clone(), on_purpose };
        self.tell(&report);
        Answer::Refused(refusal)
    }

    /// Hands a report to the sink, and returns whether the sink accepted it.
    pub(crate) fn tell(&self, report: &Report) -> bool {
        match (self.sink)(report) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "a report could not be handed over");
                false
            }
        }
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.counts.lock());
    }

    fn now(&self) -> u64 {
        self.runtime.clock.wall_millis()
    }
}

impl Ingest for ListenIngest {
    fn accept<'a>(&'a self, peer: &'a str, what: Vec<Incoming>) -> BoxFuture<'a, Vec<Answer>> {
        Box::pin(async move {
            let mut answers = Vec::with_capacity(what.len());
            for incoming in what {
                answers.push(self.ingest_one(peer, incoming).await);
            }
            answers
        })
    }
}

#[cfg(test)]
mod tests;
