//! A slow connection: a TCP proxy that delivers each byte after a delay. It does not limit the bandwidth.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, tcp},
    sync::mpsc,
    task::JoinSet,
};

use crate::{BenchError, measure::Clock};

/// The bytes of one read.
const PIECE: usize = 64 << 10;
/// The most pieces under way in one direction of one connection, far more than fit into the delay.
const ON_THE_WAY: usize = 1024;

/// The proxy, which ends with its connections when the value is dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// Opens a proxy to `target` with this delay in each direction.
    ///
    /// # Errors
    /// Fails if there is no port.
    pub(crate) async fn open(target: SocketAddr, delay: Duration, clock: &Clock) -> Result<Self, BenchError> {
        let failed = BenchError::failed;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(failed("no port for the proxy"))?;
        let address = listener.local_addr().map_err(failed("no port for the proxy"))?;
        let clock = clock.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                let clock = clock.clone();
                connections.spawn(async move {
                    // If the target is gone, the connection ends at once.
                    let Ok(far) = TcpStream::connect(target).await else { return };
                    if near.set_nodelay(true).and_then(|()| far.set_nodelay(true)).is_err() {
                        return;
                    }
                    let (near, far) = (near.into_split(), far.into_split());
                    tokio::join!(carry(near.0, far.1, delay, &clock), carry(far.0, near.1, delay, &clock));
                });
            }
        });
        Ok(Self { address, _tasks: tasks })
    }

    /// Returns the address of the proxy.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Carries bytes in one direction; the end of the input ends the output, after the same delay.
async fn carry(mut from: tcp::OwnedReadHalf, mut to: tcp::OwnedWriteHalf, delay: Duration, clock: &Clock) {
    let (on, mut off) = mpsc::channel::<(Duration, Vec<u8>)>(ON_THE_WAY);
    let read = async move {
        loop {
            let mut piece = Vec::with_capacity(PIECE);
            match from.read_buf(&mut piece).await {
                Ok(0) | Err(_) => return,
                Ok(_) => piece.shrink_to_fit(),
            }
            if on.send((clock.now() + delay, piece)).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((due, piece)) = off.recv().await {
            let left = due.saturating_sub(clock.now());
            if !left.is_zero() {
                clock.pause(left).await;
            }
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(read, write);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the address of a server that sends back what it reads.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.into_split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        address
    }

    #[tokio::test]
    async fn bytes_arrive_whole_in_order_and_no_sooner_than_a_round_trip() {
        let clock = Clock::new();
        let proxy = Proxy::open(echo().await, Duration::from_millis(10), &clock).await.unwrap();
        let mut both = JoinSet::new();
        for no in 0u8..20 {
            let (clock, address) = (clock.clone(), proxy.address());
            both.spawn(async move {
                let (mut read, mut write) = TcpStream::connect(address).await.unwrap().into_split();
                let sent: Vec<u8> = (0..300_000u32).map(|at| at.to_le_bytes()[0] ^ no).collect();
                let began = clock.now();
                write.write_all(&sent).await.unwrap();
                write.shutdown().await.unwrap();
                let mut first = [0; 1];
                read.read_exact(&mut first).await.unwrap();
                assert!(clock.since(began) >= Duration::from_millis(20));
                let mut came = vec![first[0]];
                read.read_to_end(&mut came).await.unwrap();
                assert!(came == sent, "{} bytes", came.len());
            });
        }
        while let Some(done) = both.join_next().await {
            done.unwrap();
        }
    }
}
