//! The bare loops for receivers that come for their SETs, in a process of its own as the gateway is: axum, claims or
//! frames that are built already, a held key, and nothing else.

use std::{
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::{
        Path, State,
        ws::{Message, WebSocket, WebSocketUpgrade},
    },
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use setgate_jose::{Algorithm, Key, RsaBits};
use setgate_set::Jti;
use tokio::sync::{Notify, watch};

use crate::{
    Bench, BenchError,
    child::{AUDIENCE, two_free_ports},
    event::{self, Maker, TYPE},
    link::Asks,
    load::Client,
    machine,
    sink::audience,
    talk,
};

/// The most SETs of one answer to a poll.
pub(crate) const BATCH: usize = 100;
/// The longest time for a start.
const PATIENCE: Duration = Duration::from_secs(20);
/// The word that names this task.
const TASK: &str = "bare";

/// The running bare loops, which end when the value is dropped.
pub(crate) struct Bare {
    child: Child,
    /// The standard input of the bare loops, which end when it is closed, even if this process is killed.
    _lifeline: Option<ChildStdin>,
    address: std::net::SocketAddr,
    issuer: String,
}

/// The content of a round of a fan-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Made {
    /// Claims that are built already; each is signed when it is sent.
    Claims,
    /// Frames that are built already, of tokens that are signed already; a subscriber gets its own when it gives
    /// credit.
    Frames,
}

impl Bare {
    /// Starts the bare loops for this issuer.
    ///
    /// # Errors
    /// Fails if they are not ready in time.
    pub(crate) async fn start(
        bench: &Bench<'_>,
        client: &Client,
        algorithm: Algorithm,
        issuer: &str,
    ) -> Result<Self, BenchError> {
        let (port, _) = two_free_ports()?;
        let mut child = Command::new(&bench.plan.own)
            .args(["--task", &format!("{TASK}:{port}:{algorithm}:{issuer}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(BenchError::failed("the bare loop cannot be started"))?;
        let lifeline = child.stdin.take();
        let bare =
            Self { child, _lifeline: lifeline, address: ([127, 0, 0, 1], port).into(), issuer: issuer.to_owned() };
        let began = bench.clock.now();
        while bare.jwks(client).await.is_err() {
            if bench.clock.since(began) > PATIENCE {
                return Err(BenchError::Failed("the bare loop is not ready".to_owned()));
            }
            bench.clock.pause(Duration::from_millis(5)).await;
        }
        Ok(bare)
    }

    /// Returns the `iss` of the signed SETs.
    pub(crate) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Returns the process of the bare loops.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the place at which a receiver asks.
    pub(crate) fn asks(&self, path: impl Into<String>) -> Asks {
        // The token is as long as one of the gateway's.
        Asks { address: self.address, path: path.into(), token: "sgr_".repeat(12) }
    }

    /// Returns the key set of the bare loops.
    ///
    /// # Errors
    /// Fails if it is not served.
    pub(crate) async fn jwks(&self, client: &Client) -> Result<Bytes, BenchError> {
        self.tell(client, "jwks.json").await
    }

    /// Builds the claims of `sets` SETs for polls, one lane each.
    ///
    /// # Errors
    /// Fails if the bare loops do not build them.
    pub(crate) async fn backlog(&self, client: &Client, sets: usize) -> Result<(), BenchError> {
        self.tell(client, &format!("backlog/{sets}")).await.map(|_| ())
    }

    /// Builds the event with this number for `subscribers` subscribers.
    ///
    /// # Errors
    /// Fails if the bare loops do not build it.
    pub(crate) async fn build(
        &self,
        client: &Client,
        made: Made,
        number: usize,
        subscribers: usize,
    ) -> Result<(), BenchError> {
        let kind = if made == Made::Claims { "claims" } else { "frames" };
        self.tell(client, &format!("build/{kind}/{number}/{subscribers}")).await.map(|_| ())
    }

    /// Lets the event go to all subscribers, and waits until every acknowledgement was read.
    ///
    /// # Errors
    /// Fails if an acknowledgement is missing.
    pub(crate) async fn go(&self, client: &Client) -> Result<(), BenchError> {
        self.tell(client, "go").await.map(|_| ())
    }

    async fn tell(&self, client: &Client, path: &str) -> Result<Bytes, BenchError> {
        client.get(&format!("http://{}/{path}", self.address)).await
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the far side, `bare:PORT:ALGORITHM:ISSUER`; returns `None` for another task.
///
/// # Errors
/// Fails if the port is taken or the key cannot be created.
pub(crate) async fn task(task: &str) -> Option<Result<String, BenchError>> {
    let rest = task.strip_prefix(TASK)?.strip_prefix(':')?;
    Some(run(rest).await)
}

async fn run(rest: &str) -> Result<String, BenchError> {
    let mut words = rest.splitn(3, ':');
    let unknown = || BenchError::Failed(format!("`{TASK}:{rest}` is no task"));
    let mut word = || words.next().ok_or_else(unknown);
    let port: u16 = word()?.parse().map_err(|_| unknown())?;
    let algorithm: Algorithm = word()?.parse().map_err(|_| unknown())?;
    let issuer = word()?.to_owned();
    machine::open_files();
    let key = Key::generate(algorithm, RsaBits::default()).map_err(|error| BenchError::Failed(error.to_string()))?;
    let shared = Arc::new(Shared {
        issuer,
        key,
        backlog: Mutex::default(),
        next: AtomicUsize::new(0),
        built: Mutex::default(),
        round: watch::channel(Arc::default()).0,
        acknowledged: AtomicUsize::new(0),
        all: Notify::new(),
    });
    let app = Router::new()
        .route("/jwks.json", get(jwks))
        .route("/backlog/{sets}", get(backlog))
        .route("/poll", post(poll))
        .route("/build/{kind}/{number}/{subscribers}", get(build))
        .route("/go", get(go))
        .route("/socket/{no}", get(socket))
        .with_state(shared);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await;
    let listener = listener.map_err(BenchError::failed("no port for the bare loop"))?;
    let (gone, lifeline) = tokio::sync::oneshot::channel::<()>();
    let wait = move || {
        // The input ends when the process that started this one closes its end or is gone.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        drop(gone);
    };
    std::thread::Builder::new()
        .name("bench-lifeline".to_owned())
        .spawn(wait)
        .map_err(BenchError::failed("no thread"))?;
    tokio::select! {
        served = axum::serve(listener, app) => served.map_err(BenchError::failed("the bare loop"))?,
        _ = lifeline => {}
    }
    Ok(String::new())
}

type Claims = Vec<(Jti, Vec<u8>)>;

struct Shared {
    issuer: String,
    key: Key,
    backlog: Mutex<Arc<Claims>>,
    next: AtomicUsize,
    built: Mutex<Arc<Round>>,
    round: watch::Sender<Arc<Round>>,
    acknowledged: AtomicUsize,
    all: Notify,
}

/// The event of a round, for all subscribers.
#[derive(Default)]
enum Round {
    #[default]
    Nothing,
    Claims(Claims),
    Frames(Vec<String>),
}

impl Round {
    fn subscribers(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Claims(claims) => claims.len(),
            Self::Frames(frames) => frames.len(),
        }
    }
}

impl Shared {
    /// Returns an answer with these SETs, signed now.
    fn sign(&self, claims: &[(Jti, Vec<u8>)], more: Option<bool>) -> Result<Vec<u8>, StatusCode> {
        let sign = |(jti, claims): &(Jti, Vec<u8>)| self.key.signer().sign(claims).map(|token| (*jti, token));
        let signed = claims.iter().map(sign).collect::<Result<Vec<_>, _>>();
        let signed = signed.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
        Ok(talk::speech(signed.iter().map(|(jti, token)| (jti.as_str(), token.as_slice())), more))
    }

    /// Returns the frame for one subscriber.
    fn frame(&self, round: &Round, no: usize) -> Option<String> {
        match round {
            Round::Nothing => None,
            Round::Claims(claims) => String::from_utf8(self.sign(claims.get(no..=no)?, None).ok()?).ok(),
            Round::Frames(frames) => frames.get(no).cloned(),
        }
    }
}

async fn jwks(State(shared): State<Arc<Shared>>) -> String {
    format!("{{\"keys\":[{}]}}", shared.key.public_jwk())
}

fn refused(error: BenchError) -> (StatusCode, String) {
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

async fn backlog(
    State(shared): State<Arc<Shared>>,
    Path(sets): Path<usize>,
) -> Result<StatusCode, (StatusCode, String)> {
    let mut maker = Maker::new("backlog", sets);
    let one = |at| event::claim(&maker.line_in(at, &[TYPE]), &shared.issuer, AUDIENCE, at);
    let claims = (0..sets).map(one).collect::<Result<Claims, _>>().map_err(refused)?;
    *shared.backlog.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(claims);
    shared.next.store(0, Ordering::Release);
    Ok(StatusCode::OK)
}

/// Answers a poll with the next batch; the request is read and ignored.
async fn poll(State(shared): State<Arc<Shared>>, _: Bytes) -> Result<Response, StatusCode> {
    let claims = shared.backlog.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let from = shared.next.fetch_add(BATCH, Ordering::Relaxed).min(claims.len());
    let to = (from + BATCH).min(claims.len());
    let more = (to < claims.len()).then_some(true);
    let body = shared.sign(claims.get(from..to).unwrap_or_default(), more)?;
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

async fn build(
    State(shared): State<Arc<Shared>>,
    Path((kind, number, subscribers)): Path<(String, usize, usize)>,
) -> Result<StatusCode, (StatusCode, String)> {
    let number_32 = u32::try_from(number).unwrap_or(u32::MAX);
    let line = Maker::new("fan", 1).numbered_from(number_32).later(0, number_32).line_in(0, &[TYPE]);
    let one = |no| event::claim(&line, &shared.issuer, &audience(no), number * subscribers + no as usize);
    let most = u32::try_from(subscribers).unwrap_or(u32::MAX);
    let claims = (0..most).map(one).collect::<Result<Claims, _>>().map_err(refused)?;
    if kind == "claims" {
        *shared.built.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(Round::Claims(claims));
        return Ok(StatusCode::OK);
    }
    let failed = |_| refused(BenchError::Failed("a frame cannot be built".to_owned()));
    let frame = |claims| String::from_utf8(shared.sign(std::slice::from_ref(claims), None).unwrap_or_default());
    let frames = claims.iter().map(frame).collect::<Result<Vec<_>, _>>().map_err(failed)?;
    // The round is there for subscribers that give credit; `go` only waits.
    shared.acknowledged.store(0, Ordering::Release);
    shared.round.send_replace(Arc::new(Round::Frames(frames)));
    Ok(StatusCode::OK)
}

async fn go(State(shared): State<Arc<Shared>>) -> StatusCode {
    let built = std::mem::take(&mut *shared.built.lock().unwrap_or_else(PoisonError::into_inner));
    if built.subscribers() > 0 {
        shared.acknowledged.store(0, Ordering::Release);
        shared.round.send_replace(built);
    }
    loop {
        let all = shared.all.notified();
        if shared.acknowledged.load(Ordering::Acquire) >= shared.round.borrow().subscribers() {
            return StatusCode::OK;
        }
        all.await;
    }
}

async fn socket(State(shared): State<Arc<Shared>>, Path(no): Path<usize>, upgrade: WebSocketUpgrade) -> Response {
    let upgrade = upgrade.protocols(["setgate.v1"]).read_buffer_size(4096).write_buffer_size(4096);
    upgrade.on_upgrade(move |socket| session(socket, no, shared))
}

/// Sends the frames of each round to this subscriber, and reads its acknowledgements.
async fn session(mut socket: WebSocket, no: usize, shared: Arc<Shared>) {
    let mut rounds = shared.round.subscribe();
    loop {
        let frame = tokio::select! {
            Ok(()) = rounds.changed() => {
                let round = rounds.borrow_and_update().clone();
                if matches!(*round, Round::Claims(_)) { shared.frame(&round, no) } else { None }
            }
            message = socket.recv() => match message {
                Some(Ok(Message::Text(text))) => {
                    let read = talk::acknowledged(text.as_bytes());
                    let round = shared.round.borrow().clone();
                    let before = shared.acknowledged.fetch_add(read, Ordering::AcqRel);
                    if read > 0 && before + read == round.subscribers() {
                        shared.all.notify_waiters();
                    }
                    if read == 0 && matches!(*round, Round::Frames(_)) { shared.frame(&round, no) } else { None }
                }
                Some(Ok(_)) => None,
                _ => return,
            },
        };
        if let Some(frame) = frame
            && socket.send(Message::Text(frame.into())).await.is_err()
        {
            return;
        }
    }
}
