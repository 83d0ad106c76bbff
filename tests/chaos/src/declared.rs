//! The streams as an operator declares them.

use serde_json::{Value, json};

use crate::receivers::Way;

/// The issuers of the simulated gateway.
pub(crate) const ISSUERS: [&str; 2] = ["https://a.example", "https://b.example"];

/// Returns the id of a stream.
pub(crate) fn name(stream: usize) -> String {
    format!("s{stream}")
}

/// Returns the URL of an issuer.
pub(crate) fn issuer_url(issuer: usize) -> &'static str {
    ISSUERS.get(issuer).copied().unwrap_or_default()
}

/// Returns a stream as an operator declares it.
pub(crate) fn declaration(stream: usize, way: Way, wishes: u64) -> Value {
    let wish = |at: u32, of: u64| (wishes >> at) % of;
    let subject = |number: u64| json!({ "format": "opaque", "id": format!("subject-{number}") });
    let mut declared = json!({
        "id": name(stream),
        "issuer": issuer_url(usize::from(stream == 4)),
        "audience": format!("https://r.example/{}", name(stream)),
        "delivery": { "method": way.name(), "to": wish(0, 2) },
        "default_subjects": if wish(2, 4) == 0 { "NONE" } else { "ALL" },
    });
    if wish(4, 4) == 0 {
        declared["events"] = json!(["https://e.example/0", "https://e.example/1"]);
    }
    if wish(2, 4) == 0 {
        declared["add_subjects"] = json!([subject(wish(8, 5)), subject(wish(10, 5))]);
    } else if wish(12, 3) == 0 {
        declared["remove_subjects"] = json!([subject(wish(14, 5))]);
    }
    match wish(16, 6) {
        0 => declared["retention"] = json!({ "sets": 4 + wish(20, 20) }),
        1 => declared["retention"] = json!({ "age": format!("{}s", 60 + wish(20, 600)) }),
        _ => {}
    }
    if wish(26, 4) == 0 {
        declared["on_refusal"] = json!("stop_key");
    }
    if wish(28, 4) == 0 && matches!(way, Way::Poll | Way::Socket) {
        declared["inactivity_timeout"] = json!("120s");
    }
    if wish(30, 4) == 0 {
        declared["batch"] = json!({ "sets": 1 + wish(32, 4), "linger": "500ms" });
    }
    declared
}
