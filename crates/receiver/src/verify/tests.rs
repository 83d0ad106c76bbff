use serde_json::json;
use setgate_jose::Algorithm;

use super::*;
use crate::testing::{AUDIENCE, NOW, Transmitter};

fn code(result: Result<Taken, NotTaken>) -> ErrorCode {
    match result {
        Err(NotTaken::Refused(refusal)) => {
            assert!(refusal.description.is_some(), "every refusal says why");
            refusal.code
        }
        other => panic!("{other:?}"),
    }
}

fn with(mut claims: Value, name: &str, value: Value) -> Value {
    claims[name] = value;
    claims
}

fn without(mut claims: Value, name: &str) -> Value {
    claims.as_object_mut().unwrap().remove(name);
    claims
}

#[tokio::test]
async fn takes_a_good_set_of_every_algorithm() {
    let transmitter = Transmitter::start().await;
    let verify = transmitter.verify(&[AUDIENCE]);
    for algorithm in Algorithm::ALL {
        let claims = transmitter.claims("1");
        let token = transmitter.sign_with(algorithm, claims.to_string().as_bytes());
        let taken = verify.check(&token).await.unwrap();
        assert_eq!((taken.jti.as_str(), taken.iss.as_str()), ("1", transmitter.issuer.as_str()));
        assert_eq!(taken.algorithm, algorithm);
        assert_eq!(taken.txn.as_deref(), Some("t1"));
        assert_eq!(Value::Object(taken.claims), claims);
        assert_eq!(taken.discard, None);
    }
}

#[tokio::test]
async fn every_fault_of_a_signed_set_has_its_code() {
    // The cases cover steps 4 and 7 to 10 of the README.
    let transmitter = Transmitter::start().await;
    let verify = transmitter.verify(&[AUDIENCE]);
    let good = transmitter.claims("1");
    let event = "https://schemas.openid.net/secevent/caep/event-type/session-revoked";
    let cases = [
        ("another issuer", with(good.clone(), "iss", "https://other.example.com".into()), ErrorCode::InvalidIssuer),
        (
            "the issuer with a slash",
            with(good.clone(), "iss", format!("{}/", transmitter.issuer).into()),
            ErrorCode::InvalidIssuer,
        ),
        ("no issuer", without(good.clone(), "iss"), ErrorCode::InvalidRequest),
        ("an issuer that is a number", with(good.clone(), "iss", json!(1)), ErrorCode::InvalidRequest),
        ("no audience", without(good.clone(), "aud"), ErrorCode::InvalidAudience),
        ("another audience", with(good.clone(), "aud", "https://other.example.com".into()), ErrorCode::InvalidAudience),
        (
            "an audience in other case",
            with(good.clone(), "aud", AUDIENCE.to_uppercase().into()),
            ErrorCode::InvalidAudience,
        ),
        ("other audiences", with(good.clone(), "aud", json!(["a", "b"])), ErrorCode::InvalidAudience),
        ("an empty list of audiences", with(good.clone(), "aud", json!([])), ErrorCode::InvalidRequest),
        ("an audience that is no text", with(good.clone(), "aud", json!({})), ErrorCode::InvalidRequest),
        ("audiences that are no texts", with(good.clone(), "aud", json!([AUDIENCE, 1])), ErrorCode::InvalidRequest),
        ("no jti", without(good.clone(), "jti"), ErrorCode::InvalidRequest),
        ("an empty jti", with(good.clone(), "jti", "".into()), ErrorCode::InvalidRequest),
        ("a jti that is a number", with(good.clone(), "jti", json!(1)), ErrorCode::InvalidRequest),
        ("an endless jti", with(good.clone(), "jti", "x".repeat(1025).into()), ErrorCode::InvalidRequest),
        ("no iat", without(good.clone(), "iat"), ErrorCode::InvalidRequest),
        ("an iat that is a text", with(good.clone(), "iat", "1800000000".into()), ErrorCode::InvalidRequest),
        ("an iat in the future", with(good.clone(), "iat", json!(NOW + 61)), ErrorCode::InvalidRequest),
        ("an iat in milliseconds", with(good.clone(), "iat", json!(NOW * 1000)), ErrorCode::InvalidRequest),
        ("an iat before the epoch", with(good.clone(), "iat", json!(-1)), ErrorCode::InvalidRequest),
        ("exp", with(good.clone(), "exp", json!(NOW + 60)), ErrorCode::InvalidRequest),
        ("exp null", with(good.clone(), "exp", json!(null)), ErrorCode::InvalidRequest),
        ("sub", with(good.clone(), "sub", "jane".into()), ErrorCode::InvalidRequest),
        ("a toe that is a text", with(good.clone(), "toe", "now".into()), ErrorCode::InvalidRequest),
        ("a txn that is an object", with(good.clone(), "txn", json!({})), ErrorCode::InvalidRequest),
        ("no events", without(good.clone(), "events"), ErrorCode::InvalidRequest),
        ("empty events", with(good.clone(), "events", json!({})), ErrorCode::InvalidRequest),
        ("events that are a list", with(good.clone(), "events", json!([event])), ErrorCode::InvalidRequest),
        ("a payload that is null", with(good.clone(), "events", json!({event: null})), ErrorCode::InvalidRequest),
        ("a payload that is a list", with(good.clone(), "events", json!({event: []})), ErrorCode::InvalidRequest),
        (
            "a payload against its definition",
            with(good.clone(), "events", json!({event: {"initiating_entity": "nobody"}})),
            ErrorCode::InvalidRequest,
        ),
        ("no subject", without(good.clone(), "sub_id"), ErrorCode::InvalidRequest),
        ("a subject without a format", with(good.clone(), "sub_id", json!({"email": "x"})), ErrorCode::InvalidRequest),
        ("no claims", json!({}), ErrorCode::InvalidRequest),
        ("a list", json!([]), ErrorCode::InvalidRequest),
    ];
    for (name, claims, expected) in cases {
        assert_eq!(code(verify.check(&transmitter.sign(&claims)).await), expected, "{name}");
    }
    assert!(verify.check(&transmitter.sign(&good)).await.is_ok());
}

#[tokio::test]
async fn what_is_unusual_and_allowed_is_taken() {
    let transmitter = Transmitter::start().await;
    let verify = transmitter.verify(&[AUDIENCE, "https://other.example.com"]);
    let good = transmitter.claims("1");
    for (name, claims) in [
        ("one of several audiences", with(good.clone(), "aud", json!(["x", AUDIENCE]))),
        ("our other audience", with(good.clone(), "aud", "https://other.example.com".into())),
        ("an iat with a fraction, within the skew", with(good.clone(), "iat", json!(NOW as f64 + 59.5))),
        ("an old iat", with(good.clone(), "iat", json!(0))),
        ("no txn", without(good.clone(), "txn")),
        ("an unknown event type", with(good.clone(), "events", json!({"urn:example:own": {"state": 1}}))),
        ("two event types", with(good.clone(), "events", json!({"urn:example:a": {}, "urn:example:b": {}}))),
        ("an unknown subject format", with(good.clone(), "sub_id", json!({"format": "catalog_item", "id": "1"}))),
        ("unknown claims", with(good.clone(), "nonce", json!({"a": [1]}))),
    ] {
        let taken = verify.check(&transmitter.sign(&claims)).await;
        assert!(taken.is_ok(), "{name}: {taken:?}");
    }
    // Older drafts print `txn` as a number.
    let taken = verify.check(&transmitter.sign(&with(good.clone(), "txn", json!(8675309)))).await.unwrap();
    assert_eq!(taken.txn.as_deref(), Some("8675309"));
    let any = transmitter.verify(&[]);
    assert!(any.check(&transmitter.sign(&with(good, "aud", "anybody".into()))).await.is_ok(), "no list: any audience");
}

#[tokio::test]
async fn a_token_that_cannot_be_believed_has_its_code() {
    // The cases cover steps 1 to 3, 5 and 6 of the README.
    let transmitter = Transmitter::start().await;
    let verify = transmitter.verify(&[AUDIENCE]);
    let good = String::from_utf8(transmitter.sign(&transmitter.claims("1"))).unwrap();
    let [header, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!("three parts") };
    // {"alg":"none","typ":"secevent+jwt"} and {"alg":"EdDSA","typ":"JWT"}
    let none = "eyJhbGciOiJub25lIiwidHlwIjoic2VjZXZlbnQrand0In0";
    let plain_jwt = "eyJhbGciOiJFZERTQSIsInR5cCI6IkpXVCJ9";
    let other = String::from_utf8(transmitter.sign(&transmitter.claims("2"))).unwrap();
    let other_signature = other.rsplit('.').next().unwrap();
    for (name, token, expected) in [
        ("nothing", String::new(), ErrorCode::InvalidRequest),
        ("JSON", transmitter.claims("1").to_string(), ErrorCode::InvalidRequest),
        ("five parts", "a.b.c.d.e".into(), ErrorCode::InvalidKey),
        ("no signature", format!("{none}.{payload}."), ErrorCode::InvalidKey),
        ("another type", format!("{plain_jwt}.{payload}.{signature}"), ErrorCode::InvalidRequest),
        ("another token's signature", format!("{header}.{payload}.{other_signature}"), ErrorCode::InvalidKey),
        ("an empty signature", format!("{header}.{payload}."), ErrorCode::InvalidKey),
    ] {
        assert_eq!(code(verify.check(token.as_bytes()).await), expected, "{name}");
    }
}

#[tokio::test]
async fn claims_are_i_json() {
    // A member that occurs twice is refused (RFC 7493 §2.3), although many libraries keep the last one.
    let transmitter = Transmitter::start().await;
    let verify = transmitter.verify(&[AUDIENCE]);
    let good = transmitter.claims("1").to_string();
    for payload in [
        good.replacen("{\"", "{\"iss\":\"https://other.example.com\",\"", 1),
        good.replace("\"events\":{", "\"events\":{\"urn:a\":{},\"urn:a\":{},"),
        good.replace("jane@", "jane\\ud800@"),
        good.replace("\"t1\"", "1e400"),
        format!("{good}x"),
        format!("\u{feff}{good}"),
    ] {
        assert_ne!(payload, good);
        let token = transmitter.sign_with(Algorithm::EdDSA, payload.as_bytes());
        assert_eq!(code(verify.check(&token).await), ErrorCode::InvalidRequest, "{payload}");
    }
    let mut bytes = good.into_bytes();
    let at = bytes.iter().position(|byte| *byte == b'@').unwrap();
    bytes[at] = 0xff;
    assert_eq!(code(verify.check(&transmitter.sign_with(Algorithm::EdDSA, &bytes)).await), ErrorCode::InvalidRequest);
}

#[tokio::test]
async fn a_rotated_key_is_fetched_and_a_revoked_one_is_not_believed() {
    let transmitter = Transmitter::start().await;
    let verify = transmitter.verify(&[AUDIENCE]);
    let claims = transmitter.claims("1");
    let old = transmitter.sign(&claims);
    assert!(verify.check(&old).await.is_ok());
    let ring = transmitter.keyring.ring();
    let kid = ring.signer(Algorithm::EdDSA).unwrap().kid().to_owned();
    transmitter.keyring.install(ring.revoke(&kid, setgate_jose::Moment::default()).unwrap());
    let new = transmitter.sign(&claims);
    // Within a minute of the last fetch, the key set is not fetched again (hardening H42).
    assert_eq!(code(verify.check(&new).await), ErrorCode::InvalidKey);
    transmitter.clock.pass(60);
    assert!(verify.check(&new).await.is_ok());
    assert_eq!(code(verify.check(&old).await), ErrorCode::InvalidKey);
}

#[tokio::test]
async fn without_metadata_or_keys_a_set_is_put_off_and_not_refused() {
    let transmitter = Transmitter::start_unknown().await;
    let verify = transmitter.verify(&[AUDIENCE]);
    let token = transmitter.sign(&transmitter.claims("1"));
    assert!(matches!(verify.check(&token).await, Err(NotTaken::NotNow { .. })));
    let stranger = with(transmitter.claims("1"), "iss", "https://other.example.com".into());
    assert_eq!(code(verify.check(&transmitter.sign(&stranger)).await), ErrorCode::InvalidIssuer);
    transmitter.trust.learn(&transmitter.issuer).await.unwrap();
    assert!(verify.check(&token).await.is_ok());
}

#[tokio::test]
async fn a_transmitter_that_is_down_loses_nothing_that_was_learned() {
    let transmitter = Transmitter::start().await;
    let verify = transmitter.verify(&[AUDIENCE]);
    transmitter.end();
    transmitter.clock.pass(24 * 3600);
    assert!(transmitter.trust.learn(&transmitter.issuer).await.is_err());
    assert!(verify.check(&transmitter.sign(&transmitter.claims("1"))).await.is_ok(), "the last good keys");
}

#[tokio::test]
async fn a_subject_with_an_unknown_critical_member_is_discarded_and_not_refused() {
    // A SET with a critical subject member that is not understood is acknowledged and discarded (SSF 1.0 §3.6).
    let listener = setgate_net::Listener::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let transmitter = Transmitter::behind(listener, &["user", "spaceship"]).await;
    transmitter.trust.learn(&transmitter.issuer).await.unwrap();
    let verify = transmitter.verify(&[AUDIENCE]);
    let part = json!({"format": "opaque", "id": "1"});
    for (member, discard) in [("user", None), ("spaceship", Some("spaceship")), ("uncritical", None)] {
        let claims = with(transmitter.claims("1"), "sub_id", json!({"format": "complex", member: part}));
        let taken = verify.check(&transmitter.sign(&claims)).await.unwrap();
        assert_eq!(taken.discard.as_deref(), discard);
    }
}

#[tokio::test]
async fn every_example_of_ssf_caep_and_risc_is_acceptable_when_it_is_signed() {
    let transmitter = Transmitter::start().await;
    let verify = transmitter.verify(&[]);
    let files = [
        include_str!("../../../../tests/vectors/caep.json"),
        include_str!("../../../../tests/vectors/risc.json"),
        include_str!("../../../../tests/vectors/ssf.json"),
    ];
    let mut seen = 0;
    for file in files {
        for vector in serde_json::from_str::<Vec<Value>>(file).unwrap() {
            if vector["kind"] != "set-claims" || vector["value"]["iat"].as_u64().is_some_and(|iat| iat > NOW) {
                continue;
            }
            let claims = with(vector["value"].clone(), "iss", transmitter.issuer.as_str().into());
            let taken = verify.check(&transmitter.sign(&claims)).await;
            assert!(taken.is_ok(), "{}: {taken:?}", vector["name"]);
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen} examples");
}
