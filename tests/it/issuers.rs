//! Several issuers in one gateway, with their keys.

use serde_json::Value;
use setgate_jose::{AllowedAlgorithms, Jwks, verify};

use crate::boxed::{Gateway, Plan, event};
use crate::http::{self, request};
use crate::sink::{Arrived, Sink};

fn fetch(gateway: &Gateway, path: &str) -> (Vec<u8>, Value) {
    let answer = http::send(gateway.world, &request("GET", path, &[], b""));
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    (answer.body.clone(), answer.json())
}

fn keys(gateway: &Gateway, path: &str) -> Jwks {
    Jwks::parse(&fetch(gateway, &format!("{path}/jwks.json")).0).unwrap()
}

fn verifies(one: &Arrived, keys: &Jwks) -> bool {
    verify(&one.body, keys, AllowedAlgorithms::default()).is_ok()
}

#[test]
fn two_issuers_share_a_gateway_and_nothing_else() {
    let (left, right) = (Sink::good(), Sink::good());
    let gateway = Plan::new()
        .issuer("/tenants/two")
        .stream_of("", "left", &left.url(), "")
        .stream_of("/tenants/two", "right", &right.url(), "")
        .start();
    let answer = gateway.try_post("", "application/json", event(1, "a").to_string().as_bytes()).unwrap();
    assert_eq!(answer.status, 202, "{}", answer.text());
    // The same id at another issuer names another event.
    let answer = gateway.try_post("/tenants/two", "application/json", event(1, "b").to_string().as_bytes()).unwrap();
    assert_eq!(answer.status, 202, "{}", answer.text());
    let left = left.until_numbers([1]);
    let right = right.until_numbers([1]);
    assert_eq!((left.len(), right.len()), (1, 1));
    assert_eq!(left[0].claims()["iss"], gateway.issuer(""));
    assert_eq!(right[0].claims()["iss"], gateway.issuer("/tenants/two"));
    assert_ne!(left[0].claims()["txn"], right[0].claims()["txn"]);
    let (own, other) = (keys(&gateway, ""), keys(&gateway, "/tenants/two"));
    assert!(verifies(&left[0], &own) && verifies(&right[0], &other));
    assert!(!verifies(&left[0], &other) && !verifies(&right[0], &own), "an issuer's SET verifies with another's keys");
    for path in ["", "/tenants/two"] {
        let (_, metadata) = fetch(&gateway, &format!("/.well-known/ssf-configuration{path}"));
        assert_eq!(metadata["issuer"], gateway.issuer(path));
        assert_eq!(metadata["jwks_uri"], format!("{}/jwks.json", gateway.issuer(path)));
    }
    for path in ["/tenants", "/tenants/two/", "/tenants%2Ftwo", "/tenants//two", "/tenants/./two", "/TENANTS/two"] {
        let answer = gateway.try_post(path, "application/json", event(2, "a").to_string().as_bytes()).unwrap();
        assert!(matches!(answer.status, 400 | 404), "{path} was answered {}", answer.status);
    }
}

#[test]
fn a_producer_works_under_its_own_issuers_only() {
    let gateway = Plan::new().issuer("/two").prepare();
    let text = std::fs::read_to_string(gateway.config()).unwrap();
    let both = format!("issuers = [\"{}\", \"{}\"]", gateway.issuer(""), gateway.issuer("/two"));
    assert!(text.contains(&both), "{text}");
    std::fs::write(gateway.config(), text.replace(&both, &format!("issuers = [\"{}\"]", gateway.issuer("/two"))))
        .unwrap();
    let mut gateway = gateway;
    gateway.start();
    let body = event(1, "a").to_string();
    assert_eq!(gateway.try_post("/two", "application/json", body.as_bytes()).unwrap().status, 202);
    let answer = gateway.try_post("", "application/json", body.as_bytes()).unwrap();
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert!(answer.field("www-authenticate").is_some_and(|value| value.contains("insufficient_scope")), "{answer:?}");
}

#[test]
fn a_set_is_what_the_framework_demands() {
    let sink = Sink::good();
    let gateway = Plan::new().stream("crm", &sink.url()).start();
    let accepted = gateway.accept(&event(1, "a"));
    let all = sink.until_numbers([1]);
    let (one, claims) = (&all[0], all[0].claims());
    // The request has the form of RFC 8935 §2.1.
    assert!(one.line.starts_with("POST / HTTP/1.1"), "{}", one.line);
    assert_eq!(one.field("content-type"), Some("application/secevent+jwt"));
    assert_eq!(one.field("accept"), Some("application/json"));
    // The token has the form of SSF 1.0 §4.1.
    let header: Value = {
        let text = one.body.split(|byte| *byte == b'.').next().unwrap();
        assert!(!text.contains(&b'='), "base64url is not padded");
        serde_json::to_value(setgate_jose::Token::parse(&one.body).unwrap().header().kid.clone()).unwrap()
    };
    assert!(header.as_str().is_some_and(|kid| kid.len() == 43), "kid is no RFC 7638 thumbprint: {header}");
    for absent in ["sub", "exp", "nbf"] {
        assert!(claims.get(absent).is_none(), "{absent} is there");
    }
    assert_eq!(claims["aud"], "https://crm.example");
    assert_eq!(claims["txn"], accepted["txn"]);
    assert_eq!(claims["sub_id"]["id"], "a");
    assert_eq!(claims["events"].as_object().unwrap().len(), 1);
    assert!(claims["iat"].is_u64() && claims["jti"].is_string());
    assert!(verifies(one, &keys(&gateway, "")));
}

#[test]
fn a_revoked_key_is_gone_at_once_and_what_waits_is_signed_with_another() {
    let sink = Sink::good();
    let mut gateway = Plan::new().stream("crm", &sink.url()).start();
    gateway.accept(&event(1, "a"));
    let first = sink.until_numbers([1])[0].kid();
    gateway.command(&["streams", "pause", "crm"]);
    gateway.accept(&event(2, "a"));
    gateway.command(&["keys", "revoke", &first, "--yes"]);
    let (text, _) = fetch(&gateway, "/jwks.json");
    assert!(!String::from_utf8_lossy(&text).contains(&first), "the revoked key is still published");
    gateway.command(&["streams", "resume", "crm"]);
    let all = sink.until_numbers([1, 2]);
    assert_ne!(all[1].kid(), first);
    assert!(verifies(&all[1], &keys(&gateway, "")));
    // A crash does not bring the key back.
    gateway.kill();
    gateway.start();
    assert!(!String::from_utf8_lossy(&fetch(&gateway, "/jwks.json").0).contains(&first));
}

#[test]
fn a_rotation_has_no_gap_for_receivers_that_keep_the_key_set() {
    let sink = Sink::good();
    let mut gateway = Plan::new().stream("crm", &sink.url()).options("[keys]\nmax_age = \"2s\"\n").start();
    gateway.accept(&event(0, "a"));
    let old = sink.until_numbers([0])[0].kid();
    // A new gateway's key is younger than the lifetime of the key set, so the rotation succeeds only once that has
    // passed.
    gateway.until("the rotation is taken", |gateway| gateway.run(&["keys", "rotate", "--json"]).status.success());
    let kept = keys(&gateway, "");
    let published = fetch(&gateway, "/jwks.json").1;
    assert_eq!(published["keys"].as_array().unwrap().len(), 2, "the next key is not published: {published}");
    let mut number = 1;
    let mut signed_by = vec![old.clone()];
    let mut fetched = kept;
    gateway.until("the next key signs", |gateway| {
        let before = keys(gateway, "");
        gateway.accept(&event(number, "a"));
        let all = sink.until_numbers([number]);
        let one = all.iter().find(|one| one.number() == number).unwrap();
        assert!(verifies(one, &fetched), "a receiver that fetched one moment ago cannot verify");
        fetched = before;
        signed_by.push(one.kid());
        number += 1;
        one.kid() != old
    });
    assert!(signed_by.len() > 2, "the new key signed at once");
    let published = fetch(&gateway, "/jwks.json").0;
    assert!(String::from_utf8_lossy(&published).contains(&old), "the retiring key is not published any more");
    assert!(verifies(&sink.arrived()[0], &keys(&gateway, "")), "what waits at a receiver cannot be verified any more");
}
