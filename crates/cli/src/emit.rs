//! The command `setgate emit`, which puts events in, each once, at the rate that was asked for.

mod answer;
mod generate;
mod progress;
mod send;
mod source;
mod state;

use std::time::Duration;

use setgate_net::Secret;
use url::Url;

use crate::{Context, Ended, Exit, Failure, args::EmitArgs, client, token};

use progress::Progress;
use send::Sender;
use source::EventReader;
use state::{Run, State};

/// The environment variable that holds a producer's token.
const TOKEN: &str = "SETGATE_TOKEN";
/// The longest time that a request which is not full waits for further events of a slow source.
const LINGER: Duration = Duration::from_millis(50);

/// Sends events until the source ends, and reports their outcomes.
pub(crate) async fn run(context: &Context, args: EmitArgs) -> Ended {
    let mut state = State::open(&args, context)?;
    let mut source = EventReader::open(&args, &state.run)?;
    if args.dry_run {
        while let Some(item) = source.next().await {
            match item.event {
                Ok(event) => context.out.raw(event),
                Err(why) => context.out.warn(format!("event {}: {why}", item.number)),
            }
        }
        return Ok(Exit::Done);
    }
    let url = intake(context, args.issuer.as_deref().unwrap_or_default())?;
    let token = producer_token(context, &args)?;
    let sender = Sender::new(context, &args, url, &token)?;
    let progress = Progress::start(context, args.count, state.run.done);
    let clock = context.runtime.clock.clone();
    let begun = clock.monotonic();
    let mut paced: u64 = 0;
    let batch = batch_size(&args);

    let ended = loop {
        let items = tokio::select! {
            items = source.batch(batch, LINGER, &clock) => items,
            _ = tokio::signal::ctrl_c() => break Ended::Err(interrupted(&state)),
        };
        if items.is_empty() {
            break Ok(Exit::Done);
        }
        if let Some(rate) = args.rate {
            // The n-th event leaves no sooner than n/rate seconds after the first.
            let due = Duration::from_secs_f64(paced as f64 / rate as f64);
            let early = due.saturating_sub(clock.monotonic().saturating_sub(begun));
            tokio::select! {
                () = clock.sleep(early) => {}
                _ = tokio::signal::ctrl_c() => break Ended::Err(interrupted(&state)),
            }
        }
        paced += items.len() as u64;
        let through = items.last().map_or(state.run.done, |item| item.number);
        let sent = tokio::select! {
            sent = sender.send(items, &progress) => sent,
            _ = tokio::signal::ctrl_c() => break Ended::Err(interrupted(&state)),
        };
        match sent {
            Ok(tally) => state.advance(through, tally)?,
            Err(failure) => break Err(failure.remedy(how_to_resume(&state))),
        }
        progress.at(&state.run);
    };
    progress.end();
    let seconds = clock.monotonic().saturating_sub(begun).as_secs_f64();
    report(context, &state.run, seconds);
    ended?;
    if state.run.refused > 0 { Ok(Exit::Partly) } else { Ok(Exit::Done) }
}

/// Returns the number of events in one request, which is smaller at a slow rate, so that events leave evenly.
fn batch_size(args: &EmitArgs) -> usize {
    let most = args.rate.map_or(args.batch, |rate| args.batch.min((rate / 10).max(1)));
    usize::try_from(most).unwrap_or(1)
}

/// Returns the intake URL of an issuer: `{issuer}/events`.
fn intake(context: &Context, issuer: &str) -> Result<Url, Failure> {
    let mut url: Url =
        issuer.parse().map_err(|error| Failure::usage(format!("`{issuer}` is no issuer URL: {error}")))?;
    if url.scheme() == "http" && !client::is_loopback(&url) {
        context.out.warn("the producer's token travels over plain http");
    }
    url.path_segments_mut()
        .map_err(|()| Failure::usage(format!("`{issuer}` is no issuer URL")))?
        .pop_if_empty()
        .push("events");
    Ok(url)
}

fn producer_token(context: &Context, args: &EmitArgs) -> Result<Secret<String>, Failure> {
    match (&args.token_file, std::env::var(TOKEN)) {
        (Some(file), _) => token::read(context.out, file),
        (None, Ok(token)) if !token.trim().is_empty() => Ok(Secret::new(token)),
        _ => Err(Failure::new(Exit::Refused, "there is no producer's token").remedy(format!(
            "name its file with --token-file, or put the token into {TOKEN}; `setgate producers new` makes one"
        ))),
    }
}

fn interrupted(state: &State) -> Failure {
    Failure::failed(format!("interrupted after event {}", state.run.done)).remedy(how_to_resume(state))
}

fn how_to_resume(state: &State) -> String {
    match &state.file {
        Some(file) => format!("the same command goes on where it stopped: {} remembers", file.display()),
        None => {
            format!("add --id-prefix {} to the same command: what was accepted is not accepted twice", state.run.prefix)
        }
    }
}

fn report(context: &Context, run: &Run, seconds: f64) {
    let all = run.accepted + run.repeated + run.refused;
    context.out.value(&serde_json::json!({
        "accepted": run.accepted, "repeated": run.repeated, "refused": run.refused,
        "prefix": run.prefix, "done": run.done, "seconds": seconds,
    }));
    let rate = if seconds > 0.0 { all as f64 / seconds } else { 0.0 };
    context.out.line(format!(
        "{} accepted, {} repeated, {} refused, in {seconds:.1} s ({rate:.0}/s); ids begin with {}",
        run.accepted, run.repeated, run.refused, run.prefix
    ));
}

#[cfg(test)]
mod tests;
