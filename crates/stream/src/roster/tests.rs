//! Tests of the matching of SSF 1.0 §8.1.3.1, and of rosters.

use serde_json::{Value, json};

use super::*;

fn subject(value: Value) -> Subject {
    Subject::parse(&value).unwrap()
}

fn email(name: &str) -> Value {
    json!({"format": "email", "email": format!("{name}@example.com")})
}

fn aliases(names: &[&str]) -> Value {
    json!({"format": "aliases", "identifiers": names.iter().map(|name| email(name)).collect::<Vec<_>>()})
}

fn complex(members: &[(&str, Value)]) -> Value {
    let members = members.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
    members.chain([("format".to_owned(), json!("complex"))]).collect::<serde_json::Map<_, _>>().into()
}

/// Returns the result of [`matches()`], after checking that a roster gives the same.
#[track_caller]
fn match_of(added: &Value, event: &Value, by_the_letter: bool) -> bool {
    let (added, event) = (subject(added.clone()), subject(event.clone()));
    let expected = matches(&added, &event, by_the_letter);
    let mut roster = Roster::default();
    roster.add(&added);
    assert_eq!(roster.has_added(&event, by_the_letter), expected, "{} {}", added.canonical(), event.canonical());
    expected
}

#[test]
fn matches_as_the_cases_of_the_standard_say() {
    let vectors: Vec<Value> = serde_json::from_str(include_str!("../../../../tests/vectors/ssf.json")).unwrap();
    let cases: Vec<_> =
        vectors.iter().filter(|vector| vector["kind"] == "subject-match").map(|vector| &vector["value"]).collect();
    assert_eq!(cases.len(), 3);
    for case in cases {
        for by_the_letter in [false, true] {
            assert_eq!(match_of(&case["added"], &case["event"], by_the_letter), case["match"], "{case}");
        }
    }
}

#[test]
fn demands_a_member_in_common_unless_told_to_take_the_letter() {
    let (user, device) = (complex(&[("user", email("u"))]), complex(&[("device", email("d"))]));
    assert!(!match_of(&user, &device, false));
    assert!(match_of(&user, &device, true));
}

#[test]
fn complex_subjects_match_when_each_common_member_does() {
    let tenant_and_user = complex(&[("tenant", email("t")), ("user", email("u"))]);
    assert!(match_of(&complex(&[("tenant", email("t"))]), &tenant_and_user, false));
    assert!(match_of(&tenant_and_user, &complex(&[("user", email("u"))]), false));
    assert!(match_of(&tenant_and_user, &complex(&[("user", email("u")), ("device", email("d"))]), false));
    assert!(!match_of(&tenant_and_user, &complex(&[("tenant", email("t")), ("user", email("v"))]), false));
    assert!(!match_of(&tenant_and_user, &complex(&[("tenant", email("t")), ("user", email("v"))]), true));
    assert!(!match_of(&tenant_and_user, &complex(&[("user", email("t"))]), false));
}

#[test]
fn simple_subjects_match_only_when_identical() {
    assert!(match_of(&email("a"), &email("a"), false));
    assert!(!match_of(&email("a"), &email("A"), false));
    assert!(!match_of(&json!({"format": "opaque", "id": "1"}), &json!({"format": "uri", "uri": "x:1"}), true));
}

#[test]
fn aliases_match_when_one_of_their_identifiers_does() {
    assert!(match_of(&email("a"), &aliases(&["b", "a"]), false));
    assert!(match_of(&aliases(&["b", "a"]), &email("a"), false));
    assert!(match_of(&aliases(&["b", "a"]), &aliases(&["a", "c"]), false));
    assert!(!match_of(&aliases(&["b", "a"]), &aliases(&["c", "d"]), true));
    let user = |value| complex(&[("user", value)]);
    assert!(match_of(&user(aliases(&["a", "b"])), &user(email("b")), false));
    assert!(!match_of(&user(aliases(&["a", "b"])), &user(email("c")), true));
}

#[test]
fn a_simple_and_a_complex_subject_never_match() {
    for by_the_letter in [false, true] {
        assert!(!match_of(&email("a"), &complex(&[("user", email("a"))]), by_the_letter));
        assert!(!match_of(&complex(&[("user", email("a"))]), &email("a"), by_the_letter));
    }
}

#[test]
fn no_subject_is_both_added_and_removed() {
    let (mut roster, one) = (Roster::default(), subject(email("a")));
    assert!(roster.add(&one));
    assert!(!roster.add(&one));
    assert!(roster.has_added(&one, false) && !roster.has_removed(&one));
    assert!(roster.remove(&one));
    assert!(!roster.remove(&one));
    assert!(!roster.has_added(&one, false) && roster.has_removed(&one));
    assert!(roster.add(&one));
    assert!(roster.removed().is_empty() && roster.added().contains(&one));
}

#[test]
fn a_removal_never_takes_the_letter() {
    let mut roster = Roster::default();
    roster.remove(&subject(complex(&[("user", email("u"))])));
    assert!(!roster.has_removed(&subject(complex(&[("device", email("d"))]))));
    assert!(roster.has_removed(&subject(complex(&[("device", email("d")), ("user", email("u"))]))));
}

#[test]
fn a_roster_is_two_arrays_of_subjects() {
    let text = r#"{"added":[{"format":"email","email":"b@example.com"},{"email":"a@example.com","format":"email"},{"format":"email","email":"b@example.com"}],"removed":[]}"#;
    let roster: Roster = serde_json::from_str(text).unwrap();
    assert_eq!(roster.added().len(), 2);
    assert_eq!(serde_json::to_value(&roster).unwrap(), json!({"added": [email("a"), email("b")]}));
    assert_eq!(serde_json::from_value::<Roster>(json!({})).unwrap(), Roster::default());
    let wrong = serde_json::from_value::<Roster>(json!({"added": [{"format": "email", "email": "x"}]}));
    assert!(wrong.unwrap_err().to_string().contains("/email: an e-mail address"));
}

#[test]
fn never_shows_a_subject_in_debug_output() {
    let mut roster = Roster::default();
    roster.add(&subject(email("secret")));
    assert_eq!(format!("{roster:?}"), "Roster { added: Subjects(1), removed: Subjects(0) }");
}
