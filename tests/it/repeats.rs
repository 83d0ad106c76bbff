//! Repeated events are recognized: over HTTP, across a stop and across a crash (hardening H14).

use serde_json::json;

use crate::boxed::{Plan, event};
use crate::http::{self, request};
use crate::sink::Sink;

#[test]
fn an_id_is_remembered_across_a_crash_and_a_stop() {
    let sink = Sink::good();
    let mut gateway = Plan::new().stream("crm", &sink.url()).start();
    let first = gateway.accept(&event(1, "a"));
    gateway.kill();
    gateway.start();
    assert_eq!(gateway.accept(&event(1, "a"))["txn"], first["txn"]);
    assert!(gateway.stop().success());
    gateway.start();
    // White space and the order of members make no difference.
    let other = format!(
        r#"{{ "sub_id": {{"id":"a", "format":"opaque"}}, "id":"event-1",  "events": {} }}"#,
        event(1, "a")["events"]
    );
    let answer = gateway.post("application/json", other.as_bytes());
    assert_eq!((answer.status, &answer.json()["txn"]), (202, &first["txn"]));
    gateway.accept(&event(2, "b"));
    let all = sink.until_numbers([1, 2]);
    let jtis: std::collections::BTreeSet<String> = all.iter().map(|one| one.jti()).collect();
    assert_eq!(jtis.len(), 2, "a repeat became a SET of its own");
}

#[test]
fn another_event_under_a_used_id_is_refused_across_a_crash() {
    let sink = Sink::good();
    let mut gateway = Plan::new().stream("crm", &sink.url()).start();
    gateway.accept(&event(1, "a"));
    gateway.kill();
    gateway.start();
    let mut other = event(1, "a");
    other["sub_id"]["id"] = json!("somebody-else");
    let answer = gateway.post("application/json", other.to_string().as_bytes());
    assert_eq!(answer.status, 409, "{}", answer.text());
    gateway.accept(&event(2, "b"));
    let all = sink.until_numbers([1, 2]);
    assert!(all.iter().all(|one| one.claims()["sub_id"]["id"] != "somebody-else"));
}

#[test]
fn the_header_is_the_id_of_a_single_event_and_of_nothing_else() {
    let gateway = Plan::new().start();
    let post = |kind: &str, key: &str, body: &str| {
        let mut bearer = String::new();
        let mut fields = gateway.fields(&mut bearer, kind).to_vec();
        fields.push(("idempotency-key", key));
        http::send(gateway.world, &request("POST", "/events", &fields, body.as_bytes()))
    };
    let mut bare = event(1, "a");
    bare.as_object_mut().unwrap().remove("id");
    let first = post("application/json", "\"k1\"", &bare.to_string());
    assert_eq!(first.status, 202, "{}", first.text());
    assert_eq!(post("application/json", "\"k1\"", &bare.to_string()).json()["txn"], first.json()["txn"]);
    assert_eq!(post("application/json", "\"other\"", &event(1, "a").to_string()).status, 400);
    assert_eq!(post("application/x-ndjson", "\"k2\"", &format!("{bare}\n{bare}\n")).status, 400);
}
