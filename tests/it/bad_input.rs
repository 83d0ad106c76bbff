//! Bad input at the real listeners: each is refused with a reason, and good input beside it is delivered.

use std::io::Write;

use serde_json::json;

use crate::boxed::{Plan, TYPE, event};
use crate::http::{self, request};
use crate::sink::Sink;

#[test]
fn what_is_no_event_is_refused_and_the_answer_names_the_place() {
    let sink = Sink::good();
    let gateway = Plan::new().stream("crm", &sink.url()).start();
    let subject = r#""sub_id":{"format":"opaque","id":"a"}"#;
    let deep = format!("{{\"events\":{{\"{TYPE}\":{{\"x\":{}{}}}}},{subject}}}", "[".repeat(60), "]".repeat(60));
    let long = format!(
        "{{\"events\":{{\"{TYPE}\":{{}}}},\"sub_id\":{{\"format\":\"opaque\",\"id\":\"{}\"}}}}",
        "x".repeat(5000)
    );
    for (body, status, told) in [
        ("", 400, ""),
        ("not JSON", 400, ""),
        ("{}", 400, "events"),
        (r#"{"events":{}}"#, 400, ""),
        (r#"{"events":{"urn:x":null},"sub_id":{"format":"opaque","id":"a"}}"#, 400, "/events"),
        (r#"{"events":{"urn:x":{}}}"#, 400, "sub_id"),
        (r#"{"events":{"urn:x":{}},"sub_id":{"format":"email"}}"#, 400, "/sub_id"),
        (r#"{"events":{"urn:x":{}},"sub_id":{"format":"opaque","id":"a"},"exp":1}"#, 400, "/exp"),
        (r#"{"events":{"urn:x":{}},"sub_id":{"format":"opaque","id":"a"},"sub":"a"}"#, 400, "/sub"),
        (r#"{"events":{"urn:x":{}},"sub_id":{"format":"opaque","id":"a","id":"b"}}"#, 400, ""),
        (r#"{"events":{"urn:x":{"a":"\ud800"}},"sub_id":{"format":"opaque","id":"a"}}"#, 400, ""),
        (r#"{"events":{"urn:x":{"a":1e400}},"sub_id":{"format":"opaque","id":"a"}}"#, 400, ""),
        (&deep, 400, ""),
        (&long, 400, "/sub_id"),
    ] {
        let answer = gateway.post("application/json", body.as_bytes());
        assert_eq!(answer.status, status, "{body:.200}: {}", answer.text());
        assert_eq!(answer.field("content-type"), Some("application/problem+json"), "{body:.200}");
        assert!(answer.text().contains(told), "{body:.200}: {}", answer.text());
    }
    let invalid = [&b"{\"events\":{\"urn:x\":{\"a\":\""[..], &[0xff], b"\"}},", subject.as_bytes(), b"}"].concat();
    assert_eq!(gateway.post("application/json", &invalid).status, 400);
    gateway.accept(&event(1, "a"));
    let all = sink.until_numbers([1]);
    assert_eq!(all.len(), 1, "something refused was delivered");
}

#[test]
fn nobody_but_the_gateway_makes_framework_events_or_speaks_of_its_streams() {
    let sink = Sink::good();
    let gateway = Plan::new().stream("crm", &sink.url()).start();
    for uri in setgate_set::framework::RESERVED {
        let body = json!({"events": {*uri: {"state": "x"}}, "sub_id": {"format": "opaque", "id": "a"}});
        assert_eq!(gateway.post("application/json", body.to_string().as_bytes()).status, 403, "{uri}");
    }
    let body = json!({"events": {TYPE: {"number": 1}}, "sub_id": {"format": "opaque", "id": "crm"}});
    assert_eq!(gateway.post("application/json", body.to_string().as_bytes()).status, 403);
    gateway.accept(&event(2, "a"));
    assert_eq!(sink.until_numbers([2]).len(), 1);
}

#[test]
fn a_body_that_ends_early_keeps_what_was_committed_and_nothing_of_the_rest() {
    let sink = Sink::good();
    let gateway = Plan::new().stream("crm", &sink.url()).start();
    let lines: String = (1..=3).map(|number| format!("{}\n", event(number, "a"))).collect();
    let fourth = event(4, "a").to_string();
    let mut bearer = String::new();
    let mut fields = gateway.fields(&mut bearer, "application/x-ndjson").to_vec();
    let length = (lines.len() + fourth.len() + 1).to_string();
    fields.push(("content-length", &length));
    let body = format!("{lines}{}", &fourth[..fourth.len() - 2]);
    let mut stream = http::connect(gateway.world).unwrap();
    stream.write_all(&request("POST", "/events", &fields, body.as_bytes())).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let _ = http::answer(&mut stream);
    let committed = sink.until_numbers(1..=3);
    assert_eq!(committed.len(), 3);
    // The same events are put in again, all of them valid: those that were accepted before are recognized by their ids.
    gateway.accept_all((1..=4).map(|number| event(number, "a")));
    let all = sink.until_numbers(1..=4);
    assert_eq!(all.iter().map(|one| one.number()).collect::<Vec<_>>(), [1, 2, 3, 4]);
}

#[test]
fn limits_answer_413_and_name_themselves() {
    let sink = Sink::good();
    let limits = "[intake]\nbody_bytes = 4000\nitem_bytes = 1000\nitems = 5\n";
    let gateway = Plan::new().stream("crm", &sink.url()).options(limits).start();
    let padded = |length: usize| json!({"events": {TYPE: {"number": 9, "x": "x".repeat(length)}}, "sub_id": {"format": "opaque", "id": "a"}});
    let answer = gateway.post("application/json", padded(2000).to_string().as_bytes());
    assert_eq!((answer.status, answer.text().contains("item_bytes")), (413, true), "{}", answer.text());
    let answer = gateway.post("application/json", padded(5000).to_string().as_bytes());
    assert_eq!((answer.status, answer.text().contains("body_bytes")), (413, true), "{}", answer.text());
    let seven: String = (1..=7).map(|number| format!("{}\n", event(number, "a"))).collect();
    let answer = gateway.post("application/x-ndjson", seven.as_bytes());
    let lines = answer.lines();
    assert_eq!(lines.iter().filter(|line| line["status"] == 202).count(), 5, "{}", answer.text());
    assert!(lines.last().unwrap().to_string().contains("items"), "{}", answer.text());
    assert_eq!(sink.until_numbers(1..=5).len(), 5);
}

#[test]
fn a_slow_body_is_ended_and_others_are_not_held_up() {
    let sink = Sink::good();
    let gateway = Plan::new().stream("crm", &sink.url()).options("[intake]\nidle_timeout = \"1s\"\n").start();
    let mut bearer = String::new();
    let mut fields = gateway.fields(&mut bearer, "application/json").to_vec();
    fields.push(("content-length", "1000"));
    let mut slow = http::connect(gateway.world).unwrap();
    slow.write_all(&request("POST", "/events", &fields, b"{")).unwrap();
    gateway.accept(&event(1, "a"));
    sink.until_numbers([1]);
    let answer = http::answer(&mut slow).expect("an answer to the slow body");
    assert_eq!(answer.status, 408, "{}", answer.text());
}

#[test]
fn credentials_are_validated_before_the_body_is_asked_for() {
    let gateway = Plan::new().start();
    let mut stream = http::connect(gateway.world).unwrap();
    let fields = [("content-type", "application/json"), ("content-length", "1000000"), ("expect", "100-continue")];
    stream.write_all(&request("POST", "/events", &fields, b"")).unwrap();
    let answer = http::answer(&mut stream).expect("an answer without the body");
    assert_eq!(answer.status, 401);
    assert!(answer.field("www-authenticate").is_some_and(|value| value.starts_with("Bearer")));
}

#[test]
fn a_mistake_in_the_configuration_names_file_key_and_remedy() {
    let gateway = Plan::new().prepare();
    let text = std::fs::read_to_string(gateway.config()).unwrap();
    for (change, told) in [
        ("[router]\nflush_milis = 3\n", "flush_milis"),
        ("[nowhere]\nx = 1\n", "nowhere"),
        ("[net]\ntimeout = \"soon\"\n", "timeout"),
    ] {
        let base = if change.starts_with("[router]") {
            text.replace("[router]", "[methods]").replace("backoff", "#")
        } else {
            text.clone()
        };
        std::fs::write(gateway.config(), format!("{base}\n{change}")).unwrap();
        let output = gateway.run(&["check"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(told) && said.contains("setgate.toml"), "{said}");
    }
    std::fs::write(gateway.config(), &text).unwrap();
    let output = crate::boxed::binary()
        .env("SETGATE__ROUTER__FLUSH_MILIS", "3")
        .args(["check", "--config"])
        .arg(gateway.config())
        .output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("SETGATE__ROUTER__FLUSH_MILIS"));
    assert!(gateway.run(&["check"]).status.success());
}
