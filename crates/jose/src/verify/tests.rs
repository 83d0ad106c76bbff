use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{IgnoredKey, JwksError, Key, RsaBits};

const RFC7515_A2_N: &str = concat!(
    "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMs",
    "D1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdV",
    "MTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
);

/// Signs `header` and `payload` as they are, with the given key.
fn forge(key: &Key, header: &serde_json::Value, payload: &str) -> String {
    forge_text(key, &header.to_string(), payload)
}

fn forge_text(key: &Key, header: &str, payload: &str) -> String {
    let input = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(key.signer().signature_of(input.as_bytes())))
}

fn key() -> Key {
    Key::generate(Algorithm::EdDSA, RsaBits::default()).unwrap()
}

fn set_of(keys: &[serde_json::Value]) -> Jwks {
    Jwks::parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap()
}

fn jwk(key: &Key) -> serde_json::Value {
    serde_json::from_str(&key.public_jwk()).unwrap()
}

fn with(mut value: serde_json::Value, name: &str, member: serde_json::Value) -> serde_json::Value {
    value[name] = member;
    value
}

/// Checks the signature of an example of an RFC, whose header is not that of a SET.
fn example_verifies(jwk: serde_json::Value, algorithm: Algorithm, token: &str) -> bool {
    let keys = set_of(&[jwk]);
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let Found::Key(key) = keys.find(None, algorithm) else { panic!("the key is not usable: {:?}", keys.ignored()) };
    key.verify_sig(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap()).is_ok()
}

#[test]
fn verifies_the_examples_of_rfc_7515_and_rfc_8037() {
    let payload = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    // RFC 7515, A.2.
    let rs256 = format!(
        "eyJhbGciOiJSUzI1NiJ9.{payload}.{}",
        concat!(
            "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t",
            "1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12j",
            "zDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQ",
            "Ge77Rw",
        )
    );
    let rsa = json!({"kty": "RSA", "n": RFC7515_A2_N, "e": "AQAB"});
    assert!(example_verifies(rsa.clone(), Algorithm::Rs256, &rs256));
    assert!(!example_verifies(rsa, Algorithm::Ps256, &rs256), "the other padding");
    // RFC 7515, A.3.
    let ec = json!({
        "kty": "EC", "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    });
    let es256 = format!(
        "eyJhbGciOiJFUzI1NiJ9.{payload}.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
    );
    assert!(example_verifies(ec, Algorithm::Es256, &es256));
    // RFC 8037, A.4.
    let okp = json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
    let eddsa = concat!(
        "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.",
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
    );
    assert!(example_verifies(okp, Algorithm::EdDSA, eddsa));
}

#[test]
fn the_type_must_be_that_of_a_set() {
    let key = key();
    let keys = set_of(&[jwk(&key)]);
    let base = json!({"alg": "EdDSA", "kid": key.kid()});
    for typ in ["secevent+jwt", "SECEVENT+JWT", "application/secevent+jwt", "Application/SecEvent+JWT"] {
        let token = forge(&key, &with(base.clone(), "typ", typ.into()), "{}");
        assert!(verify(token.as_bytes(), &keys, AllowedAlgorithms::ALL).is_ok(), "{typ}");
    }
    for typ in
        [json!("JWT"), json!("at+jwt"), json!("secevent"), json!(" secevent+jwt"), json!("x/secevent+jwt"), json!("")]
    {
        let token = forge(&key, &with(base.clone(), "typ", typ.clone()), "{}");
        assert_eq!(verify(token.as_bytes(), &keys, AllowedAlgorithms::ALL), Err(VerifyError::WrongType), "{typ}");
    }
    let token = forge(&key, &base, "{}");
    assert_eq!(verify(token.as_bytes(), &keys, AllowedAlgorithms::ALL), Err(VerifyError::WrongType), "no typ");
}

#[test]
fn no_extension_is_understood() {
    let key = key();
    let keys = set_of(&[jwk(&key)]);
    for crit in [json!(["b64"]), json!([]), json!(null), json!(["exp"])] {
        let header = json!({"alg": "EdDSA", "kid": key.kid(), "typ": "secevent+jwt", "crit": crit});
        let token = forge(&key, &header, "{}");
        assert_eq!(verify(token.as_bytes(), &keys, AllowedAlgorithms::ALL), Err(VerifyError::Critical));
    }
}

#[test]
fn keys_in_the_header_are_never_looked_at() {
    let (trusted, attacker) = (key(), key());
    let keys = set_of(&[jwk(&trusted)]);
    let header = json!({
        "alg": "EdDSA", "typ": "secevent+jwt", "kid": attacker.kid(), "jwk": jwk(&attacker),
        "jku": "https://attacker.example/jwks.json", "x5u": "https://attacker.example/cert", "x5c": ["AAAA"],
    });
    let token = forge(&attacker, &header, "{}");
    assert_eq!(verify(token.as_bytes(), &keys, AllowedAlgorithms::ALL), Err(VerifyError::UnknownKey));
    let token = forge(&attacker, &with(header, "kid", trusted.kid().into()), "{}");
    assert_eq!(verify(token.as_bytes(), &keys, AllowedAlgorithms::ALL), Err(VerifyError::BadSignature));
}

#[test]
fn the_algorithm_must_be_allowed_and_fit_the_key() {
    let key = key();
    let keys = set_of(&[jwk(&key)]);
    let token = |alg: &str| forge(&key, &json!({"alg": alg, "kid": key.kid(), "typ": "secevent+jwt"}), "{}");
    for alg in ["none", "NONE", "HS256", "RS384", "", "eddsa"] {
        let refused = verify(token(alg).as_bytes(), &keys, AllowedAlgorithms::ALL);
        assert_eq!(refused, Err(VerifyError::AlgorithmNotAllowed), "{alg}");
    }
    for alg in ["RS256", "PS256", "ES256"] {
        let refused = verify(token(alg).as_bytes(), &keys, AllowedAlgorithms::ALL);
        assert!(matches!(refused, Err(VerifyError::UnusableKey(_))), "{alg}");
    }
    let others = AllowedAlgorithms::only(&[Algorithm::Rs256]);
    assert_eq!(verify(token("EdDSA").as_bytes(), &keys, others), Err(VerifyError::AlgorithmNotAllowed));
}

#[test]
fn an_rsa_key_pinned_to_one_padding_serves_no_other() {
    let key = Key::generate(Algorithm::Rs256, RsaBits::default()).unwrap();
    let other = Key::from_pkcs8(key.pkcs8(), Some(Algorithm::Ps256)).unwrap();
    let (rs256, ps256) = (key.signer().sign(b"{}").unwrap(), other.signer().sign(b"{}").unwrap());
    let pinned = set_of(&[jwk(&key)]);
    assert!(verify(&rs256, &pinned, AllowedAlgorithms::ALL).is_ok());
    assert!(matches!(verify(&ps256, &pinned, AllowedAlgorithms::ALL), Err(VerifyError::UnusableKey(_))));
    let mut free = jwk(&key);
    free.as_object_mut().unwrap().remove("alg");
    let free = set_of(&[free]);
    assert!(verify(&rs256, &free, AllowedAlgorithms::ALL).is_ok());
    assert!(verify(&ps256, &free, AllowedAlgorithms::ALL).is_ok());
}

#[test]
fn without_a_kid_exactly_one_key_must_fit() {
    let (one, other) = (key(), key());
    let token = forge(&one, &json!({"alg": "EdDSA", "typ": "secevent+jwt"}), "{}");
    let es256 = Key::generate(Algorithm::Es256, RsaBits::default()).unwrap();
    assert!(verify(token.as_bytes(), &set_of(&[jwk(&one), jwk(&es256)]), AllowedAlgorithms::ALL).is_ok());
    let refused = verify(token.as_bytes(), &set_of(&[jwk(&one), jwk(&other)]), AllowedAlgorithms::ALL);
    assert!(matches!(refused, Err(VerifyError::UnusableKey(_))));
    assert_eq!(verify(token.as_bytes(), &set_of(&[]), AllowedAlgorithms::ALL), Err(VerifyError::UnknownKey));
}

#[test]
fn only_three_parts_of_base64url_are_a_token() {
    let key = key();
    let keys = set_of(&[jwk(&key)]);
    let good = String::from_utf8(key.signer().sign(b"{}").unwrap()).unwrap();
    let [header, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!("three parts") };
    let refuses = |token: &str| verify(token.as_bytes(), &keys, AllowedAlgorithms::ALL).unwrap_err();
    assert_eq!(refuses("a.b.c.d.e"), VerifyError::Encrypted);
    for token in [
        String::new(),
        "..".into(),
        "a.b".into(),
        "a.b.c.d".into(),
        "a.b.c.d.e.f".into(),
        format!("{good}."),
        format!("\"{good}\""),
        format!("{good}\n"),
        format!("{good}="),
        format!("{header}.{payload}=.{signature}"),
        format!("{header}.+/.{signature}"),
        format!("{}.{payload}.{signature}", URL_SAFE_NO_PAD.encode("[]")),
        format!("{}.{payload}.{signature}", URL_SAFE_NO_PAD.encode("{\"alg\":1}")),
        format!("{}.{payload}.{signature}", "A".repeat(9000)),
    ] {
        assert!(matches!(refuses(&token), VerifyError::Malformed(_)), "{token}");
    }
    assert!(verify(good.as_bytes(), &keys, AllowedAlgorithms::ALL).is_ok());
}

#[test]
fn a_header_with_a_member_twice_is_refused() {
    let key = key();
    let keys = set_of(&[jwk(&key)]);
    let header = format!(r#"{{"alg":"none","alg":"EdDSA","kid":"{}","typ":"secevent+jwt"}}"#, key.kid());
    let refused = verify(forge_text(&key, &header, "{}").as_bytes(), &keys, AllowedAlgorithms::ALL);
    assert!(matches!(refused, Err(VerifyError::Malformed(_))));
}

#[test]
fn a_key_that_must_not_be_used_is_left_out_and_the_rest_stays() {
    let good = key();
    let ec = jwk(&Key::generate(Algorithm::Es256, RsaBits::default()).unwrap());
    let okp = jwk(&good);
    let rsa = json!({"kty": "RSA", "n": RFC7515_A2_N, "e": "AQAB"});
    let weak = URL_SAFE_NO_PAD.encode([0xff; 255]);
    let huge = URL_SAFE_NO_PAD.encode(vec![0xff; 1025]);
    let bad = [
        json!({"kty": "oct", "k": "AAAA", "kid": "bad"}),
        json!({"kty": "RSA", "kid": "bad"}),
        json!({"kty": "XX", "kid": "bad"}),
        json!({"kid": "bad"}),
        json!("bad"),
        json!(null),
        with(rsa.clone(), "n", weak.into()),
        with(rsa.clone(), "n", huge.into()),
        with(rsa.clone(), "n", "AAAA".into()),
        with(rsa.clone(), "n", "*".into()),
        with(rsa.clone(), "e", "AQAAAAAB".into()),
        with(rsa.clone(), "e", "AQ".into()),
        with(rsa.clone(), "e", "Ag".into()),
        with(rsa.clone(), "e", "".into()),
        with(rsa.clone(), "alg", "ES256".into()),
        with(rsa.clone(), "alg", "HS256".into()),
        with(rsa.clone(), "alg", "RS1".into()),
        with(rsa.clone(), "d", "AQAB".into()),
        with(rsa.clone(), "use", "enc".into()),
        with(rsa, "key_ops", json!(["encrypt"])),
        with(ec.clone(), "crv", "P-384".into()),
        with(ec.clone(), "crv", "secp256k1".into()),
        with(ec.clone(), "x", ec["y"].clone()),
        with(ec, "y", "AAAA".into()),
        with(okp.clone(), "crv", "X25519".into()),
        with(okp.clone(), "x", "AAAA".into()),
        with(okp.clone(), "alg", "RS256".into()),
    ];
    for bad in bad {
        let set = set_of(&[bad.clone(), okp.clone()]);
        assert_eq!((set.usable(), set.ignored().len()), (1, 1), "{bad}");
        assert!(verify(&good.signer().sign(b"{}").unwrap(), &set, AllowedAlgorithms::ALL).is_ok());
    }
}

#[test]
fn a_token_that_names_a_left_out_key_hears_why() {
    let key = key();
    let set = set_of(&[json!({"kty": "oct", "k": "AAAA", "kid": key.kid()})]);
    assert_eq!(set.ignored(), [IgnoredKey { kid: Some(key.kid().into()), why: "a symmetric key" }]);
    let refused = verify(&key.signer().sign(b"{}").unwrap(), &set, AllowedAlgorithms::ALL);
    assert_eq!(refused, Err(VerifyError::UnusableKey("a symmetric key")));
}

#[test]
fn a_set_beyond_the_limits_is_refused_whole() {
    let okp = jwk(&key());
    let parse = |keys: usize| Jwks::parse(json!({ "keys": vec![okp.clone(); keys] }).to_string().as_bytes());
    assert_eq!(parse(Jwks::MOST).unwrap().usable(), 32);
    assert!(matches!(parse(Jwks::MOST + 1), Err(JwksError::TooMany)));
    let padded = format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(Jwks::LONGEST));
    assert!(matches!(Jwks::parse(padded.as_bytes()), Err(JwksError::TooLong)));
    for text in ["", "[]", "{}", "{\"keys\":{}}", "null", "{\"keys\":[}"] {
        assert!(matches!(Jwks::parse(text.as_bytes()), Err(JwksError::Malformed(_))), "{text}");
    }
}

proptest! {
    #[test]
    fn any_changed_byte_of_a_token_is_noticed(at in 0usize..1000, with in 1u8..=255) {
        let key = key();
        let keys = set_of(&[jwk(&key)]);
        let mut token = key.signer().sign(br#"{"jti":"0123456789","events":{}}"#).unwrap();
        let at = at % token.len();
        token[at] ^= with;
        prop_assert!(verify(&token, &keys, AllowedAlgorithms::ALL).is_err());
    }

    #[test]
    fn foreign_bytes_never_panic(token in proptest::collection::vec(any::<u8>(), 0..300), set in "\\PC{0,200}") {
        let _ = Token::parse(&token);
        let _ = Jwks::parse(set.as_bytes());
    }
}
