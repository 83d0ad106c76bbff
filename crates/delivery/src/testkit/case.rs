//! One case: a subscription, a peer, and the method's channel or its sessions between them.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::{
    Fixture, Opened,
    peer::{Act, Meeting, Peer, PeerIngest},
    subscription::{self, End, Simulated},
};
use crate::{Cause, Closed, Initiator, Receipt, Redelivery};

/// One case's subscription, peer and channel.
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

    /// The same with longer SETs; the fixture's limit of one SET is given to `padding`.
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

    /// One run of the channel on a consumer of its own, or one round of sessions until nothing is owed.
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

    /// The same in a case where SETs are lost: their time is over as soon as somebody asks for more.
    pub(super) async fn run_out_retrying(&self) -> Result<(), String> {
        self.subscription.retry_now();
        self.run_out().await
    }

    /// Whether the receipt is a broker's: the peer only reads what was carried, later, and its answers reach nobody.
    pub(super) fn is_carried(&self) -> bool {
        self.opened.channel.profile().receipt == Receipt::Broker
    }

    /// Ends when the channel has something under way: of what is carried, when it is handed over.
    pub(super) async fn under_way(&self) {
        if self.is_carried() {
            self.subscription.until(|subscription| subscription.handed() > 0).await;
        } else {
            self.peer.holds(1).await;
        }
    }

    /// Ends when the peer has met all that it will meet: at once, but for what is carried.
    pub(super) async fn arrived(&self) {
        if self.is_carried() {
            self.peer.meets_all().await;
        }
    }

    /// What holds in every case, however it ended.
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

    /// The same, and every SET is acknowledged.
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

    /// The same, and none was repeated.
    pub(super) fn all_acknowledged_once(&self) -> Result<(), String> {
        self.all_acknowledged()?;
        match self.peer.met().iter().position(|met| *met != 1) {
            None => Ok(()),
            Some(at) => Err(format!("SET {at} arrived {} times", self.peer.met().get(at).copied().unwrap_or_default())),
        }
    }

    fn within_window(&self) -> Result<(), String> {
        let (most, window) = (self.peer.most(), self.window);
        // Room is given back when time is up, though the peer may still be at it.
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
