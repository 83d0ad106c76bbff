use std::time::Duration;

use http::{HeaderValue, header::AUTHORIZATION};
use setgate_clock::manual::{ManualClock, SeededRandom};
use setgate_store::ProducerNo;

use super::*;
use crate::{
    EventsSection, Minted, ReceiverSection, StreamsSection, SubjectsSection, TokenHash, TokenHashSection, mint,
};

const ISSUERS: &[&str] = &["https://a.example", "https://b.example"];

struct Fixture {
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

fn fixture() -> Fixture {
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
    Fixture { guard: Guard::new(producers, clock.clone()), clock, old, new, other }
}

fn bearer(token: &str) -> HeaderMap {
    HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}")).unwrap())])
}

#[test]
fn each_token_is_its_producers_and_works_at_its_issuers_only() {
    let fixture = fixture();
    for (token, name, home, foreign) in
        [(&fixture.old, "first", 0, 1), (&fixture.new, "first", 0, 1), (&fixture.other, "second", 1, 0)]
    {
        let headers = bearer(token.token.expose());
        assert_eq!(&*fixture.guard.producer(&headers, None, ISSUERS[home]).unwrap().name, name);
        let denied = fixture.guard.producer(&headers, None, ISSUERS[foreign]).unwrap_err();
        assert_eq!(denied.code(), Some("insufficient_scope"), "{name}");
    }
}

#[test]
fn a_token_ends_at_its_expiry_and_its_successor_does_not() {
    let fixture = fixture();
    fixture.clock.advance(Duration::from_millis(4_999));
    assert!(fixture.guard.producer(&bearer(fixture.old.token.expose()), None, ISSUERS[0]).is_ok());
    fixture.clock.advance(Duration::from_millis(1));
    let denied = fixture.guard.producer(&bearer(fixture.old.token.expose()), None, ISSUERS[0]).unwrap_err();
    assert_eq!(denied, Denied::Invalid);
    assert!(fixture.guard.producer(&bearer(fixture.new.token.expose()), None, ISSUERS[0]).is_ok());
}

#[test]
fn refuses_tokens_it_does_not_know_and_tokens_of_other_kinds() {
    let fixture = fixture();
    let random = SeededRandom::new(8);
    let unknown = mint(TokenKind::Producer, &*random);
    let admin = mint(TokenKind::Admin, &*random);
    let as_admin = fixture.new.token.expose().replace("sgp_", "sga_");
    // RFC 8417 §4.2: a SET is never a bearer token.
    let set = "eyJ0eXAiOiJzZWNldmVudCtqd3QiLCJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJodHRwczovL2EuZXhhbXBsZSJ9.c2ln";
    for token in [unknown.token.expose(), admin.token.expose(), as_admin.as_str(), set, "x"] {
        let denied = fixture.guard.producer(&bearer(token), None, ISSUERS[0]).unwrap_err();
        assert_eq!(denied, Denied::Invalid, "{token}");
    }
    let nobody = fixture.guard.producer(&HeaderMap::new(), None, ISSUERS[0]).unwrap_err();
    assert_eq!(nobody, Denied::Missing);
}

#[test]
fn the_hash_itself_is_no_token() {
    let fixture = fixture();
    let hash = fixture.new.hash.to_string();
    assert!(fixture.guard.producer(&bearer(hash.trim_start_matches("sha256:")), None, ISSUERS[0]).is_err());
}

#[test]
fn debug_shows_no_token_and_no_hash() {
    let fixture = fixture();
    let shown = format!("{:?} {:?}", fixture.guard, fixture.guard.producers());
    let hash = fixture.new.hash.to_string();
    assert!(
        !shown.contains(fixture.new.token.expose()) && !shown.contains(hash.trim_start_matches("sha256:")),
        "{shown}"
    );
}

/// Adds a receiver of the first issuer, with a token that expires and one that does not.
fn with_receiver(fixture: Fixture) -> (Fixture, Minted, Minted) {
    let random = SeededRandom::new(9);
    let [ends, stays] = [(); 2].map(|()| mint(TokenKind::Receiver, &*random));
    let expires = Some(jiff::Timestamp::from_millisecond(1_005_000).unwrap());
    let section = ReceiverSection {
        name: "crm".into(),
        token_hashes: vec![TokenHashSection { hash: ends.hash, expires }, stays.hash.into()],
        issuers: vec![ISSUERS[0].into()],
        streams: StreamsSection::Exact(vec!["crm".into()]),
    };
    let guard = fixture.guard.with_receivers(Receiver::all(&[section], ISSUERS).unwrap());
    (Fixture { guard, ..fixture }, ends, stays)
}

#[test]
fn a_receiver_is_known_with_the_end_of_its_credential() {
    let (fixture, ends, stays) = with_receiver(fixture());
    let admitted = fixture.guard.receiver(&bearer(ends.token.expose()), None, ISSUERS[0]).unwrap();
    assert_eq!((&*admitted.receiver.name, admitted.until_millis), ("crm", Some(1_005_000)));
    assert_eq!(fixture.guard.receiver(&bearer(stays.token.expose()), None, ISSUERS[0]).unwrap().until_millis, None);
    fixture.clock.advance(Duration::from_millis(5_000));
    assert_eq!(fixture.guard.receiver(&bearer(ends.token.expose()), None, ISSUERS[0]).unwrap_err(), Denied::Invalid);
    assert!(fixture.guard.receiver(&bearer(stays.token.expose()), None, ISSUERS[0]).is_ok());
    let foreign = fixture.guard.receiver(&bearer(stays.token.expose()), None, ISSUERS[1]).unwrap_err();
    assert_eq!(foreign.challenge().split("scope=").last(), Some("\"ssf.read\""));
}

#[test]
fn a_token_of_one_kind_never_opens_the_other_listener() {
    let (fixture, _, receiver) = with_receiver(fixture());
    let both_ways = [(&fixture.new, "sgp_", "sgr_"), (&receiver, "sgr_", "sgp_")];
    for (minted, own, other) in both_ways {
        let disguised = minted.token.expose().replace(own, other);
        let wrong_at_sessions = if own == "sgp_" { minted.token.expose() } else { &disguised };
        let wrong_at_intake = if own == "sgp_" { &disguised } else { minted.token.expose() };
        assert_eq!(fixture.guard.receiver(&bearer(wrong_at_sessions), None, ISSUERS[0]).unwrap_err(), Denied::Invalid);
        assert_eq!(fixture.guard.producer(&bearer(wrong_at_intake), None, ISSUERS[0]).unwrap_err(), Denied::Invalid);
    }
    // RFC 8417 §4.2, hardening H41: a SET is never a bearer token.
    let set = "eyJ0eXAiOiJzZWNldmVudCtqd3QiLCJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJodHRwczovL2EuZXhhbXBsZSJ9.c2ln";
    assert_eq!(fixture.guard.receiver(&bearer(set), None, ISSUERS[0]).unwrap_err(), Denied::Invalid);
}

#[test]
fn a_hash_that_stands_in_both_lists_opens_only_the_listener_of_its_prefix() {
    let fixture = fixture();
    let hash = TokenHash::of(fixture.new.token.expose());
    let section = ReceiverSection {
        name: "crm".into(),
        token_hashes: vec![hash.into()],
        issuers: vec![ISSUERS[0].into()],
        streams: StreamsSection::All,
    };
    let guard = fixture.guard.with_receivers(Receiver::all(&[section], ISSUERS).unwrap());
    assert!(guard.receiver(&bearer(fixture.new.token.expose()), None, ISSUERS[0]).is_err());
    assert!(guard.producer(&bearer(fixture.new.token.expose()), None, ISSUERS[0]).is_ok());
}
