//! Order keys that stand still after a refusal (`on_refusal = "stop_key"`): those of which a SET is parked. The store
//! knows what is parked, so every change of that brings the keys in line with it.

use setgate_store::{StoreError, StreamNo};
use setgate_stream::OnRefusal;
use setgate_telemetry::chain;

use crate::{Inner, hash::Set};

impl Inner {
    /// Stops the keys of a stream of which a SET is parked, and no others; stops none where a refusal does not stop
    /// keys.
    pub(crate) async fn stop_as_parked(&self, no: StreamNo) -> Result<(), StoreError> {
        let Some(subscription) = self.subscription(no) else { return Ok(()) };
        let stops = subscription.served.load().stream.on_refusal == OnRefusal::StopKey;
        let look = subscription.looks_at_stops();
        let keys =
            if stops { self.all_parked(no).await?.iter().map(|parked| parked.order).collect() } else { Set::default() };
        if stops {
            subscription.stop_keys(&keys);
        }
        subscription.let_go(&look, &keys);
        Ok(())
    }

    /// Lets the keys go on of which no SET is parked any more. Where that cannot be read, the next check of the
    /// stream's limits does it.
    pub(crate) async fn let_go_what_is_not_parked(&self, no: StreamNo) {
        let Some(subscription) = self.subscription(no).filter(|subscription| subscription.has_stops()) else { return };
        let look = subscription.looks_at_stops();
        match self.all_parked(no).await {
            Ok(parked) => subscription.let_go(&look, &parked.iter().map(|parked| parked.order).collect()),
            Err(error) => {
                tracing::warn!(stream = %subscription.served.load().stream.id, error = chain(&error), "cannot read what is parked; stopped subjects go on later");
            }
        }
    }
}
