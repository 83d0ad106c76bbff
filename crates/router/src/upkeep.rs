//! The upkeep of intake's gate, which follows the store's health; a full store is tidied up and cut.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use setgate_store::Obstacle;
use setgate_telemetry::chain;

use crate::{Inner, intake::Closed, retain};

/// The least time between two clean-ups of a store that is full or nearly so.
const TIDY: Duration = Duration::from_secs(1);

/// The last known obstacle that closed the gate, and the time of that.
type Known = Option<(&'static str, Duration)>;

/// Keeps the gate up to date with the store's health.
pub(crate) async fn watch_gate(inner: Arc<Inner>) {
    let clock = inner.shared.runtime.clock.clone();
    let mut halted = inner.shared.is_halted();
    let mut tidied = clock.monotonic();
    let mut known = Known::None;
    while !*inner.ended.borrow() {
        let health = inner.shared.store.health();
        let obstacle = (!health.accepts).then(|| health.obstacle.clone().unwrap_or(Obstacle::Closed));
        inner.tell_gate(&mut known, obstacle.as_ref());
        inner.intake_closed.store(obstacle.as_ref().map(|obstacle| Arc::new(Closed::by(obstacle))));
        let full = matches!(obstacle, Some(Obstacle::Reserve { .. } | Obstacle::Budget { .. }));
        if clock.monotonic().saturating_sub(tidied) >= TIDY && (full || retain::is_pressed(&health)) {
            // A full store frees at once what was acknowledged, so that it recovers by itself. Streams are cut first
            // where that is possible.
            if let Err(error) = retain::relieve(&inner).await {
                tracing::debug!(error = chain(&error), "the store could not tidy up");
            }
            tidied = clock.monotonic();
        }
        inner.repair_streams().await;
        inner.shared.held.store(health.held, Ordering::Release);
        if std::mem::replace(&mut halted, inner.shared.is_halted()) && !halted {
            inner.subscriptions().iter().for_each(|subscription| _ = subscription.tick());
        }
        clock.sleep(Duration::from_millis(250)).await;
    }
}

impl Inner {
    /// Reports in the log and in the metrics when the gate closes, for which reason, and when it opens again.
    fn tell_gate(&self, known: &mut Known, obstacle: Option<&Obstacle>) {
        let name = obstacle.map(Obstacle::name);
        if known.map(|(name, _)| name) == name {
            return;
        }
        let now = self.shared.runtime.clock.monotonic();
        let gauge = |name: &'static str| self.shared.observed.intake_closed.get_or_create(&[("reason", name)]).clone();
        Obstacle::NAMES.iter().for_each(|name| _ = gauge(name).set(0));
        match (obstacle, *known) {
            (Some(obstacle), _) => {
                gauge(obstacle.name()).set(1);
                self.shared.observed.intake_closings.get_or_create(&[("reason", obstacle.name())]).inc();
                tracing::warn!(
                    reason = obstacle.name(), why = %obstacle, remedy = obstacle.remedy(), "intake is closed: events are answered 503"
                );
            }
            (None, Some((reason, since))) => {
                let seconds = now.saturating_sub(since).as_secs();
                tracing::info!(reason, seconds, "intake is open again");
            }
            (None, None) => {}
        }
        *known = name.map(|name| (name, now));
    }
}
