//! The end of sessions whose credential expires.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use setgate_clock::Runtime;
use setgate_delivery::Stop;
use tokio::sync::{Notify, watch};

/// The longest sleep of the task that watches: the wall clock may jump.
const LOOK: Duration = Duration::from_secs(30);

/// Signals sessions that their credential has expired.
///
/// All sessions that end at one moment share one signal, and one task watches all signals while there are any: ten
/// thousand sockets with one token cost one timer.
pub(super) struct Ends {
    runtime: Runtime,
    never: watch::Sender<bool>,
    watched: Mutex<Watched>,
    sooner: Notify,
}

#[derive(Default)]
struct Watched {
    /// The signals by their end, in milliseconds of the wall clock.
    signals: BTreeMap<u64, watch::Sender<bool>>,
    watching: bool,
}

impl Ends {
    pub(super) fn new(runtime: Runtime) -> Arc<Self> {
        Arc::new(Self { runtime, never: watch::Sender::new(false), watched: Mutex::default(), sooner: Notify::new() })
    }

    /// Returns the signal of a credential that expires at this time, or one that never fires.
    pub(super) fn of(self: &Arc<Self>, until_millis: Option<u64>) -> Stop {
        let Some(until) = until_millis else { return self.never.subscribe() };
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let stop = watched.signals.entry(until).or_default().subscribe();
        if !std::mem::replace(&mut watched.watching, true) {
            let ends = self.clone();
            self.runtime.spawn("ends of sessions", async move {
                while let Some(wait) = ends.look() {
                    tokio::select! {
                        () = ends.runtime.clock.sleep(wait) => {}
                        () = ends.sooner.notified() => {}
                    }
                }
            });
        } else if watched.signals.keys().next() == Some(&until) {
            self.sooner.notify_one();
        }
        stop
    }

    /// Fires the signals that are due, and returns the time to sleep; `None` when no session is left that ends.
    fn look(&self) -> Option<Duration> {
        let now = self.runtime.clock.wall_millis();
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.signals.retain(|until, signal| {
            if *until <= now {
                signal.send_replace(true);
            }
            *until > now && signal.receiver_count() > 0
        });
        let next = watched.signals.keys().next().map(|until| Duration::from_millis(until - now).min(LOOK));
        watched.watching = next.is_some();
        next
    }
}

#[cfg(test)]
mod tests {
    use setgate_clock::{MockClock, TokioTasks, manual::SeededRandom};

    use super::*;

    fn ends() -> (Arc<MockClock>, Arc<Ends>) {
        let clock = MockClock::at(1_000_000);
        let runtime = Runtime { clock: clock.clone(), random: SeededRandom::new(1), tasks: Arc::new(TokioTasks) };
        (clock, Ends::new(runtime))
    }

    #[tokio::test]
    async fn a_session_ends_with_its_credential_and_no_other_does() {
        let (clock, ends) = ends();
        // The credential that ends last is watched first.
        let [later, mut soon, same, never] =
            [Some(1_090_000), Some(1_010_000), Some(1_010_000), None].map(|at| ends.of(at));
        clock.advance(Duration::from_secs(10));
        soon.wait_for(|ended| *ended).await.unwrap();
        assert!(*same.borrow() && !*later.borrow() && !*never.borrow());
    }

    #[tokio::test]
    async fn nothing_is_watched_without_sessions() {
        let (clock, ends) = ends();
        drop(ends.of(Some(2_000_000)));
        while ends.watched.lock().unwrap().watching {
            clock.advance(LOOK);
            tokio::task::yield_now().await;
        }
        assert!(ends.watched.lock().unwrap().signals.is_empty());
    }
}
