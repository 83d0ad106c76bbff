//! Tests of poll against its own collector and against independent receivers, over real sockets.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use serde_json::{Value as Json, json};
use setgate_delivery::{
    About, BoxFuture, Closed, Env, Ingest, Method, Runtime, Session,
    axum::Extension,
    spi::AnyChannel,
    testkit::{
        End, Fixture, Opened, Simulated, clock, conform,
        net::{Listener, Outbound, OutboundConfig, OwnAddresses},
        with_fast_clock,
    },
};
use setgate_poll::{Grant, Poll, Section, Terms};
use tokio::sync::watch;
mod caller;
mod collecting;
mod transmitter;

use caller::Caller;

async fn method(section: Json, runtime: &Runtime) -> Arc<Poll> {
    let config = OutboundConfig { system_roots: false, ..OutboundConfig::default() };
    let http = Outbound::new(&config, runtime.clone(), OwnAddresses::new()).unwrap();
    let env = Env { http, runtime: runtime.clone(), report: Arc::new(|_| ()) };
    let section: Section = serde_json::from_value(section).unwrap();
    Arc::new(Poll::start(section, env).await.unwrap())
}

fn channel(poll: &Arc<Poll>, grant: Json) -> Arc<dyn AnyChannel> {
    let about = About { stream: "stream".into(), issuer: "https://issuer.example".into(), operator_owned: true };
    let grant: Grant = serde_json::from_value(grant).unwrap();
    Arc::new(poll.channel(&about, Terms::default(), grant).unwrap())
}

fn mock_clock() -> (Arc<clock::MockClock>, Runtime) {
    let mock = clock::MockClock::at(1_700_000_000_000);
    (mock.clone(), Runtime { clock: mock, ..clock::system() })
}

/// A stream with a number of SETs, served on loopback with a stopped clock.
struct Stand {
    mock: Arc<clock::MockClock>,
    subscription: Simulated,
    address: SocketAddr,
    end: watch::Sender<bool>,
    _stop: watch::Sender<bool>,
}

impl Stand {
    async fn new(count: usize, keys: usize) -> Self {
        Self::padded(count, keys, 0).await
    }

    async fn padded(count: usize, keys: usize, padding: usize) -> Self {
        let (mock, runtime) = mock_clock();
        let poll = method(json!({ "answer_bytes": 16 << 20 }), &runtime).await;
        let channel = channel(&poll, json!({}));
        let subscription = Simulated::padded(channel.profile(), count, keys, padding);
        let (end, ends) = watch::channel(false);
        let (stop, stopped) = watch::channel(false);
        let session =
            Session { subscription: subscription.subscription(), channel, ingest: None, peer: "test".into(), ends };
        let listener = Listener::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = listener.address();
        runtime
            .spawn("host", listener.serve(poll.routes().unwrap().layer(Extension(session)), stopped, runtime.clone()));
        Self { mock, subscription, address, end, _stop: stop }
    }

    async fn caller(&self) -> Caller {
        Caller::to(self.address).await
    }

    /// Polls once and returns the answer.
    async fn poll(&self, ask: Json) -> Json {
        let mut caller = self.caller().await;
        caller.ask(&ask).await;
        let answer = caller.answer().await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    async fn waiters(&self, count: usize) {
        self.subscription.until(|subscription| subscription.waiters() == count).await;
    }

    fn names(&self) -> Vec<String> {
        self.subscription.ids().iter().map(ToString::to_string).collect()
    }
}

fn names(answer: &Json) -> Vec<String> {
    answer["sets"].as_object().unwrap().keys().cloned().collect()
}

/// A fixture that polls over loopback with its own collector.
struct Loopback;

impl Fixture for Loopback {
    fn open(&self, ingest: Arc<dyn Ingest>) -> BoxFuture<'_, Opened> {
        Box::pin(async move {
            let runtime = with_fast_clock(clock::system());
            let poll = method(json!({}), &runtime).await;
            let (channel, routes) = (channel(&poll, json!({})), poll.routes().unwrap());
            Opened::responder(channel, routes, runtime, move |url, stop| {
                let (poll, ingest) = (poll.clone(), ingest.clone());
                let from = json!({ "endpoint_url": url, "allow_networks": ["127.0.0.0/8"], "allow_http": true });
                Box::pin(async move { poll.collect(from, ingest, stop).await })
            })
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poll_keeps_the_contract_with_its_own_collector() {
    conform(&Loopback).await;
}

#[tokio::test]
async fn a_short_poll_brings_what_is_due_in_order_and_says_that_it_is_json() {
    let stand = Stand::new(5, 1).await;
    let mut caller = stand.caller().await;
    caller.ask(&json!({ "returnImmediately": true })).await;
    let answer = caller.answer().await.unwrap();
    assert_eq!((answer.status, answer.field("content-type")), (200, Some("application/json")));
    assert_eq!(answer.field("cache-control"), Some("no-store"));
    assert_eq!(answer.field("content-length").unwrap().parse::<usize>().unwrap(), answer.body.len());
    let places: Vec<_> = stand.names().iter().map(|name| answer.text().find(name).unwrap()).collect();
    assert!(places.is_sorted(), "SETs of one key stand in order: {places:?}");
    let json = answer.json();
    for (name, body) in stand.names().iter().zip(stand.subscription.bodies()) {
        assert_eq!(json["sets"][name], String::from_utf8_lossy(&body).as_ref());
    }
    assert!(json.get("moreAvailable").is_none());
    stand.subscription.until(|subscription| subscription.handed() == 5).await;
    // The connection stays open; after an acknowledgement on it nothing is left.
    caller.ask(&json!({ "ack": stand.names(), "returnImmediately": true })).await;
    assert_eq!(caller.answer().await.unwrap().text(), r#"{"sets":{}}"#);
    assert!(stand.subscription.ends().iter().all(|end| *end == Some(End::Acknowledged)));
    assert_eq!(stand.subscription.wrongs(), Vec::<String>::new());
}

#[tokio::test]
async fn max_events_is_kept_and_more_is_told() {
    let stand = Stand::new(5, 5).await;
    let first = stand.poll(json!({ "maxEvents": 3, "returnImmediately": true })).await;
    assert_eq!((names(&first).len(), &first["moreAvailable"]), (3, &true.into()));
    let second = stand.poll(json!({ "maxEvents": 3 })).await;
    assert_eq!((names(&second).len(), second.get("moreAvailable")), (2, None));
    assert!(names(&first).iter().all(|name| !names(&second).contains(name)), "two polls got the same SET");
}

#[tokio::test]
async fn acknowledging_only_is_answered_at_once_with_or_without_the_flag() {
    let stand = Stand::new(4, 4).await;
    let fetched = names(&stand.poll(json!({ "maxEvents": 2, "returnImmediately": true })).await);
    for (at, ask) in
        [json!({ "maxEvents": 0 }), json!({ "maxEvents": 0, "returnImmediately": true })].iter().enumerate()
    {
        let mut ask = ask.clone();
        ask["ack"] = json!([fetched[at]]);
        // The acknowledgement comes on another connection than the SETs did.
        let answer = stand.poll(ask).await;
        assert_eq!((names(&answer).len(), &answer["moreAvailable"]), (0, &true.into()));
    }
    assert_eq!(stand.subscription.ends().iter().flatten().count(), 2);
    let rest = names(&stand.poll(json!({ "returnImmediately": true })).await);
    assert_eq!(stand.poll(json!({ "maxEvents": 0, "ack": rest })).await, json!({ "sets": {} }));
}

#[tokio::test]
async fn acknowledgements_count_before_the_wait_and_errors_keep_their_language() {
    let stand = Stand::new(3, 3).await;
    let fetched = names(&stand.poll(json!({})).await);
    let mut caller = stand.caller().await;
    let errors =
        json!({ &fetched[1]: { "err": "invalid_key", "description": "kein Schlüssel" }, "foreign": { "err": "x" } });
    caller
        .ask_with("Content-Language: de\r\n", &json!({ "ack": [fetched[0], fetched[1], "foreign"], "setErrs": errors }))
        .await;
    stand.waiters(1).await;
    let ends = stand.subscription.ends();
    assert_eq!(ends.iter().filter(|end| **end == Some(End::Acknowledged)).count(), 1);
    let refused: Vec<_> = ends
        .iter()
        .flatten()
        .filter_map(|end| if let End::Refused(refusal) = end { Some(refusal) } else { None })
        .collect();
    assert_eq!((refused.len(), refused[0].code.as_str()), (1, "invalid_key"), "an id in both is an error");
    assert_eq!(
        (refused[0].language.as_deref(), refused[0].description.as_deref()),
        (Some("de"), Some("kein Schlüssel"))
    );
    // The outcomes were processed before the caller disconnects.
    drop(caller);
    stand.subscription.until(|subscription| subscription.consumers().is_empty()).await;
}

#[tokio::test]
async fn partial_acknowledgement_leaves_the_rest_to_the_redelivery_time() {
    let stand = Stand::new(4, 1).await;
    let first = stand.poll(json!({})).await;
    stand.subscription.until(|subscription| subscription.handed() == 4).await;
    let ids = stand.names();
    assert_eq!(stand.poll(json!({ "ack": [ids[0], ids[2]], "returnImmediately": true })).await, json!({ "sets": {} }));
    stand.subscription.redeliver();
    let again = stand.poll(json!({ "returnImmediately": true })).await;
    assert_eq!(names(&again).len(), 2);
    for name in names(&again) {
        assert_eq!(again["sets"][&name], first["sets"][&name], "a repeat has the same token");
    }
    stand.poll(json!({ "ack": names(&again), "maxEvents": 0 })).await;
    assert!(stand.subscription.ends().iter().all(|end| *end == Some(End::Acknowledged)));
}

#[tokio::test]
async fn a_long_poll_is_woken_at_once_or_answered_empty_when_the_hold_is_over() {
    let stand = Stand::new(2, 2).await;
    stand.subscription.pause(true);
    let mut caller = stand.caller().await;
    caller.ask(&json!({})).await;
    stand.waiters(1).await;
    stand.subscription.pause(false);
    assert_eq!(names(&caller.answer().await.unwrap().json()).len(), 2);
    stand.subscription.until(|subscription| subscription.consumers().is_empty()).await;
    caller.ask(&json!({})).await;
    stand.waiters(1).await;
    stand.mock.advance(Duration::from_secs(24));
    assert!(caller.is_silent(), "an answer before the hold is over");
    stand.mock.advance(Duration::from_secs(1));
    assert_eq!(caller.answer().await.unwrap().text(), r#"{"sets":{}}"#);
}

#[tokio::test]
async fn a_paused_stream_is_answered_after_ten_seconds() {
    let stand = Stand::new(2, 2).await;
    stand.subscription.pause(true);
    let mut caller = stand.caller().await;
    caller.ask(&json!({})).await;
    stand.waiters(1).await;
    stand.mock.advance(Duration::from_secs(10));
    assert_eq!(caller.answer().await.unwrap().text(), r#"{"sets":{}}"#);
}

#[tokio::test]
async fn ends_answer_who_waits() {
    for (end, status, body) in [
        (Closed::Draining, 200, Some(r#"{"sets":{}}"#)),
        (Closed::Deleted, 404, None),
        (Closed::Disabled, 200, Some(r#"{"sets":{}}"#)),
        (Closed::Reconfigured, 200, Some(r#"{"sets":{}}"#)),
    ] {
        let stand = Stand::new(0, 1).await;
        let mut caller = stand.caller().await;
        caller.ask(&json!({})).await;
        stand.waiters(1).await;
        // A poll that has waited a second is answered at once.
        stand.mock.advance(Duration::from_secs(1));
        stand.subscription.end(end.clone());
        let answer = caller.answer().await.unwrap();
        assert_eq!(answer.status, status, "{end:?}");
        assert!(body.is_none_or(|body| answer.text() == body), "{end:?}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_disabled_stream_is_answered_at_once_or_after_a_second_so_that_nobody_spins() {
    let stand = Stand::new(1, 1).await;
    stand.subscription.end(Closed::Disabled);
    assert_eq!(stand.poll(json!({ "returnImmediately": true })).await, json!({ "sets": {} }));
    let mut caller = stand.caller().await;
    caller.ask(&json!({})).await;
    // The consumer of the first poll has come and gone by the time another poll was answered.
    stand.poll(json!({ "returnImmediately": true })).await;
    assert!(caller.is_silent());
    stand.mock.advance(Duration::from_secs(1));
    assert_eq!(caller.answer().await.unwrap().json(), json!({ "sets": {} }));
}

#[tokio::test]
async fn the_end_of_a_credential_answers_who_waits() {
    let stand = Stand::new(0, 1).await;
    let mut caller = stand.caller().await;
    caller.ask(&json!({})).await;
    stand.waiters(1).await;
    stand.end.send_replace(true);
    assert_eq!(caller.answer().await.unwrap().text(), r#"{"sets":{}}"#);
}

#[tokio::test]
async fn a_fifth_waiting_poll_ends_the_oldest() {
    let stand = Stand::new(0, 1).await;
    let mut callers = Vec::new();
    for count in 1..=4 {
        let mut caller = stand.caller().await;
        caller.ask(&json!({})).await;
        stand.waiters(count).await;
        callers.push(caller);
    }
    let mut fifth = stand.caller().await;
    fifth.ask(&json!({})).await;
    // The oldest poll's consumer is gone at once, but its answer comes when it has waited a second, so that replicas do
    // not make each other spin.
    stand.subscription.until(|subscription| subscription.consumers() == [2, 3, 4, 5]).await;
    assert!(callers[0].is_silent());
    stand.mock.advance(Duration::from_secs(1));
    assert_eq!(callers[0].answer().await.unwrap().text(), r#"{"sets":{}}"#);
    assert!(callers[1..].iter().all(Caller::is_silent) && fifth.is_silent());
    assert_eq!(stand.subscription.waiters(), 4);
}

#[tokio::test]
async fn who_hangs_up_in_the_long_poll_costs_nothing() {
    let stand = Stand::new(3, 1).await;
    stand.subscription.pause(true);
    let mut caller = stand.caller().await;
    caller.ask(&json!({})).await;
    stand.waiters(1).await;
    drop(caller);
    stand.subscription.until(|subscription| subscription.consumers().is_empty()).await;
    stand.subscription.pause(false);
    assert_eq!(names(&stand.poll(json!({ "returnImmediately": true })).await).len(), 3);
    stand.subscription.until(|subscription| subscription.handed() == 3).await;
    assert_eq!(stand.subscription.attempts(), [1, 1, 1]);
}

#[tokio::test]
async fn who_hangs_up_in_the_middle_of_an_answer_costs_nothing() {
    // The answer is larger than the buffers of the sockets.
    let stand = Stand::padded(14, 1, 900_000).await;
    let mut caller = Caller::slow(stand.address).await;
    caller.ask(&json!({})).await;
    caller.read_some().await;
    assert_eq!(stand.subscription.handed(), 0, "handed over before the last byte was written");
    drop(caller);
    stand.subscription.until(|subscription| subscription.consumers().is_empty()).await;
    assert_eq!((stand.subscription.handed(), stand.subscription.attempts()), (0, vec![0; 14]));
    assert_eq!(names(&stand.poll(json!({ "returnImmediately": true })).await).len(), 14);
    stand.subscription.until(|subscription| subscription.handed() == 14).await;
    assert_eq!(stand.subscription.wrongs(), Vec::<String>::new());
}

#[tokio::test]
async fn who_reads_too_slowly_is_hung_up_on() {
    let stand = Stand::padded(14, 1, 900_000).await;
    let mut caller = Caller::slow(stand.address).await;
    caller.ask(&json!({})).await;
    caller.read_some().await;
    // The writer stands still once all buffers on the way are full; each piece before that has a time of its own.
    let gone = stand.subscription.until(|subscription| subscription.consumers().is_empty());
    let mut gone = std::pin::pin!(gone);
    loop {
        stand.mock.advance(Duration::from_secs(30));
        tokio::select! {
            biased;
            () = &mut gone => break,
            () = tokio::task::yield_now() => {}
        }
    }
    assert_eq!(stand.subscription.attempts(), vec![0; 14]);
}

#[tokio::test]
async fn a_big_backlog_comes_in_bounded_answers() {
    let stand = Stand::new(2500, 1).await;
    let mut seen = 0;
    for expected in [1000, 1000, 500] {
        let answer = stand.poll(json!({ "returnImmediately": true })).await;
        let got = names(&answer);
        seen += got.len();
        assert_eq!((got.len(), answer.get("moreAvailable").is_some()), (expected, false), "held back by the first");
        stand.poll(json!({ "maxEvents": 0, "ack": got })).await;
    }
    assert_eq!(seen, 2500);
}

#[tokio::test]
async fn bad_requests_are_refused_shortly_and_fetch_nothing() {
    let stand = Stand::new(2, 2).await;
    let head = |method: &str, fields: &str| format!("{method} / HTTP/1.1\r\nHost: a\r\n{fields}");
    let json = "Content-Type: application/json\r\n";
    let many: Vec<String> = (0..10_001).map(|at| format!("\"{at}\"")).collect();
    let many = format!(r#"{{"ack":[{}]}}"#, many.join(","));
    for (method, fields, body, status) in [
        ("GET", "", "", 405),
        ("PUT", json, "{}", 405),
        ("POST", "", "{}", 415),
        ("POST", "Content-Type: text/plain\r\n", "{}", 415),
        ("POST", "Content-Type: application/x-www-form-urlencoded\r\n", "a=b", 415),
        ("POST", "Content-Type: application/json\r\nContent-Encoding: gzip\r\n", "{}", 415),
        ("POST", json, "", 400),
        ("POST", json, "[]", 400),
        ("POST", json, "{\"maxEvents\":-1}", 400),
        ("POST", json, "{\"ack\":[\"<script>\",{}]}", 400),
        ("POST", json, &many, 400),
    ] {
        let mut caller = stand.caller().await;
        caller.write(format!("{}Content-Length: {}\r\n\r\n{body}", head(method, fields), body.len()).as_bytes()).await;
        let answer = caller.answer().await.unwrap();
        assert_eq!(answer.status, status, "{method} {fields} {body:.40}");
        assert!(answer.body.len() < 300 && !answer.text().contains("<script>"), "{}", answer.text());
        assert_eq!(answer.json()["err"], "invalid_request");
        assert_eq!(answer.field("cache-control"), Some("no-store"));
        assert_eq!(answer.field("allow"), (status == 405).then_some("POST"));
    }
    let mut caller = stand.caller().await;
    caller.write(format!("{}Content-Length: 1048577\r\n\r\n", head("POST", json)).as_bytes()).await;
    assert_eq!(caller.answer().await.unwrap().status, 413, "a declared length is believed");
    let mut caller = stand.caller().await;
    caller
        .write(b"POST /more HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
        .await;
    assert_eq!(caller.answer().await.unwrap().status, 404);
    assert_eq!((stand.subscription.attempts(), stand.subscription.consumers().len()), (vec![0, 0], 0));
}

#[tokio::test]
async fn poll_is_registered_and_reads_its_options_strictly() {
    let methods = setgate_delivery::methods().unwrap();
    let registration = methods.iter().find(|method| method.entry.name == "poll").unwrap();
    assert_eq!(registration.entry.uri, "urn:ietf:rfc:8936");
    let env = || async {
        let runtime = clock::system();
        let config = OutboundConfig { system_roots: false, ..OutboundConfig::default() };
        let http = Outbound::new(&config, runtime.clone(), OwnAddresses::new()).unwrap();
        Env { http, runtime, report: Arc::new(|_| ()) }
    };
    for wrong in
        [json!({ "hold": "0s" }), json!({ "redelivery_timeout": "1s" }), json!({ "hold": 1 }), json!({ "holds": "1s" })]
    {
        let fault = (registration.start)(wrong, env().await).await.err().unwrap().to_string();
        assert!(fault.contains("[methods.poll]"), "{fault}");
    }
    let poll = (registration.start)(json!({}), env().await).await.unwrap();
    let about = About { stream: "s".into(), issuer: "https://issuer.example".into(), operator_owned: false };
    assert!(poll.channel(&about, json!({ "endpoint_url": "https://idp/poll/s" }), json!({})).is_ok());
    assert!(poll.channel(&about, json!({}), json!({ "hold": "26s" })).is_err());
    let shown = poll.publish(json!({}), "https://issuer.example/poll/s").unwrap();
    assert_eq!(shown, json!({ "method": "urn:ietf:rfc:8936", "endpoint_url": "https://issuer.example/poll/s" }));
    let all = [poll];
    for called in ["poll", "urn:ietf:rfc:8936", "https://schemas.openid.net/secevent/risc/delivery-method/poll"] {
        assert!(setgate_delivery::find(&all, called).is_some(), "{called}");
    }
}
