//! Secrets and subjects are planted wherever callers can put them, and searched for in everything that the gateway
//! writes (hardening H50).

use serde_json::{Value, json};

use crate::boxed::{Plan, TYPE};
use crate::http::{self, request};
use crate::sink::{Reply, Sink};

/// Returns a text that must not appear anywhere, made so that no encoding of it is mistaken for something else.
fn canary(of: &str) -> String {
    format!("kanarienvogel-{of}-Zq7")
}

/// Returns an event with canaries in its subject and its payload.
fn event(number: usize) -> Value {
    json!({
        "id": format!("event-{number}"),
        "sub_id": {"format": "email", "email": format!("{}@{}.example", canary("user"), canary("tenant"))},
        "order_key": canary("order"),
        "events": {TYPE: {"number": number, "reason_admin": {"en": canary("payload")}, "state": canary("state")}},
    })
}

#[test]
fn nothing_that_callers_plant_comes_out_of_logs_metrics_views_or_problems() {
    // The sink fails in every way that an answer can, at an endpoint with secrets in its path and query.
    let sink = Sink::new(|_, number| match number % 9 {
        0 => Reply::status(500),
        1 => Reply::with(302, "location: http://127.0.0.1:9/kanarienvogel-redirect-Zq7\r\n", ""),
        2 => Reply::with(400, "content-type: application/json\r\n", "{\"err\":"),
        3 => Reply::Close,
        4 => Reply::with(401, "www-authenticate: Bearer realm=\"kanarienvogel-realm-Zq7\"\r\n", ""),
        5 => Reply::with(503, "retry-after: 0\r\n", "kanarienvogel-body-Zq7"),
        6 => Reply::Bytes(b"SSH-2.0-kanarienvogel-banner-Zq7\r\n".to_vec()),
        7 => Reply::with(400, "content-type: application/json\r\n", r#"{"err":"invalid_request","description":"no"}"#),
        _ => Reply::status(202),
    });
    let endpoint = format!("{}{}?key={}", sink.url(), canary("path"), canary("query"));
    let delivery = |url: &str| {
        format!(
            "{{ method = \"push\", endpoint_url = \"{url}\", authorization_header = \"Bearer {}\" }}",
            canary("header")
        )
    };
    let nobody = format!("http://127.0.0.1:9/{}?{}", canary("path"), canary("query"));
    let mut gateway = Plan::new()
        .options("[log]\nlevel = \"trace\"\n")
        .stream_by("crm", &delivery(&endpoint))
        .stream_by("gone", &delivery(&nobody))
        .start();

    let mut said = Vec::new();
    for number in 0..30 {
        let answer = gateway.post("application/json", event(number).to_string().as_bytes());
        assert_eq!(answer.status, 202, "{}", answer.text());
        said.push(answer.text());
    }
    gateway.until_stream("crm", "all kinds of answers were given", |view| {
        view["acknowledged"].as_u64() > Some(2) && view["parked_total"].as_u64() > Some(0)
    });
    gateway.until_stream("gone", "attempts were made", |view| {
        view["last_error"].is_object() || view["last_error"].is_string()
    });

    // The bad input has the canary at the fault and beside it.
    let mut bad = event(99);
    bad["sub_id"] = json!({"format": "email", "mail": canary("user"), "email": {"of": canary("user")}});
    let unknown = json!({"id": "x", "sub_id": {"format": "opaque", "id": canary("user")}, "events": {TYPE: {}}, "exp": canary("payload")});
    let bodies = [
        bad.to_string(),
        unknown.to_string(),
        event(98).to_string().replace('}', ""),
        format!("{{\"sub_id\": \"{}\"", canary("user")),
        format!("{{\"sub_id\": {{\"format\": \"email\", \"email\": \"{0}\", \"email\": \"{0}\"}}}}", canary("user")),
        event(0).to_string().replace(&canary("payload"), &canary("other")),
    ];
    for body in bodies {
        let answer = gateway.post("application/json", body.as_bytes());
        assert!((400..500).contains(&answer.status), "{} for {body}", answer.status);
        said.push(answer.text());
    }
    // The requests have bad credentials of every kind.
    let wrong = format!("Bearer sgp_{}", canary("bearer"));
    let basic = format!("Basic {}", canary("basic"));
    let path = format!("/events?access_token={}", canary("bearer"));
    for (path, name, value) in [
        ("/events", "authorization", wrong.as_str()),
        ("/events", "authorization", &basic),
        (&path, "cookie", &canary("cookie")),
        (&format!("/{}", canary("path")), "x-api-key", &canary("apikey")),
    ] {
        let fields = [(name, value), ("content-type", "application/json")];
        for port in [gateway.world, gateway.operator] {
            let answer = http::try_send(port, &request("POST", path, &fields, event(97).to_string().as_bytes()));
            said.extend(answer.map(|answer| answer.text()));
        }
    }
    said.push(http::send(gateway.operator, &request("GET", "/metrics", &[], b"")).text());
    said.push(gateway.command(&["streams", "list"]).to_string());
    said.push(gateway.stream("crm").to_string());
    let admin = std::fs::read_to_string(gateway.path("secrets").join("admin-token"));
    let tokens: Vec<String> =
        sink.arrived().iter().map(|one| String::from_utf8_lossy(&one.body).into_owned()).collect();
    assert!(gateway.stop().success());
    said.push(gateway.log());

    let all = said.join("\n");
    assert!(all.contains("TRACE") || all.contains("DEBUG"), "the log is not as loud as it was asked to be");
    assert!(all.len() > 10_000, "too little was said to show anything");
    for line in all.lines() {
        assert!(!line.contains("kanarienvogel"), "it came out again: {line}");
    }
    let signature = |token: &str| token.rsplit('.').next().unwrap_or_default().to_owned();
    assert!(tokens.len() > 20);
    assert!(tokens.iter().all(|token| !all.contains(&signature(token))), "a SET came out again");
    let admin = admin.expect("the admin token is where the documents say");
    assert!(!all.contains(admin.trim()), "the admin token came out");
}

#[test]
fn a_crash_leaves_no_core() {
    let gateway = Plan::new().start();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", gateway.pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    let words: Vec<&str> = core.split_whitespace().collect();
    assert_eq!(&words[4..6], ["0", "0"], "{core}");
}
