//! The cases for responders alone: consumers come, wait, share a stream and hang up.

use std::pin::pin;

use super::{
    Fixture,
    case::Case,
    peer::{Act, Meeting},
};
use crate::{Closed, Redelivery};

/// Serves two consumers at once: neither gets a SET that the other has, order is kept, and a busy one holds up no
/// other.
pub(super) async fn shares(fixture: &impl Fixture) -> Result<(), String> {
    let script = |meeting: Meeting| if meeting.at == 0 { Act::Hold } else { Act::Take };
    let case = Case::open(fixture, 300, 100, script).await?;
    let both = async { tokio::join!(case.run(), case.run()) };
    let others = async {
        case.peer.holds(1).await;
        case.subscription.until(|subscription| !subscription.has_free()).await;
        case.peer.release();
        std::future::pending::<()>().await;
    };
    let (one, other) = tokio::select! {
        both = both => both,
        () = others => return Err("the case was abandoned".to_owned()),
    };
    if (&one, &other) != (&Closed::Idle, &Closed::Idle) {
        return Err(format!("the sessions ended with {one:?} and {other:?}"));
    }
    case.all_acknowledged_once()
}

/// Checks that each kind of end answers the callers that wait, and that every consumer leaves.
pub(super) async fn hears_ends(fixture: &impl Fixture) -> Result<(), String> {
    for end in [Closed::Draining, Closed::Deleted, Closed::Disabled, Closed::Superseded, Closed::Reconfigured] {
        let case = Case::open(fixture, 5, 5, |_| Act::Take).await?;
        case.subscription.pause(true);
        let mut run = pin!(case.run());
        tokio::select! {
            biased;
            () = case.subscription.until(|subscription| subscription.waiters() > 0) => {}
            early = &mut run => return Err(format!("before the end: {early:?}")),
        }
        case.subscription.end(end.clone());
        let left = case.subscription.until(|subscription| subscription.consumers().is_empty());
        let mut left = pin!(left);
        tokio::select! {
            biased;
            () = &mut left => {}
            // The collector gives up when it is told that the stream does not exist.
            _ = &mut run => left.await,
        }
        if case.peer.met().iter().any(|met| *met > 0) {
            return Err(format!("a SET of a paused stream was handed over when it was {end:?}"));
        }
        case.audit()?;
    }
    Ok(())
}

/// Checks that a drain accepts answers to the SETs that the peer has when it begins, unless they need the consumer that
/// leaves.
pub(super) async fn drains(fixture: &impl Fixture) -> Result<(), String> {
    let case = Case::open(fixture, 40, 40, |_| Act::Hold).await?;
    let mut run = pin!(case.run());
    tokio::select! {
        biased;
        end = &mut run => return Err(format!("the run ended with {end:?} although answers were outstanding")),
        () = case.peer.holds(1) => {}
    }
    case.subscription.end(Closed::Draining);
    case.peer.release();
    let left =
        case.subscription.until(|subscription| subscription.consumers().is_empty() && subscription.handed() == 0);
    let mut left = pin!(left);
    tokio::select! {
        biased;
        () = &mut left => {}
        end = &mut run => match case.opened.channel.profile().redelivery {
            Redelivery::After(_) if case.subscription.handed() > 0 => {
                return Err(format!("{end:?}, and {} SETs are handed over and not answered", case.subscription.handed()));
            }
            _ => left.await,
        },
    }
    case.audit()
}

/// Checks that a pause ends nothing: callers wait, and are given what is due afterwards.
pub(super) async fn waits_while_paused(fixture: &impl Fixture) -> Result<(), String> {
    let case = Case::open(fixture, 40, 10, |_| Act::Take).await?;
    case.subscription.pause(true);
    let mut run = pin!(case.run());
    tokio::select! {
        biased;
        end = &mut run => return Err(format!("the sessions ended with {end:?} at a paused stream")),
        () = case.subscription.until(|subscription| subscription.waiters() > 0) => {}
    }
    if case.peer.met().iter().any(|met| *met > 0) {
        return Err("a SET of a paused stream was handed over".to_owned());
    }
    case.subscription.pause(false);
    match run.await {
        Closed::Idle => case.all_acknowledged_once(),
        other => Err(format!("the sessions ended with {other:?} at a stream that was paused")),
    }
}

/// Checks that the consumer of a caller that hung up while it waited is dropped, and that no SET is given to it.
pub(super) async fn forgets_who_hung_up(fixture: &impl Fixture) -> Result<(), String> {
    let case = Case::open(fixture, 30, 10, |_| Act::Take).await?;
    case.subscription.pause(true);
    let mut run = pin!(case.run());
    for _ in 0..3 {
        let waits = case.subscription.until(|subscription| subscription.waiters() > 0);
        tokio::select! {
            biased;
            () = waits => {}
            end = &mut run => return Err(format!("the sessions ended with {end:?}")),
        }
        let Some(last) = case.subscription.consumers().last().copied() else { continue };
        (case.opened.cut)();
        let gone =
            case.subscription.until(|subscription| subscription.consumers().iter().all(|consumer| *consumer > last));
        tokio::select! {
            biased;
            () = gone => {}
            end = &mut run => return Err(format!("the sessions ended with {end:?} when the connection did")),
        }
    }
    case.subscription.pause(false);
    match run.await {
        Closed::Idle => case.all_acknowledged_once(),
        other => Err(format!("the sessions ended with {other:?}")),
    }
}
