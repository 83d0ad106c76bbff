//! Generated events: valid CAEP 1.0, and the same for the same prefix and number.

use serde_json::{Value as Json, json};

use super::state::Run;
use crate::{Failure, args::EmitArgs};

/// The prefix of CAEP 1.0 event URIs.
const CAEP: &str = "https://schemas.openid.net/secevent/caep/event-type/";
/// The event types that are generated (CAEP 1.0 §3).
const TYPES: [&str; 8] = [
    "session-revoked",
    "token-claims-change",
    "credential-change",
    "assurance-level-change",
    "device-compliance-change",
    "session-established",
    "session-presented",
    "risk-level-change",
];

/// The recipe for generated events. A recipe yields the same event for the same number, so that a resumed run repeats
/// itself exactly.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    prefix: String,
    issuer: String,
    subjects: u64,
    types: Vec<&'static str>,
    base: Option<u64>,
}

impl Recipe {
    /// Creates the recipe of a run.
    ///
    /// # Errors
    /// [`Failure`] when a type was asked for that is not generated.
    pub(super) fn new(args: &EmitArgs, run: &Run) -> Result<Self, Failure> {
        let mut types = Vec::new();
        for asked in &args.events {
            let name = asked.strip_prefix(CAEP).unwrap_or(asked);
            let known = TYPES.iter().find(|known| **known == name).ok_or_else(|| {
                Failure::usage(format!("events of type `{asked}` are not made; these are: {}", TYPES.join(", ")))
            })?;
            types.push(*known);
        }
        if types.is_empty() {
            types = TYPES.to_vec();
        }
        Ok(Self {
            prefix: run.prefix.clone(),
            issuer: args.issuer.clone().unwrap_or_else(|| "https://idp.example.com".to_owned()),
            subjects: args.subjects,
            types,
            base: run.time,
        })
    }

    /// Returns the event with a number, as one line of JSON.
    pub(super) fn event(&self, number: u64) -> String {
        let mut dice = Dice::new(&self.prefix, number);
        let user = format!("user-{:05}", dice.below(self.subjects));
        let name = usize::try_from(dice.below(self.types.len() as u64))
            .ok()
            .and_then(|at| self.types.get(at))
            .copied()
            .unwrap_or_default();
        let user = json!({"format": "iss_sub", "iss": self.issuer, "sub": user});
        let subject = match name {
            "device-compliance-change" => {
                let device = json!({"format": "opaque", "id": format!("device-{:05}", dice.below(self.subjects))});
                json!({"format": "complex", "user": user, "device": device})
            }
            _ => user,
        };
        let mut payload = payload(name, &mut dice);
        if let (Some(base), Json::Object(members)) = (self.base, &mut payload) {
            members.insert("event_timestamp".to_owned(), json!(base + number / 100));
        }
        json!({"id": format!("{}-{number}", self.prefix), "sub_id": subject, "events": {format!("{CAEP}{name}"): payload}}).to_string()
    }
}

fn payload(name: &str, dice: &mut Dice) -> Json {
    let mut flip = |one: &'static str, other: &'static str| if dice.below(2) == 0 { one } else { other };
    match name {
        "token-claims-change" => json!({"claims": {"role": flip("reader", "admin")}}),
        "credential-change" => json!({
            "credential_type": flip("password", "fido2-roaming"), "change_type": flip("create", "revoke"),
            "initiating_entity": flip("user", "admin"), "reason_admin": {"en": "Made by setgate emit"},
        }),
        "assurance-level-change" => json!({
            "namespace": "NIST-AAL", "previous_level": "nist-aal1", "current_level": "nist-aal2", "change_direction": "increase",
        }),
        "device-compliance-change" => {
            let now = flip("compliant", "not-compliant");
            json!({"previous_status": if now == "compliant" { "not-compliant" } else { "compliant" }, "current_status": now})
        }
        "session-established" => json!({"amr": [flip("pwd", "hwk")], "acr": "urn:example:loa:2"}),
        "risk-level-change" => json!({
            "principal": "USER", "current_level": flip("HIGH", "MEDIUM"), "previous_level": "LOW",
            "risk_reason": "PASSWORD_FOUND_IN_DATA_BREACH",
        }),
        "session-presented" => json!({}),
        _ => json!({"initiating_entity": flip("policy", "admin"), "reason_admin": {"en": "Made by setgate emit"}}),
    }
}

/// A source of choices that depend on prefix and number alone.
struct Dice(blake3::OutputReader);

impl Dice {
    fn new(prefix: &str, number: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(prefix.as_bytes()).update(&number.to_be_bytes());
        Self(hasher.finalize_xof())
    }

    fn below(&mut self, bound: u64) -> u64 {
        let mut bytes = [0u8; 8];
        self.0.fill(&mut bytes);
        u64::from_be_bytes(bytes) % bound.max(1)
    }
}

#[cfg(test)]
mod tests {
    use setgate_set::{Event, EventLimits, JsonLimits, parse_json};

    use super::{super::state::What, *};

    fn recipe(line: &str) -> Result<Recipe, Failure> {
        let args = super::super::tests::args(line);
        Recipe::new(&args, &Run { prefix: "p".into(), time: Some(1_700_000_000), what: What::Pipe, ..Run::default() })
    }

    #[test]
    fn what_is_made_is_an_event_for_intake() {
        let recipe = recipe("emit --issuer https://a.example --count 9").unwrap();
        let mut types = std::collections::BTreeSet::new();
        for number in 1..200 {
            let text = recipe.event(number);
            let value = parse_json(text.as_bytes(), &JsonLimits::default()).unwrap();
            let event =
                Event::parse(value, &EventLimits::default()).unwrap_or_else(|error| panic!("{error:?}: {text}"));
            types.extend(event.types.iter().map(ToString::to_string));
        }
        assert_eq!(types.len(), TYPES.len());
    }

    #[test]
    fn the_same_number_is_the_same_event() {
        let (one, other) = (recipe("emit --count 9 --dry-run").unwrap(), recipe("emit --count 9 --dry-run").unwrap());
        assert_eq!(one.event(7), other.event(7));
        assert_ne!(one.event(7), one.event(8));
    }

    #[test]
    fn only_known_types_are_made() {
        let one = recipe(&format!("emit --count 9 --dry-run --events {CAEP}session-revoked")).unwrap();
        assert!((1..50).all(|number| one.event(number).contains("session-revoked")));
        assert!(recipe("emit --count 9 --dry-run --events nonsense").is_err());
    }
}
