//! The check of received subjects, which is more tolerant than that of a transmitter.

use serde_json::{Map, Value};

/// The members that each known format requires (RFC 9493 §3.2, SSF 1.0 §3.5). The names of older drafts count as
/// unknown formats.
const REQUIRED: &[(&str, &[&str])] = &[
    ("account", &["uri"]),
    ("email", &["email"]),
    ("iss_sub", &["iss", "sub"]),
    ("opaque", &["id"]),
    ("phone_number", &["phone_number"]),
    ("did", &["url"]),
    ("uri", &["uri"]),
    ("jwt_id", &["iss", "jti"]),
    ("saml_assertion_id", &["issuer", "assertion_id"]),
    ("scim", &["uri"]),
];

/// The members of a complex subject that SSF 1.0 §3.3 defines, and that a receiver therefore understands.
const MEMBERS: &[&str] = &["user", "device", "session", "application", "tenant", "org_unit", "group"];

/// Checks that `value` is a subject identifier whose required members are there and non-empty; unknown formats and
/// members pass (SSF 1.0 §3.4, §4.2.3).
pub(crate) fn check(value: &Value) -> Result<(), &'static str> {
    let (format, members) = read(value)?;
    if format != "complex" {
        return simple(format, members);
    }
    let mut parts = members.iter().filter(|(name, _)| *name != "format").peekable();
    if parts.peek().is_none() {
        return Err("a complex subject has no member");
    }
    parts.try_for_each(|(_, part)| match read(part)? {
        ("complex", _) => Err("a complex subject lies in a complex subject"),
        (format, members) => simple(format, members),
    })
}

/// Returns the first critical member of a complex subject that the receiver does not understand (SSF 1.0 §3.6).
pub(crate) fn not_understood<'a>(value: &Value, critical: &'a [String]) -> Option<&'a str> {
    let (format, members) = read(value).ok()?;
    let of_concern = |name: &&String| format == "complex" && members.contains_key(*name);
    critical.iter().filter(of_concern).find(|name| !MEMBERS.contains(&name.as_str())).map(String::as_str)
}

fn read(value: &Value) -> Result<(&str, &Map<String, Value>), &'static str> {
    let members = value.as_object().ok_or("a subject is no object")?;
    match members.get("format").and_then(Value::as_str) {
        Some(format) if !format.is_empty() => Ok((format, members)),
        _ => Err("a subject has no `format`"),
    }
}

fn simple(format: &str, members: &Map<String, Value>) -> Result<(), &'static str> {
    let list = |name: &str| members.get(name).and_then(Value::as_array).filter(|list| !list.is_empty());
    match format {
        "aliases" => {
            list("identifiers").ok_or("`aliases` has no identifiers")?.iter().try_for_each(|one| match read(one)? {
                ("aliases" | "complex", _) => Err("`aliases` holds simple subjects alone"),
                (format, members) => simple(format, members),
            })
        }
        "ip-addresses" => {
            let list = list("ip-addresses").ok_or("`ip-addresses` has no addresses")?;
            if list.iter().all(Value::is_string) { Ok(()) } else { Err("an address is no string") }
        }
        _ => {
            let required = REQUIRED.iter().find(|(name, _)| *name == format).map_or(&[][..], |(_, members)| members);
            let there = |name: &&str| members.get(*name).and_then(Value::as_str).is_some_and(|text| !text.is_empty());
            if required.iter().all(there) {
                Ok(())
            } else {
                Err("a member that the subject's format requires is missing")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn takes_what_the_formats_require_and_more() {
        for good in [
            json!({"format": "email", "email": "a@example.com", "more": 1}),
            json!({"format": "catalog_item", "catalog_id": "c0384"}),
            json!({"format": "aliases", "identifiers": [{"format": "opaque", "id": "1"}]}),
            json!({"format": "ip-addresses", "ip-addresses": ["192.0.2.1"]}),
            json!({"format": "complex", "user": {"format": "opaque", "id": "1"}, "x": {"format": "y"}}),
        ] {
            assert_eq!(check(&good), Ok(()), "{good}");
        }
    }

    #[test]
    fn refuses_what_names_nobody() {
        for bad in [
            json!(null),
            json!("a@example.com"),
            json!({}),
            json!({"format": 1}),
            json!({"format": ""}),
            json!({"format": "email"}),
            json!({"format": "email", "email": ""}),
            json!({"format": "email", "email": null}),
            json!({"format": "iss_sub", "iss": "https://x"}),
            json!({"format": "did", "uri": "did:example:1"}),
            json!({"format": "aliases", "identifiers": []}),
            json!({"format": "aliases", "identifiers": [{"format": "aliases", "identifiers": []}]}),
            json!({"format": "ip-addresses", "ip-addresses": [1]}),
            json!({"format": "complex"}),
            json!({"format": "complex", "user": {"email": "x"}}),
            json!({"format": "complex", "user": {"format": "complex", "user": {"format": "opaque", "id": "1"}}}),
        ] {
            assert!(check(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_critical_member_matters_when_it_is_there_and_unknown() {
        let part = json!({"format": "opaque", "id": "1"});
        let critical = ["tenant".to_owned(), "spaceship".to_owned()];
        let odd = json!({"format": "complex", "tenant": part, "spaceship": part});
        assert_eq!(not_understood(&odd, &critical), Some("spaceship"));
        assert_eq!(not_understood(&odd, &[]), None);
        let plain = json!({"format": "complex", "tenant": part, "other": part});
        assert_eq!(not_understood(&plain, &critical), None);
        assert_eq!(not_understood(&part, &critical), None);
    }
}
