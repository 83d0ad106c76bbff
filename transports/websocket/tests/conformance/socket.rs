//! The behaviour of a socket towards peers of all kinds.

use std::{sync::Arc, time::Duration};

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use setgate_delivery::{
    Answer, BoxFuture, Closed, ErrorCode, Incoming, Ingest, Receipt, Runtime, Verdict,
    testkit::clock::{self, MockClock},
};
use setgate_websocket::{Section, wire::Goodbye};
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    },
};

use crate::{
    peer::{Peer, open, request},
    plain, serve,
    subscription::{Ledger, jti},
};

fn said(goodbye: Goodbye) -> (u16, String) {
    (goodbye.code, goodbye.reason.to_owned())
}

/// Returns a clock that a test moves, and a runtime with it.
fn still() -> (Arc<MockClock>, Runtime) {
    let mock = MockClock::at(1_700_000_000_000);
    (mock.clone(), Runtime { clock: mock, ..clock::system() })
}

#[tokio::test]
async fn nothing_comes_without_credit_and_never_more_than_it() {
    let ledger = Ledger::owing(10, 100);
    let served = plain(&ledger).await;
    let mut peer = Peer::of(served.host.address(), "setgate.v1").await;
    // A SET needs credit, whatever else is sent. An answer to a ping proves that the message was read.
    peer.say(json!({ "ack": ["unknown"] })).await;
    peer.0.send(Message::Ping("a".into())).await.unwrap();
    assert!(matches!(peer.0.next().await.unwrap().unwrap(), Message::Pong(_)));
    assert_eq!(ledger.handed(), 0);
    peer.say(json!({ "maxEvents": 3 })).await;
    assert_eq!(peer.sets(3).await.len(), 3);
    peer.say(json!({ "maxEvents": 1 })).await;
    peer.say(json!({ "maxEvents": 1 })).await;
    assert_eq!(peer.sets(2).await.len(), 2);
    // An acknowledgement does not grant credit by itself.
    peer.ack(0..5).await;
    peer.0.send(Message::Ping("b".into())).await.unwrap();
    assert!(matches!(peer.0.next().await.unwrap().unwrap(), Message::Pong(_)));
    assert_eq!((ledger.ends(), ledger.handed()), (5, 0));
}

#[tokio::test]
async fn plain_push_pull_holds_so_many_unsettled_and_credit_means_nothing() {
    let ledger = Ledger::owing(20, 100);
    let served =
        serve(&ledger, &clock::system(), Section { in_flight: 4, ..Section::default() }, json!({}), None).await;
    let mut peer = Peer::of(served.host.address(), "pushpull").await;
    peer.say(json!({ "maxEvents": 100 })).await;
    assert_eq!(peer.sets(4).await, [0, 1, 2, 3]);
    // The peer may acknowledge in any order, as few as it likes.
    peer.ack(2..3).await;
    assert_eq!(peer.sets(1).await, [4]);
    peer.ack(0..1).await;
    peer.ack(4..5).await;
    assert_eq!(peer.sets(2).await, [5, 6]);
    assert_eq!(ledger.handed(), 4);
}

#[tokio::test]
async fn room_taken_by_what_was_settled_elsewhere_comes_back() {
    let ledger = Ledger::owing(4, 100);
    let served =
        serve(&ledger, &clock::system(), Section { in_flight: 2, ..Section::default() }, json!({}), None).await;
    let mut peer = Peer::of(served.host.address(), "pushpull").await;
    assert_eq!(peer.sets(2).await, [0, 1]);
    ledger.subscription().settle_all((0..2).map(|at| (jti(at), None, Ok(Receipt::Receiver))).collect());
    assert_eq!(peer.sets(2).await, [2, 3]);
}

#[tokio::test]
async fn acknowledgements_and_errors_come_in_any_order_and_in_parts() {
    let ledger = Ledger::owing(6, 100);
    let served = plain(&ledger).await;
    let mut peer = Peer::of(served.host.address(), "setgate.v1").await;
    peer.say(json!({ "maxEvents": 6 })).await;
    assert_eq!(peer.sets(6).await.len(), 6);
    let error = json!({ "err": "invalid_key", "description": "unknown kid" });
    peer.say(json!({ "setErrs": { jti(5).as_str(): error, "unknown": { "err": "x" } }, "ack": [jti(3).as_str(), "unknown"] })).await;
    peer.ack(0..1).await;
    ledger.settled(3).await;
    assert_eq!(ledger.end(3), Some(Ok(Receipt::Receiver)));
    match ledger.end(5) {
        Some(Err(Verdict::Refuse(refusal))) => {
            assert_eq!((refusal.code, refusal.description.as_deref()), (ErrorCode::InvalidKey, Some("unknown kid")));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(ledger.handed(), 3);
}

#[tokio::test]
async fn what_a_lost_connection_held_comes_again_on_the_next() {
    let ledger = Ledger::owing(5, 100);
    let served = plain(&ledger).await;
    let mut first = Peer::of(served.host.address(), "setgate.v1").await;
    first.say(json!({ "maxEvents": 5 })).await;
    assert_eq!(first.sets(5).await, [0, 1, 2, 3, 4]);
    first.ack(1..3).await;
    ledger.settled(2).await;
    served.host.cut();
    drop(first);
    ledger.returned().await;
    let mut second = Peer::of(served.host.address(), "setgate.v1").await;
    second.say(json!({ "maxEvents": 5 })).await;
    assert_eq!(second.sets(3).await, [0, 3, 4]);
    second.ack(0..5).await;
    ledger.settled(5).await;
}

#[tokio::test]
async fn two_sockets_share_a_stream() {
    let ledger = Ledger::owing(4, 100);
    let served = plain(&ledger).await;
    let mut first = Peer::of(served.host.address(), "setgate.v1").await;
    let mut second = Peer::of(served.host.address(), "setgate.v1").await;
    first.say(json!({ "maxEvents": 2 })).await;
    assert_eq!(first.sets(2).await, [0, 1]);
    second.say(json!({ "maxEvents": 9 })).await;
    assert_eq!(second.sets(2).await, [2, 3]);
}

#[tokio::test]
async fn exactly_one_subprotocol_is_answered_and_no_extension() {
    let ledger = Ledger::owing(0, 1);
    let served = plain(&ledger).await;
    let address = served.host.address();
    let mut asked = request(address, "mqtt, pushpull, setgate.v1");
    asked
        .headers_mut()
        .insert("sec-websocket-extensions", "permessage-deflate; client_max_window_bits".parse().unwrap());
    let (_, response) = open(asked, address).await.map_err(|response| response.status()).unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "pushpull");
    assert!(!response.headers().contains_key("sec-websocket-extensions"));
    for offer in ["", "mqtt", "setgate.v2"] {
        let Err(response) = open(request(address, offer), address).await else { panic!("{offer}") };
        assert_eq!(response.status(), 400);
        let text = String::from_utf8(response.into_body().unwrap()).unwrap();
        assert!(text.contains("`setgate.v1`") && text.contains("`pushpull`"), "{text}");
    }
}

#[tokio::test]
async fn a_page_of_another_origin_is_turned_away() {
    let ledger = Ledger::owing(0, 1);
    let grant = json!({ "origins": ["https://app.example"] });
    let served = serve(&ledger, &clock::system(), Section::default(), grant, None).await;
    let address = served.host.address();
    let ask = async |origin: &str| {
        let mut asked = request(address, "setgate.v1");
        asked.headers_mut().insert("origin", origin.parse().unwrap());
        open(asked, address).await.map(drop).map_err(|response| response.status().as_u16())
    };
    assert_eq!(ask("https://app.example").await, Ok(()));
    assert_eq!(ask("https://evil.example").await, Err(403));
    assert_eq!(ask("null").await, Err(403));
}

/// Returns code and reason of the close frame that answers this message.
async fn answer_to(message: Message) -> (u16, String) {
    let ledger = Ledger::owing(0, 1);
    let served = plain(&ledger).await;
    let mut peer = Peer::of(served.host.address(), "setgate.v1").await;
    // A peer whose message is too large may not get to its end.
    let _ = peer.0.send(message).await;
    peer.closed().await
}

#[tokio::test]
async fn messages_that_cannot_be_read_close_with_their_code() {
    assert_eq!(answer_to(Message::text("nonsense")).await, said(Goodbye::MALFORMED));
    assert_eq!(answer_to(Message::text("[]")).await, said(Goodbye::MALFORMED));
    assert_eq!(answer_to(Message::binary("{}")).await, said(Goodbye::BINARY));
    let ids: Vec<_> = (0..10_001).map(|_| "a").collect();
    assert_eq!(answer_to(Message::text(json!({ "ack": ids }).to_string())).await, said(Goodbye::TOO_BIG));
    let bad_text = Frame::message(vec![0xff, 0xfe], OpCode::Data(Data::Text), true);
    assert_eq!(answer_to(Message::Frame(bad_text)).await, said(Goodbye::MALFORMED));
    let mut with_extension = Frame::message("{}", OpCode::Data(Data::Text), true);
    with_extension.header_mut().rsv1 = true;
    assert_eq!(answer_to(Message::Frame(with_extension)).await, said(Goodbye::PROTOCOL));
    // Several times as much as the socket reads; the peer still gets the reason.
    assert_eq!(answer_to(Message::text(" ".repeat(3 << 20))).await, said(Goodbye::TOO_BIG));
}

#[tokio::test]
async fn fragments_count_together() {
    let ledger = Ledger::owing(0, 1);
    let served = plain(&ledger).await;
    let mut peer = Peer::of(served.host.address(), "setgate.v1").await;
    let mut opcode = Data::Text;
    for _ in 0..5 {
        let part = Frame::message(" ".repeat(60 << 10), OpCode::Data(opcode), false);
        if peer.0.send(Message::Frame(part)).await.is_err() {
            break;
        }
        opcode = Data::Continue;
    }
    assert_eq!(peer.closed().await, said(Goodbye::TOO_BIG));
}

#[tokio::test]
async fn the_end_of_a_stream_is_told_with_and_without_credit() {
    for (why, goodbye) in [
        (Closed::Deleted, Goodbye::DELETED),
        (Closed::Disabled, Goodbye::DISABLED),
        (Closed::Reconfigured, Goodbye::RECONFIGURED),
        (Closed::Superseded, Goodbye::SUPERSEDED),
        (Closed::Draining, Goodbye::DRAINING),
        (Closed::Idle, Goodbye::IDLE),
    ] {
        for protocol in ["setgate.v1", "pushpull"] {
            let ledger = Ledger::owing(0, 1);
            let served = plain(&ledger).await;
            let mut peer = Peer::of(served.host.address(), protocol).await;
            ledger.close(why.clone());
            assert_eq!(peer.closed().await, said(goodbye), "{why:?} {protocol}");
        }
    }
}

#[tokio::test]
async fn draining_waits_for_what_was_handed_over() {
    let ledger = Ledger::owing(3, 100);
    let served = plain(&ledger).await;
    let mut peer = Peer::of(served.host.address(), "setgate.v1").await;
    peer.say(json!({ "maxEvents": 2 })).await;
    assert_eq!(peer.sets(2).await.len(), 2);
    ledger.close(Closed::Draining);
    peer.say(json!({ "maxEvents": 5 })).await;
    peer.ack(0..1).await;
    ledger.settled(1).await;
    assert_eq!(ledger.handed(), 1);
    peer.ack(1..2).await;
    assert_eq!(peer.closed().await, said(Goodbye::DRAINING));
    assert_eq!(ledger.ends(), 2);
}

#[tokio::test]
async fn an_acknowledgement_that_crosses_the_goodbye_counts() {
    let ledger = Ledger::owing(1, 100);
    let served = plain(&ledger).await;
    let mut peer = Peer::of(served.host.address(), "setgate.v1").await;
    peer.say(json!({ "maxEvents": 1 })).await;
    assert_eq!(peer.sets(1).await, [0]);
    ledger.close(Closed::Reconfigured);
    ledger.returned().await;
    // The library answers the close frame when it reads it; this acknowledgement is sent before.
    peer.ack(0..1).await;
    assert_eq!(peer.closed().await, said(Goodbye::RECONFIGURED));
    ledger.settled(1).await;
}

#[tokio::test]
async fn a_credential_that_is_over_ends_the_socket() {
    let ledger = Ledger::owing(0, 1);
    let served = plain(&ledger).await;
    let mut peer = Peer::of(served.host.address(), "setgate.v1").await;
    served.host.end_sessions();
    assert_eq!(peer.closed().await, said(Goodbye::CREDENTIAL));
}

#[tokio::test]
async fn a_peer_is_pinged_and_a_silent_one_is_hung_up_on() {
    let ledger = Ledger::owing(1, 100);
    let (mock, runtime) = still();
    let served = serve(&ledger, &runtime, Section::default(), json!({}), None).await;
    let mut peer = Peer::of(served.host.address(), "setgate.v1").await;
    peer.say(json!({ "maxEvents": 1 })).await;
    assert_eq!(peer.sets(1).await, [0]);
    for _ in 0..4 {
        mock.advance(Duration::from_secs(25));
        // A read answers the ping; the pong proves that the answer has arrived.
        assert!(matches!(peer.0.next().await.unwrap().unwrap(), Message::Ping(_)));
        peer.say(json!({ "maxEvents": 0 })).await;
        peer.0.send(Message::Ping("x".into())).await.unwrap();
        assert!(matches!(peer.0.next().await.unwrap().unwrap(), Message::Pong(_)));
    }
    mock.advance(Duration::from_secs(25));
    // The library answers a ping only when it reads on, and here it does not.
    assert!(matches!(peer.0.next().await.unwrap().unwrap(), Message::Ping(_)));
    mock.advance(Duration::from_secs(25));
    ledger.returned().await;
    assert_eq!(peer.closed().await, said(Goodbye::SILENT));
}

#[tokio::test]
async fn a_peer_that_settles_nothing_gives_its_sets_back() {
    let ledger = Ledger::owing(2, 100);
    let (mock, runtime) = still();
    let section = Section { settle_timeout: Duration::from_secs(60), ..Section::default() };
    let served = serve(&ledger, &runtime, section, json!({}), None).await;
    let mut peer = Peer::of(served.host.address(), "setgate.v1").await;
    peer.say(json!({ "maxEvents": 2 })).await;
    assert_eq!(peer.sets(2).await.len(), 2);
    for at in 0..3 {
        mock.advance(Duration::from_secs(25));
        assert!(matches!(peer.0.next().await.unwrap().unwrap(), Message::Ping(_)), "{at}");
        if at == 0 {
            // An acknowledgement after 25 s restarts the time.
            peer.ack(0..1).await;
            ledger.settled(1).await;
        } else {
            peer.0.send(Message::Ping("x".into())).await.unwrap();
            assert!(matches!(peer.0.next().await.unwrap().unwrap(), Message::Pong(_)));
        }
    }
    mock.advance(Duration::from_secs(25));
    assert_eq!(peer.closed().await, said(Goodbye::UNSETTLED));
    assert_eq!(ledger.handed(), 0);
}

/// A peer that names SETs of others, or the same again and again, keeps its SETs no longer than one that is silent.
#[tokio::test]
async fn a_peer_that_settles_nothing_of_its_own_gives_its_sets_back() {
    for protocol in ["setgate.v1", "pushpull"] {
        let ledger = Ledger::owing(2, 100);
        let (mock, runtime) = still();
        let section = Section { settle_timeout: Duration::from_secs(60), ..Section::default() };
        let served = serve(&ledger, &runtime, section, json!({}), None).await;
        let mut peer = Peer::of(served.host.address(), protocol).await;
        peer.say(json!({ "maxEvents": 2 })).await;
        assert_eq!(peer.sets(2).await.len(), 2);
        peer.ack(0..1).await;
        ledger.settled(1).await;
        for at in 0..2 {
            mock.advance(Duration::from_secs(25));
            assert!(matches!(peer.0.next().await.unwrap().unwrap(), Message::Ping(_)), "{at}");
            // Reports about SETs of another stream, of nobody, and already settled; refusals as well as
            // acknowledgements.
            peer.ack(100..103).await;
            peer.ack(0..1).await;
            peer.say(json!({ "setErrs": { jti(104).as_str(): { "err": "invalid_key" } }, "ack": ["nonsense"] })).await;
            peer.0.send(Message::Ping("x".into())).await.unwrap();
            assert!(matches!(peer.0.next().await.unwrap().unwrap(), Message::Pong(_)));
        }
        mock.advance(Duration::from_secs(25));
        let closed = tokio::time::timeout(Duration::from_secs(20), peer.closed()).await;
        assert_eq!(closed.expect("it keeps what it settles not"), said(Goodbye::UNSETTLED), "{protocol}");
        assert_eq!(ledger.handed(), 0, "{protocol}");
    }
}

/// A socket that drains waits for its peer no longer than two seconds, and one more for the answer to its close frame.
#[tokio::test]
async fn draining_waits_no_longer_than_it_should() {
    for protocol in ["setgate.v1", "pushpull"] {
        let ledger = Ledger::owing(3, 100);
        let (mock, runtime) = still();
        let served = serve(&ledger, &runtime, Section::default(), json!({}), None).await;
        let mut peer = Peer::of(served.host.address(), protocol).await;
        peer.say(json!({ "maxEvents": 2 })).await;
        peer.sets(2).await;
        ledger.close(Closed::Draining);
        // The pong leaves only after the round that noticed the draining.
        peer.0.send(Message::Ping("x".into())).await.unwrap();
        assert!(matches!(peer.0.next().await.unwrap().unwrap(), Message::Pong(_)));
        assert!(ledger.handed() > 0, "{protocol}: it has its time still");
        mock.advance(Duration::from_secs(2));
        let closed = tokio::time::timeout(Duration::from_secs(20), peer.closed()).await;
        assert_eq!(closed.expect("it is waited for"), said(Goodbye::DRAINING), "{protocol}");
        assert_eq!(ledger.handed(), 0, "{protocol}: what is unsettled is given back");
    }
}

#[tokio::test]
async fn a_peer_that_does_not_read_holds_up_no_stop() {
    let ledger = Ledger::owing(10_000, 4000);
    let (mock, runtime) = still();
    let served = serve(&ledger, &runtime, Section::default(), json!({}), None).await;
    let mut peer = Peer::of(served.host.address(), "setgate.v1").await;
    peer.say(json!({ "maxEvents": 10_000 })).await;
    ledger.handing(50).await;
    let yields = async || {
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
    };
    yields().await;
    ledger.close(Closed::Draining);
    let mut seconds = 0;
    while ledger.handed() > 0 && seconds < 60 {
        yields().await;
        mock.advance(Duration::from_secs(1));
        seconds += 1;
        yields().await;
    }
    assert!(seconds <= 3, "it was waited for {seconds} s");
}

#[tokio::test]
async fn chatter_is_bounded() {
    for message in [Message::Ping("x".into()), Message::Pong("x".into()), Message::text("{}")] {
        let ledger = Ledger::owing(0, 1);
        let (_mock, runtime) = still();
        let served = serve(&ledger, &runtime, Section::default(), json!({}), None).await;
        let mut peer = Peer::of(served.host.address(), "setgate.v1").await;
        for _ in 0..1001 {
            peer.0.feed(message.clone()).await.unwrap();
        }
        peer.0.flush().await.unwrap();
        assert_eq!(peer.closed().await, said(Goodbye::CHATTER));
    }
}

#[tokio::test]
async fn sets_of_a_peer_that_may_not_send_are_refused_one_by_one() {
    let ledger = Ledger::owing(0, 1);
    let served = plain(&ledger).await;
    for protocol in ["setgate.v1", "pushpull"] {
        let mut peer = Peer::of(served.host.address(), protocol).await;
        peer.say(json!({ "sets": { "theirs-1": "a.b.c", "theirs-2": "d.e.f" } })).await;
        let object = peer.object().await;
        for named in ["theirs-1", "theirs-2"] {
            assert_eq!(object["setErrs"][named]["err"], "access_denied");
        }
        assert!(object.get("maxEvents").is_none() && object.get("ack").is_none());
    }
}

/// An ingest that accepts everything, one call for each permit of the semaphore.
struct Gate(tokio::sync::Semaphore);

impl Ingest for Gate {
    fn accept<'a>(&'a self, _: &'a str, what: Vec<Incoming>) -> BoxFuture<'a, Vec<Answer>> {
        Box::pin(async move {
            self.0.acquire().await.unwrap().forget();
            what.iter().map(|_| Answer::Taken).collect()
        })
    }
}

fn theirs(range: std::ops::Range<usize>) -> serde_json::Value {
    let sets: serde_json::Map<_, _> = range.map(|at| (format!("theirs-{at}"), json!("a.b.c"))).collect();
    json!({ "sets": sets })
}

#[tokio::test]
async fn a_peer_that_may_send_gets_credit_and_keeps_within_it() {
    let ledger = Ledger::owing(0, 1);
    let gate = Arc::new(Gate(tokio::sync::Semaphore::new(0)));
    let served = serve(&ledger, &clock::system(), Section::default(), json!({}), Some(gate.clone())).await;
    let mut peer = Peer::of(served.host.address(), "setgate.v1").await;
    assert_eq!(peer.object().await, json!({ "maxEvents": 64 }));
    peer.say(theirs(0..2)).await;
    gate.0.add_permits(1);
    assert_eq!(peer.object().await, json!({ "ack": ["theirs-0", "theirs-1"], "maxEvents": 2 }));
    peer.say(theirs(2..66)).await;
    peer.say(theirs(66..67)).await;
    assert_eq!(peer.closed().await, said(Goodbye::OVER_CREDIT));

    let mut peer = Peer::of(served.host.address(), "pushpull").await;
    for at in 0..2 {
        peer.say(theirs(at * 501..(at + 1) * 501)).await;
    }
    assert_eq!(peer.closed().await, said(Goodbye::OVER_BOUND));
}

#[tokio::test]
async fn enough_sockets_are_enough_and_their_places_come_back() {
    let ledger = Ledger::owing(0, 1);
    let section = Section { sockets_per_stream: 2, ..Section::default() };
    let served = serve(&ledger, &clock::system(), section, json!({}), None).await;
    let address = served.host.address();
    let first = Peer::of(address, "setgate.v1").await;
    let mut second = Peer::of(address, "setgate.v1").await;
    second.say(json!({})).await;
    let mut third = Peer::of(address, "setgate.v1").await;
    assert_eq!(third.closed().await, said(Goodbye::TOO_MANY));
    drop(first);
    // The place is free once the gateway has noticed.
    loop {
        let mut fourth = Peer::of(address, "setgate.v1").await;
        fourth.0.send(Message::Ping("x".into())).await.unwrap();
        if let Some(Ok(Message::Pong(_))) = fourth.0.next().await {
            break;
        }
    }
}

#[tokio::test]
async fn closing_the_method_waits_for_its_sockets() {
    use setgate_delivery::Method;
    let ledger = Ledger::owing(0, 1);
    let served = plain(&ledger).await;
    let mut peer = Peer::of(served.host.address(), "setgate.v1").await;
    peer.0.send(Message::Ping("x".into())).await.unwrap();
    peer.0.next().await.unwrap().unwrap();
    ledger.close(Closed::Draining);
    let left = async {
        let (code, _) = peer.closed().await;
        // Further reads answer the close frame.
        while let Some(Ok(_)) = peer.0.next().await {}
        code
    };
    let (code, ()) = tokio::join!(left, served.method.close(Duration::from_secs(60)));
    assert_eq!(code, 1012);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_sockets_at_both_ends_do_not_wait_for_each_other() {
    const COUNT: usize = 4000;
    let ledger = Ledger::owing(COUNT, 4000);
    // The peer's SETs are refused, so that the gateway has much to send on its own; both directions are always full.
    let served = plain(&ledger).await;
    let (mut sink, mut stream) = Peer::of(served.host.address(), "setgate.v1").await.0.split();
    let (acks, mut due) = tokio::sync::mpsc::unbounded_channel::<String>();
    let reader = async {
        let (mut taken, mut refused) = (0, 0);
        while taken < COUNT || refused < COUNT {
            let Message::Text(text) = stream.next().await.unwrap().unwrap() else { continue };
            let object: serde_json::Value = serde_json::from_str(&text).unwrap();
            if let Some(sets) = object["sets"].as_object() {
                taken += sets.len();
                let ids: Vec<_> = sets.keys().collect();
                acks.send(json!({ "ack": ids, "maxEvents": sets.len() }).to_string()).unwrap();
            }
            refused += object["setErrs"].as_object().map_or(0, serde_json::Map::len);
        }
        drop(acks);
    };
    let writer = async {
        sink.send(Message::text(json!({ "maxEvents": COUNT }).to_string())).await.unwrap();
        for at in 0..COUNT {
            let sets = json!({ "sets": { format!("theirs-{at}"): "x".repeat(4000) } });
            sink.send(Message::text(sets.to_string())).await.unwrap();
            while let Ok(ack) = due.try_recv() {
                sink.send(Message::text(ack)).await.unwrap();
            }
        }
        while let Some(ack) = due.recv().await {
            sink.send(Message::text(ack)).await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), async { tokio::join!(reader, writer) }).await.expect("it hangs");
    ledger.settled(COUNT).await;
}

#[tokio::test]
async fn a_peer_that_does_not_read_fills_nothing_and_loses_its_place() {
    let ledger = Ledger::owing(10_000, 4000);
    let (mock, runtime) = still();
    let served = serve(&ledger, &runtime, Section::default(), json!({}), None).await;
    let mut peer = Peer::of(served.host.address(), "setgate.v1").await;
    peer.say(json!({ "maxEvents": 10_000 })).await;
    ledger.handing(50).await;
    // As much as fits into the system's buffers has left; no more is fetched while the peer does not read.
    let before = ledger.handed();
    assert!(before < 9_000, "{before}");
    while ledger.handed() > 0 {
        mock.advance(Duration::from_secs(25));
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
    peer.0.get_mut().shutdown().await.unwrap();
}

#[tokio::test]
async fn what_was_settled_in_time_says_nothing_against_what_came_since() {
    let ledger = Ledger::owing(2, 100);
    let (mock, runtime) = still();
    let served = serve(&ledger, &runtime, Section::default(), json!({}), None).await;
    let mut peer = Peer::of(served.host.address(), "setgate.v1").await;
    peer.say(json!({ "maxEvents": 1 })).await;
    assert_eq!(peer.sets(1).await, [0]);
    peer.ack(0..1).await;
    ledger.settled(1).await;
    // Twelve intervals are the time in which something must be settled.
    for interval in 1..=12 {
        if interval == 12 {
            peer.say(json!({ "maxEvents": 1 })).await;
            assert_eq!(peer.sets(1).await, [1]);
        }
        mock.advance(Duration::from_secs(25));
        assert_eq!(peer.0.next().await.unwrap().unwrap(), Message::Ping("".into()), "interval {interval}");
        peer.0.send(Message::Ping("alive".into())).await.unwrap();
        assert_eq!(peer.0.next().await.unwrap().unwrap(), Message::Pong("alive".into()));
    }
    peer.ack(1..2).await;
    ledger.settled(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_names_of_sets_that_are_refused_do_not_pile_up() {
    let ledger = Ledger::owing(0, 1);
    let served = plain(&ledger).await;
    let mut peer = Peer::of(served.host.address(), "setgate.v1").await;
    // The peer sends and does not read, so that no reply to it can leave.
    for at in 0..160 {
        let sets = json!({ "sets": { format!("{at}{}", "n".repeat(200_000)): "x" } });
        if peer.0.send(Message::text(sets.to_string())).await.is_err() {
            break;
        }
    }
    let closed = tokio::time::timeout(Duration::from_secs(20), peer.closed()).await.expect("all of it is kept");
    assert_eq!(closed, said(Goodbye::OVER_BOUND));
}

#[tokio::test]
async fn what_comes_while_others_are_unsettled_leaves_at_once() {
    let ledger = Ledger::owing(2, 100);
    let (mock, runtime) = still();
    let served = serve(&ledger, &runtime, Section::default(), json!({}), None).await;
    let mut peer = Peer::of(served.host.address(), "setgate.v1").await;
    peer.say(json!({ "maxEvents": 100 })).await;
    assert_eq!(peer.sets(2).await, [0, 1]);
    // The check whether all is settled must not make the consumer forget that SETs are waited for.
    peer.ack(0..1).await;
    ledger.settled(1).await;
    peer.0.send(Message::Ping("after the report".into())).await.unwrap();
    assert_eq!(peer.0.next().await.unwrap().unwrap(), Message::Pong("after the report".into()));
    ledger.owe(2);
    assert_eq!(peer.sets(1).await, [2]);
    mock.advance(Duration::from_secs(25));
    assert_eq!(peer.0.next().await.unwrap().unwrap(), Message::Ping("".into()));
    ledger.owe(3);
    assert_eq!(peer.sets(1).await, [3]);
}
