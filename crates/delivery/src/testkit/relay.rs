//! A TCP relay that can cut every connection through it, at once or after a number of bytes.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::future::BoxFuture;
use setgate_clock::Runtime;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

/// A handle that cuts all connections of the relays that share it.
#[derive(Clone, Debug)]
pub struct Cuts(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    cuts: watch::Sender<u64>,
    /// Bytes that still pass before the next cut; `usize::MAX` stands for no cut.
    left: AtomicUsize,
}

impl Default for Cuts {
    fn default() -> Self {
        Self(Arc::new(Shared { cuts: watch::Sender::new(0), left: AtomicUsize::new(usize::MAX) }))
    }
}

impl Cuts {
    /// Returns a function that cuts all connections that are open; new ones are relayed again.
    #[must_use]
    pub fn cutter(&self) -> Arc<dyn Fn() + Send + Sync> {
        let cuts = self.clone();
        Arc::new(move || cuts.cut())
    }

    /// Returns a function that cuts all connections once this many more bytes have passed in either direction; its
    /// future ends when that has happened.
    #[must_use]
    pub fn breaker(&self) -> Arc<dyn Fn(usize) -> BoxFuture<'static, ()> + Send + Sync> {
        let cuts = self.clone();
        Arc::new(move |bytes| {
            let mut cut = cuts.0.cuts.subscribe();
            cuts.0.left.store(bytes, Ordering::SeqCst);
            let cuts = cuts.clone();
            Box::pin(async move {
                // The sender is held here, so there is always another cut to wait for.
                let _ = cut.changed().await;
                drop(cuts);
            })
        })
    }

    fn cut(&self) {
        self.0.left.store(usize::MAX, Ordering::SeqCst);
        self.0.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Returns how many of these bytes pass; fewer than all of them means that the connection is then cut.
    fn let_pass(&self, bytes: usize) -> usize {
        let less = |left: usize| (left != usize::MAX).then(|| left.saturating_sub(bytes));
        match self.0.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less) {
            Ok(left) => left.min(bytes),
            Err(_) => bytes,
        }
    }
}

/// A relay between a channel and its peer. Dropping it ends the relay and cuts its connections.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    cuts: Cuts,
    _end: watch::Sender<()>,
}

impl Relay {
    /// Makes a relay to `peer` on a free port of the peer's own address.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn to(peer: SocketAddr, runtime: &Runtime) -> io::Result<Self> {
        Self::with(Cuts::default(), peer, runtime).await
    }

    /// Makes a relay to `peer` that can be cut through `cuts`.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn with(cuts: Cuts, peer: SocketAddr, runtime: &Runtime) -> io::Result<Self> {
        let listener = TcpListener::bind((peer.ip(), 0)).await?;
        let address = listener.local_addr()?;
        let (end, mut ended) = watch::channel(());
        let (tasks, scissors) = (runtime.clone(), cuts.clone());
        runtime.spawn("relay", async move {
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok((near, _)) = accepted else { return };
                        let (end, scissors) = (ended.clone(), scissors.clone());
                        tasks.spawn("relayed connection", pass(near, peer, scissors, end));
                    }
                    // Cuts concern connections; only the relay's end concerns the listener.
                    _ = ended.changed() => return,
                }
            }
        });
        Ok(Self { address, cuts, _end: end })
    }

    /// Returns the address that channels connect to.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the [`Cuts::cutter`] of its connections.
    #[must_use]
    pub fn cutter(&self) -> Arc<dyn Fn() + Send + Sync> {
        self.cuts.cutter()
    }

    /// Returns the [`Cuts::breaker`] of its connections.
    #[must_use]
    pub fn breaker(&self) -> Arc<dyn Fn(usize) -> BoxFuture<'static, ()> + Send + Sync> {
        self.cuts.breaker()
    }
}

async fn pass(near: TcpStream, peer: SocketAddr, cuts: Cuts, mut end: watch::Receiver<()>) {
    let mut cut = cuts.0.cuts.subscribe();
    let Ok(far) = TcpStream::connect(peer).await else { return };
    if near.set_nodelay(true).is_err() || far.set_nodelay(true).is_err() {
        return;
    }
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    tokio::select! {
        biased;
        _ = cut.changed() => {}
        _ = end.changed() => {}
        _ = async { tokio::join!(copy(near_in, far_out, &cuts), copy(far_in, near_out, &cuts)) } => {}
    }
}

/// Passes on the bytes of one direction, and their end.
async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, cuts: &Cuts) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let passing = cuts.let_pass(count);
        let piece = buffer.get(..passing).unwrap_or_default();
        if to.write_all(piece).await.is_err() {
            break;
        }
        if passing < count {
            cuts.cut();
            break;
        }
    }
    // Half a connection may go on, since a caller may have sent everything that it has to send.
    let _ = to.shutdown().await;
}
