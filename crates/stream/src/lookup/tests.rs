//! Tests of the lookup against [`matches()`].

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::matches;

fn any_simple() -> impl Strategy<Value = Value> {
    let opaque = (0..4u8).prop_map(|id| json!({"format": "opaque", "id": id.to_string()}));
    let several =
        prop::collection::vec(opaque.clone(), 1..4).prop_map(|all| json!({"format": "aliases", "identifiers": all}));
    prop_oneof![3 => opaque, 1 => several]
}

fn any_subject() -> impl Strategy<Value = Subject> {
    let complex = prop::collection::btree_map("user|tenant|device|group", any_simple(), 1..4).prop_map(|members| {
        let mut members: Map<String, Value> = members.into_iter().collect();
        members.insert("format".into(), "complex".into());
        members.into()
    });
    prop_oneof![1 => any_simple(), 2 => complex].prop_map(|value| Subject::parse(&value).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn finds_exactly_the_owners_whose_subjects_match(
        listed in prop::collection::vec((0..6u32, any_subject(), any::<bool>()), 0..12), event in any_subject(), shrunk in any::<bool>(),
    ) {
        let mut lookup = Lookup::default();
        for (owner, subject, by_the_letter) in &listed {
            lookup.insert(*owner, subject, *by_the_letter);
        }
        if shrunk {
            lookup.shrink();
        }
        let expected: RoaringBitmap =
            listed.iter().filter(|(_, subject, letter)| matches(subject, &event, *letter)).map(|(owner, ..)| *owner).collect();
        prop_assert_eq!(lookup.find(&event).into_owned(), expected);
        prop_assert_eq!(lookup.is_empty(), listed.is_empty());
    }
}

#[test]
fn a_members_name_does_not_run_into_its_identifier() {
    let simple = |format: &str| match Subject::parse(&json!({"format": format, "x": "1"})).unwrap() {
        Subject::Simple(simple) => simple,
        Subject::Complex(_) => unreachable!(),
    };
    let prints = [
        print(None, &simple("a")),
        print(Some("a"), &simple("a")),
        print(Some("aa"), &simple("a")),
        print(Some("a"), &simple("aa")),
    ];
    for (index, one) in prints.iter().enumerate() {
        assert!(!prints[index + 1..].contains(one));
    }
}
