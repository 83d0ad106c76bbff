//! The receiver of the measurements: it answers 202 with an empty body, and keeps the counts that decide whether a
//! figure is printed.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::post,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use tokio::sync::{oneshot, watch};

use crate::{BenchError, child::AUDIENCE, event::Mark, measure::Clock, talk};

/// The sampling rate: one SET of this many is kept, and its signature verified afterwards.
const SAMPLE: u32 = 100;
/// The text in the payload of the gateway's own SETs, which tell of a stream that was paused or resumed.
const CONTROL: &[u8] = b"/secevent/ssf/event-type/";
/// The time without progress after which a run has lost SETs.
const PATIENCE: Duration = Duration::from_secs(20);

/// The sink, on threads of its own.
pub(crate) struct Sink {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    clock: Clock,
    run: RwLock<Arc<Run>>,
}

/// The SETs that arrived in one run.
pub(crate) struct Run {
    /// The next place of each lane.
    lanes: Vec<AtomicU32>,
    /// The time at which each event arrived, by its number; empty unless asked for.
    arrivals: Vec<AtomicU64>,
    delivered: AtomicU64,
    duplicates: AtomicU64,
    breaks: AtomicU64,
    strange: AtomicU64,
    samples: Mutex<Vec<Bytes>>,
}

impl Run {
    /// Creates a run in which nothing has arrived.
    pub(crate) fn new(lanes: usize, arrivals: usize) -> Self {
        Self {
            lanes: (0..lanes).map(|_| AtomicU32::new(0)).collect(),
            arrivals: (0..arrivals).map(|_| AtomicU64::new(0)).collect(),
            delivered: AtomicU64::new(0),
            duplicates: AtomicU64::new(0),
            breaks: AtomicU64::new(0),
            strange: AtomicU64::new(0),
            samples: Mutex::new(Vec::new()),
        }
    }

    /// Creates a run in which `events` events have arrived in each lane before.
    pub(crate) fn after(lanes: usize, events: u32) -> Self {
        Self { lanes: (0..lanes).map(|_| AtomicU32::new(events)).collect(), ..Self::new(0, 0) }
    }

    /// Notes that a SET arrived, in the lane of its mark.
    pub(crate) fn arrived(&self, token: &[u8], now: u64) {
        self.note(token, now, None);
    }

    /// Notes that the claims of a SET arrived without a signature.
    #[cfg(feature = "kafka")]
    pub(crate) fn arrived_bare(&self, claims: &[u8]) {
        self.take_note(claims, claims, 0, None);
    }

    /// Notes that a SET arrived at one of the receivers that share an event: the receiver is its lane, and the SETs of
    /// one receiver in a hundred are kept.
    pub(crate) fn arrived_at(&self, receiver: u32, token: &[u8], now: u64) {
        self.note(token, now, Some(receiver));
    }

    fn note(&self, token: &[u8], now: u64, receiver: Option<u32>) {
        self.take_note(token, &payload(token).unwrap_or_default(), now, receiver);
    }

    fn take_note(&self, token: &[u8], payload: &[u8], now: u64, receiver: Option<u32>) {
        if memchr::memmem::find(payload, CONTROL).is_some() {
            return;
        }
        let mark = Mark::find(payload);
        let lane = |mark: &Mark| receiver.unwrap_or(mark.lane);
        let mark = mark.filter(|_| receiver.is_none_or(|receiver| is_for(payload, receiver)));
        let place = mark.and_then(|mark| Some((mark, self.lanes.get(usize::try_from(lane(&mark)).ok()?)?)));
        let Some((mark, next)) = place else {
            self.strange.fetch_add(1, Ordering::Relaxed);
            return;
        };
        // SETs of one lane are never under way together; if they are, that is a break of order, and counted as one.
        let expected = next.load(Ordering::Acquire);
        if mark.seq < expected {
            self.duplicates.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if mark.seq > expected {
            self.breaks.fetch_add(1, Ordering::Relaxed);
        }
        next.store(mark.seq + 1, Ordering::Release);
        if let Some(arrival) = usize::try_from(mark.number).ok().and_then(|number| self.arrivals.get(number)) {
            arrival.store(now, Ordering::Relaxed);
        }
        if receiver.unwrap_or(mark.number).is_multiple_of(SAMPLE) {
            self.samples.lock().unwrap_or_else(PoisonError::into_inner).push(Bytes::copy_from_slice(token));
        }
        self.delivered.fetch_add(1, Ordering::Release);
    }

    /// Returns the number of SETs that arrived for the first time.
    pub(crate) fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Acquire)
    }

    /// Returns the time at which the event with this number arrived, if it did.
    pub(crate) fn arrival(&self, number: usize) -> Option<u64> {
        self.arrivals.get(number).map(|at| at.load(Ordering::Relaxed)).filter(|at| *at != 0)
    }

    /// Returns the kept SETs.
    pub(crate) fn samples(&self) -> Vec<Bytes> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until `expected` SETs have arrived.
    ///
    /// # Errors
    /// Fails if no SET arrives any more though some are missing.
    pub(crate) async fn all(&self, expected: u64, clock: &Clock) -> Result<(), BenchError> {
        let (mut seen, mut since) = (self.delivered(), clock.now());
        while seen < expected {
            clock.pause(Duration::from_millis(1)).await;
            let now = self.delivered();
            if now != seen {
                (seen, since) = (now, clock.now());
            } else if clock.since(since) > PATIENCE {
                self.check(expected)?;
            }
        }
        Ok(())
    }

    /// Checks that the SETs which arrived are exactly those that were accepted: each once, in order.
    ///
    /// # Errors
    /// [`BenchError::Miscounted`] with the counts.
    pub(crate) fn check(&self, accepted: u64) -> Result<(), BenchError> {
        let read = |count: &AtomicU64| count.load(Ordering::Acquire);
        let (delivered, duplicates, breaks, strange) =
            (self.delivered(), read(&self.duplicates), read(&self.breaks), read(&self.strange));
        if delivered == accepted && duplicates + breaks + strange == 0 {
            return Ok(());
        }
        Err(BenchError::Miscounted(format!(
            "no figure: {accepted} accepted, {delivered} delivered, {duplicates} duplicates, {breaks} breaks of order, {strange} unknown"
        )))
    }
}

/// Returns the audience of one of many receivers.
pub(crate) fn audience(receiver: u32) -> String {
    format!("{AUDIENCE}/{receiver}")
}

/// Returns whether a payload is for this receiver and no other.
fn is_for(payload: &[u8], receiver: u32) -> bool {
    memchr::memmem::find(payload, format!("\"aud\":\"{AUDIENCE}/{receiver}\"").as_bytes()).is_some()
}

/// Returns the payload of a compact token, not verified.
fn payload(token: &[u8]) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(token.split(|byte| *byte == b'.').nth(1)?).ok()
}

impl Sink {
    /// Opens the sink on a free port of the loopback interface.
    ///
    /// # Errors
    /// Fails if there is no thread or no port.
    pub(crate) async fn open(clock: &Clock) -> Result<Self, BenchError> {
        let shared = Arc::new(Shared { clock: clock.clone(), run: RwLock::new(Arc::new(Run::new(0, 0))) });
        let (stop, stopped) = watch::channel(false);
        let (opened, open) = oneshot::channel();
        let serving = shared.clone();
        let thread = std::thread::Builder::new()
            .name("bench-sink".to_owned())
            .spawn(move || serve(serving, opened, stopped))
            .map_err(BenchError::failed("no thread for the sink"))?;
        let address = open.await.map_err(|_| BenchError::Failed("the sink does not start".into()))?;
        Ok(Self { address: address?, shared, stop, thread: Some(thread) })
    }

    /// Returns the URL that SETs are pushed to.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Returns the URL that SETs are pushed to in batches.
    pub(crate) fn batch_url(&self) -> String {
        format!("http://{}/batch", self.address)
    }

    /// Returns the address of the sink.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Begins a run, which counts what arrives from now on.
    pub(crate) fn begin(&self, lanes: usize, arrivals: usize) -> Arc<Run> {
        let run = Arc::new(Run::new(lanes, arrivals));
        *self.shared.run.write().unwrap_or_else(PoisonError::into_inner) = run.clone();
        run
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(
    shared: Arc<Shared>,
    opened: oneshot::Sender<Result<SocketAddr, BenchError>>,
    mut stopped: watch::Receiver<bool>,
) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(crate::machine::cores())
        .thread_name("bench-sink")
        .enable_all()
        .build();
    let runtime = match runtime.map_err(BenchError::failed("no runtime for the sink")) {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = opened.send(Err(error));
            return;
        }
    };
    runtime.block_on(async move {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await;
        let bound = listener.and_then(|listener| listener.local_addr().map(|address| (listener, address)));
        match bound.map_err(BenchError::failed("no port for the sink")) {
            Err(error) => _ = opened.send(Err(error)),
            Ok((listener, address)) => {
                let _ = opened.send(Ok(address));
                let app = Router::new().route("/batch", post(take_batch)).fallback(post(take)).with_state(shared);
                tokio::select! {
                    _ = axum::serve(listener, app) => {}
                    _ = stopped.wait_for(|stop| *stop) => {}
                }
            }
        }
    });
    runtime.shutdown_background();
}

async fn take(State(shared): State<Arc<Shared>>, token: Bytes) -> StatusCode {
    let run = shared.run.read().unwrap_or_else(PoisonError::into_inner).clone();
    run.arrived(&token, shared.clock.nanos());
    StatusCode::ACCEPTED
}

/// Accepts SETs in batches and acknowledges all of them at once (draft-deshpande-secevent-http-multi-set-push §4.4).
async fn take_batch(State(shared): State<Arc<Shared>>, object: Bytes) -> impl IntoResponse {
    let run = shared.run.read().unwrap_or_else(PoisonError::into_inner).clone();
    let now = shared.clock.nanos();
    let mut ids = Vec::new();
    for (id, token) in talk::sets(&object) {
        run.arrived(token, now);
        ids.push(id);
    }
    ([(header::CONTENT_TYPE, "application/json")], talk::ack(ids, None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Maker;

    fn token(line: &[u8]) -> Bytes {
        format!("h.{}.s", URL_SAFE_NO_PAD.encode(line)).into()
    }

    #[test]
    fn tells_duplicates_breaks_and_losses_from_what_is_right() {
        let mut maker = Maker::new("test", 1);
        let tokens: Vec<_> = maker.lines(4).iter().map(|line| token(line)).collect();
        let run = |order: &[usize]| {
            let run = Run::new(1, 4);
            order.iter().for_each(|at| run.arrived(&tokens[*at], 1));
            run
        };
        assert!(run(&[0, 1, 2, 3]).check(4).is_ok());
        for wrong in [&[0, 1, 2][..], &[0, 1, 1, 2, 3], &[0, 2, 1, 3], &[0, 1, 3]] {
            assert!(matches!(run(wrong).check(4), Err(BenchError::Miscounted(_))), "{wrong:?}");
        }
        let odd = Run::new(1, 0);
        odd.arrived(&Bytes::from_static(b"no token"), 1);
        assert!(odd.check(0).is_err());
        assert_eq!(run(&[0, 1]).samples(), [tokens[0].clone()]);
        let many = Run::new(2, 0);
        let claims = crate::event::claim(
            &Maker::new("many", 1).line_in(0, &["https://e.example"]),
            "https://i.example",
            &audience(1),
            0,
        );
        let shared = token(&claims.unwrap().1);
        many.arrived_at(1, &shared, 1);
        assert!(many.check(1).is_ok());
        many.arrived_at(0, &shared, 1);
        assert!(many.check(1).is_err(), "it is for another receiver");
        let own = Run::new(1, 0);
        own.arrived(
            &token(br#"{"events":{"https://schemas.openid.net/secevent/ssf/event-type/stream-updated":{}}}"#),
            1,
        );
        assert!(own.check(0).is_ok(), "SETs of the gateway itself are not counted");
    }

    #[tokio::test]
    async fn gives_up_on_what_never_arrives() {
        tokio::time::pause();
        let lost = Run::new(1, 0).all(1, &Clock::new()).await;
        assert!(matches!(lost, Err(BenchError::Miscounted(_))), "{lost:?}");
    }
}
