use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use serde_json::json;
use setgate_delivery::{
    Runtime,
    axum::{
        Router,
        body::Body,
        extract::State as Held,
        http::{HeaderMap as Fields, StatusCode},
        response::Response,
        routing::post,
    },
    testkit::{
        clock::{self, MockClock},
        net::{Outbound, OutboundConfig, OwnAddresses},
    },
};

use super::*;

/// A token endpoint with the answers that it gives next and the requests that it got.
struct Server {
    address: SocketAddr,
    shared: Arc<Scene>,
}

#[derive(Default)]
struct Scene {
    answers: Mutex<Vec<(u16, String)>>,
    asked: Mutex<Vec<(String, String)>>,
    count: AtomicUsize,
}

async fn answer(Held(scene): Held<Arc<Scene>>, fields: Fields, body: String) -> Response {
    let authorization = fields["authorization"].to_str().unwrap().to_owned();
    scene.asked.lock().push((authorization, body));
    scene.count.fetch_add(1, Ordering::SeqCst);
    let mut answers = scene.answers.lock();
    // The last answer is given for ever.
    let (status, body) = if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() };
    let status = StatusCode::from_u16(status).unwrap();
    Response::builder().status(status).header("content-type", "application/json").body(Body::from(body)).unwrap()
}

fn token(name: &str, expires_in: u64) -> (u16, String) {
    (200, json!({ "access_token": name, "token_type": "Bearer", "expires_in": expires_in }).to_string())
}

impl Server {
    async fn open(answers: Vec<(u16, String)>) -> Self {
        let shared = Arc::new(Scene { answers: Mutex::new(answers), ..Scene::default() });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().route("/token", post(answer)).with_state(shared.clone());
        tokio::spawn(async move { setgate_delivery::axum::serve(listener, app).await.unwrap() });
        Self { address, shared }
    }

    fn section(&self) -> TokenSection {
        serde_json::from_value(
            json!({ "token_endpoint": format!("http://{}/token", self.address), "client_id": "gateway",
            "client_secret": "s3cret-canary", "scope": "kafka" }),
        )
        .unwrap()
    }

    fn start(&self, env: &Env) -> Arc<Tokens> {
        Tokens::start(env, &self.section())
    }

    fn count(&self) -> usize {
        self.shared.count.load(Ordering::SeqCst)
    }

    /// Waits until the endpoint was asked this many times.
    async fn until(&self, wanted: usize) {
        until(|| self.count() >= wanted).await;
    }
}

/// Returns an environment whose clock stands still; `allowed` lets the guard reach this machine.
fn env(allowed: bool) -> (Env, Arc<MockClock>) {
    let mock_clock = MockClock::at(1_800_000_000_000);
    let runtime = Runtime { clock: mock_clock.clone(), ..clock::system() };
    let allow_networks = if allowed { vec!["127.0.0.0/8".parse().unwrap()] } else { Vec::new() };
    let config = OutboundConfig { allow_networks, allow_http: true, system_roots: false, ..OutboundConfig::default() };
    let http = Outbound::new(&config, runtime.clone(), OwnAddresses::new()).unwrap();
    (Env { http, runtime, report: Arc::new(|_| ()) }, mock_clock)
}

/// Waits until the condition holds; the test fails if it never does.
async fn until(so: impl Fn() -> bool) {
    let wait = async {
        while !so() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap();
}

/// Waits until the token has this name.
async fn until_token(tokens: &Tokens, name: &str) {
    until(|| tokens.current().is_ok_and(|token| token.token == name)).await;
}

fn refusal(tokens: &Tokens) -> String {
    tokens.current().err().unwrap().to_string()
}

#[tokio::test]
async fn a_token_is_there_before_anybody_asks() {
    let (server, (env, _)) = (Server::open(vec![token("one", 100)]).await, env(true));
    let tokens = server.start(&env);
    tokens.ready().await.unwrap();
    let token = tokens.current().unwrap();
    assert_eq!((token.token.as_str(), token.principal_name.as_str()), ("one", "gateway"));
    assert_eq!(token.lifetime_ms, 1_800_000_000_000 + 30_000, "the library asks again long before it ends");
    let asked = server.shared.asked.lock().clone();
    // gateway:s3cret-canary
    let basic = "Basic Z2F0ZXdheTpzM2NyZXQtY2FuYXJ5".to_owned();
    assert_eq!(asked, [(basic, "grant_type=client_credentials&scope=kafka".to_owned())]);
}

#[tokio::test]
async fn nothing_is_asked_before_somebody_wants_a_token() {
    let (server, (env, clock)) = (Server::open(vec![token("one", 100)]).await, env(true));
    let tokens = server.start(&env);
    for _ in 0..100 {
        clock.advance(Duration::from_secs(1));
        tokio::task::yield_now().await;
    }
    assert_eq!(server.count(), 0);
    assert!(refusal(&tokens).contains("not answered yet"), "whoever asks in vain has it fetched");
    until_token(&tokens, "one").await;
}

#[tokio::test]
async fn a_token_is_renewed_before_it_ends() {
    let (server, (env, clock)) = (Server::open(vec![token("one", 100), token("two", 100)]).await, env(true));
    let tokens = server.start(&env);
    tokens.ready().await.unwrap();
    clock.advance(Duration::from_secs(74));
    tokio::task::yield_now().await;
    assert_eq!(server.count(), 1);
    clock.advance(Duration::from_secs(6));
    server.until(2).await;
    until_token(&tokens, "two").await;
}

#[tokio::test]
async fn the_last_good_token_is_used_while_it_lasts_and_no_longer() {
    let answers = vec![token("one", 100), (503, "canary".to_owned())];
    let (server, (env, clock)) = (Server::open(answers).await, env(true));
    let tokens = server.start(&env);
    tokens.ready().await.unwrap();
    clock.advance(Duration::from_secs(80));
    server.until(2).await;
    until(|| tokens.shared.state.lock().failure.is_some()).await;
    assert_eq!(tokens.current().unwrap().token, "one");
    clock.advance(Duration::from_secs(15));
    server.until(3).await;
    let why = refusal(&tokens);
    assert!(why.contains("503") && why.contains("127.0.0.1") && !why.contains("canary"), "{why}");
}

#[tokio::test]
async fn asks_again_after_a_failure_with_growing_pauses() {
    let answers = vec![(400, r#"{"error": "invalid_client"}"#.to_owned()), (500, String::new()), token("late", 60)];
    let (server, (env, clock)) = (Server::open(answers).await, env(true));
    let tokens = server.start(&env);
    let cause = tokens.ready().await.unwrap_err();
    assert!(cause.text.contains("client_secret") && !cause.text.contains("canary"), "{cause}");
    clock.advance(Duration::from_millis(499));
    tokio::task::yield_now().await;
    assert_eq!(server.count(), 1, "not before half of the pause");
    clock.advance(Duration::from_millis(501));
    server.until(2).await;
    until(|| !refusal(&tokens).contains("client_secret")).await;
    clock.advance(Duration::from_secs(2));
    server.until(3).await;
    until_token(&tokens, "late").await;
}

#[tokio::test]
async fn an_answer_without_end_is_not_read_to_its_end() {
    let long = json!({ "access_token": "a", "token_type": "Bearer", "more": "x".repeat(ANSWER_BYTES) }).to_string();
    let (server, (env, _)) = (Server::open(vec![(200, long)]).await, env(true));
    let tokens = server.start(&env);
    assert!(tokens.ready().await.unwrap_err().text.contains("too long"));
}

#[tokio::test]
async fn the_guard_validates_the_endpoint_and_says_which_option_allows_it() {
    let (server, (env, _)) = (Server::open(vec![token("one", 100)]).await, env(false));
    let tokens = server.start(&env);
    let cause = tokens.ready().await.unwrap_err();
    assert!(cause.text.contains("allow_"), "{cause}");
    assert_eq!(server.count(), 0);
}

#[tokio::test]
async fn a_token_that_is_refused_is_fetched_anew_but_not_at_once() {
    let (server, (env, clock)) = (Server::open(vec![token("wrong", 3000), token("right", 3000)]).await, env(true));
    let tokens = server.start(&env);
    tokens.ready().await.unwrap();
    for _ in 0..9 {
        tokens.refused();
        clock.advance(Duration::from_secs(1));
        tokio::task::yield_now().await;
    }
    assert_eq!(server.count(), 1, "an authorization server is not to be stormed");
    until(|| {
        clock.advance(Duration::from_millis(10));
        server.count() > 1
    })
    .await;
    until_token(&tokens, "right").await;
    for _ in 0..100 {
        clock.advance(Duration::from_secs(1));
        tokio::task::yield_now().await;
    }
    assert!(server.count() <= 3, "nobody refuses it any more: {}", server.count());
}

#[tokio::test]
async fn nobody_asks_for_a_cluster_that_is_gone() {
    let (server, (env, clock)) = (Server::open(vec![token("one", 100)]).await, env(true));
    let tokens = server.start(&env);
    tokens.ready().await.unwrap();
    let ended = Arc::downgrade(&tokens.shared);
    drop(tokens);
    until(|| ended.strong_count() == 0).await;
    clock.advance(Duration::from_secs(1000));
    tokio::task::yield_now().await;
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn nothing_shown_of_it_is_secret() {
    let (server, (env, _)) = (Server::open(vec![token("canary", 100)]).await, env(true));
    let tokens = server.start(&env);
    tokens.ready().await.unwrap();
    assert_eq!(format!("{tokens:?}"), "Tokens(127.0.0.1)");
}
