//! Reports as lines of text and of JSON. Foreign text never steers a terminal (hardening H50).

use std::fmt::Write as _;

use serde_json::{Map, Value, json};
use setgate_telemetry::clean;

use crate::{Received, Report};

/// The most bytes of a piece of foreign text in a line of text.
const LONGEST: usize = 160;

/// Formats a report as a line of text, without a line end: time, kind, issuer, event, subject, `jti`, `txn`.
#[must_use]
pub fn line(report: &Report) -> String {
    match report {
        Report::Learned { issuer } => format!("ready     {issuer}: metadata and keys are there"),
        Report::Waiting { issuer, why } => format!("waiting   {issuer}: {}", clean(why, LONGEST)),
        Report::Taken(received) => set_line("taken", received),
        Report::Duplicate { received, same_claims: true } => set_line("duplicate", received),
        Report::Duplicate { received, same_claims: false } => {
            format!("{}  (its claims differ from the first one's!)", set_line("duplicate", received))
        }
        Report::Discarded(received) => {
            let member = received.taken.discard.as_deref().unwrap_or_default();
            format!(
                "{}  (critical member {} is not understood)",
                set_line("discarded", received),
                clean(member, LONGEST)
            )
        }
        Report::Refused { peer, at_millis, refusal, on_purpose } => {
            let why = refusal.description.as_deref().unwrap_or_default();
            let purpose = if *on_purpose { " on purpose" } else { "" };
            let code = clean(refusal.code.as_str(), LONGEST);
            let reason = if *on_purpose { String::new() } else { format!(": {}", clean(why, LONGEST)) };
            format!("{}  refused   {code}{purpose}{reason}  from {}", time(*at_millis), clean(peer, LONGEST))
        }
        Report::PutOff { peer, at_millis, why } => {
            format!("{}  put off   {}  from {}", time(*at_millis), clean(why, LONGEST), clean(peer, LONGEST))
        }
        Report::Failed { peer, at_millis, status } => {
            format!("{}  failed    {status} on purpose  from {}", time(*at_millis), clean(peer, LONGEST))
        }
    }
}

/// Formats a report as a JSON object in one line, without a line end.
///
/// Characters that could steer a terminal are escaped within its texts, so that the JSON reads back unchanged.
#[must_use]
pub fn json_line(report: &Report) -> String {
    let value = match report {
        Report::Learned { issuer } => json!({"report": "learned", "issuer": issuer.as_str()}),
        Report::Waiting { issuer, why } => json!({"report": "waiting", "issuer": issuer.as_str(), "why": why}),
        Report::Taken(received) => set_json("taken", received),
        Report::Duplicate { received, same_claims } => {
            let mut value = set_json("duplicate", received);
            if let Some(members) = value.as_object_mut() {
                members.insert("same_claims".to_owned(), json!(same_claims));
            }
            value
        }
        Report::Discarded(received) => set_json("discarded", received),
        Report::Refused { peer, at_millis, refusal, on_purpose } => json!({
            "report": "refused", "at": time(*at_millis), "peer": peer, "err": refusal.code.as_str(),
            "description": refusal.description, "on_purpose": on_purpose,
        }),
        Report::PutOff { peer, at_millis, why } => {
            json!({"report": "put_off", "at": time(*at_millis), "peer": peer, "why": why})
        }
        Report::Failed { peer, at_millis, status } => {
            json!({"report": "failed", "at": time(*at_millis), "peer": peer, "status": status})
        }
    };
    escape(&value.to_string())
}

fn set_line(what: &str, received: &Received) -> String {
    let taken = &received.taken;
    let events: Vec<_> = events(&taken.claims).map(|uri| clean(short_name(uri), LONGEST)).collect();
    let mut line = format!(
        "{}  {what:<9} {}  {}  {}  jti {}",
        time(received.at_millis),
        clean(&taken.iss, LONGEST),
        events.join("+"),
        taken.claims.get("sub_id").map(subject).unwrap_or_default(),
        clean(&taken.jti, LONGEST),
    );
    if let Some(txn) = &taken.txn {
        // A write to a string does not fail.
        let _ = write!(line, "  txn {}", clean(txn, LONGEST));
    }
    line
}

fn set_json(report: &str, received: &Received) -> Value {
    let taken = &received.taken;
    json!({
        "report": report, "at": time(received.at_millis), "peer": received.peer, "iss": taken.iss, "jti": taken.jti,
        "txn": taken.txn, "kid": taken.kid, "alg": taken.algorithm.name(), "claims": taken.claims,
    })
}

fn events(claims: &Map<String, Value>) -> impl Iterator<Item = &str> {
    claims.get("events").and_then(Value::as_object).into_iter().flat_map(|events| events.keys().map(String::as_str))
}

/// Returns the part of an event URI after the last slash, or after the last colon of a URN.
fn short_name(uri: &str) -> &str {
    let last = match uri.strip_prefix("urn:") {
        Some(_) => uri.rsplit(':').next(),
        None => uri.trim_end_matches('/').rsplit('/').next(),
    };
    last.filter(|name| !name.is_empty()).unwrap_or(uri)
}

/// Formats a subject in short: the format, then the values of its members.
fn subject(value: &Value) -> String {
    let Some(members) = value.as_object() else { return String::new() };
    let format = members.get("format").and_then(Value::as_str).unwrap_or_default();
    let mut out = clean(format, 40);
    for (name, member) in members.iter().filter(|(name, _)| *name != "format") {
        let text = match member {
            Value::String(text) => clean(text, LONGEST),
            Value::Object(_) => format!("{}={}", clean(name, 40), subject(member)),
            other => clean(&other.to_string(), LONGEST),
        };
        let _ = write!(out, "{}{text}", if format == "complex" { ' ' } else { ':' });
        if out.len() > LONGEST * 2 {
            out.push('…');
            break;
        }
    }
    out
}

/// Formats a time in UTC, to the millisecond (RFC 3339).
fn time(millis: u64) -> String {
    i64::try_from(millis)
        .ok()
        .and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok())
        .map_or_else(|| millis.to_string(), |at| format!("{at:.3}"))
}

/// Escapes every character of compact JSON that [`clean`] would escape. Outside texts, JSON is plain ASCII.
fn escape(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for character in json.chars() {
        let steers = character == '\u{7f}'
            || (!character.is_ascii() && clean(character.encode_utf8(&mut [0; 4]), 16).starts_with("\\u"));
        if steers {
            for unit in character.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(character);
        }
    }
    out
}

#[cfg(test)]
mod tests;
