use std::time::Duration;

use clock::manual::{ManualClock, SeededRandom};
use http::{HeaderValue, header::AUTHORIZATION};
use store::ProducerNo;

use super::*;
use crate::{EventsSection, Minted, SubjectsSection, TokenHashSection, mint};

const ISSUERS: &[&str] = &["https://a.example", "https://b.example"];

struct Rig {
    guard: Guard,
    clock: Arc<ManualClock>,
    old: Minted,
    new: Minted,
    other: Minted,
}

fn section(name: &str, token_hashes: Vec<TokenHashSection>, issuer: &str) -> ProducerSection {
    ProducerSection {
        name: name.into(),
        token_hashes,
        issuers: vec![issuer.into()],
        events: EventsSection::All,
        subjects: SubjectsSection::Any,
    }
}

fn rig() -> Rig {
    let clock = ManualClock::at(1_000_000);
    let random = SeededRandom::new(7);
    let [old, new, other] = [(); 3].map(|()| mint(TokenKind::Producer, &*random));
    let expires = Some(jiff::Timestamp::from_millisecond(1_005_000).unwrap());
    let first = section("first", vec![TokenHashSection { hash: old.hash, expires }, new.hash.into()], ISSUERS[0]);
    let second = section("second", vec![other.hash.into()], ISSUERS[1]);
    let producers = [first, second]
        .iter()
        .zip(1..)
        .map(|(section, no)| Arc::new(Producer::new(ProducerNo(no), section, ISSUERS).unwrap()))
        .collect();
    Rig { guard: Guard::new(producers, clock.clone()), clock, old, new, other }
}

fn bearer(token: &str) -> HeaderMap {
    HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}")).unwrap())])
}

#[test]
fn each_token_is_its_producers_and_works_at_its_issuers_only() {
    let rig = rig();
    for (token, name, home, foreign) in
        [(&rig.old, "first", 0, 1), (&rig.new, "first", 0, 1), (&rig.other, "second", 1, 0)]
    {
        let headers = bearer(token.token.expose());
        assert_eq!(&*rig.guard.producer(&headers, None, ISSUERS[home]).unwrap().name, name);
        let denied = rig.guard.producer(&headers, None, ISSUERS[foreign]).unwrap_err();
        assert_eq!(denied.code(), Some("insufficient_scope"), "{name}");
    }
}

#[test]
fn a_token_ends_at_its_expiry_and_its_successor_does_not() {
    let rig = rig();
    rig.clock.advance(Duration::from_millis(4_999));
    assert!(rig.guard.producer(&bearer(rig.old.token.expose()), None, ISSUERS[0]).is_ok());
    rig.clock.advance(Duration::from_millis(1));
    let denied = rig.guard.producer(&bearer(rig.old.token.expose()), None, ISSUERS[0]).unwrap_err();
    assert_eq!(denied, Denied::Invalid);
    assert!(rig.guard.producer(&bearer(rig.new.token.expose()), None, ISSUERS[0]).is_ok());
}

#[test]
fn refuses_tokens_it_does_not_know_and_tokens_of_other_kinds() {
    let rig = rig();
    let random = SeededRandom::new(8);
    let unknown = mint(TokenKind::Producer, &*random);
    let admin = mint(TokenKind::Admin, &*random);
    let as_admin = rig.new.token.expose().replace("sgp_", "sga_");
    // RFC 8417 §4.2: a SET is never a bearer token.
    let set = "eyJ0eXAiOiJzZWNldmVudCtqd3QiLCJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJodHRwczovL2EuZXhhbXBsZSJ9.c2ln";
    for token in [unknown.token.expose(), admin.token.expose(), as_admin.as_str(), set, "x"] {
        let denied = rig.guard.producer(&bearer(token), None, ISSUERS[0]).unwrap_err();
        assert_eq!(denied, Denied::Invalid, "{token}");
    }
    let nobody = rig.guard.producer(&HeaderMap::new(), None, ISSUERS[0]).unwrap_err();
    assert_eq!(nobody, Denied::Missing);
}

#[test]
fn the_hash_itself_is_no_token() {
    let rig = rig();
    let hash = rig.new.hash.to_string();
    assert!(rig.guard.producer(&bearer(hash.trim_start_matches("sha256:")), None, ISSUERS[0]).is_err());
}

#[test]
fn debug_shows_no_token_and_no_hash() {
    let rig = rig();
    let shown = format!("{:?} {:?}", rig.guard, rig.guard.producers());
    let hash = rig.new.hash.to_string();
    assert!(!shown.contains(rig.new.token.expose()) && !shown.contains(hash.trim_start_matches("sha256:")), "{shown}");
}
