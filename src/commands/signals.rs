//! What the system tells a process.

use std::{future::Future, io::IsTerminal as _};

use setgate_cli::Failure;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What the system tells a process: SIGTERM and SIGINT ask it to stop, SIGQUIT at once.
///
/// SIGHUP says that the terminal is gone, which asks to stop as well. To a gateway without a terminal it means: read the configuration again,
/// which is not there yet. That, SIGUSR1 and SIGUSR2, which would end the process unheard, get a line in the log.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
    users: [Signal; 2],
    hangup_stops: bool,
    /// The last one asked to stop at once.
    pub(crate) at_once: bool,
}

impl Signals {
    /// Listens from now on.
    ///
    /// # Errors
    /// When the system does not let it.
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

    /// The same for a gateway, which outlives a hangup unless it runs in a terminal.
    ///
    /// # Errors
    /// When the system does not let it.
    pub(crate) fn of_gateway() -> Result<Self, Failure> {
        // A terminal that has hung up is none any more: it is asked now.
        Ok(Self { hangup_stops: std::io::stdin().is_terminal(), ..Self::new()? })
    }

    /// Waits for the next one that asks to stop.
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

    /// Does `work` until a signal comes; `None` when one came first.
    pub(crate) async fn race<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            () = self.wait() => None,
        }
    }
}
