//! Tests of the formats, their limits, and the spellings of older drafts.

use proptest::prelude::*;
use serde_json::json;

use super::*;

#[track_caller]
fn subject(value: Value) -> Subject {
    Subject::parse(&value).unwrap_or_else(|error| panic!("{value}: {error}"))
}

#[track_caller]
fn refused(value: Value, pointer: &str, message: &str) {
    let error = Subject::parse(&value).unwrap_err();
    assert_eq!(error.pointer, pointer, "{value}: {error}");
    assert!(error.message.contains(message), "{value}: {error}");
}

fn vectors(text: &str) -> Vec<(String, String, Value)> {
    let all: Vec<Value> = serde_json::from_str(text).unwrap();
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    all.into_iter().map(|one| (word(&one["name"]), word(&one["kind"]), one["value"].clone())).collect()
}

#[test]
fn reads_every_subject_that_the_standards_print() {
    let texts =
        [include_str!("../../../../tests/vectors/rfc9493.json"), include_str!("../../../../tests/vectors/ssf.json")];
    let mut count = 0;
    for (name, kind, value) in texts.iter().flat_map(|text| vectors(text)) {
        if kind == "subject-identifier" || kind == "complex-subject" {
            let subject = Subject::parse(&value).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(subject.value(), value, "{name}");
            assert_eq!(subject.canonical(), value.to_string(), "{name}");
            count += 1;
        }
    }
    assert_eq!(count, 20);
}

#[test]
fn refuses_the_spellings_of_older_drafts_and_says_todays() {
    // The first three are printed by the SSE implementer's draft 1, the others by RISC, RFC 8417 and drafts of 2017 to
    // 2021.
    refused(json!({"format": "jwt-id", "iss": "https://idp.example.com/", "jti": "B70"}), "/format", "write `jwt_id`");
    refused(json!({"format": "phone", "phone_number": "+1 206 555 0123"}), "/format", "write `phone_number`");
    refused(
        json!({"format": "saml-assertion-id", "issuer": "i", "assertion_id": "_8"}),
        "/format",
        "write `saml_assertion_id`",
    );
    refused(
        json!({"subject_type": "iss-sub", "iss": "https://idp.example.com/", "sub": "7"}),
        "/subject_type",
        "write `format`",
    );
    refused(json!({"format": "iss-sub", "iss": "i", "sub": "7"}), "/format", "write `iss_sub`");
    refused(json!({"format": "phone-number", "phone_number": "+12065550100"}), "/format", "write `phone_number`");
    refused(json!({"format": "id_token_claims", "iss": "i", "sub": "7"}), "/format", "write `aliases`");
    refused(json!({"user": {"format": "email", "email": "a@b.c"}}), "", "\"format\": \"complex\"");
}

#[test]
fn demands_the_members_of_the_format_and_no_other() {
    refused(json!("a@example.com"), "", "JSON object");
    refused(json!({}), "", "`format` is missing");
    refused(json!({"format": 1}), "/format", "string");
    refused(json!({"format": "email"}), "", "`email` is missing");
    refused(json!({"format": "email", "email": ""}), "/email", "not empty");
    refused(json!({"format": "email", "email": null}), "/email", "not empty");
    refused(json!({"format": "email", "email": "a@b.c", "name/x": "A"}), "/name~1x", "does not define");
    refused(json!({"format": "did", "uri": "did:example:1"}), "/uri", "does not define");
    refused(json!({"format": "iss_sub", "iss": "https://i.example"}), "", "`sub` is missing");
    refused(json!({"format": "ip-addresses", "ip-addresses": ["10.0.0.1"], "x": 1}), "/x", "does not define");
    refused(json!({"format": "no such\n", "x": 1}), "/format", "visible ASCII");
    refused(json!({"format": "mine"}), "", "beside `format`");
}

#[test]
fn checks_the_values_of_each_format() {
    let one = |format: &str, member: &str, text: &str| Subject::parse(&json!({"format": format, member: text})).is_ok();
    let cases: &[(&str, &str, &[&str], &[&str])] = &[
        (
            "email",
            "email",
            &[
                "a@b",
                "a.b+c@example.com",
                "\"a b\"@example.com",
                "ü@exämple.org",
                "a@[192.0.2.1]",
                "o'hara@example.com",
            ],
            &[
                "a",
                "@b",
                "a@",
                "a b@c",
                "A <a@b.c>",
                "a@b@c",
                "a..b@c",
                "a@b..c",
                ".a@b",
                "a@b\n",
                "a@[ 1]",
                "<a@b.c>",
                "a,b@c",
            ],
        ),
        (
            "account",
            "uri",
            &["acct:a@example.com", "acct:a%40x@example.com"],
            &["a@example.com", "acct:a", "acct:@b", "https://a@b", "acct:a b@c"],
        ),
        (
            "phone_number",
            "phone_number",
            &["+12065550100", "+1 206 555 0123", "+49 (30) 901820"],
            &["12065550100", "+", "+12", "+1234567890123456", "+1x2345", "+1206555010０"],
        ),
        (
            "did",
            "url",
            &["did:example:123456", "did:web:a:b", "did:example:123/p?q=1#f"],
            &[
                "did:example",
                "did:example:",
                "did::1",
                "did:Example:1",
                "https://a",
                "did:example:/p",
                "did:example:a b",
            ],
        ),
        (
            "uri",
            "uri",
            &["urn:uuid:4e851e98", "https://user.example.com/", "a+b:c", "x:%41"],
            &["", "/a", "a", ":a", "1a:b", "https:", "http://a b", "http://ä", "x:%4", "x:%4g", "x:<>"],
        ),
        (
            "scim",
            "uri",
            &["/Users/2b2f880af6674ac284bae9381673d462", "https://scim.example.com/Users/1"],
            &["/Users/a b", "/Users/ä", "/Users/%"],
        ),
    ];
    for (format, member, good, bad) in cases {
        for text in *good {
            assert!(one(format, member, text), "{format} {text}");
        }
        for text in *bad {
            assert!(!one(format, member, text), "{format} {text}");
        }
    }
    subject(json!({"format": "iss_sub", "iss": "issuer.example.com", "sub": "auth0|5f7c8ec7"}));
    refused(json!({"format": "iss_sub", "iss": "http://a b", "sub": "1"}), "/iss", "URI");
    refused(
        json!({"format": "ip-addresses", "ip-addresses": ["10.0.0.1", "10.0.0.256"]}),
        "/ip-addresses/1",
        "IP address",
    );
    refused(json!({"format": "ip-addresses", "ip-addresses": []}), "/ip-addresses", "1 to 16");
}

#[test]
fn lets_scim_have_further_attributes() {
    subject(
        json!({"format": "scim", "uri": "/Users/1", "externalId": "jdoe", "id": "1", "userName": "jdoe", "emails": [{"value": "a@b.c"}]}),
    );
    refused(json!({"format": "scim", "uri": "/Users/1", "externalId": 7}), "/externalId", "string");
}

#[test]
fn takes_a_proprietary_format_as_it_is() {
    let value = json!({"format": "catalog_item", "catalog_id": "c0384/winter/2354122", "deep": {"format": "complex"}});
    let Subject::Simple(simple) = subject(value.clone()) else { panic!("simple") };
    assert_eq!(simple.format(), &Format::Other("catalog_item".into()));
    assert_eq!(simple.value(), &value);
    assert_eq!(simple.member("catalog_id"), Some("c0384/winter/2354122"));
}

#[test]
fn refuses_what_is_nested_too_deep() {
    let email = json!({"format": "email", "email": "a@b.c"});
    let aliases = json!({"format": "aliases", "identifiers": [email]});
    let complex = json!({"format": "complex", "user": email});
    refused(
        json!({"format": "aliases", "identifiers": [email, aliases]}),
        "/identifiers/1",
        "must not contain aliases",
    );
    refused(json!({"format": "aliases", "identifiers": [complex]}), "/identifiers/0/format", "inside another");
    refused(json!({"format": "complex", "user": complex}), "/user/format", "inside another");
    refused(json!({"format": "complex", "user": "x"}), "/user", "JSON object");
    refused(json!({"format": "complex", "user": {"format": "email", "email": "x"}}), "/user/email", "e-mail");
    refused(json!({"format": "complex"}), "", "needs a member");
    subject(json!({"format": "complex", "user": aliases, "vendor member": email}));
}

#[test]
fn keeps_to_the_limits() {
    let opaque = |id: String| json!({"format": "opaque", "id": id});
    let identifiers = |count: usize| (0..count).map(|n| opaque(n.to_string())).collect::<Vec<_>>();
    subject(json!({"format": "aliases", "identifiers": identifiers(16)}));
    refused(json!({"format": "aliases", "identifiers": identifiers(17)}), "/identifiers", "1 to 16");
    refused(json!({"format": "aliases", "identifiers": []}), "/identifiers", "1 to 16");

    let complex = |count: usize| {
        let members = (0..count).map(|n| (format!("m{n}"), opaque("x".into())));
        Value::Object(members.chain([("format".into(), json!("complex"))]).collect())
    };
    subject(complex(16));
    refused(complex(17), "", "more than 16");

    let frame = opaque(String::new()).to_string().len();
    subject(opaque("x".repeat(2048 - frame)));
    refused(opaque("x".repeat(2049 - frame)), "", "2048 bytes");

    let member = |name: String, id: String| json!({"format": "complex", name: {"format": "opaque", "id": id}});
    let name = "\u{1}".repeat(128);
    let frame = member(name.clone(), String::new()).to_string().len();
    assert_eq!(subject(member(name.clone(), "x".repeat(2048 - frame))).canonical().len(), 2048);
    refused(member(name, "x".repeat(2049 - frame)), "", "2048 bytes");
    refused(member("x".repeat(129), "x".into()), "", "1 to 128 bytes");

    let uri = |length: usize| json!({"format": "uri", "uri": format!("urn:{}", "x".repeat(length - 4))});
    subject(uri(512));
    refused(uri(513), "/uri", "512 bytes");
    refused(json!({"format": "iss_sub", "iss": "x".repeat(513), "sub": "1"}), "/iss", "512");
}

#[test]
fn equal_subjects_have_equal_texts_whatever_the_order_of_their_members() {
    let one = Subject::parse(
        &crate::parse_json(br#"{"sub":"1","format":"iss_sub","iss":"i"}"#, &Default::default()).unwrap(),
    )
    .unwrap();
    let other = Subject::parse(
        &crate::parse_json(br#"{ "iss":"i", "format":"iss\u005fsub", "sub":"1" }"#, &Default::default()).unwrap(),
    )
    .unwrap();
    assert_eq!(one, other);
    assert_eq!(one.canonical(), r#"{"format":"iss_sub","iss":"i","sub":"1"}"#);
    assert_ne!(one, subject(json!({"format": "iss_sub", "iss": "i", "sub": "2"})));
}

#[test]
fn aliases_have_the_identifiers_of_the_entity_and_others_have_themselves() {
    let Subject::Simple(aliases) = subject(json!({"format": "aliases", "identifiers": [
        {"format": "email", "email": "a@b.c"}, {"format": "opaque", "id": "1"}]}))
    else {
        panic!("simple")
    };
    let formats: Vec<_> = aliases.identifiers().iter().map(|one| one.format().as_str()).collect();
    assert_eq!(formats, ["email", "opaque"]);
    let Subject::Simple(email) = subject(json!({"format": "email", "email": "a@b.c"})) else { panic!("simple") };
    assert_eq!(email.identifiers(), std::slice::from_ref(&email));
    assert_eq!(aliases.identifiers()[0], email);
}

#[test]
fn never_shows_an_identifier_in_debug_output() {
    let subject = subject(json!({"format": "complex", "user": {"format": "email", "email": "secret@example.com"}}));
    let shown = format!("{subject:?}");
    assert!(!shown.contains("secret") && shown.contains("email"), "{shown}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn never_panics_and_reads_back_its_own_text(
        format in prop_oneof!["email|opaque|uri|did|aliases|complex|scim|account|iss_sub|phone_number", "[a-z_-]{0,9}"],
        members in prop::collection::btree_map("uri|email|id|url|iss|sub|user|identifiers|phone_number", prop_oneof![
            any::<String>().prop_map(Value::from),
            "[a-z:@.%+0-9/]{0,12}".prop_map(Value::from),
            Just(json!([{"format": "email", "email": "a@b.c"}])),
            Just(json!({"format": "opaque", "id": "1"})),
            Just(json!(7)),
        ], 0..3),
    ) {
        let mut map: Map<String, Value> = members.into_iter().collect();
        map.insert("format".into(), format.into());
        if let Ok(subject) = Subject::parse(&Value::Object(map.clone())) {
            prop_assert_eq!(subject.value(), Value::Object(map));
            let again: Subject = serde_json::from_str(&subject.canonical()).unwrap();
            prop_assert_eq!(again, subject);
        }
    }
}
