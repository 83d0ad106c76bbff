//! `setgate serve`: runs until it is told to stop.

use std::{future::Future, time::Duration};

use cli::{Context, Ended, Exit, Failure, args::ServeArgs};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    assemble::{Doors, Gateway, Parts},
    config::{self, Config, Loaded},
    opening,
};

/// Runs the gateway.
pub(crate) async fn run(context: &Context, args: ServeArgs) -> Ended {
    let loaded = load(context, args.dev)?;
    telemetry::start_log(&loaded.config.log).map_err(|error| Failure::usage(error.to_string()))?;
    let config = loaded.config;
    if config.gateway.dev {
        banner(context, &config);
    }
    let mut signals = Signals::new()?;
    let house = context.house.clone();
    let kept = match signals.race(opening::open(&house, &config, args.init)).await {
        Some(kept) => kept?,
        None => return Ok(Exit::Done),
    };
    // The doors open last: whoever is let in finds everything in place.
    let doors = Doors::open(&config).await?;
    let shutdown =
        (Duration::from_secs(config.gateway.drain_delay_seconds), Duration::from_secs(config.gateway.shutdown_seconds));
    let gateway = Gateway::assemble(Parts { house, config, kept, doors, force: args.force }).await?;
    tracing::info!(world = %gateway.world(), operator = %gateway.operator(), "the gateway is ready");

    let fatal = gateway.fatal();
    let broken = tokio::select! {
        () = signals.wait() => None,
        why = fatal => Some(why),
    };
    let exit = match &broken {
        Some(why) => {
            tracing::error!(why, "the store has failed: the gateway ends");
            Exit::Store
        }
        None => {
            tracing::info!("asked to stop; ask again to stop at once");
            Exit::Done
        }
    };
    let (delay, within) = if broken.is_some() { (Duration::ZERO, Duration::from_secs(5)) } else { shutdown };
    match signals.race(gateway.shutdown(delay, within)).await {
        Some(()) => tracing::info!("stopped"),
        None => tracing::warn!("stopped at once: what was in flight is handed over again at the next start"),
    }
    Ok(exit)
}

/// Reads the configuration that a command names.
///
/// # Errors
/// When it cannot be read or is not valid.
pub(crate) fn load(context: &Context, dev: bool) -> Result<Loaded, Failure> {
    let source = config::find(context.config.as_deref(), dev)?;
    Ok(config::load(source, dev, variables())?)
}

/// The environment, as far as it is text.
pub(crate) fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

fn banner(context: &Context, config: &Config) {
    let issuer = config.issuers.first().map(|issuer| issuer.url.as_str()).unwrap_or_default();
    context.out.warn("dev mode: plain http and loopback receivers are allowed. Nothing here is fit for production.");
    context.out.note(format!(
        "  issuer   {issuer}\n  intake   {}/events\n  doors    {} (world), {} (operator)",
        issuer.trim_end_matches('/'),
        config.listen.world,
        config.listen.operator
    ));
}

/// Asks to stop: SIGTERM and SIGINT.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Listens from now on.
    ///
    /// # Errors
    /// When the system does not let it.
    pub(crate) fn new() -> Result<Self, Failure> {
        let listen =
            |kind| signal(kind).map_err(|error| Failure::failed(format!("signals cannot be received: {error}")));
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    /// Waits for the next one.
    pub(crate) async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Does `work` until a signal comes; `None` when one came first.
    pub(crate) async fn race<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            () = self.wait() => None,
        }
    }
}
