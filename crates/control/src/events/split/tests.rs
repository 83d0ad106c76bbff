use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// Splits a text that comes in chunks of the given sizes, repeated in a cycle.
fn cut(mut splitter: Splitter, text: &[u8], sizes: &[usize]) -> (Vec<Piece>, Piece) {
    let mut rest = Bytes::copy_from_slice(text);
    let mut sizes = sizes.iter().copied().cycle();
    let mut pieces = Vec::new();
    loop {
        match splitter.next() {
            Piece::More if rest.is_empty() => splitter.finish(),
            Piece::More => {
                let size = sizes.next().unwrap_or(1).clamp(1, rest.len());
                splitter.push(rest.split_to(size));
            }
            piece @ (Piece::End | Piece::Broken(_)) => return (pieces, piece),
            piece => pieces.push(piece),
        }
    }
}

fn texts(pieces: Vec<Piece>) -> Vec<String> {
    pieces
        .into_iter()
        .map(|piece| match piece {
            Piece::Item(text) => String::from_utf8(text.to_vec()).unwrap(),
            other => format!("{other:?}"),
        })
        .collect()
}

fn array(text: &str, size: usize) -> (Vec<String>, Piece) {
    let (pieces, end) = cut(Splitter::array(1000), text.as_bytes(), &[size]);
    (texts(pieces), end)
}

fn lines(text: &str, size: usize) -> (Vec<String>, Piece) {
    let (pieces, end) = cut(Splitter::lines(10), text.as_bytes(), &[size]);
    (texts(pieces), end)
}

#[test]
fn lines_come_whole_however_they_arrive() {
    for size in 1..12 {
        let (items, end) = lines("{\"a\":1}\n\n  \r\n{\"b\":2}\r\n{}\n", size);
        assert_eq!(items, ["{\"a\":1}", "{\"b\":2}\r", "{}"], "{size}");
        assert_eq!(end, Piece::End);
    }
}

#[test]
fn the_last_line_needs_no_line_break() {
    for size in 1..6 {
        assert_eq!(lines("1\n2", size), (vec!["1".into(), "2".into()], Piece::End));
        assert_eq!(lines("", size).0.len(), 0);
    }
}

#[test]
fn a_long_line_is_thrown_away_and_the_next_is_read() {
    for size in 1..30 {
        let (items, end) = lines("0123456789\n01234567890\n1\n01234567890", size);
        assert_eq!(items, ["0123456789", "TooLong", "1", "TooLong"], "{size}");
        assert_eq!(end, Piece::End);
    }
}

#[test]
fn elements_come_whole_however_they_arrive() {
    let text = " [ {\"a\":[1,{\"b\":\"],}\\\"\"}]} ,\n\"x\\\\\", 12 ,[[],[]],null]\r\n";
    for size in 1..=text.len() {
        let (items, end) = array(text, size);
        assert_eq!(items, ["{\"a\":[1,{\"b\":\"],}\\\"\"}]}", "\"x\\\\\"", "12", "[[],[]]", "null"], "{size}");
        assert_eq!(end, Piece::End);
    }
}

#[test]
fn an_empty_array_has_no_elements() {
    assert_eq!(array("[]", 1), (vec![], Piece::End));
    assert_eq!(array(" [ \n ] ", 3), (vec![], Piece::End));
}

#[test]
fn what_is_no_array_is_broken() {
    for text in [
        "", "{}", "[", "[1", "[1,", "[,]", "[1,]", "[1,,2]", "[1 2]", "[1]]", "[1],", "[}", "[:]", "[{}{}]", "[\"a\"1]",
    ] {
        for size in 1..4 {
            let (items, end) = array(text, size);
            assert!(matches!(end, Piece::Broken(_)), "{text}: {items:?}");
        }
    }
}

#[test]
fn a_long_element_is_thrown_away_and_the_next_is_read() {
    for size in 1..20 {
        let (pieces, end) = cut(Splitter::array(10), b"[\"01234567\",\"012345678\",{\"a\":\"],[\\\"\"},7]", &[size]);
        assert_eq!(texts(pieces), ["\"01234567\"", "TooLong", "TooLong", "7"], "{size}");
        assert_eq!(end, Piece::End);
    }
}

#[test]
fn memory_is_bounded_by_the_longest_item() {
    let mut splitter = Splitter::lines(1000);
    for _ in 0..10_000 {
        splitter.push(Bytes::from_static(&[b'x'; 100]));
        assert_eq!(splitter.next(), Piece::More);
        assert!(splitter.carry.capacity() <= 4096, "{}", splitter.carry.capacity());
    }
    splitter.finish();
    assert_eq!(splitter.next(), Piece::TooLong);
    assert_eq!(splitter.next(), Piece::End);
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[\\]\\[{},:\"\\\\ a\u{e4}\n\t\u{1F600}]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map("[\\]\\[{},:\"\\\\a]{0,6}", inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    /// The splitter finds the same elements as a second parser, which reads the whole text.
    #[test]
    fn agrees_with_serde_on_every_array(
        values in prop::collection::vec(json(), 0..8),
        pretty: bool,
        sizes in prop::collection::vec(1usize..40, 1..6),
    ) {
        let whole = Value::Array(values.clone());
        let text = if pretty { serde_json::to_vec_pretty(&whole) } else { serde_json::to_vec(&whole) }.unwrap();
        let (pieces, end) = cut(Splitter::array(100_000), &text, &sizes);
        prop_assert_eq!(end, Piece::End);
        let read: Vec<Value> = texts(pieces).iter().map(|text| serde_json::from_str(text).unwrap()).collect();
        prop_assert_eq!(read, values);
    }

    /// A text that serde refuses is never read to its end with all elements valid.
    #[test]
    fn never_takes_a_damaged_array_for_a_whole_one(
        values in prop::collection::vec(json(), 1..5),
        at: prop::sample::Index,
        damage in prop::sample::select(b"[]{},:\"\\ x1".to_vec()),
        insert: bool,
    ) {
        let mut text = serde_json::to_vec(&Value::Array(values)).unwrap();
        let at = at.index(text.len());
        if insert { text.insert(at, damage) } else { text[at] = damage }
        let whole = serde_json::from_slice::<Vec<Value>>(&text);
        let (pieces, end) = cut(Splitter::array(100_000), &text, &[7]);
        let read: Result<Vec<Value>, _> = pieces
            .into_iter()
            .map(|piece| match piece {
                Piece::Item(text) => serde_json::from_slice::<Value>(&text).map_err(|_| ()),
                _ => Err(()),
            })
            .collect();
        match (whole, end, read) {
            (Ok(whole), Piece::End, Ok(read)) => prop_assert_eq!(read, whole),
            (Ok(whole), end, read) => prop_assert!(false, "{whole:?} {end:?} {read:?}"),
            (Err(_), Piece::End, Ok(read)) => prop_assert!(false, "damaged, but read as {read:?}"),
            (Err(_), _, _) => {}
        }
    }

    /// The lines are those of `str::lines`, without the blank ones.
    #[test]
    fn agrees_with_the_standard_library_on_lines(text in "[ab \n]{0,60}", sizes in prop::collection::vec(1usize..9, 1..4)) {
        let (pieces, end) = cut(Splitter::lines(100), text.as_bytes(), &sizes);
        prop_assert_eq!(end, Piece::End);
        let expected: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect();
        prop_assert_eq!(texts(pieces), expected);
    }
}
