//! The rules for the payloads of known event types (SSF 1.0 §8.1.4, §8.1.5; CAEP 1.0; RISC 1.0 §2).

use serde_json::{Map, Value};

const SSF: &str = "https://schemas.openid.net/secevent/ssf/event-type/";
const CAEP: &str = "https://schemas.openid.net/secevent/caep/event-type/";
const RISC: &str = "https://schemas.openid.net/secevent/risc/event-type/";

/// A rule for one member.
enum Demand {
    /// The member is required and is a non-empty text.
    Text,
    /// The member is required and is an object with members.
    Object,
    /// The member is required and is one of these values.
    OneOf(&'static [&'static str]),
    /// The member is optional and is a text.
    MaybeText,
    /// The member is optional and is one of these values.
    MaybeOneOf(&'static [&'static str]),
}

use Demand::{MaybeOneOf, MaybeText, Object, OneOf, Text};

const STATUS: Demand = OneOf(&["compliant", "not-compliant"]);
const LEVELS: &[&str] = &["LOW", "MEDIUM", "HIGH"];

/// The base and the name of an event type, and the rules for its members.
type Definition = (&'static str, &'static str, &'static [(&'static str, Demand)]);

/// The known event types with the rules for their members. Open lists of values are not checked.
const DEFINITIONS: &[Definition] = &[
    (SSF, "verification", &[("state", MaybeText)]),
    (SSF, "stream-updated", &[("status", OneOf(&["enabled", "paused", "disabled"])), ("reason", MaybeText)]),
    (CAEP, "session-revoked", &[]),
    (CAEP, "token-claims-change", &[("claims", Object)]),
    (
        CAEP,
        "credential-change",
        &[("credential_type", Text), ("change_type", OneOf(&["create", "revoke", "update", "delete"]))],
    ),
    (
        CAEP,
        "assurance-level-change",
        &[
            ("namespace", Text),
            ("current_level", Text),
            ("previous_level", MaybeText),
            ("change_direction", MaybeOneOf(&["increase", "decrease"])),
        ],
    ),
    (CAEP, "device-compliance-change", &[("previous_status", STATUS), ("current_status", STATUS)]),
    (CAEP, "session-established", &[("fp_ua", MaybeText), ("acr", MaybeText), ("ext_id", MaybeText)]),
    (CAEP, "session-presented", &[("fp_ua", MaybeText), ("ext_id", MaybeText)]),
    (
        CAEP,
        "risk-level-change",
        &[("principal", Text), ("current_level", OneOf(LEVELS)), ("previous_level", MaybeOneOf(LEVELS))],
    ),
    (RISC, "account-disabled", &[("reason", MaybeText)]),
    (RISC, "credential-compromise", &[("credential_type", Text)]),
];

/// Checks a payload against the definition of its event type. Unknown types and unknown members pass (SSF 1.0 §4.2.3).
pub(crate) fn check(uri: &str, payload: &Map<String, Value>) -> Result<(), String> {
    let known = DEFINITIONS.iter().find(|(base, name, _)| uri.strip_prefix(base) == Some(name));
    let Some((base, _, demands)) = known else { return Ok(()) };
    for (name, demand) in *demands {
        demand.check(name, payload.get(*name))?;
    }
    if *base == CAEP {
        common(payload)?;
    }
    Ok(())
}

/// Checks the common members of CAEP 1.0 §2. Older transmitters write reasons as plain texts, which are accepted.
fn common(payload: &Map<String, Value>) -> Result<(), String> {
    MaybeOneOf(&["admin", "user", "policy", "system"]).check("initiating_entity", payload.get("initiating_entity"))?;
    if payload.get("event_timestamp").is_some_and(|value| !value.is_number()) {
        return Err("`event_timestamp` is no number".to_owned());
    }
    for name in ["reason_admin", "reason_user"] {
        if payload.get(name).is_some_and(|value| !value.is_string() && !filled(value)) {
            return Err(format!("`{name}` is no object with texts by language"));
        }
    }
    Ok(())
}

impl Demand {
    fn check(&self, name: &str, value: Option<&Value>) -> Result<(), String> {
        let text = value.and_then(Value::as_str);
        let listed = |list: &[&str]| text.is_some_and(|text| list.contains(&text));
        let well = match self {
            Text => text.is_some_and(|text| !text.is_empty()),
            Object => value.is_some_and(filled),
            OneOf(list) => listed(list),
            MaybeText => value.is_none() || text.is_some(),
            MaybeOneOf(list) => value.is_none() || listed(list),
        };
        match self {
            _ if well => Ok(()),
            Text | MaybeText => Err(format!("`{name}` is missing or no text")),
            Object => Err(format!("`{name}` is missing or no object with members")),
            OneOf(list) | MaybeOneOf(list) => Err(format!("`{name}` is none of {}", list.join(", "))),
        }
    }
}

fn filled(value: &Value) -> bool {
    value.as_object().is_some_and(|members| !members.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn verdict(base: &str, name: &str, payload: Value) -> Result<(), String> {
        check(&format!("{base}{name}"), payload.as_object().unwrap())
    }

    #[test]
    fn every_example_of_the_standards_keeps_to_its_definition() {
        let files = [
            include_str!("../../../tests/vectors/caep.json"),
            include_str!("../../../tests/vectors/risc.json"),
            include_str!("../../../tests/vectors/ssf.json"),
        ];
        let mut seen = 0;
        for file in files {
            for vector in serde_json::from_str::<Vec<Value>>(file).unwrap() {
                let Some(events) = vector["value"]["events"].as_object().filter(|_| vector["kind"] == "set-claims")
                else {
                    continue;
                };
                for (uri, payload) in events {
                    assert_eq!(check(uri, payload.as_object().unwrap()), Ok(()), "{}", vector["name"]);
                    seen += 1;
                }
            }
        }
        assert!(seen > 25, "{seen} events");
    }

    #[test]
    fn a_payload_that_breaks_its_definition_is_found() {
        let reason = json!({"reason_admin": {}});
        for (base, name, payload) in [
            (SSF, "verification", json!({"state": 1})),
            (SSF, "stream-updated", json!({})),
            (SSF, "stream-updated", json!({"status": "gone"})),
            (CAEP, "token-claims-change", json!({"claims": {}})),
            (CAEP, "credential-change", json!({"credential_type": "pin", "change_type": "change"})),
            (CAEP, "credential-change", json!({"change_type": "create"})),
            (CAEP, "assurance-level-change", json!({"namespace": "NIST-AAL"})),
            (CAEP, "device-compliance-change", json!({"current_status": "compliant"})),
            (CAEP, "session-presented", json!({"fp_ua": []})),
            (CAEP, "risk-level-change", json!({"principal": "USER", "current_level": "low"})),
            (CAEP, "session-revoked", json!({"initiating_entity": "nobody"})),
            (CAEP, "session-revoked", json!({"event_timestamp": "1615304991"})),
            (CAEP, "session-revoked", reason),
            (RISC, "credential-compromise", json!({})),
        ] {
            assert!(verdict(base, name, payload.clone()).is_err(), "{name} {payload}");
        }
    }

    #[test]
    fn unknown_types_and_members_pass() {
        assert_eq!(check("https://example.com/own", json!({"state": 1}).as_object().unwrap()), Ok(()));
        assert_eq!(verdict(CAEP, "session-revoked", json!({"new": [1], "reason_admin": "old form"})), Ok(()));
    }
}
