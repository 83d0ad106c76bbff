//! The suite that every delivery method passes: a simulated feed, the method's own line, a cuttable connection, the method's
//! own receiving half, and a peer that takes, refuses, delays and loses by script.
//!
//! The line's [`Profile`](crate::Profile) chooses what is demanded. Nothing here sleeps; `patience` only ends a case that
//! would hang.

use std::{any::Any, fmt, future::Future, pin::pin, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};

use crate::{Closed, ErrorCode, Inlet, Order, Receipt, Refusal, Voice, spi::AnyLine};

mod feed;
mod once;
mod peer;
mod relay;

/// What a transport's tests need of the house to stand up a peer.
pub use {clock, net};

use feed::{End, Simulated};
pub use once::outcomes;
use peer::{Act, Door, Meeting, Peer};
pub use relay::Relay;

/// What a transport's test brings.
pub trait Rig: Sync {
    /// Opens a line of the method to a new peer of the method, which hands what it receives to `inlet`.
    fn open(&self, inlet: Arc<dyn Inlet>) -> BoxFuture<'_, Opened>;
}

/// A line with a peer at its other end.
pub struct Opened {
    /// The line.
    pub line: Arc<dyn AnyLine>,
    /// Cuts all connections of this moment between line and peer; [`Relay::cutter`] is one.
    pub cut: Arc<dyn Fn() + Send + Sync>,
    /// Whether other SETs are handed over while one waits for its answer, as far as windows let them.
    pub parallel: bool,
    /// Whatever must live as long as the line.
    pub keep: Box<dyn Any + Send + Sync>,
}

/// A case that a method does not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The claim that does not hold.
    pub case: &'static str,
    /// What was seen instead.
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
pub async fn conform(rig: &impl Rig) {
    let failures = examine(rig, Duration::from_secs(60)).await;
    let all: Vec<_> = failures.iter().map(ToString::to_string).collect();
    assert!(all.is_empty(), "the method does not keep the contract:\n  {}", all.join("\n  "));
}

/// Runs the suite and tells what does not hold; a case that takes longer than `patience` has failed.
pub async fn examine(rig: &impl Rig, patience: Duration) -> Vec<Failure> {
    let mut failures = Vec::new();
    let mut note = |case, end: Result<(), String>| {
        if let Err(why) = end {
            failures.push(Failure { case, why });
        }
    };
    note("it delivers every SET once", within(patience, delivers_all(rig, 300, 40)).await);
    note("SETs of few order keys arrive in order", within(patience, delivers_all(rig, 60, 3)).await);
    note("a connection lost before reading loses nothing", within(patience, survives_cuts(rig, Act::Cut)).await);
    note("a connection lost after reading repeats", within(patience, survives_cuts(rig, Act::TakeAndCut)).await);
    note("refusals are reported as the peer words them", within(patience, reports_refusals(rig)).await);
    note("an unwell peer is tried again", within(patience, tries_again(rig)).await);
    note("a late answer counts and holds up nobody else", within(patience, takes_late_answers(rig)).await);
    note("the window is never exceeded", within(patience, keeps_the_window(rig)).await);
    note("draining finishes what was handed over", within(patience, drains(rig)).await);
    note("an end is heard while nothing may be drawn", within(patience, hears_the_end(rig)).await);
    note("a run that is dropped loses nothing", within(patience, survives_a_dropped_run(rig)).await);
    note("a draw can be interrupted at every poll", within(patience, draws_interrupted(rig)).await);
    failures
}

async fn within(patience: Duration, case: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    tokio::time::timeout(patience, case).await.unwrap_or_else(|_| Err(format!("it hangs: no end within {patience:?}")))
}

/// One case's feed, peer and line.
struct Case {
    feed: Simulated,
    peer: Arc<Peer>,
    opened: Opened,
    window: usize,
}

impl Case {
    async fn open(
        rig: &impl Rig,
        count: usize,
        keys: usize,
        script: impl Fn(Meeting) -> Act + Send + Sync + 'static,
    ) -> Result<Self, String> {
        let peer = Peer::new(feed::owed(count, keys), script);
        let opened = rig.open(Arc::new(Door(peer.clone()))).await;
        peer.cut_with(opened.cut.clone());
        let profile = opened.line.profile();
        if profile.voice != Voice::Sender {
            return Err("the suite knows senders only".to_owned());
        }
        let window = profile.windows.iter().map(|window| window.core().room()).min().unwrap_or(usize::MAX);
        Ok(Self { feed: Simulated::new(profile, count, keys), peer, opened, window })
    }

    /// One run of the line, on a tap of its own.
    fn run(&self) -> BoxFuture<'static, Closed> {
        let feed = self.feed.feed();
        let tap = feed.tap();
        self.opened.line.clone().run(feed, tap)
    }

    /// Runs the line until nothing is owed.
    async fn run_out(&self) -> Result<(), String> {
        match self.run().await {
            Closed::Idle => Ok(()),
            other => Err(format!("the run ended with {other:?} where the feed said Idle")),
        }
    }

    /// What holds in every case, however it ended.
    fn audit(&self) -> Result<(), String> {
        if let Some(wrong) = self.feed.wrongs().into_iter().chain(self.peer.wrongs()).next() {
            return Err(wrong);
        }
        let taken_by_peer = self.opened.line.profile().receipt == Receipt::Receiver;
        for (at, (end, taken)) in self.feed.ends().into_iter().zip(self.peer.taken()).enumerate() {
            match end {
                Some(End::Acknowledged) if taken == 0 && taken_by_peer => {
                    return Err(format!("SET {at} is reported as acknowledged and was never taken"));
                }
                Some(End::Halted(cause)) => return Err(format!("SET {at} was halted: {cause}")),
                Some(End::Acknowledged | End::Refused(_)) | None => {}
            }
        }
        Ok(())
    }

    /// The same, and every SET is acknowledged.
    fn all_acknowledged(&self) -> Result<(), String> {
        self.audit()?;
        let ends = self.feed.ends();
        match ends.iter().position(|end| *end != Some(End::Acknowledged)) {
            None => Ok(()),
            Some(at) => Err(format!("SET {at} ended as {:?}; retries so far: {:?}", ends.get(at), self.feed.causes())),
        }
    }

    fn within_window(&self) -> Result<(), String> {
        let (most, window) = (self.peer.most(), self.window);
        if most <= window { Ok(()) } else { Err(format!("{most} SETs were under way, the window has {window}")) }
    }
}

async fn delivers_all(rig: &impl Rig, count: usize, keys: usize) -> Result<(), String> {
    let case = Case::open(rig, count, keys, |_| Act::Take).await?;
    case.run_out().await?;
    case.all_acknowledged()?;
    case.within_window()?;
    match case.peer.met().iter().position(|met| *met != 1) {
        None => Ok(()),
        Some(at) => Err(format!("SET {at} arrived {} times", case.peer.met().get(at).copied().unwrap_or_default())),
    }
}

async fn survives_cuts(rig: &impl Rig, act: Act) -> Result<(), String> {
    let cuts = move |meeting: Meeting| match meeting {
        Meeting { at, times: 1 } if at % 7 == 3 => act.clone(),
        _ => Act::Take,
    };
    let case = Case::open(rig, 100, 5, cuts).await?;
    case.run_out().await?;
    case.all_acknowledged()?;
    case.within_window()?;
    if case.peer.met().iter().all(|met| *met == 1) {
        return Err("no SET was repeated, although connections were lost".to_owned());
    }
    Ok(())
}

async fn reports_refusals(rig: &impl Rig) -> Result<(), String> {
    let codes = [
        ErrorCode::InvalidRequest,
        ErrorCode::InvalidKey,
        ErrorCode::InvalidIssuer,
        ErrorCode::InvalidAudience,
        ErrorCode::AuthenticationFailed,
        ErrorCode::AccessDenied,
        ErrorCode::Other("something_else".into()),
    ];
    let refusal = move |at: usize| -> Option<Refusal> {
        let code = at.is_multiple_of(3).then(|| codes.get(at / 3 % codes.len())).flatten()?;
        Some(Refusal {
            code: code.clone(),
            description: Some(format!("number {at}").into()),
            language: Some("en".into()),
        })
    };
    let script = refusal.clone();
    let case = Case::open(rig, 60, 10, move |meeting| script(meeting.at).map_or(Act::Take, Act::Refuse)).await?;
    if case.opened.line.profile().receipt == Receipt::Carrier {
        return Ok(());
    }
    case.run_out().await?;
    case.audit()?;
    case.within_window()?;
    for (at, end) in case.feed.ends().into_iter().enumerate() {
        let due = refusal(at).map_or(End::Acknowledged, End::Refused);
        if end.as_ref() != Some(&due) {
            return Err(format!("SET {at} ended as {end:?}, expected {due:?}"));
        }
    }
    Ok(())
}

async fn tries_again(rig: &impl Rig) -> Result<(), String> {
    let script =
        |meeting: Meeting| if meeting.at.is_multiple_of(4) && meeting.times <= 2 { Act::Busy } else { Act::Take };
    let case = Case::open(rig, 60, 15, script).await?;
    case.run_out().await?;
    case.all_acknowledged()?;
    case.within_window()?;
    match case.feed.attempts().iter().enumerate().position(|(at, attempts)| at % 4 == 0 && *attempts < 3) {
        None => Ok(()),
        Some(at) => Err(format!("SET {at} is acknowledged after an answer that said: not now")),
    }
}

async fn takes_late_answers(rig: &impl Rig) -> Result<(), String> {
    let (sets, keys) = (40, 8);
    let script = |meeting: Meeting| if meeting.at == 0 { Act::Hold } else { Act::Take };
    let case = Case::open(rig, sets, keys, script).await?;
    let free = |feed: &Simulated| {
        let ends = feed.ends();
        ends.iter().enumerate().all(|(at, end)| at % keys == 0 || end.is_some())
    };
    let mut run = pin!(case.run());
    let alone = !case.opened.parallel || case.window == 1 || case.opened.line.profile().order != Order::PerSet;
    let others = async {
        case.peer.holds(1).await;
        if !alone {
            case.feed.until(free).await;
        }
    };
    tokio::select! {
        biased;
        end = &mut run => return Err(format!("the run ended with {end:?} although an answer was outstanding")),
        () = others => {}
    }
    if case.feed.ends().first() != Some(&None) {
        return Err("SET 0 is settled before its answer".to_owned());
    }
    case.peer.release();
    run.await;
    case.all_acknowledged()
}

async fn keeps_the_window(rig: &impl Rig) -> Result<(), String> {
    let case =
        Case::open(rig, 200, 200, |meeting: Meeting| if meeting.times == 1 { Act::Hold } else { Act::Take }).await?;
    let full = case.window.min(200);
    let mut run = pin!(case.run());
    let filled = async {
        if case.opened.parallel {
            case.peer.holds(full).await;
        } else {
            case.peer.holds(1).await;
        }
    };
    tokio::select! {
        biased;
        end = &mut run => return Err(format!("the run ended with {end:?} although answers were outstanding")),
        () = filled => {}
    }
    case.within_window()?;
    case.peer.release();
    run.await;
    case.within_window()?;
    case.all_acknowledged()
}

async fn drains(rig: &impl Rig) -> Result<(), String> {
    let case = Case::open(rig, 200, 200, |_| Act::Hold).await?;
    let mut run = pin!(case.run());
    tokio::select! {
        biased;
        end = &mut run => return Err(format!("the run ended with {end:?} although answers were outstanding")),
        () = case.peer.holds(1) => {}
    }
    case.feed.end(Closed::Draining);
    let before = case.feed.attempts();
    if let Some(end) = run.as_mut().now_or_never() {
        return Err(format!("the run ended with {end:?} before what it had handed over was answered"));
    }
    case.peer.release();
    match run.await {
        Closed::Draining => {}
        other => return Err(format!("the run ended with {other:?}, expected Draining")),
    }
    case.audit()?;
    if case.feed.handed() > 0 {
        return Err(format!("{} SETs are handed over and not settled after the drain", case.feed.handed()));
    }
    if case.feed.attempts() != before {
        return Err("SETs were handed over after the drain began".to_owned());
    }
    Ok(())
}

async fn hears_the_end(rig: &impl Rig) -> Result<(), String> {
    let case = Case::open(rig, 5, 5, |_| Act::Take).await?;
    let windows = case.opened.line.profile().windows;
    if windows.is_empty() {
        return Ok(());
    }
    windows.iter().for_each(|window| window.limit(0, 0, 0));
    let mut run = pin!(case.run());
    if let Some(end) = run.as_mut().now_or_never() {
        return Err(format!("the run ended with {end:?} although SETs are owed"));
    }
    case.feed.end(Closed::Deleted);
    match run.await {
        Closed::Deleted => {}
        other => return Err(format!("the run ended with {other:?}, expected Deleted")),
    }
    if case.peer.met().iter().any(|met| *met > 0) {
        return Err("a SET was handed over through a shut window".to_owned());
    }
    case.audit()
}

async fn survives_a_dropped_run(rig: &impl Rig) -> Result<(), String> {
    let case = Case::open(
        rig,
        60,
        20,
        |meeting: Meeting| if meeting.times == 1 && meeting.at < 3 { Act::Hold } else { Act::Take },
    )
    .await?;
    {
        let mut run = pin!(case.run());
        tokio::select! {
            biased;
            end = &mut run => return Err(format!("the run ended with {end:?} although answers were outstanding")),
            () = case.peer.holds(1) => {}
        }
    }
    case.feed.lapse();
    case.peer.release();
    case.run_out().await?;
    case.all_acknowledged()
}

async fn draws_interrupted(rig: &impl Rig) -> Result<(), String> {
    let script =
        |meeting: Meeting| if meeting.at.is_multiple_of(5) && meeting.times == 1 { Act::Busy } else { Act::Take };
    let case = Case::open(rig, 120, 30, script).await?;
    case.feed.stutter();
    case.run_out().await?;
    case.within_window()?;
    case.all_acknowledged()
}

#[cfg(test)]
mod tests;
