//! Multi-SET push by the program: order, late acknowledgements, refused sizes, errors, stops and crashes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::boxed::{Gateway, Plan, event};
use crate::sink::{Arrived, Reply, Sink};

/// A SET in a request: its key in `sets` and the number of its event.
#[derive(Clone, Debug)]
struct Carried {
    jti: String,
    number: u64,
}

/// Returns the SETs of a request. Each key must be the `jti` of its SET (draft §4.3).
fn carried(request: &Arrived) -> Vec<Carried> {
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    let sets = body["sets"].as_object().unwrap_or_else(|| panic!("no sets: {body}"));
    sets.iter()
        .filter_map(|(jti, token)| {
            let token = setgate_jose::Token::parse(token.as_str().unwrap().as_bytes()).unwrap();
            let claims: Value = serde_json::from_slice(token.unverified_payload()).unwrap();
            assert_eq!(claims["jti"], **jti);
            let number = claims["events"].as_object()?.values().next()?["number"].as_u64()?;
            Some(Carried { jti: jti.clone(), number })
        })
        .collect()
}

/// Returns every `jti` of a request, including the gateway's own SETs about the stream.
fn ids(request: &Arrived) -> Vec<String> {
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    body["sets"].as_object().unwrap().keys().cloned().collect()
}

fn said(status: u16, body: &Value) -> Reply {
    Reply::with(status, "content-type: application/json\r\n", &body.to_string())
}

fn ack(ids: &[String]) -> Reply {
    said(202, &json!({ "ack": ids }))
}

fn gateway(sink: &Sink, members: &str) -> Plan {
    let delivery = format!("{{ method = \"multipush\", endpoint_url = \"{}\"{members} }}", sink.url());
    Plan::new().stream_by("crm", &delivery)
}

/// Waits until the stream owes nothing.
fn until_settled(gateway: &mut Gateway) -> Value {
    gateway.until_stream("crm", "nothing waits", |view| view["waiting"] == 0)
}

/// Returns the `jti` of every arrival of each number.
fn by_number(requests: &[Arrived]) -> BTreeMap<u64, Vec<String>> {
    let mut all: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for one in requests.iter().flat_map(carried) {
        all.entry(one.number).or_default().push(one.jti);
    }
    all
}

#[test]
fn a_request_carries_many_sets_and_what_the_receiver_wants_to_read() {
    let sink = Sink::new(|request, _| ack(&ids(request)));
    let mut gateway = gateway(&sink, ", authorization_header = \"Bearer of-the-receiver\", max_sets = 10").start();
    gateway.accept_all((0..40).map(|number| event(number, &format!("key-{number}"))));
    let view = until_settled(&mut gateway);
    assert_eq!((&view["acknowledged"], &view["parked"]), (&json!(40), &json!(0)), "{view}");
    let requests = sink.arrived();
    assert!(by_number(&requests).values().all(|names| names.len() == 1), "{:?}", by_number(&requests));
    let sizes: Vec<usize> = requests.iter().map(|request| ids(request).len()).collect();
    assert!(sizes.iter().all(|size| (1..=10).contains(size)), "{sizes:?}");
    assert!(sizes.iter().any(|size| *size > 1), "{sizes:?}");
    for request in &requests {
        assert_eq!(request.line, "POST / HTTP/1.1");
        assert_eq!(request.field("authorization"), Some("Bearer of-the-receiver"));
        assert_eq!(request.field("content-type"), Some("application/json"));
        assert_eq!(request.field("accept"), Some("application/json"));
    }
}

#[test]
fn sets_of_a_key_are_taken_in_order_whatever_fails() {
    const KEYS: u64 = 7;
    const EVENTS: u64 = 300;
    // The SETs that the receiver accepted, request by request.
    let taken: Arc<Mutex<Vec<Vec<Carried>>>> = Arc::default();
    let notes = taken.clone();
    let sink = Sink::new(move |request, number| {
        let (fails, loses) = (number % 5 == 1, number % 5 == 3);
        if !fails {
            notes.lock().unwrap().push(carried(request));
        }
        match (fails, loses) {
            (true, _) if number % 2 == 0 => Reply::status(500),
            (true, _) => Reply::status(503),
            (_, true) => Reply::Close,
            _ => ack(&ids(request)),
        }
    });
    let mut gateway = gateway(&sink, "").start();
    for start in (0..EVENTS).step_by(50) {
        gateway.accept_all((start..start + 50).map(|number| event(number, &format!("key-{}", number % KEYS))));
    }
    let view = until_settled(&mut gateway);
    assert_eq!((&view["acknowledged"], &view["parked"]), (&json!(EVENTS), &json!(0)), "{view}");
    let mut had: BTreeSet<u64> = BTreeSet::new();
    let taken = taken.lock().unwrap();
    for batch in taken.iter() {
        had.extend(batch.iter().map(|one| one.number));
        for one in batch {
            let before = (one.number % KEYS..one.number).step_by(usize::try_from(KEYS).unwrap());
            let early: Vec<u64> = before.filter(|earlier| !had.contains(earlier)).collect();
            assert!(early.is_empty(), "{} was taken before {early:?}", one.number);
        }
    }
    assert_eq!(had.len() as u64, EVENTS);
    let names = by_number(&sink.arrived());
    assert!(names.values().all(|names| names.iter().collect::<BTreeSet<_>>().len() == 1), "a repeat has a new `jti`");
}

#[test]
fn acknowledgements_that_come_late_repeat_nothing_and_are_asked_for() {
    let owed: Arc<Mutex<Vec<String>>> = Arc::default();
    // Each answer acknowledges the SETs of the request before it.
    let late = owed.clone();
    let sink = Sink::new(move |request, _| ack(&std::mem::replace(&mut *late.lock().unwrap(), ids(request))));
    let mut gateway = gateway(&sink, "").start();
    for start in [0, 30, 60] {
        gateway.accept_all((start..start + 30).map(|number| event(number, &format!("key-{}", number % 5))));
    }
    let view = until_settled(&mut gateway);
    assert_eq!(view["acknowledged"], 90, "{view}");
    let requests = sink.arrived();
    assert!(by_number(&requests).values().all(|names| names.len() == 1), "{:?}", by_number(&requests));
    assert!(ids(requests.last().unwrap()).is_empty(), "the last acknowledgements are fetched by an empty request");
}

#[test]
fn a_receiver_that_takes_few_sets_gets_few_and_all() {
    let sink = Sink::new(|request, number| match ids(request) {
        ids if ids.len() <= 4 => ack(&ids),
        _ if number % 2 == 0 => Reply::status(413),
        _ => said(400, &json!({ "err": "too_many_sets" })),
    });
    let mut gateway = gateway(&sink, "").start();
    gateway.accept_all((0..120).map(|number| event(number, &format!("key-{}", number % 30))));
    let view = until_settled(&mut gateway);
    assert_eq!((&view["acknowledged"], &view["parked"]), (&json!(120), &json!(0)), "{view}");
    assert_eq!(view["last_error"], Value::Null, "a size that does not fit is no failure: {view}");
}

#[test]
fn a_set_in_set_errs_is_parked_and_issued_again_under_a_new_name() {
    // The SET is refused under its first `jti`, and accepted under the next.
    let refused: Arc<Mutex<Option<String>>> = Arc::default();
    let first = refused.clone();
    let sink = Sink::new(move |request, _| {
        let mut first = first.lock().unwrap();
        let bad = carried(request).into_iter().find(|one| one.number == 3).map(|one| one.jti);
        let bad = bad.filter(|jti| first.get_or_insert_with(|| jti.clone()) == jti);
        let taken: Vec<String> = ids(request).into_iter().filter(|id| Some(id) != bad.as_ref()).collect();
        let errors: BTreeMap<String, Value> =
            bad.into_iter().map(|jti| (jti, json!({ "err": "invalid_request", "description": "not so" }))).collect();
        let fields = "content-type: application/json\r\ncontent-language: en\r\n";
        Reply::with(202, fields, &json!({ "ack": taken, "setErrs": errors }).to_string())
    });
    let mut gateway = gateway(&sink, "").start();
    gateway.accept_all((0..6).map(|number| event(number, "one key")));
    let view = gateway.until_stream("crm", "one is parked", |view| view["parked"] == 1 && view["waiting"] == 0);
    assert_eq!(view["acknowledged"], 5, "{view}");
    let old = refused.lock().unwrap().clone().unwrap();
    let parked = gateway.command(&["parked", "list"]);
    assert_eq!((&parked["parked"][0]["jti"], &parked["parked"][0]["code"]), (&json!(old), &json!("invalid_request")));

    // Later SETs of its order key have been delivered, so it is issued again only with `--out-of-order`.
    let answer = gateway.run(&["parked", "reissue", &old]);
    assert!(!answer.status.success(), "{}", String::from_utf8_lossy(&answer.stdout));
    let answer = gateway.command(&["parked", "reissue", &old, "--out-of-order"]);
    let new = answer["results"][0]["new_jti"].as_str().unwrap().to_owned();
    assert_ne!(new, old);
    gateway.until_stream("crm", "it is taken", |view| view["acknowledged"] == 6 && view["parked"] == 0);
    let names = by_number(&sink.arrived());
    assert_eq!(names[&3], [old, new], "the refused name came once, and then the new one");
}

#[test]
fn a_probe_that_comes_back_in_set_errs_does_not_stop_the_stream() {
    // The endpoint fails; then the probe is refused with an error of the stream; then everything is accepted.
    let sink = Sink::new(|request, number| match number {
        0 => Reply::status(503),
        1 => {
            let errors: BTreeMap<String, Value> =
                ids(request).into_iter().map(|jti| (jti, json!({ "err": "invalid_key" }))).collect();
            said(202, &json!({ "ack": [], "setErrs": errors }))
        }
        _ => ack(&ids(request)),
    });
    let mut gateway = gateway(&sink, "").start();
    gateway.accept_all((0..10).map(|number| event(number, &format!("key-{number}"))));
    let view = until_settled(&mut gateway);
    assert_eq!((&view["status"], &view["parked"]), (&json!("enabled"), &json!(1)), "{view}");
}

#[test]
fn a_stop_waits_for_acknowledgements_and_the_next_start_repeats_nothing() {
    let owed: Arc<Mutex<Vec<String>>> = Arc::default();
    // The receiver acknowledges in answers to empty requests only.
    let late = owed.clone();
    let sink = Sink::new(move |request, _| {
        let (mut owed, ids) = (late.lock().unwrap(), ids(request));
        if ids.is_empty() {
            return ack(&std::mem::take(&mut *owed));
        }
        owed.extend(ids);
        ack(&[])
    });
    let mut gateway = gateway(&sink, "").start();
    gateway.accept_all((0..4).map(|number| event(number, &format!("key-{number}"))));
    sink.until("all four", |requests| by_number(requests).len() == 4);
    assert!(gateway.stop().success());
    assert!(owed.lock().unwrap().is_empty(), "the gateway ended while acknowledgements were outstanding");
    gateway.start();
    gateway.accept(&event(4, "key-0"));
    until_settled(&mut gateway);
    assert!(by_number(&sink.arrived()).values().all(|names| names.len() == 1), "{:?}", by_number(&sink.arrived()));
}

#[test]
fn a_crash_repeats_what_was_outstanding_under_the_same_name_and_loses_nothing() {
    let mute = Arc::new(Mutex::new(true));
    let told = mute.clone();
    let sink = Sink::new(move |request, _| if *told.lock().unwrap() { ack(&[]) } else { ack(&ids(request)) });
    let mut gateway = gateway(&sink, "").start();
    gateway.accept_all((0..20).map(|number| event(number, &format!("key-{}", number % 4))));
    sink.until("some are handed over", |requests| !by_number(requests).is_empty());
    gateway.kill();
    *mute.lock().unwrap() = false;
    gateway.start();
    let view = until_settled(&mut gateway);
    assert_eq!(view["parked"], 0, "{view}");
    let names = by_number(&sink.arrived());
    assert_eq!(names.keys().copied().collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
    assert!(names.values().any(|names| names.len() > 1), "nothing was repeated");
    assert!(names.values().all(|names| names.iter().collect::<BTreeSet<_>>().len() == 1), "a repeat has a new `jti`");
}

#[test]
fn an_acknowledgement_counts_after_a_crash() {
    let first: Arc<Mutex<Vec<String>>> = Arc::default();
    let early = first.clone();
    // The SET of event 0 is acknowledged only in answers to other requests, so the gateway crashes after its hand-over.
    let sink = Sink::new(move |request, _| {
        let mut early = early.lock().unwrap();
        let own = carried(request).into_iter().find(|one| one.number == 0).map(|one| one.jti);
        let mut said: Vec<String> = ids(request).into_iter().filter(|id| Some(id) != own.as_ref()).collect();
        if !said.is_empty() {
            said.extend(early.iter().cloned());
        }
        early.extend(own);
        ack(&said)
    });
    let mut gateway = gateway(&sink, "").start();
    gateway.accept(&event(0, "a"));
    sink.until("event 0", |requests| by_number(requests).contains_key(&0));
    gateway.kill();
    gateway.start();
    gateway.accept(&event(1, "b"));
    let view = until_settled(&mut gateway);
    assert_eq!(view["parked"], 0, "{view}");
    assert_eq!(first.lock().unwrap().iter().collect::<BTreeSet<_>>().len(), 1);
}
