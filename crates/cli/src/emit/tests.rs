use std::{collections::VecDeque, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    response::Response,
    routing::post,
};
use clap::Parser as _;
use http::HeaderMap;
use parking_lot::Mutex;
use serde_json::{Value as Json, json};
use setgate_clock::{BoxFuture, Clock, Runtime, SystemClock, TokioTasks, manual::SeededRandom};
use setgate_net::Listener;
use tokio::sync::watch;

use super::*;
use crate::args::{Cli, Command};

pub(super) fn args(line: &str) -> EmitArgs {
    match Cli::try_parse_from(std::iter::once("setgate").chain(line.split(' '))).unwrap().command {
        Command::Emit(args) => args,
        _ => panic!("emit is expected"),
    }
}

pub(super) fn context() -> Context {
    let runtime = setgate_clock::manual::runtime(setgate_clock::manual::ManualClock::at(1_700_000_000_000), 7);
    Context::new(runtime, &crate::args::Global::default())
}

/// The time limit of connecting.
const CONNECTING: Duration = Duration::from_secs(30);

/// A clock on which most waits end at once and are recorded; those as long as a deadline never end.
struct Impatient {
    system: SystemClock,
    waited: Mutex<Vec<Duration>>,
}

impl Clock for Impatient {
    fn wall_millis(&self) -> u64 {
        1_700_000_000_000
    }

    fn monotonic(&self) -> Duration {
        self.system.monotonic() + self.waited.lock().iter().sum::<Duration>()
    }

    fn sleep(&self, how_long: Duration) -> BoxFuture<()> {
        match how_long {
            d if d >= Duration::from_secs(100) || d == CONNECTING => Box::pin(std::future::pending()),
            // The linger, the stagger of connections and the first wait take real time.
            d if d == LINGER || d == Duration::from_millis(250) => self.system.sleep(d),
            d => {
                self.waited.lock().push(d);
                Box::pin(std::future::ready(()))
            }
        }
    }
}

/// The reaction of the test's intake to a request.
enum Does {
    /// Accepts every item.
    Accepts,
    /// Answers with this status, these headers and this body.
    Says(u16, &'static [(&'static str, &'static str)], &'static str),
    /// Accepts the first and the last item, and breaks the connection off after the first answer.
    BreaksOff,
    /// Answers each item with its own status.
    Each(&'static [u16]),
}

/// An intake that follows the test's script, and then accepts every item.
struct Intake {
    script: Mutex<VecDeque<Does>>,
    /// The ids of each request.
    requests: Mutex<Vec<Vec<String>>>,
    /// The ids that were answered 202, or are durable although their answer was lost.
    durable: Mutex<Vec<String>>,
}

impl Intake {
    fn take(&self, body: &[u8]) -> Response {
        let ids: Vec<String> = body
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice::<Json>(line).unwrap()["id"].as_str().unwrap().to_owned())
            .collect();
        self.requests.lock().push(ids.clone());
        let does = self.script.lock().pop_front().unwrap_or(Does::Accepts);
        let line = |index: usize, status: u16| {
            let repeated = status == 202 && self.durable.lock().contains(&ids[index]);
            if status == 202 && !repeated {
                self.durable.lock().push(ids[index].clone());
            }
            format!(
                "{}\n",
                json!({"index": index, "id": ids[index], "status": status, "txn": "t", "repeated": repeated})
            )
        };
        match does {
            Does::Accepts => Response::new(Body::from((0..ids.len()).map(|at| line(at, 202)).collect::<String>())),
            Does::Each(all) => Response::new(Body::from(
                all.iter().enumerate().map(|(at, status)| line(at, *status)).collect::<String>(),
            )),
            Does::Says(status, headers, body) => {
                let mut response = Response::builder().status(status);
                for (name, value) in headers {
                    response = response.header(*name, *value);
                }
                response.body(Body::from(body)).unwrap()
            }
            Does::BreaksOff => {
                let (first, _lost) = (line(0, 202), line(ids.len() - 1, 202));
                let broken = async {
                    // The first line is sent before the connection breaks.
                    for _ in 0..50 {
                        tokio::task::yield_now().await;
                    }
                    Err(std::io::Error::other("broken"))
                };
                let first = futures_util::stream::iter([Ok(Bytes::from(first))]);
                let parts = futures_util::StreamExt::chain(first, futures_util::stream::once(broken));
                Response::new(Body::from_stream(parts))
            }
        }
    }
}

struct Bench {
    intake: Arc<Intake>,
    clock: Arc<Impatient>,
    context: Context,
    line: String,
    folder: tempfile::TempDir,
    _stop: watch::Sender<bool>,
}

async fn bench(script: Vec<Does>) -> Bench {
    let intake =
        Arc::new(Intake { script: Mutex::new(script.into()), requests: Mutex::default(), durable: Mutex::default() });
    let app = Router::new()
        .route(
            "/tenant/events",
            post(async |State(intake): State<Arc<Intake>>, headers: HeaderMap, body: Bytes| {
                assert_eq!(headers["authorization"], "Bearer sgp_canary");
                intake.take(&body)
            }),
        )
        .with_state(intake.clone());
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.address();
    let (stop, stopped) = watch::channel(false);
    drop(tokio::spawn(listener.serve(app, stopped, setgate_clock::system())));
    let clock = Arc::new(Impatient { system: SystemClock::new(), waited: Mutex::default() });
    let runtime = Runtime { clock: clock.clone(), random: SeededRandom::new(3), tasks: Arc::new(TokioTasks) };
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    token::write(&token, &Secret::new("sgp_canary".to_owned())).unwrap();
    let line = format!("emit --issuer http://{address}/tenant --token-file {}", token.display());
    let context = Context::new(runtime, &crate::args::Global::default());
    Bench { intake, clock, context, line, folder, _stop: stop }
}

impl Bench {
    async fn run(&self, more: &str) -> Ended {
        run(&self.context, args(&format!("{} {more}", self.line))).await
    }

    fn durable(&self) -> Vec<String> {
        self.intake.durable.lock().clone()
    }
}

fn ids(prefix: &str, numbers: std::ops::RangeInclusive<u64>) -> Vec<String> {
    numbers.map(|number| format!("{prefix}-{number}")).collect()
}

#[test]
fn the_intake_lies_below_the_issuer() {
    for (issuer, events) in [
        ("https://a.example", "https://a.example/events"),
        ("https://a.example/", "https://a.example/events"),
        ("https://a.example/tenant", "https://a.example/tenant/events"),
    ] {
        assert_eq!(intake(&context(), issuer).unwrap().as_str(), events);
    }
    assert!(intake(&context(), "a.example").is_err());
}

#[test]
fn a_slow_rate_makes_small_requests() {
    assert_eq!(batch_size(&args("emit --issuer https://a.example --count 5 --rate 5")), 1);
    assert_eq!(batch_size(&args("emit --issuer https://a.example --count 5 --rate 500")), 50);
    assert_eq!(batch_size(&args("emit --issuer https://a.example --count 5")), 100);
}

#[tokio::test]
async fn every_event_is_sent_once_and_in_order() {
    let bench = bench(Vec::new()).await;
    assert_eq!(bench.run("--count 250 --id-prefix p").await, Ok(Exit::Done));
    assert_eq!(bench.durable(), ids("p", 1..=250));
    assert_eq!(bench.intake.requests.lock().iter().map(Vec::len).collect::<Vec<_>>(), [100, 100, 50]);
}

#[tokio::test]
async fn overload_is_waited_out_as_the_gateway_asks() {
    let full = Does::Says(503, &[("retry-after", "7")], "{\"title\":\"full\"}");
    let bench = bench(vec![full, Does::Says(429, &[("retry-after", "9")], ""), Does::Says(502, &[], "")]).await;
    assert_eq!(bench.run("--count 3 --id-prefix p").await, Ok(Exit::Done));
    assert_eq!(bench.durable(), ids("p", 1..=3));
    let waited = bench.clock.waited.lock().clone();
    assert_eq!(waited[..2], [Duration::from_secs(7), Duration::from_secs(9)]);
    assert_eq!(waited.len(), 3, "{waited:?}");
}

#[tokio::test]
async fn it_gives_up_when_nothing_moves_for_too_long() {
    let script = (0..100).map(|_| Does::Says(503, &[("retry-after", "60")], "")).collect();
    let bench = bench(script).await;
    let failure = bench.run("--count 3 --id-prefix p --retry-for 3m").await.unwrap_err();
    assert_eq!(failure.exit, Exit::Unreachable);
    assert!(failure.remedy.unwrap().contains("--id-prefix p"));
    assert_eq!(bench.clock.waited.lock().len(), 2, "60 s and 60 s fit into 3 m, with the third one they would not");
}

#[tokio::test]
async fn an_answer_that_breaks_off_loses_and_doubles_nothing() {
    let bench = bench(vec![Does::BreaksOff]).await;
    assert_eq!(bench.run("--count 5 --id-prefix p").await, Ok(Exit::Done));
    let mut durable = bench.durable();
    durable.sort();
    assert_eq!(durable, ids("p", 1..=5));
    // The first item is answered; all others are sent again.
    assert_eq!(bench.intake.requests.lock()[1], ids("p", 2..=5));
}

#[tokio::test]
async fn refused_events_do_not_hold_up_the_rest() {
    let bench = bench(vec![Does::Each(&[202, 400, 503, 409, 202])]).await;
    assert_eq!(bench.run("--count 5 --id-prefix p").await, Ok(Exit::Partly));
    assert_eq!(bench.durable(), ["p-1", "p-5", "p-3"]);
    assert_eq!(bench.intake.requests.lock()[1], ["p-3"]);
}

#[tokio::test]
async fn a_request_that_is_too_large_is_halved() {
    let bench = bench(vec![Does::Says(413, &[], ""), Does::Says(413, &[], "")]).await;
    assert_eq!(bench.run("--count 8 --id-prefix p").await, Ok(Exit::Done));
    assert_eq!(bench.durable(), ids("p", 1..=8));
    assert_eq!(bench.intake.requests.lock().iter().map(Vec::len).collect::<Vec<_>>(), [8, 4, 2, 2, 2, 2]);
}

#[tokio::test]
async fn a_token_that_is_not_accepted_ends_it_at_once() {
    let bench = bench(vec![Does::Says(401, &[("www-authenticate", "Bearer error=\"invalid_token\"")], "")]).await;
    let failure = bench.run("--count 3").await.unwrap_err();
    assert_eq!(failure.exit, Exit::Refused);
    assert!(failure.message.contains("invalid_token") && !failure.to_string().contains("canary"), "{failure}");
    assert_eq!(bench.intake.requests.lock().len(), 1);
}

#[tokio::test]
async fn a_run_that_failed_goes_on_where_it_stopped() {
    let bench = bench(vec![Does::Accepts, Does::Says(401, &[], "")]).await;
    let state = bench.folder.path().join("run.json");
    let line = format!("--count 20 --batch 5 --state {}", state.display());
    assert!(bench.run(&line).await.is_err());
    assert_eq!(bench.run(&line).await, Ok(Exit::Done));
    assert_eq!(bench.durable().len(), 20);
    let sent: Vec<String> = bench.intake.requests.lock().concat();
    assert_eq!(sent.len(), 25, "only the request that failed is sent again");
}

#[tokio::test]
async fn a_file_that_is_sent_twice_is_accepted_once() {
    let bench = bench(Vec::new()).await;
    let file = bench.folder.path().join("events.ndjson");
    std::fs::write(&file, "{\"a\":1}\n{\"id\":\"mine\",\"a\":2}\nnonsense\n{\"a\":3}\n").unwrap();
    let line = file.display().to_string();
    assert_eq!(bench.run(&line).await, Ok(Exit::Partly), "the line that is no event is refused");
    assert_eq!(bench.run(&line).await, Ok(Exit::Partly));
    assert_eq!(bench.durable().len(), 3);
    assert!(bench.durable().contains(&"mine".to_owned()));
    let requests = bench.intake.requests.lock().clone();
    assert_eq!(requests[0], requests[1]);
}

#[tokio::test]
async fn events_leave_no_faster_than_the_rate() {
    let bench = bench(Vec::new()).await;
    assert_eq!(bench.run("--count 100 --rate 50 --id-prefix p").await, Ok(Exit::Done));
    let waited: Duration = bench.clock.waited.lock().iter().sum();
    // The last batch of 5 leaves when 95 events have left at 50 a second.
    assert!(waited > Duration::from_millis(1500) && waited <= Duration::from_millis(1900), "{waited:?}");
}
