//! One case: a subscription, a peer, and the method's channel or its sessions between them.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::{
    Fixture, Opened,
    peer::{Act, Meeting, Peer, PeerIngest},
    subscription::{self, End, Simulated},
};
use crate::{Cause, Closed, Initiator, Receipt, Redelivery};

/// The subscription, the peer and the channel of one case.
pub(super) struct Case {
    pub(super) subscription: Simulated,
    pub(super) peer: Arc<Peer>,
    pub(super) opened: Opened,
    pub(super) window: usize,
}

impl Case {
    pub(super) async fn open(
        fixture: &impl Fixture,
        count: usize,
        keys: usize,
        script: impl Fn(Meeting) -> Act + Send + Sync + 'static,
    ) -> Result<Self, String> {
        Self::padded(fixture, count, keys, |_| 0, script).await
    }

    /// Opens a case with longer SETs; `padding` computes their padding from the fixture's limit of one SET.
    pub(super) async fn padded(
        fixture: &impl Fixture,
        count: usize,
        keys: usize,
        padding: impl Fn(usize) -> usize,
        script: impl Fn(Meeting) -> Act + Send + Sync + 'static,
    ) -> Result<Self, String> {
        let peer = Peer::new(script);
        let opened = fixture.open(Arc::new(PeerIngest(peer.clone()))).await;
        let profile = opened.channel.profile();
        let padding = padding(profile.limits.set_bytes.min(profile.limits.bytes));
        peer.expect(subscription::owed(count, keys, padding), profile.order, opened.cut.clone());
        if (profile.initiator == Initiator::Receiver) != opened.sessions.is_some() {
            return Err("a responder, and nothing else, is opened with `sessions`".to_owned());
        }
        let window = profile.windows.iter().map(|window| window.core().room()).min().unwrap_or(usize::MAX);
        Ok(Self { subscription: Simulated::padded(profile, count, keys, padding), peer, opened, window })
    }

    /// Runs the channel on a consumer of its own, or one round of sessions until nothing is owed.
    pub(super) fn run(&self) -> BoxFuture<'static, Closed> {
        let subscription = self.subscription.subscription();
        let Some(sessions) = &self.opened.sessions else {
            let consumer = subscription.consumer();
            return self.opened.channel.clone().run(subscription, consumer);
        };
        let (sessions, simulated) = (sessions(subscription), self.subscription.clone());
        Box::pin(async move {
            tokio::select! {
                biased;
                () = simulated.until_settled() => Closed::Idle,
                () = sessions => Closed::Fault(Cause::new("ended", "the sessions ended, and nothing had ended the subscription")),
            }
        })
    }

    /// Runs the channel until nothing is owed.
    pub(super) async fn run_out(&self) -> Result<(), String> {
        match self.run().await {
            Closed::Idle => Ok(()),
            other => Err(format!("the run ended with {other:?} where the subscription said Idle")),
        }
    }

    /// Runs the channel until nothing is owed in a case where SETs are lost: they time out as soon as more is asked
    /// for.
    pub(super) async fn run_out_retrying(&self) -> Result<(), String> {
        self.subscription.retry_now();
        self.run_out().await
    }

    /// Returns whether the receipt is a broker's: the peer then only reads, later, what was carried, and its answers go
    /// nowhere.
    pub(super) fn is_carried(&self) -> bool {
        self.opened.channel.profile().receipt == Receipt::Broker
    }

    /// Waits until the channel has something under way; what a broker carries is under way when it is handed over.
    pub(super) async fn under_way(&self) {
        if self.is_carried() {
            self.subscription.until(|subscription| subscription.handed() > 0).await;
        } else {
            self.peer.holds(1).await;
        }
    }

    /// Waits until everything that a broker carries has arrived at the peer; returns at once for other channels.
    pub(super) async fn arrived(&self) {
        if self.is_carried() {
            self.peer.meets_all().await;
        }
    }

    /// Checks what must hold in every case, however it ended.
    pub(super) fn audit(&self) -> Result<(), String> {
        if let Some(wrong) = self.subscription.wrongs().into_iter().chain(self.peer.wrongs()).next() {
            return Err(wrong);
        }
        let taken_by_peer = self.opened.channel.profile().receipt == Receipt::Receiver;
        for (at, (end, taken)) in self.subscription.ends().into_iter().zip(self.peer.taken()).enumerate() {
            match end {
                Some(End::Acknowledged) if taken == 0 && taken_by_peer => {
                    return Err(format!("SET {at} is reported as acknowledged and was never taken"));
                }
                Some(End::Halted(cause)) => return Err(format!("SET {at} was halted: {cause}")),
                Some(End::Acknowledged | End::Refused(_)) | None => {}
            }
        }
        self.within_window()
    }

    /// Audits the case and checks that every SET is acknowledged.
    pub(super) fn all_acknowledged(&self) -> Result<(), String> {
        self.audit()?;
        let ends = self.subscription.ends();
        match ends.iter().position(|end| *end != Some(End::Acknowledged)) {
            None => Ok(()),
            Some(at) => {
                Err(format!("SET {at} ended as {:?}; retries so far: {:?}", ends.get(at), self.subscription.causes()))
            }
        }
    }

    /// Checks that every SET is acknowledged and arrived exactly once.
    pub(super) fn all_acknowledged_once(&self) -> Result<(), String> {
        self.all_acknowledged()?;
        match self.peer.met().iter().position(|met| *met != 1) {
            None => Ok(()),
            Some(at) => Err(format!("SET {at} arrived {} times", self.peer.met().get(at).copied().unwrap_or_default())),
        }
    }

    fn within_window(&self) -> Result<(), String> {
        let (most, window) = (self.peer.most(), self.window);
        // Room is given back when a SET times out, though the peer may still be working on it.
        if most > window && self.opened.channel.profile().redelivery == Redelivery::WhenConsumerEnds {
            return Err(format!("{most} SETs were under way, the window has {window}"));
        }
        match (self.subscription.most(), self.opened.most) {
            (fetched, Some(most)) if fetched > most => {
                Err(format!("{fetched} SETs were handed over where {most} were asked for"))
            }
            _ => Ok(()),
        }
    }
}
