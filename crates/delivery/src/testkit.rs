//! The test suite that every delivery method passes: a simulated subscription, the method's own channel and receiving
//! half, a connection that can be cut, and a peer that takes, refuses, delays and loses SETs by a script.
//!
//! The channel's [`Profile`](crate::Profile) decides what is demanded. No case sleeps; `patience` only ends one that
//! would hang.

use std::{any::Any, fmt, future::Future, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

use crate::{Ingest, Initiator, Subscription, spi::AnyChannel};

mod case;
mod cases;
mod host;
mod once;
mod peer;
mod relay;
mod sessions;
mod subscription;

/// The clock and the network of the workspace, which a transport's tests need to set up a peer.
pub use setgate_clock as clock;
pub use setgate_net as net;

pub use host::{Host, with_fast_clock};
pub use once::outcomes;
pub use relay::{Cuts, Relay};
pub use subscription::{End, Simulated};

use peer::Act;

/// The part of the suite that a transport's test implements.
pub trait Fixture: Sync {
    /// Opens a channel of the method to a new peer of the method, which hands what it receives to `ingest`.
    fn open(&self, ingest: Arc<dyn Ingest>) -> BoxFuture<'_, Opened>;
}

/// A channel with a peer at its other end.
pub struct Opened {
    /// The channel.
    pub channel: Arc<dyn AnyChannel>,
    /// Cuts all connections that are open between channel and peer; [`Relay::cutter`] makes such a function.
    pub cut: Arc<dyn Fn() + Send + Sync>,
    /// Cuts all connections after this many more bytes, in the middle of a message; [`Relay::breaker`] makes such a
    /// function.
    ///
    /// The case that needs it is left out without it.
    pub cut_after: Option<Arc<dyn Fn(usize) -> BoxFuture<'static, ()> + Send + Sync>>,
    /// True when other SETs are handed over while one waits for its answer, as far as the windows allow.
    pub parallel: bool,
    /// The most SETs that the peer asks for at once (`maxEvents`, credit), where the fixture has set that.
    pub most: Option<usize>,
    /// Serves the routes of a responder with sessions of a subscription, and runs the method's own collector against
    /// them, until the future is dropped. [`Opened::responder`] makes it. The suite runs it instead of the channel.
    pub sessions: Option<Arc<dyn Fn(Subscription) -> BoxFuture<'static, ()> + Send + Sync>>,
    /// A value that must live as long as the channel.
    pub keep: Box<dyn Any + Send + Sync>,
}

/// A case that a method fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The claim that does not hold.
    pub case: &'static str,
    /// The observation that contradicts it.
    pub why: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.case, self.why)
    }
}

/// Runs the suite; for tests.
///
/// # Panics
/// When the method does not pass.
pub async fn conform(fixture: &impl Fixture) {
    let failures = examine(fixture, Duration::from_secs(60)).await;
    let all: Vec<_> = failures.iter().map(ToString::to_string).collect();
    assert!(all.is_empty(), "the method does not keep the contract:\n  {}", all.join("\n  "));
}

/// Runs the suite and returns the claims that do not hold; a case that takes longer than `patience` fails.
pub async fn examine(fixture: &impl Fixture, patience: Duration) -> Vec<Failure> {
    let mut failures = Vec::new();
    let mut note = |case, end: Result<(), String>| {
        if let Err(why) = end {
            failures.push(Failure { case, why });
        }
    };
    // The channel opened here serves only to read its profile.
    let initiator = fixture.open(Arc::new(peer::Nobody)).await.channel.profile().initiator;
    note("it delivers every SET once", within(patience, cases::delivers_all(fixture, 300, 40)).await);
    note("SETs of few order keys arrive in order", within(patience, cases::delivers_all(fixture, 60, 3)).await);
    note(
        "a connection lost before reading loses nothing",
        within(patience, cases::survives_cuts(fixture, Act::Cut)).await,
    );
    note(
        "a connection lost after reading repeats",
        within(patience, cases::survives_cuts(fixture, Act::TakeAndCut)).await,
    );
    note("a connection lost in the middle loses nothing", within(patience, cases::survives_breaks(fixture)).await);
    note("refusals are reported as the peer words them", within(patience, cases::reports_refusals(fixture)).await);
    note("an unhealthy peer is tried again", within(patience, cases::tries_again(fixture)).await);
    note("a late answer counts and holds up nobody else", within(patience, cases::takes_late_answers(fixture)).await);
    note("an answer counts after its time is over", within(patience, cases::takes_overdue_answers(fixture)).await);
    note("the window is never exceeded", within(patience, cases::keeps_the_window(fixture)).await);
    note("a run that is dropped loses nothing", within(patience, cases::survives_a_dropped_run(fixture)).await);
    note("a fetch can be interrupted at every poll", within(patience, cases::fetches_interrupted(fixture)).await);
    note("a flood does not lock up", within(patience, cases::survives_a_flood(fixture)).await);
    match initiator {
        Initiator::Gateway => {
            note("draining finishes what was handed over", within(patience, cases::drains(fixture)).await);
            note("an end is heard while nothing may be fetched", within(patience, cases::hears_the_end(fixture)).await);
        }
        Initiator::Receiver => {
            note("two consumers share a stream", within(patience, sessions::shares(fixture)).await);
            note("an end answers who waits", within(patience, sessions::hears_ends(fixture)).await);
            note("a drain hears what is answered", within(patience, sessions::drains(fixture)).await);
            note("a paused stream is waited for", within(patience, sessions::waits_while_paused(fixture)).await);
            note(
                "who hangs up while waiting costs nothing",
                within(patience, sessions::forgets_who_hung_up(fixture)).await,
            );
        }
    }
    failures
}

async fn within(patience: Duration, case: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    tokio::time::timeout(patience, case).await.unwrap_or_else(|_| Err(format!("it hangs: no end within {patience:?}")))
}

#[cfg(test)]
mod tests;
