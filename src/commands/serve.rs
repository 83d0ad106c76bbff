//! `setgate serve`: runs the gateway until it is stopped.

use std::{path::PathBuf, time::Duration};

use setgate_cli::{Context, Ended, Exit, Failure, args::ServeArgs};
use setgate_clock::Runtime;
use setgate_store::Obstacle;

use super::{configuration::load, signals::Signals};
use crate::{
    config::{Config, Source},
    gateway::{Gateway, Listeners, Parts},
    state::{self, OpenState},
};

/// Runs the gateway.
pub(crate) async fn run(context: &Context, args: ServeArgs) -> Ended {
    let loaded = load(context, args.dev)?;
    setgate_telemetry::start_log(&loaded.config.log).map_err(|error| Failure::usage(error.to_string()))?;
    let built_in = loaded.source == Source::Dev;
    let mut config = loaded.config;
    if built_in {
        config.producers.push(dev_producer(context, &config)?);
    }
    if config.gateway.dev {
        banner(context, &config, built_in);
    }
    let mut signals = Signals::of_gateway()?;
    let runtime = context.runtime.clone();
    let kept = match signals.race(open(&runtime, &config, args.init || built_in)).await {
        Some(kept) => kept?,
        None => return Ok(Exit::Done),
    };
    // The listeners open last, so that callers find everything in place.
    let listeners = Listeners::open(&config).await?;
    let shutdown = (config.gateway.drain_delay, config.gateway.shutdown_timeout);
    let gateway = Gateway::assemble(Parts { runtime, config, kept, listeners, force: args.force }).await?;
    tracing::info!(public = %gateway.world(), admin = %gateway.operator(), "the gateway is ready");

    let fatal = gateway.fatal();
    let broken = tokio::select! {
        () = signals.wait() => None,
        why = fatal => Some(why),
    };
    let ended = match &broken {
        Some(why) => {
            tracing::error!(why, "the store has failed: the gateway ends");
            let failed = Obstacle::Failed { why: why.clone() };
            Err(Failure::new(Exit::Store, failed.to_string()).remedy(failed.remedy()))
        }
        None => {
            tracing::info!("asked to stop; ask again to stop at once");
            Ok(Exit::Done)
        }
    };
    if signals.at_once {
        tracing::warn!("asked to stop at once: what was in flight is handed over again at the next start");
        return ended;
    }
    let (delay, within) = if broken.is_some() { (Duration::ZERO, Duration::from_secs(5)) } else { shutdown };
    match signals.race(gateway.shutdown(delay, within)).await {
        Some(()) => tracing::info!("stopped"),
        None => tracing::warn!("stopped at once: what was in flight is handed over again at the next start"),
    }
    ended
}

/// The interval at which a store that another process has locked is tried again.
const LOOK: Duration = Duration::from_millis(200);
/// The time that a process may need beyond its shutdown timeout to close the store.
const CLOSING: Duration = Duration::from_secs(5);

/// The interval at which a start on a full disk is tried again, and the one at which that is logged.
const ROOM: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));

/// Opens the state of the gateway, and waits while another process has it: a supervisor may start the next process
/// while the last one drains. A full disk is waited for without a limit, as a running gateway does.
///
/// # Errors
/// Returns a failure when the state cannot be opened, or another process still has it after the shutdown timeout and
/// [`CLOSING`].
async fn open(runtime: &Runtime, config: &Config, make: bool) -> Result<OpenState, Failure> {
    let patience = config.gateway.shutdown_timeout + CLOSING;
    let until = runtime.clock.monotonic() + patience;
    let mut logged = false;
    let mut tell = runtime.clock.monotonic();
    loop {
        match state::open(runtime, config, make).await {
            Err(failure) if failure.exit == Exit::Full => {
                if runtime.clock.monotonic() >= tell {
                    tell = runtime.clock.monotonic() + ROOM.1;
                    tracing::warn!(
                        "{}: waiting for room, nothing is taken in or delivered before there is some",
                        failure.message
                    );
                }
                runtime.clock.sleep(ROOM.0).await;
            }
            Err(failure) if failure.exit == Exit::Locked && runtime.clock.monotonic() < until => {
                if !std::mem::replace(&mut logged, true) {
                    tracing::warn!(seconds = patience.as_secs(), "{}: waiting for its end", failure.message);
                }
                runtime.clock.sleep(LOOK).await;
            }
            opened => return opened,
        }
    }
}

fn banner(context: &Context, config: &Config, built_in: bool) {
    let issuer = config.issuers.first().map(|issuer| issuer.url.as_str()).unwrap_or_default();
    let out = context.out;
    out.warn("dev mode: plain http and loopback receivers are allowed. Nothing here is fit for production.");
    out.note(format!(
        "  issuer   {issuer}\n  listen   {} (public), {} (admin)",
        config.listen.public, config.listen.admin
    ));
    if built_in {
        out.note(format!(
            "In other terminals:\n  setgate listen --issuer {issuer}\n  setgate emit --issuer {issuer} --token-file {} --count 5",
            dev_token(config).display()
        ));
    }
}

/// Returns the path of the token of the built-in configuration's producer.
fn dev_token(config: &Config) -> PathBuf {
    config.secrets.folder.with_file_name("producer.token")
}

/// Returns the producer of the built-in configuration, whose token is made once, for this machine alone.
///
/// # Errors
/// Returns a failure when the token file cannot be made or read.
fn dev_producer(context: &Context, config: &Config) -> Result<setgate_oauth::ProducerSection, Failure> {
    let path = dev_token(config);
    let failed = |error: std::io::Error| Failure::failed(format!("{}: {error}", path.display()));
    let token = match std::fs::read_to_string(&path) {
        Ok(token) => token,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let minted = setgate_oauth::mint(setgate_oauth::TokenKind::Producer, &*context.runtime.random);
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder).map_err(failed)?;
            }
            state::private(&path, minted.token.expose().as_bytes(), false).map_err(failed)?;
            minted.token.expose().clone()
        }
        Err(error) => return Err(failed(error)),
    };
    Ok(setgate_oauth::ProducerSection {
        name: "dev".to_owned(),
        token_hashes: vec![setgate_oauth::TokenHash::of(token.trim()).into()],
        issuers: config.issuers.iter().map(|issuer| issuer.url.clone()).collect(),
        events: setgate_oauth::EventsSection::All,
        subjects: setgate_oauth::SubjectsSection::Any,
    })
}
