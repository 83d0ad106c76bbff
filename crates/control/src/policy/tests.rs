use serde_json::{Value as Json, json};
use setgate_oauth::{EventsSection, ProducerSection, SubjectsSection, TokenHash};
use setgate_set::EventLimits;
use setgate_store::ProducerNo;

use super::*;

const ISSUER: &str = "https://issuer.example";
const REVOKED: &str = "https://schemas.openid.net/secevent/caep/event-type/session-revoked";
const PURGED: &str = "https://schemas.openid.net/secevent/risc/event-type/account-purged";

fn producer(events: EventsSection, subjects: SubjectsSection) -> Producer {
    let section = ProducerSection {
        name: "app".into(),
        token_hashes: vec![TokenHash::of("t").into()],
        issuers: vec![ISSUER.into()],
        events,
        subjects,
    };
    Producer::new(ProducerNo(1), &section, &[ISSUER]).unwrap()
}

fn rules(iss: &[&str], domains: &[&str], tenants: &[&str]) -> SubjectsSection {
    let list = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
    SubjectsSection::Rules { iss: list(iss), email_domains: list(domains), tenants: list(tenants) }
}

fn event(uri: &str, sub_id: &Json) -> Event {
    Event::parse(json!({ "events": { uri: {} }, "sub_id": sub_id }), &EventLimits::default()).unwrap()
}

fn said(subjects: SubjectsSection, sub_id: Json) -> Result<(), &'static str> {
    let producer = producer(EventsSection::All, subjects);
    permit(&producer, &event(REVOKED, &sub_id)).map_err(|problem| {
        assert_eq!(problem.status, 403);
        assert_eq!(problem.pointer.as_deref(), Some("/sub_id"));
        problem.rule.unwrap()
    })
}

fn iss_sub(iss: &str) -> Json {
    json!({ "format": "iss_sub", "iss": iss, "sub": "1" })
}

fn email(address: &str) -> Json {
    json!({ "format": "email", "email": address })
}

fn opaque(id: &str) -> Json {
    json!({ "format": "opaque", "id": id })
}

#[test]
fn an_event_type_that_is_not_listed_is_refused_by_name() {
    let producer = producer(EventsSection::Exact(vec![REVOKED.into()]), SubjectsSection::Any);
    assert_eq!(permit(&producer, &event(REVOKED, &opaque("1"))), Ok(()));
    let problem = permit(&producer, &event(PURGED, &opaque("1"))).unwrap_err();
    assert_eq!((problem.status.as_u16(), problem.rule), (403, Some("events")));
    let pointer = "/events/https:~1~1schemas.openid.net~1secevent~1risc~1event-type~1account-purged";
    assert_eq!(problem.pointer.as_deref(), Some(pointer));
}

#[test]
fn one_forbidden_type_among_several_is_enough() {
    let producer = producer(EventsSection::Exact(vec![REVOKED.into()]), SubjectsSection::Any);
    let both = json!({ "events": { REVOKED: {}, PURGED: {} }, "sub_id": opaque("1") });
    let both = Event::parse(both, &EventLimits::default()).unwrap();
    assert_eq!(permit(&producer, &both).unwrap_err().rule, Some("events"));
}

#[test]
fn any_subject_is_any_subject() {
    for subject in [iss_sub("https://other.example"), email("a@b.example"), opaque("x")] {
        assert_eq!(said(SubjectsSection::Any, subject), Ok(()));
    }
}

#[test]
fn iss_grants_identifiers_of_that_issuer_and_no_other() {
    let rules = || rules(&["https://idp.example"], &[], &[]);
    assert_eq!(said(rules(), iss_sub("https://idp.example")), Ok(()));
    assert_eq!(said(rules(), json!({ "format": "jwt_id", "iss": "https://idp.example", "jti": "1" })), Ok(()));
    let saml = |issuer: &str| json!({ "format": "saml_assertion_id", "issuer": issuer, "assertion_id": "1" });
    assert_eq!(said(rules(), saml("https://idp.example")), Ok(()));
    assert_eq!(said(rules(), saml("https://other.example")), Err("subjects.iss"));
    for near in ["https://idp.example/", "https://IDP.example", "https://idp.example.evil.example"] {
        assert_eq!(said(rules(), iss_sub(near)), Err("subjects.iss"), "{near}");
    }
    for silent in [email("a@idp.example"), opaque("1"), json!({ "format": "uri", "uri": "https://idp.example/1" })] {
        assert_eq!(said(rules(), silent), Err("subjects"));
    }
}

#[test]
fn domains_grant_addresses_of_exactly_that_domain() {
    let rules = || rules(&[], &["Example.com"], &[]);
    for good in ["ann@example.com", "ann@EXAMPLE.COM", "\"a@b\"@example.com"] {
        assert_eq!(said(rules(), email(good)), Ok(()), "{good}");
    }
    for near in
        ["ann@sub.example.com", "ann@example.com.evil.example", "example.com@evil.example", "ann@notexample.com"]
    {
        assert_eq!(said(rules(), email(near)), Err("subjects.email_domains"), "{near}");
    }
}

#[test]
fn every_alias_must_be_granted() {
    let rules = || rules(&["https://idp.example"], &["example.com"], &[]);
    let aliases = |list: Vec<Json>| json!({ "format": "aliases", "identifiers": list });
    assert_eq!(said(rules(), aliases(vec![iss_sub("https://idp.example"), email("a@example.com")])), Ok(()));
    let foreign = aliases(vec![iss_sub("https://idp.example"), email("victim@other.example")]);
    assert_eq!(said(rules(), foreign), Err("subjects.email_domains"));
    let silent = aliases(vec![iss_sub("https://idp.example"), opaque("victim")]);
    assert_eq!(said(rules(), silent), Err("subjects"));
}

#[test]
fn a_tenants_members_are_granted_by_the_tenant_unless_a_rule_refuses_them() {
    let by_tenant = || rules(&[], &[], &["acme"]);
    let of = |tenant: Json, user: Json| json!({ "format": "complex", "tenant": tenant, "user": user });
    assert_eq!(said(by_tenant(), of(opaque("acme"), email("ann@anywhere.example"))), Ok(()));
    assert_eq!(said(by_tenant(), of(opaque("other"), email("ann@anywhere.example"))), Err("subjects.tenants"));
    assert_eq!(said(by_tenant(), opaque("acme")), Err("subjects"), "a subject is no tenant because it looks like one");
    assert_eq!(said(by_tenant(), json!({ "format": "complex", "user": opaque("acme") })), Err("subjects"));
    let narrower = rules(&[], &["acme.example"], &["acme"]);
    assert_eq!(said(narrower, of(opaque("acme"), email("victim@other.example"))), Err("subjects.email_domains"));
}

#[test]
fn a_granted_member_does_not_carry_a_foreign_one() {
    let rules = || rules(&["https://idp.example"], &[], &[]);
    let mine = || iss_sub("https://idp.example");
    let complex = |members: &[(&str, Json)]| {
        let mut all = json!({ "format": "complex" });
        members.iter().for_each(|(name, value)| all[*name] = value.clone());
        all
    };
    assert_eq!(said(rules(), complex(&[("user", mine()), ("session", opaque("s"))])), Ok(()));
    assert_eq!(said(rules(), complex(&[("user", mine()), ("device", opaque("d")), ("session", mine())])), Ok(()));
    for (attack, rule) in [
        (complex(&[("session", mine()), ("user", opaque("victim"))]), "subjects"),
        (complex(&[("session", mine()), ("user", email("victim@other.example"))]), "subjects"),
        (complex(&[("user", mine()), ("session", email("victim@other.example"))]), "subjects"),
        (complex(&[("user", mine()), ("group", opaque("victims"))]), "subjects"),
        (complex(&[("user", mine()), ("tenant", opaque("victims"))]), "subjects.tenants"),
        (complex(&[("user", mine()), ("application", iss_sub("https://other.example"))]), "subjects.iss"),
        (complex(&[("session", opaque("s")), ("device", opaque("d"))]), "subjects"),
    ] {
        assert_eq!(said(rules(), attack.clone()), Err(rule), "{attack}");
    }
}

#[test]
fn the_refusal_does_not_quote_the_subject() {
    let producer = producer(EventsSection::All, rules(&["https://idp.example"], &[], &[]));
    let problem = permit(&producer, &event(REVOKED, &email("canary@secret.example"))).unwrap_err();
    assert!(!format!("{problem:?}").contains("canary"), "{problem:?}");
}
