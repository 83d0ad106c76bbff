//! The shape of dead endpoints beside healthy ones: refusing, never answering, answering a byte a second, answering
//! 500.

use std::{net::SocketAddr, sync::PoisonError, time::Duration};

use setgate_jose::Algorithm;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::{
    Bench, BenchError, Figure, Promise, Shape,
    child::{Home, Stream},
    crowd::{CrowdEvents, Load, lanes, wants},
    load::{Client, Target},
    measure::Clock,
    sink::Sink,
    verify,
};

/// The number of streams of the gateway.
const STREAMS: usize = 1200;
/// The number of dead streams: one in a hundred, and a quarter of them in each way.
const DEAD: usize = 12;

/// Measures the delivered rate of the healthy streams without and with traffic for the dead ones.
///
/// # Errors
/// Fails if the gateway does not run, or healthy streams do not get what was accepted for them.
pub(crate) async fn measure(bench: &Bench<'_>) -> Result<Vec<Figure>, BenchError> {
    let healthy = STREAMS - DEAD;
    let client = Client::new(bench)?;
    let sink = Sink::open(&bench.clock).await?;
    let dead = [
        refusing().await?,
        serve(bench, Way::Never).await?,
        serve(bench, Way::Drip).await?,
        serve(bench, Way::Fails).await?,
    ];
    let stream = |no: usize| {
        let endpoint = match dead.get(no.saturating_sub(healthy) % dead.len()) {
            Some(dead) if no >= healthy => format!("http://{dead}/"),
            _ => sink.url(),
        };
        Stream::new(format!("stream-{no}"), endpoint).with(&wants(no))
    };
    let home = Home::make(bench, Algorithm::Es256, &(0..STREAMS).map(stream).collect::<Vec<_>>())?;
    bench.watch.step(&format!("a gateway with {STREAMS} streams"));
    let gateway = home.start(bench, &client).await?;
    let target = Target::intake(&client, &gateway, true)?;
    let arrived = sink.begin(lanes(STREAMS), 0);
    let sources = CrowdEvents::all("crowd", STREAMS, healthy);
    let time = bench.plan.scale.of(Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30));
    let run_in = time / 3;

    bench.watch.step("all streams healthy");
    let load = Load::begin(bench, &target, &sources, &arrived);
    let without = load.rate(bench, run_in, time).await;
    bench.watch.step("1 % dead");
    sources.iter().for_each(|source| source.lock().unwrap_or_else(PoisonError::into_inner).sick(100));
    let with = load.rate(bench, run_in, time).await;
    let accepted = load.end().await?;
    arrived.all(accepted, &bench.clock).await?;
    arrived.check(accepted)?;
    verify::samples(&arrived.samples(), &gateway.jwks(&client).await?, gateway.issuer())?;
    let failed = gateway.metrics(&client).await?.sum("setgate_delivery_attempts_failed_total");
    gateway.stop(bench).await?;
    if failed < 1.0 {
        return Err(BenchError::Miscounted("no figure: no attempt failed, so no endpoint was dead".into()));
    }
    Ok(vec![
        Figure::new(Shape::Isolation, "1 % of 1,200 streams dead, the others get", with, "SETs/s")
            .beside("all healthy", without, Some(Promise::AtLeast(0.95)))
            .note(format!("{accepted} SETs for healthy streams accepted = delivered, in order; {failed} attempts at dead ones failed")),
    ])
}

/// Returns an address at which nothing listens.
async fn refusing() -> Result<SocketAddr, BenchError> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(BenchError::failed("no port"))?;
    listener.local_addr().map_err(BenchError::failed("no port"))
}

#[derive(Clone, Copy)]
enum Way {
    Never,
    Drip,
    Fails,
}

async fn serve(bench: &Bench<'_>, way: Way) -> Result<SocketAddr, BenchError> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(BenchError::failed("no port"))?;
    let address = listener.local_addr().map_err(BenchError::failed("no port"))?;
    let clock = bench.clock.clone();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            tokio::spawn(answer(connection, way, clock.clone()));
        }
    });
    Ok(address)
}

async fn answer(mut connection: TcpStream, way: Way, clock: Clock) {
    let mut room = vec![0u8; 16 * 1024];
    while let Ok(read) = connection.read(&mut room).await {
        if read == 0 {
            return;
        }
        match way {
            Way::Never => {}
            Way::Drip => {
                for byte in b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n" {
                    clock.pause(Duration::from_secs(1)).await;
                    if connection.write_all(&[*byte]).await.is_err() {
                        return;
                    }
                }
            }
            // A SET is sent in one piece, so each piece has its answer.
            Way::Fails => {
                let text = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                let _ = connection.write_all(text).await;
                return;
            }
        }
    }
}
