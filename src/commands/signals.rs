//! Signals of the operating system.

use std::{future::Future, io::IsTerminal as _};

use setgate_cli::Failure;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that a command handles: SIGTERM and SIGINT ask it to stop, SIGQUIT asks it to stop at once.
///
/// SIGHUP says that the terminal is gone, and also asks to stop. A gateway without a terminal is expected to read its
/// configuration again on SIGHUP, which is not implemented; it logs a warning instead, as it does for SIGUSR1 and
/// SIGUSR2, which would otherwise end the process.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
    users: [Signal; 2],
    hangup_stops: bool,
    /// Whether the last signal asked to stop at once.
    pub(crate) at_once: bool,
}

impl Signals {
    /// Starts to listen for signals.
    ///
    /// # Errors
    /// Returns a failure when the system does not allow it.
    pub(crate) fn new() -> Result<Self, Failure> {
        let listen =
            |kind| signal(kind).map_err(|error| Failure::failed(format!("signals cannot be received: {error}")));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            quit: listen(SignalKind::quit())?,
            hangup: listen(SignalKind::hangup())?,
            users: [listen(SignalKind::user_defined1())?, listen(SignalKind::user_defined2())?],
            hangup_stops: true,
            at_once: false,
        })
    }

    /// Starts to listen for the signals of a gateway, which outlives SIGHUP unless it runs in a terminal.
    ///
    /// # Errors
    /// Returns a failure when the system does not allow it.
    pub(crate) fn of_gateway() -> Result<Self, Failure> {
        // After a hangup the terminal would not be recognized any more, so it is checked now.
        Ok(Self { hangup_stops: std::io::stdin().is_terminal(), ..Self::new()? })
    }

    /// Waits for the next signal that asks to stop.
    pub(crate) async fn wait(&mut self) {
        let [first, second] = &mut self.users;
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.quit.recv() => {
                    self.at_once = true;
                    return;
                }
                _ = self.hangup.recv() => {
                    if self.hangup_stops {
                        return;
                    }
                    tracing::warn!(
                        "SIGHUP: the configuration cannot be read again yet; the gateway goes on with the one that it started with, \
                         and a restart takes the new one"
                    );
                }
                _ = first.recv() => tracing::warn!("SIGUSR1 means nothing to setgate; it goes on"),
                _ = second.recv() => tracing::warn!("SIGUSR2 means nothing to setgate; it goes on"),
            }
        }
    }

    /// Runs `work` until a signal asks to stop; returns `None` if one did before `work` was done.
    pub(crate) async fn race<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            () = self.wait() => None,
        }
    }
}
