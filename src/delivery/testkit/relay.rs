//! A TCP relay that can cut every connection through it: loss, at the moment of a test's choice.

use std::{io, net::SocketAddr, sync::Arc};

use clock::House;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Stands between a line and its peer. Dropped, it stops.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    cuts: Arc<watch::Sender<u64>>,
}

impl Relay {
    /// A relay on a loopback port of its own, to `peer`.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn to(peer: SocketAddr, house: &House) -> io::Result<Self> {
        let listener = TcpListener::bind((peer.ip(), 0)).await?;
        let address = listener.local_addr()?;
        let cuts = Arc::new(watch::Sender::new(0));
        let mut ended = cuts.subscribe();
        let tasks = house.clone();
        house.spawn("relay", async move {
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok((near, _)) = accepted else { return };
                        let cut = ended.clone();
                        tasks.spawn("relayed connection", pass(near, peer, cut));
                    }
                    // Cuts concern connections; only the relay's end concerns the door.
                    changed = ended.changed() => if changed.is_err() { return },
                }
            }
        });
        Ok(Self { address, cuts })
    }

    /// Where lines connect to.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What cuts all connections of this moment; new ones are relayed again.
    #[must_use]
    pub fn cutter(&self) -> Arc<dyn Fn() + Send + Sync> {
        let cuts = Arc::downgrade(&self.cuts);
        Arc::new(move || {
            if let Some(cuts) = cuts.upgrade() {
                cuts.send_modify(|cuts| *cuts += 1);
            }
        })
    }
}

async fn pass(mut near: TcpStream, peer: SocketAddr, mut cut: watch::Receiver<u64>) {
    cut.mark_unchanged();
    let Ok(mut far) = TcpStream::connect(peer).await else { return };
    if near.set_nodelay(true).is_err() || far.set_nodelay(true).is_err() {
        return;
    }
    tokio::select! {
        biased;
        _ = cut.changed() => {}
        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
    }
}
