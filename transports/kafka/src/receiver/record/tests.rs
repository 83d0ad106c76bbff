use super::*;

const EVENT: &str = r#"{"events":{"urn:x":{}},"sub_id":{"format":"opaque","id":"a"}}"#;

fn headers(all: &[(&str, &str)]) -> Headers {
    all.iter().map(|(name, value)| ((*name).to_owned(), Some(Bytes::copy_from_slice(value.as_bytes())))).collect()
}

fn auto(all: &[(&str, &str)], value: &str) -> Read {
    let value = Bytes::copy_from_slice(value.as_bytes());
    read(Format::Auto, KnownBy::Id, "kafka:main:t/0/7", &headers(all), Some(&value))
}

fn event(id: Identity, body: &str) -> Read {
    Read::Event(id, Bytes::copy_from_slice(body.as_bytes()))
}

fn why(read: Read) -> String {
    match read {
        Read::Bad(refusal) => refusal.description.unwrap().into(),
        other => panic!("{other:?}"),
    }
}

const BINARY: [(&str, &str); 4] =
    [("ce_specversion", "1.0"), ("ce_id", "7"), ("ce_source", "/hr"), ("ce_type", "urn:x")];

#[test]
fn plain_json_is_passed_on_as_it_is() {
    let at = Identity::OrElse("kafka:main:t/0/7".into());
    assert_eq!(auto(&[], EVENT), event(at.clone(), EVENT));
    assert_eq!(auto(&[("content-type", "application/json"), ("trace", "\u{1}")], "{"), event(at, "{"));
    assert_eq!(read(Format::Auto, KnownBy::Id, "x", &Headers::new(), None), Read::Nothing);
    let value = Bytes::from_static(EVENT.as_bytes());
    let given = read(Format::Json, KnownBy::Offset, "at", &headers(&BINARY), Some(&value));
    assert_eq!(given, event(Identity::Given("at".into()), EVENT));
}

#[test]
fn a_cloud_event_is_known_by_source_and_id() {
    // CloudEvents 1.0, Kafka protocol binding §3.2 and §3.3.
    let named = Identity::Given("ce:3:/hr:7".into());
    assert_eq!(auto(&BINARY, EVENT), event(named.clone(), EVENT));
    let whole = format!(
        r#"{{"specversion":"1.0","id":"7","source":"/hr","type":"urn:x","time":"2026-01-01T00:00:00Z","data":{EVENT}}}"#
    );
    for kind in ["application/cloudevents+json", "Application/CloudEvents+JSON; charset=UTF-8"] {
        assert_eq!(auto(&[("content-type", kind)], &whole), event(named.clone(), EVENT));
    }
    let coded = whole.replace(&format!(r#""data":{EVENT}"#), &format!(r#""data_base64":"{}""#, STANDARD.encode(EVENT)));
    assert_eq!(auto(&[("content-type", "application/cloudevents+json")], &coded), event(named, EVENT));
    let value = Bytes::from_static(EVENT.as_bytes());
    assert!(matches!(read(Format::Cloudevents, KnownBy::Id, "x", &Headers::new(), Some(&value)), Read::Bad(_)));
    // Other ways to split the two are other events.
    let id = |source: &str, id: &str| {
        let mut all = BINARY;
        (all[1].1, all[2].1) = (id, source);
        auto(&all, EVENT)
    };
    assert_ne!(id("a:b", "c"), id("a", "b:c"));
    let Read::Event(Identity::Given(long), _) = id(&"s".repeat(1000), "1") else { panic!() };
    assert!(long.starts_with("ce:blake3:") && long.len() <= LONGEST_ID);
}

#[test]
fn what_may_mean_two_things_is_refused() {
    let structured = [("content-type", "application/cloudevents+json")];
    let whole = |more: &str| format!(r#"{{"specversion":"1.0","id":"7","source":"/hr","type":"t"{more}}}"#);
    for more in [
        "",
        r#","data":{},"data":{}"#,
        r#","data":{"sub_id":1,"sub_id":2}"#,
        r#","data":{},"data_base64":"e30=""#,
        r#","data":[]"#,
        r#","data":"{}""#,
        r#","data_base64":"e30""#,
        r#","data":{},"id":"8""#,
        r#","data":{},"datacontenttype":"text/plain""#,
        r#","data":{},"datacontenttype":1"#,
    ] {
        why(auto(&structured, &whole(more)));
    }
    for (from, to) in [
        (r#""1.0""#, r#""0.3""#),
        (r#""1.0""#, "1.0"),
        (r#""7""#, r#""""#),
        (r#""/hr""#, "null"),
        (r#""type""#, r#""typ""#),
    ] {
        why(auto(&structured, &whole(r#","data":{}"#).replace(from, to)));
    }
    why(auto(&[("content-type", "application/cloudevents-batch+json")], "[]"));
    why(auto(&[("content-type", "application/cloudevents+avro")], "x"));
    for at in 0..4 {
        let mut twice = BINARY.to_vec();
        twice.push(BINARY[at]);
        why(auto(&twice, EVENT));
        let mut missing = BINARY;
        missing[at].1 = "";
        why(auto(&missing, EVENT));
    }
    let mut text = BINARY.to_vec();
    text.push(("Content-Type", "text/plain"));
    why(auto(&text, EVENT));
    why(auto(&[("content-type", "application/json"), ("Content-Type", "application/cloudevents+json")], EVENT));
    let mut no_text = headers(&BINARY);
    no_text[1].1 = Some(Bytes::from_static(b"\xff"));
    assert!(matches!(read(Format::Auto, KnownBy::Id, "x", &no_text, Some(&Bytes::new())), Read::Bad(_)));
    why(auto(&structured, &"[".repeat(100_000)));
}

#[test]
fn a_charset_other_than_utf_8_is_another_text() {
    let whole = format!(r#"{{"specversion":"1.0","id":"7","source":"/hr","type":"urn:x","data":{EVENT}}}"#);
    for (kind, value) in [("application/json", EVENT), ("application/cloudevents+json", whole.as_str())] {
        for charset in ["utf-8", "\"UTF-8\"", "US-ASCII"] {
            assert!(matches!(auto(&[("content-type", &format!("{kind}; Charset={charset}"))], value), Read::Event(..)));
        }
        for charset in ["iso-8859-1", "utf-16", "utf-7", ""] {
            let said = why(auto(&[("content-type", &format!("{kind};a=b;charset={charset}"))], value));
            assert!(said.contains("charset"), "{said}");
        }
    }
}

#[test]
fn a_set_is_told_where_it_belongs() {
    for format in [Format::Auto, Format::Json, Format::Cloudevents] {
        let kind = headers(&[("content-type", "application/SECEVENT+jwt")]);
        let said = why(read(format, KnownBy::Id, "x", &kind, Some(&Bytes::from_static(b"a.b.c"))));
        assert!(said.contains("receiver side"), "{said}");
    }
}

/// Asserts what must hold for any record, and returns whether one of the formats accepted it.
fn holds(seed: &Headers, value: &Bytes) -> bool {
    let mut taken = false;
    for format in [Format::Auto, Format::Json, Format::Cloudevents] {
        match read(format, KnownBy::Id, "at", seed, Some(value)) {
            Read::Event(Identity::Given(id) | Identity::OrElse(id), body) => {
                assert!(!id.is_empty() && id.len() <= LONGEST_ID);
                if body != value && parse_json(value, &LIMITS).is_ok_and(|event| event["data"].is_object()) {
                    // The body that is passed on is what a second reader finds in the event.
                    let whole: Json = serde_json::from_slice(value).unwrap();
                    assert_eq!(serde_json::from_slice::<Json>(&body).unwrap(), whole["data"]);
                }
                taken = true;
            }
            Read::Bad(refusal) => assert!(refusal.description.is_some_and(|text| text.len() <= 512)),
            Read::Nothing => panic!("there is a value"),
        }
    }
    taken
}

#[test]
fn whatever_a_producer_of_the_topic_writes_is_read_or_refused() {
    let structured = format!(r#"{{"specversion":"1.0","id":"7","source":"/hr","type":"t","data":{EVENT}}}"#);
    let coded = format!(
        r#"{{"specversion":"1.0","id":"7","source":"/hr","type":"t","data_base64":"{}"}}"#,
        STANDARD.encode(EVENT)
    );
    let kind = [("content-type", "application/cloudevents+json")];
    let seeds = [
        (headers(&[]), EVENT.to_owned()),
        (headers(&BINARY), EVENT.to_owned()),
        (headers(&kind), structured),
        (headers(&kind), coded),
    ];
    let mut state = 7u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below.max(1)
    };
    let (mut taken, mut runs) = (0, 0);
    while runs < 12_000 {
        let (seed, text) = &seeds[random(seeds.len())];
        let (mut all, mut value) = (seed.clone(), text.clone().into_bytes());
        for _ in 0..random(4) {
            let at = random(value.len());
            match random(6) {
                0 => value[at] = u8::try_from(random(256)).unwrap(),
                1 => drop(value.drain(at..)),
                2 => value.insert(at, b"\"{}[],:\\"[random(8)]),
                3 => value.extend_from_within(at..),
                4 if !all.is_empty() => all.push(all[random(all.len())].clone()),
                _ if !all.is_empty() => {
                    let one = random(all.len());
                    let mut bytes = all[one].1.clone().unwrap_or_default().to_vec();
                    bytes.push(u8::try_from(random(256)).unwrap());
                    all[one].1 = (random(8) > 0).then(|| bytes.into());
                }
                _ => {}
            }
            if value.is_empty() {
                value.push(b'{');
            }
        }
        taken += usize::from(holds(&all, &value.into()));
        runs += 1;
    }
    assert!(taken > 1000 && taken < runs, "{taken} of {runs}");
}
