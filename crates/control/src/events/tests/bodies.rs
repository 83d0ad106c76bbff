//! Bodies with one event, an array, and lines.

use super::*;

#[tokio::test]
async fn one_event_is_answered_202_with_its_id_and_txn() {
    let fixture = fixture();
    let answer = fixture.one(&event("e1")).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(answer.json(), json!({ "id": "e1", "txn": "txn-0" }));
    assert_eq!(fixture.fake.ids(), ["e1"]);
}

#[tokio::test]
async fn a_repeat_is_answered_as_the_first_and_says_so() {
    let fixture = fixture();
    fixture.one(&event("e1")).await;
    let answer = fixture.one(&event("e1")).await;
    assert_eq!((answer.status, answer.json()), (202, json!({ "id": "e1", "txn": "first", "repeated": true })));
    let mut other = event("e1");
    other["sub_id"]["sub"] = "somebody-else".into();
    let answer = fixture.one(&other).await;
    assert_eq!(answer.status, 409);
    assert_eq!(answer.headers["content-type"], "application/problem+json");
}

#[tokio::test]
async fn lines_are_answered_one_by_one_in_order() {
    let fixture = fixture();
    let mut bad = event("bad");
    bad["scope"] = "x".into();
    let answer = fixture.many(&[event("a"), bad, event("a"), event("b"), event("names-stream")]).await;
    assert_eq!(answer.statuses(), [202, 400, 202, 202, 403]);
    let lines = answer.lines();
    assert_eq!(lines[0], json!({ "index": 0, "id": "a", "status": 202, "txn": "txn-0" }));
    assert_eq!((&lines[1]["index"], &lines[1]["pointer"]), (&json!(1), &json!("/scope")));
    assert_eq!(lines[2], json!({ "index": 2, "id": "a", "status": 202, "txn": "first", "repeated": true }));
    assert_eq!(lines[4]["rule"], "names_stream");
    assert_eq!(lines.len(), 5);
}

#[tokio::test]
async fn an_array_is_answered_like_lines() {
    let fixture = fixture();
    let array = serde_json::to_string_pretty(&json!([event("a"), 7, event("b")])).unwrap();
    let answer = fixture.post("application/json; charset=utf-8", array).await;
    assert_eq!(answer.statuses(), [202, 400, 202]);
    assert_eq!(fixture.fake.ids(), ["a", "b"]);
}

#[tokio::test]
async fn nothing_to_take_is_fine_when_it_is_said_properly() {
    let fixture = fixture();
    for (kind, body) in
        [("application/json", " [ ] "), ("application/x-ndjson", ""), ("application/x-ndjson", "\n\r\n \n")]
    {
        let answer = fixture.post(kind, body).await;
        assert_eq!((answer.status, answer.lines().len()), (200, 0), "{kind} {body:?}");
    }
    for body in ["", "  ", "null", "7", "\"x\"", "{", "{}{}", "[1", "[", "[{},]"] {
        let answer = fixture.post("application/json", body).await;
        match answer.status {
            400 => {}
            // The elements before the mistake are answered, and the last line names the mistake.
            200 => assert_eq!(answer.lines().last().unwrap()["status"], 400, "{body}"),
            other => panic!("{body}: {other}"),
        }
    }
    assert_eq!(fixture.fake.ids().len(), 0);
}

#[tokio::test]
async fn the_idempotency_key_names_a_single_event() {
    let fixture = fixture();
    let keyed = |key: &str, kind: &str, body: String| {
        let mut request = fixture.request(kind, body);
        request.headers_mut().insert("idempotency-key", key.parse().unwrap());
        request
    };
    let mut nameless = event("x");
    nameless.as_object_mut().unwrap().remove("id");
    let answer = fixture.send(keyed("\"k1\"", "application/json", nameless.to_string())).await;
    assert_eq!((answer.status, answer.json()["id"].as_str()), (202, Some("k1")));
    let answer = fixture.send(keyed("k1", "application/json", nameless.to_string())).await;
    assert_eq!((answer.status, answer.json()["repeated"].as_bool()), (202, Some(true)));
    let answer = fixture.send(keyed("same", "application/json", event("same").to_string())).await;
    assert_eq!(answer.status, 202);
    let answer = fixture.send(keyed("one", "application/json", event("another").to_string())).await;
    assert_eq!((answer.status, answer.json()["pointer"].as_str()), (400, Some("/id")));
    for (kind, body) in
        [("application/json", format!("[{}]", event("a"))), ("application/x-ndjson", ndjson(&[event("a")]))]
    {
        assert_eq!(fixture.send(keyed("k2", kind, body)).await.status, 400, "{kind}");
    }
    let long = "k".repeat(257);
    assert_eq!(fixture.send(keyed(&long, "application/json", nameless.to_string())).await.status, 400);
    assert_eq!(fixture.fake.ids(), ["k1", "k1", "same"]);
}

#[tokio::test]
async fn a_full_store_is_503_with_retry_after() {
    let fixture = fixture();
    let answer = fixture.one(&event("full")).await;
    assert_eq!((answer.status, answer.headers["retry-after"].to_str().unwrap()), (503, "7"));
    let answer = fixture.many(&[event("full")]).await;
    assert_eq!((answer.status, answer.headers["retry-after"].to_str().unwrap()), (503, "7"));
}

#[tokio::test]
async fn a_store_that_is_full_from_the_start_refuses_the_request_however_long_it_is() {
    let fixture = fixture();
    let answer = fixture.many(&vec![event("full"); 1000]).await;
    assert_eq!((answer.status, answer.headers["retry-after"].to_str().unwrap()), (503, "7"));
    assert_eq!(fixture.fake.batches.lock().unwrap().len(), 1, "after the first batch it is clear");
}

#[tokio::test]
async fn a_store_that_fills_up_on_the_way_ends_the_answer_with_the_reason() {
    let fixture = fixture_with(IntakeConfig { commit_items: 1, ..IntakeConfig::default() });
    let answer = fixture.many(&[event("a"), event("full"), event("b"), event("c"), event("d")]).await;
    let lines = answer.lines();
    assert_eq!(answer.statuses()[..2], [202, 503]);
    assert_eq!(lines[1]["retry_after"], 7);
    let last = lines.last().unwrap();
    assert_eq!((&last["status"], &last["answered"]), (&json!(503), &json!(lines.len() - 1)));
    assert!(last.get("index").is_none());
    assert!(!fixture.fake.ids().contains(&"d".to_owned()), "what was not read is not taken");
}

#[tokio::test]
async fn a_closed_gate_answers_before_the_body_is_read() {
    for status in [429, 503] {
        let fixture = fixture();
        *fixture.fake.closed.lock().unwrap() = Some(Closed { status, ..full() });
        let drawn = Arc::new(AtomicUsize::new(0));
        let counter = drawn.clone();
        let body = Body::from_stream(stream::once(async move {
            counter.fetch_add(1, Ordering::SeqCst);
            Ok::<_, std::io::Error>(Bytes::from_static(b"{}"))
        }));
        let answer = fixture.post("application/json", body).await;
        assert_eq!((answer.status, answer.headers["retry-after"].to_str().unwrap()), (status, "7"));
        assert_eq!(drawn.load(Ordering::SeqCst), 0);
    }
}

#[tokio::test]
async fn counts_what_became_of_each_event() {
    let fixture = fixture();
    let mut bad = event("bad");
    bad["exp"] = 1.into();
    fixture.many(&[event("a"), event("a"), bad, event("names-stream")]).await;
    let text = fixture.registry.text();
    for line in [
        "setgate_intake_events_accepted_total 1",
        "setgate_intake_events_repeated_total 1",
        "setgate_intake_invalid_total 1",
        "setgate_intake_events_forbidden_total 1",
        "setgate_intake_requests_open 0",
    ] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
}
