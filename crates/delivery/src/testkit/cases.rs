//! The cases for every method, and those for senders alone.

use std::pin::pin;

use futures_util::FutureExt;

use super::{
    Fixture,
    case::Case,
    peer::{Act, Meeting},
    subscription::{End, Simulated},
};
use crate::{Closed, ErrorCode, Initiator, Order, Redelivery, Refusal};

pub(super) async fn delivers_all(fixture: &impl Fixture, count: usize, keys: usize) -> Result<(), String> {
    let case = Case::open(fixture, count, keys, |_| Act::Take).await?;
    case.run_out().await?;
    case.arrived().await;
    case.all_acknowledged_once()
}

pub(super) async fn survives_cuts(fixture: &impl Fixture, act: Act) -> Result<(), String> {
    let untaken = matches!(act, Act::Cut);
    let cuts = move |meeting: Meeting| match meeting {
        Meeting { at, times: 1 } if at % 7 == 3 => act.clone(),
        _ => Act::Take,
    };
    let case = Case::open(fixture, 100, 5, cuts).await?;
    if case.is_carried() {
        return Ok(());
    }
    // A responder's peer may answer on its next connection for what it took on the last one.
    let repeats = untaken || case.opened.channel.profile().initiator == Initiator::Gateway;
    case.run_out_retrying().await?;
    case.all_acknowledged()?;
    if repeats && case.peer.met().iter().all(|met| *met == 1) {
        return Err("no SET was repeated, although connections were lost".to_owned());
    }
    Ok(())
}

pub(super) async fn reports_refusals(fixture: &impl Fixture) -> Result<(), String> {
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
    let case = Case::open(fixture, 60, 10, move |meeting| script(meeting.at).map_or(Act::Take, Act::Refuse)).await?;
    if case.is_carried() {
        return Ok(());
    }
    case.run_out().await?;
    case.audit()?;
    // An object has one language for all its texts, and a frame has none.
    let has_languages = case.opened.channel.profile().order == Order::PerSet;
    for (at, end) in case.subscription.ends().into_iter().enumerate() {
        let mut due = refusal(at).map_or(End::Acknowledged, End::Refused);
        if let (false, Some(End::Refused(Refusal { language: None, .. })), End::Refused(due)) =
            (has_languages, &end, &mut due)
        {
            due.language = None;
        }
        if end.as_ref() != Some(&due) {
            return Err(format!("SET {at} ended as {end:?}, expected {due:?}"));
        }
    }
    Ok(())
}

pub(super) async fn tries_again(fixture: &impl Fixture) -> Result<(), String> {
    let script =
        |meeting: Meeting| if meeting.at.is_multiple_of(4) && meeting.times <= 2 { Act::Busy } else { Act::Take };
    // A batch may hold several SETs of a key, and the later one is then acknowledged first.
    let case = Case::open(fixture, 60, 15, script).await?;
    if case.is_carried() {
        return Ok(());
    }
    case.run_out_retrying().await?;
    case.all_acknowledged()?;
    match case.peer.met().iter().enumerate().position(|(at, met)| at % 4 == 0 && *met < 3) {
        None => Ok(()),
        Some(at) => Err(format!("SET {at} is acknowledged after an answer that said: not now")),
    }
}

/// Breaks connections in the middle of a message, after ever more bytes, until everything is delivered.
pub(super) async fn survives_breaks(fixture: &impl Fixture) -> Result<(), String> {
    let case = Case::open(fixture, 200, 8, |_| Act::Take).await?;
    let Some(cut_after) = case.opened.cut_after.clone() else { return Ok(()) };
    let breaks = async {
        let mut bytes = 60;
        loop {
            cut_after(bytes).await;
            bytes += bytes / 2 + 37;
        }
    };
    tokio::select! {
        end = case.run_out_retrying() => end?,
        () = breaks => {}
    }
    case.all_acknowledged()
}

/// Sends SETs as large as the channel allows, up to 64 KiB, faster than they are read, so that both ends write while
/// both are full.
pub(super) async fn survives_a_flood(fixture: &impl Fixture) -> Result<(), String> {
    let padding = |most: usize| most.saturating_sub(1024).min(64 << 10);
    let case = Case::padded(fixture, 100, 25, padding, |_| Act::Take).await?;
    case.run_out().await?;
    case.arrived().await;
    case.all_acknowledged_once()
}

/// Lets a SET time out while the peer still holds it; the late answer must count all the same.
pub(super) async fn takes_overdue_answers(fixture: &impl Fixture) -> Result<(), String> {
    let script = |meeting: Meeting| if meeting.at == 0 && meeting.times == 1 { Act::Hold } else { Act::Take };
    let case = Case::open(fixture, 20, 4, script).await?;
    if case.opened.channel.profile().redelivery == Redelivery::WhenConsumerEnds {
        return Ok(());
    }
    let mut run = pin!(case.run());
    tokio::select! {
        biased;
        end = &mut run => return Err(format!("the run ended with {end:?} although an answer was outstanding")),
        () = case.peer.holds(1) => {}
    }
    case.subscription.redeliver();
    case.peer.release();
    run.await;
    case.all_acknowledged()
}

pub(super) async fn takes_late_answers(fixture: &impl Fixture) -> Result<(), String> {
    let (sets, keys) = (40, 8);
    let script = |meeting: Meeting| if meeting.at == 0 { Act::Hold } else { Act::Take };
    let case = Case::open(fixture, sets, keys, script).await?;
    if case.is_carried() {
        return Ok(());
    }
    let free = |subscription: &Simulated| {
        let ends = subscription.ends();
        ends.iter().enumerate().all(|(at, end)| at % keys == 0 || end.is_some())
    };
    let mut run = pin!(case.run());
    let alone = !case.opened.parallel || case.window == 1 || case.opened.channel.profile().order != Order::PerSet;
    let others = async {
        case.peer.holds(1).await;
        if !alone {
            case.subscription.until(free).await;
        }
    };
    tokio::select! {
        biased;
        end = &mut run => return Err(format!("the run ended with {end:?} although an answer was outstanding")),
        () = others => {}
    }
    if case.subscription.ends().first() != Some(&None) {
        return Err("SET 0 is settled before its answer".to_owned());
    }
    case.peer.release();
    run.await;
    case.all_acknowledged()
}

pub(super) async fn keeps_the_window(fixture: &impl Fixture) -> Result<(), String> {
    let case = Case::open(fixture, 200, 200, |meeting: Meeting| if meeting.times == 1 { Act::Hold } else { Act::Take })
        .await?;
    if case.is_carried() {
        return Ok(());
    }
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
    case.peer.release();
    run.await;
    case.all_acknowledged()
}

pub(super) async fn drains(fixture: &impl Fixture) -> Result<(), String> {
    let case = Case::open(fixture, 200, 200, |_| Act::Hold).await?;
    let mut run = pin!(case.run());
    tokio::select! {
        biased;
        end = &mut run => return Err(format!("the run ended with {end:?} although answers were outstanding")),
        () = case.under_way() => {}
    }
    case.subscription.end(Closed::Draining);
    let before = case.subscription.attempts();
    // A broker may have answered everything by now.
    let early = if case.is_carried() { None } else { run.as_mut().now_or_never() };
    if let Some(end) = early {
        return Err(format!("the run ended with {end:?} before what it had handed over was answered"));
    }
    case.peer.release();
    match run.await {
        Closed::Draining => {}
        other => return Err(format!("the run ended with {other:?}, expected Draining")),
    }
    case.audit()?;
    if case.subscription.handed() > 0 {
        return Err(format!("{} SETs are handed over and not settled after the drain", case.subscription.handed()));
    }
    if case.subscription.attempts() != before {
        return Err("SETs were handed over after the drain began".to_owned());
    }
    Ok(())
}

pub(super) async fn hears_the_end(fixture: &impl Fixture) -> Result<(), String> {
    let case = Case::open(fixture, 5, 5, |_| Act::Take).await?;
    let windows = case.opened.channel.profile().windows;
    if windows.is_empty() {
        return Ok(());
    }
    windows.iter().for_each(|window| window.limit(0, 0, 0));
    let mut run = pin!(case.run());
    if let Some(end) = run.as_mut().now_or_never() {
        return Err(format!("the run ended with {end:?} although SETs are owed"));
    }
    case.subscription.end(Closed::Deleted);
    match run.await {
        Closed::Deleted => {}
        other => return Err(format!("the run ended with {other:?}, expected Deleted")),
    }
    if case.peer.met().iter().any(|met| *met > 0) {
        return Err("a SET was handed over through a shut window".to_owned());
    }
    case.audit()
}

pub(super) async fn survives_a_dropped_run(fixture: &impl Fixture) -> Result<(), String> {
    let case = Case::open(
        fixture,
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
            () = case.under_way() => {}
        }
    }
    // The server of the sessions has to notice that its callers are gone.
    case.subscription.until(|subscription| subscription.consumers().is_empty()).await;
    case.subscription.redeliver();
    case.peer.release();
    case.run_out().await?;
    case.all_acknowledged()
}

pub(super) async fn fetches_interrupted(fixture: &impl Fixture) -> Result<(), String> {
    let script =
        |meeting: Meeting| if meeting.at.is_multiple_of(5) && meeting.times == 1 { Act::Busy } else { Act::Take };
    let case = Case::open(fixture, 120, 30, script).await?;
    case.subscription.stutter();
    case.run_out_retrying().await?;
    case.all_acknowledged()
}
