use std::process::{Command, Stdio};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken as second;

use super::*;
use crate::{AllowedAlgorithms, Jwks, VerifyError, verify};

const CLAIMS: &str = r#"{"iss":"https://tr.example.com","jti":"x","events":{"https://example.com/e":{}}}"#;

/// Generates a key of each algorithm.
fn one_of_each() -> Vec<Key> {
    Algorithm::ALL.into_iter().map(|algorithm| Key::generate(algorithm, RsaBits::default()).unwrap()).collect()
}

fn jwks_of(key: &Key) -> String {
    format!("{{\"keys\":[{}]}}", key.public_jwk())
}

fn second_algorithm(algorithm: Algorithm) -> second::Algorithm {
    algorithm.name().parse().unwrap()
}

fn second_validation(algorithm: Algorithm) -> second::Validation {
    let mut validation = second::Validation::new(second_algorithm(algorithm));
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation
}

/// Returns what the `openssl` command prints; `None` where there is no such command.
fn openssl(arguments: &[&str], input: &[u8]) -> Option<String> {
    use std::io::Write as _;
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    child.stdin.take().unwrap().write_all(input).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "openssl {arguments:?}");
    Some(String::from_utf8(out.stdout).unwrap())
}

#[test]
fn a_second_implementation_verifies_what_we_sign() {
    for key in one_of_each() {
        let token = String::from_utf8(key.signer().sign(CLAIMS.as_bytes()).unwrap()).unwrap();
        assert_eq!(token.len(), key.signer().token_length(CLAIMS.len()));
        let header = second::decode_header(&token).unwrap();
        assert_eq!(header.typ.as_deref(), Some("secevent+jwt"));
        assert_eq!(header.kid.as_deref(), Some(key.kid()));
        let set: second::jwk::JwkSet = serde_json::from_str(&jwks_of(&key)).unwrap();
        let public = second::DecodingKey::from_jwk(set.find(key.kid()).unwrap()).unwrap();
        let decoded =
            second::decode::<serde_json::Value>(&token, &public, &second_validation(key.algorithm())).unwrap();
        assert_eq!(decoded.claims, serde_json::from_str::<serde_json::Value>(CLAIMS).unwrap());
    }
}

#[test]
fn a_second_implementation_agrees_on_the_thumbprint() {
    for key in one_of_each() {
        let jwk: second::jwk::Jwk = serde_json::from_str(&key.public_jwk()).unwrap();
        assert_eq!(jwk.thumbprint(second::jwk::ThumbprintHash::SHA256).unwrap(), key.kid());
    }
}

#[test]
fn we_verify_what_a_second_implementation_signs() {
    for key in one_of_each() {
        let algorithm = key.algorithm();
        let pem = pem::write("PRIVATE KEY", key.pkcs8());
        let private = match algorithm {
            Algorithm::Rs256 | Algorithm::Ps256 => second::EncodingKey::from_rsa_pem(pem.as_bytes()),
            Algorithm::Es256 => second::EncodingKey::from_ec_pem(pem.as_bytes()),
            Algorithm::EdDSA => second::EncodingKey::from_ed_pem(pem.as_bytes()),
        };
        let mut header = second::Header::new(second_algorithm(algorithm));
        header.typ = Some("application/SecEvent+JWT".into());
        header.kid = Some(key.kid().into());
        let claims: serde_json::Value = serde_json::from_str(CLAIMS).unwrap();
        let token = second::encode(&header, &claims, &private.unwrap()).unwrap();
        let keys = Jwks::parse(jwks_of(&key).as_bytes()).unwrap();
        let verified = verify(token.as_bytes(), &keys, AllowedAlgorithms::ALL).unwrap();
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&verified.payload).unwrap(), claims);
    }
}

#[test]
fn every_length_of_payload_makes_a_token_of_the_length_foretold() {
    let key = Key::generate(Algorithm::EdDSA, RsaBits::default()).unwrap();
    let keys = Jwks::parse(jwks_of(&key).as_bytes()).unwrap();
    for length in 0..70 {
        let payload = vec![b'x'; length];
        let token = key.signer().sign(&payload).unwrap();
        assert_eq!(token.len(), key.signer().token_length(length));
        assert_eq!(token.capacity(), token.len(), "one allocation of the right size");
        assert_eq!(verify(&token, &keys, AllowedAlgorithms::ALL).unwrap().payload, payload);
    }
}

#[test]
fn larger_rsa_keys_sign_and_say_their_size() {
    for bits in [RsaBits::Bits3072, RsaBits::Bits4096] {
        let key = Key::generate(Algorithm::Ps256, bits).unwrap();
        assert_eq!(key.bits(), bits.bits());
        let keys = Jwks::parse(jwks_of(&key).as_bytes()).unwrap();
        let token = key.signer().sign(b"{}").unwrap();
        assert_eq!(verify(&token, &keys, AllowedAlgorithms::ALL).unwrap().payload, b"{}");
    }
}

#[test]
fn es256_signatures_are_raw_r_and_s() {
    // RFC 7518, 3.4: 64 bytes, not DER.
    let key = Key::generate(Algorithm::Es256, RsaBits::default()).unwrap();
    for _ in 0..50 {
        let token = key.signer().sign(b"{}").unwrap();
        let signature = token.rsplit(|byte| *byte == b'.').next().unwrap();
        assert_eq!(URL_SAFE_NO_PAD.decode(signature).unwrap().len(), 64);
    }
}

#[test]
fn imports_every_layout_that_openssl_writes() {
    let Some(rsa) = openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"], b"") else {
        return;
    };
    let ec = openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"], b"").unwrap();
    let ed = openssl(&["genpkey", "-algorithm", "ED25519"], b"").unwrap();
    let traditional = |pem: &str| openssl(&["pkey", "-traditional"], pem.as_bytes()).unwrap();
    let cases = [
        (traditional(&rsa), "RSA PRIVATE KEY", None, Algorithm::Rs256),
        (traditional(&rsa), "RSA PRIVATE KEY", Some(Algorithm::Ps256), Algorithm::Ps256),
        (rsa, "PRIVATE KEY", None, Algorithm::Rs256),
        (traditional(&ec), "EC PRIVATE KEY", None, Algorithm::Es256),
        (
            openssl(&["ecparam", "-name", "prime256v1", "-genkey"], b"").unwrap(),
            "EC PRIVATE KEY",
            Some(Algorithm::Es256),
            Algorithm::Es256,
        ),
        (ec, "PRIVATE KEY", None, Algorithm::Es256),
        (ed, "PRIVATE KEY", None, Algorithm::EdDSA),
    ];
    for (pem, label, asked, is) in cases {
        assert!(pem.contains(&format!("BEGIN {label}-")), "openssl wrote another layout than {label}");
        let key = Key::import_pem(&pem, asked).unwrap();
        assert_eq!(key.algorithm(), is);
        let keys = Jwks::parse(jwks_of(&key).as_bytes()).unwrap();
        let token = key.signer().sign(CLAIMS.as_bytes()).unwrap();
        assert_eq!(verify(&token, &keys, AllowedAlgorithms::ALL).unwrap().payload, CLAIMS.as_bytes());
    }
}

#[test]
fn refuses_weak_and_foreign_keys_of_openssl() {
    let weak = ["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"];
    let Some(weak) = openssl(&weak, b"") else { return };
    let other_curve = openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"], b"").unwrap();
    let exchange = openssl(&["genpkey", "-algorithm", "X25519"], b"").unwrap();
    for pem in [weak, other_curve, exchange] {
        assert!(matches!(Key::import_pem(&pem, None), Err(JoseError::Unacceptable(_))));
    }
    let ed = openssl(&["genpkey", "-algorithm", "ED25519"], b"").unwrap();
    assert_eq!(
        Key::import_pem(&ed, Some(Algorithm::Rs256)).unwrap_err(),
        JoseError::WrongAlgorithm { asked: Algorithm::Rs256, is: Algorithm::EdDSA }
    );
    let public = openssl(&["pkey", "-pubout"], ed.as_bytes()).unwrap();
    assert!(matches!(Key::import_pem(&public, None), Err(JoseError::Pem(_))));
}

#[test]
fn refuses_a_pem_whose_bytes_are_no_key() {
    for label in ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"] {
        let pem = pem::write(label, b"not a key");
        assert!(matches!(Key::import_pem(&pem, None), Err(JoseError::Unacceptable(_))), "{label}");
    }
}

#[test]
fn shows_nothing_private() {
    for key in one_of_each() {
        let shown = format!("{key:?} {:?} {}", key.signer(), key.public_jwk());
        assert!(!shown.contains("\"d\""), "{shown}");
        // The text holds a public JWK and the names only: an RSA key's private members would add over a thousand bytes.
        assert!(shown.len() < 900, "{shown}");
    }
}

#[test]
fn a_token_of_one_key_is_not_one_of_another() {
    let [one, other] = [(); 2].map(|()| Key::generate(Algorithm::EdDSA, RsaBits::default()).unwrap());
    let keys = Jwks::parse(jwks_of(&other).as_bytes()).unwrap();
    let token = one.signer().sign(b"{}").unwrap();
    assert_eq!(verify(&token, &keys, AllowedAlgorithms::ALL), Err(VerifyError::UnknownKey));
}

#[test]
fn the_kid_of_a_new_key_never_begins_with_a_hyphen() {
    // One thumbprint in 64 begins with it.
    for _ in 0..600 {
        let key = Key::generate(Algorithm::EdDSA, RsaBits::default()).unwrap();
        assert!(!key.kid().starts_with('-'), "{}", key.kid());
    }
}
