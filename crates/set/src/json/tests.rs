//! Tests of what the parser refuses and why, and of its agreement with a second parser.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn read(text: impl AsRef<[u8]>) -> Result<Value, JsonError> {
    parse(text.as_ref(), &JsonLimits::default())
}

#[track_caller]
fn refused(text: impl AsRef<[u8]>, message: &str, at: usize, pointer: &str) {
    let error = read(text).unwrap_err();
    assert!(error.message.contains(message), "{error}");
    assert_eq!((error.at, error.pointer.as_str()), (at, pointer), "{error}");
}

#[test]
fn reads_what_is_json() {
    let text = " {\"a\":[1,-2,0.5,1e2,true,false,null,\"\\u00e4\\ud83d\\ude00\\n\\/ä\"],\n\t\"b\":{},\"c\":[]}\r\n";
    assert_eq!(read(text).unwrap(), json!({"a": [1, -2, 0.5, 100.0, true, false, null, "ä😀\n/ä"], "b": {}, "c": []}));
    assert_eq!(read("\"\"").unwrap(), json!(""));
    assert_eq!(read("0").unwrap(), json!(0));
}

#[test]
fn refuses_a_member_name_that_occurs_twice_at_any_level() {
    refused(r#"{"a":1,"a":1}"#, "occurs twice", 7, "/a");
    refused(r#"[{"x":{"b/c":1,"d":2,"b\u002fc":3}}]"#, "occurs twice", 21, "/0/x/b~1c");
}

#[test]
fn refuses_what_is_not_utf8() {
    refused(b"[\"a\xff\"]", "UTF-8", 3, "");
    refused(b"\"\xed\xa0\x80\"", "UTF-8", 1, "");
    refused(b"\"\xc0\x80\"", "UTF-8", 1, "");
    refused(b"\xef\xbb\xbf1", "a JSON value was expected", 0, "");
}

#[test]
fn refuses_surrogates_noncharacters_and_nul() {
    for text in
        [r#""\ud800""#, r#""\ud800x""#, r#""\ud800\n""#, r#""\ud800\u0041""#, r#""\udc00""#, r#""\udc00\ud800""#]
    {
        refused(text, "surrogate", 1, "");
    }
    refused(r#"{"a":"x\u0000"}"#, "U+0000", 7, "/a");
    refused(b"\"a\0\"", "control character", 2, "");
    refused("\"a\nb\"", "control character", 2, "");
    for text in ["\"\\ufdd0\"", "\"\u{fdef}\"", "\"\\uffff\"", "\"\u{1fffe}\"", "\"\\udbff\\udfff\""] {
        refused(text, "noncharacter", 1, "");
    }
    assert_eq!(read("\"\u{fffd}\u{fdf0}\u{1}\"".replace('\u{1}', "\\u0001")).unwrap(), json!("\u{fffd}\u{fdf0}\u{1}"));
}

#[test]
fn keeps_integers_exact_and_refuses_those_it_would_change() {
    for text in ["18446744073709551615", "-9223372036854775808", "9007199254740993", "0", "-1"] {
        assert_eq!(read(text).unwrap().to_string(), text);
    }
    for text in ["18446744073709551616", "-9223372036854775809", "100000000000000000000"] {
        refused(text, "64 bits", 0, "");
    }
}

#[test]
fn reads_other_numbers_as_the_nearest_double() {
    // In each of these cases a quick conversion is off by one unit.
    for text in [
        "8.54",
        "1615304991.123",
        "0.1234567890123456",
        "9007199254740993.5",
        "1e-5",
        "7.2057594037927933e16",
        "5e-324",
    ] {
        assert_eq!(read(text).unwrap().as_f64(), text.parse::<f64>().ok(), "{text}");
    }
    assert_eq!(read("-0").unwrap().as_f64().map(f64::to_bits), Some((-0.0f64).to_bits()));
    refused("1e400", "range of a double", 0, "");
    refused("[-1e400]", "range of a double", 1, "/0");
}

#[test]
fn refuses_broken_numbers() {
    for text in ["-", "+1", "01", "-01", "1.", ".5", "1.e5", "1e", "1e+", "0x1", "NaN", "Infinity", "1_0", "--1"] {
        assert!(read(text).is_err(), "{text}");
    }
}

#[test]
fn refuses_broken_texts() {
    let texts = [
        "",
        " ",
        "{",
        "[",
        "[1",
        "[1,",
        "[1,]",
        "[,1]",
        "{\"a\"",
        "{\"a\":",
        "{\"a\":1",
        "{\"a\":1,",
        "{\"a\":1,}",
        "{,}",
        "{1:2}",
        "{a:1}",
        "{'a':1}",
        "\"",
        "\"\\",
        "\"\\u",
        "\"\\u12",
        "\"\\u12g4\"",
        "\"\\x41\"",
        "tru",
        "truex",
        "nul",
        "1 2",
        "[1]]",
        "{}{}",
        "// c\n1",
        "/* c */1",
        "[1 2]",
        "{\"a\" 1}",
        "\u{a0}1",
        "\"\\ud800\\u12\"",
        "\"\\ud800\\",
    ];
    for text in texts {
        let error = read(text).unwrap_err();
        assert!(error.at <= text.len(), "{text}: {error}");
    }
}

#[test]
fn refuses_nesting_deeper_than_the_limit() {
    let limits = JsonLimits { depth: 3, members: 10 };
    assert!(parse(b"[[[1]]]", &limits).is_ok());
    let error = parse(b"[{\"a\":[[]]}]", &limits).unwrap_err();
    assert_eq!((error.at, error.pointer.as_str()), (7, "/0/a/0"));
    let deep = "[".repeat(1_000_000);
    assert!(read(&deep).unwrap_err().message.contains("deeper than 32"));
}

#[test]
fn refuses_more_members_than_the_limit() {
    let limits = JsonLimits { depth: 3, members: 2 };
    assert!(parse(br#"[{"a":1,"b":2},{"c":3}]"#, &limits).is_ok());
    let error = parse(br#"{"a":1,"b":2,"c":3}"#, &limits).unwrap_err();
    assert_eq!((error.at, error.pointer.as_str()), (13, ""));
}

#[test]
fn says_where_without_saying_what() {
    let error = read(r#"{"sub_id":{"email":"secret@example.com\u0000"}}"#).unwrap_err();
    assert_eq!(error.to_string(), "a string has U+0000 at byte 38 in /sub_id/email");
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_filter_map("finite", |number| Number::from_f64(number).map(Value::Number)),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..6)
                .prop_map(|map| map.into_iter().collect::<Map<_, _>>().into()),
        ]
    })
}

fn has_forbidden_text(value: &Value) -> bool {
    let forbidden = |text: &str| text.chars().any(|c| c == '\0' || is_noncharacter(c));
    match value {
        Value::String(text) => forbidden(text),
        Value::Array(items) => items.iter().any(has_forbidden_text),
        Value::Object(map) => map.iter().any(|(name, value)| forbidden(name) || has_forbidden_text(value)),
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reads_back_whatever_was_written(value in any_json()) {
        let read = read(value.to_string());
        if has_forbidden_text(&value) {
            prop_assert!(read.is_err());
        } else {
            prop_assert_eq!(read, Ok(value));
        }
    }

    #[test]
    fn never_accepts_what_a_second_parser_refuses(
        value in any_json(), pretty in any::<bool>(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut text = if pretty { serde_json::to_vec_pretty(&value) } else { serde_json::to_vec(&value) }.unwrap();
        for (at, byte) in changes {
            let at = at.index(text.len());
            match byte % 3 {
                0 => text[at] = b"{}[]:,\"\\0123456789-+.eEu \ndDtfn"[usize::from(byte / 3) % 30],
                1 => text.truncate(at.max(1)),
                _ => text.insert(at, byte),
            }
        }
        if let Ok(ours) = read(&text) {
            let theirs: Value = serde_json::from_slice(&text).unwrap();
            prop_assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn never_panics(text in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(text);
    }

    #[test]
    fn never_panics_on_nearly_json(text in "[\\[\\]{}:,\"\\\\u0-9dDeE+.a-f \\-]{0,60}") {
        if let Ok(ours) = read(&text) {
            prop_assert_eq!(ours, serde_json::from_str::<Value>(&text).unwrap());
        }
    }
}
