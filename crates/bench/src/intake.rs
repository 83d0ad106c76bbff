//! The shape of intake alone, with real syncs: beside a bare loop over the engine, and beside a bare HTTP handler.

use std::time::Duration;

use axum::{Router, http::StatusCode, routing::post};
use bytes::Bytes;
use fjall::{Database, KeyspaceCreateOptions, PersistMode};
use setgate_jose::Algorithm;

use crate::{
    Bench, BenchError, Figure, Promise, Shape,
    child::{Gateway, Home, Stream},
    end_to_end::count,
    event::{self, KEYS, LINES, Maker, Requests},
    load::{Client, PRODUCERS, SINGLE_PRODUCERS, Target, send_all},
    measure::{cpu_time, rate},
};

/// Measures both.
///
/// # Errors
/// Fails if the gateway does not run, or refuses an event.
pub(crate) async fn measure(bench: &Bench<'_>) -> Result<Vec<Figure>, BenchError> {
    let scale = bench.plan.scale;
    let client = Client::new(bench)?;
    // Every event is owed to a paused stream, and nothing is delivered.
    let stream = Stream::new("one", "http://127.0.0.1:9/").with("status = \"paused\"");
    let home = Home::make(bench, Algorithm::Es256, &[stream])?;
    let gateway = home.start(bench, &client).await?;

    let lines = Maker::new("lines", KEYS).lines(scale.of(5_000, 60_000, 240_000));
    let requests = event::requests(&lines, LINES, PRODUCERS);
    bench.watch.step("NDJSON of 100");
    let several = taken(bench, &gateway, &client, &requests, true).await?;
    bench.watch.step("bare loop over the engine");
    let engine = engine(bench, &lines, several.group)?;

    bench.watch.step("single POSTs by 64 producers");
    let singles = Maker::new("singles", KEYS).lines(scale.of(2_000, 15_000, 60_000));
    let requests = event::requests(&singles, 1, SINGLE_PRODUCERS);
    let singly = taken(bench, &gateway, &client, &requests, false).await?;
    gateway.stop(bench).await?;
    bench.watch.step("bare HTTP handler");
    let handler = handler(bench, &client, &requests).await?;

    let figure = |name: &str, taken: &Taken| {
        Figure::new(Shape::Intake, format!("intake alone, {name}"), taken.rate(), "events/s")
    };
    Ok(vec![
        figure("NDJSON of 100", &several)
            .beside(format!("parsing and appending {} at a time", several.group), engine, Some(Promise::AtLeast(0.6)))
            .note(several.note()),
        figure("single POSTs, 64 producers", &singly)
            .beside("a handler that only reads the body", handler, Some(Promise::AtLeast(0.6)))
            .note(singly.note()),
    ])
}

/// The events that the gateway accepted, and their cost.
struct Taken {
    events: u64,
    took: Duration,
    busy: Duration,
    /// The average number of events that shared one sync.
    group: usize,
    sync: Duration,
}

impl Taken {
    fn rate(&self) -> f64 {
        rate(self.events, self.took)
    }

    fn note(&self) -> String {
        format!(
            "{} events, {} a sync, a sync took {:.0} µs on average; the gateway used {:.1} µs of CPU an event",
            self.events,
            self.group,
            self.sync.as_secs_f64() * 1e6,
            self.busy.as_secs_f64() * 1e6 / self.events.max(1) as f64
        )
    }
}

async fn taken(
    bench: &Bench<'_>,
    gateway: &Gateway<'_>,
    client: &Client,
    requests: &[Requests],
    several: bool,
) -> Result<Taken, BenchError> {
    let target = Target::intake(client, gateway, several)?;
    let before = gateway.metrics(client).await?;
    let busy = cpu_time(gateway.pid())?;
    let began = bench.clock.now();
    let events = send_all(&target, requests).await?;
    let took = bench.clock.since(began);
    let busy = cpu_time(gateway.pid())?.saturating_sub(busy);
    let after = gateway.metrics(client).await?;
    let grown = |name: &str| after.sum(name) - before.sum(name);
    let appended = grown("setgate_store_records_appended_total") as u64;
    if appended != events {
        return Err(BenchError::Miscounted(format!("no figure: {events} events were accepted, {appended} appended")));
    }
    let syncs = grown("setgate_store_sync_duration_seconds_count").max(1.0);
    let group = (events as f64 / syncs).round().max(1.0) as usize;
    let sync = Duration::from_secs_f64((grown("setgate_store_sync_duration_seconds_sum") / syncs).max(0.0));
    Ok(Taken { events, took, busy, group, sync })
}

/// Parses the same lines and appends them to the engine, `group` of them in one synced commit: one thread, nothing
/// else.
fn engine(bench: &Bench<'_>, lines: &[Bytes], group: usize) -> Result<f64, BenchError> {
    let failed = |error: fjall::Error| BenchError::Failed(format!("the engine: {error}"));
    let folder = tempfile::Builder::new().prefix("setgate-bench-").tempdir_in(&bench.plan.folder);
    let folder = folder.map_err(BenchError::failed("no folder for the engine"))?;
    let database = Database::builder(folder.path()).manual_journal_persist(true).open().map_err(failed)?;
    let ledger = database
        .keyspace("ledger", || KeyspaceCreateOptions::default().max_memtable_size(8 << 20).manual_journal_persist(true))
        .map_err(failed)?;
    let began = bench.clock.now();
    let mut position = 0u64;
    for part in lines.chunks(group) {
        let mut batch = database.batch();
        for line in part {
            let value: serde_json::Value =
                serde_json::from_slice(line).map_err(|error| BenchError::Failed(error.to_string()))?;
            std::hint::black_box(&value);
            position += 1;
            batch.insert(&ledger, position.to_be_bytes(), line.as_ref());
        }
        batch.commit().map_err(failed)?;
        database.persist(PersistMode::SyncData).map_err(failed)?;
    }
    Ok(rate(count(lines.len()), bench.clock.since(began)))
}

/// Sends the same requests to a handler that only reads their bodies, on threads of its own.
async fn handler(bench: &Bench<'_>, client: &Client, requests: &[Requests]) -> Result<f64, BenchError> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(crate::machine::cores()).enable_all().build();
    let runtime = runtime.map_err(BenchError::failed("no runtime for the handler"))?;
    let (opened, open) = tokio::sync::oneshot::channel();
    runtime.spawn(async move {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let _ = opened.send(listener.local_addr()?);
        let app = Router::new().route(
            "/events",
            post(async |body: Bytes| {
                std::hint::black_box(&body);
                StatusCode::ACCEPTED
            }),
        );
        axum::serve(listener, app).await
    });
    let address = open.await.map_err(|_| BenchError::Failed("the handler does not start".into()))?;
    let target = Target::producer(client, &format!("http://{address}/events"), "none", false)?;
    let began = bench.clock.now();
    let events = send_all(&target, requests).await;
    let took = bench.clock.since(began);
    runtime.shutdown_background();
    Ok(rate(events?, took))
}
