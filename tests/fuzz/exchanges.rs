//! Properties of the objects that batch methods exchange, whatever the bytes; they are used as those of `checks.rs`.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;
use setgate_delivery::{
    Attempt, Bytes, Envelope, HttpResponse, Jti, OrderKey, Refusal, SealedSet, Timestamp, Verdict,
    exchange::{Bounds, Exchange, Malformed, Speech},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
};

// In the replay the crates are reached through `transports`.
use super::{multipush, poll, websocket};

/// Bounds that are small enough for mutations to reach them.
const BOUNDS: Bounds = Bounds { bytes: 8 << 10, ids: 6, sets: 4 };

/// Checks that a second reader agrees on what is accepted, on what is too large and on every member (hardening H30,
/// H43), and that an accepted object is the same after it was written and parsed again.
pub(crate) fn exchange(data: &[u8]) -> bool {
    let ours = Exchange::parse(data, BOUNDS, Some("en"));
    let theirs = second(data);
    match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => {
            assert!(!theirs.beyond(data.len()), "more was kept than the bounds allow");
            assert_eq!(Members::of(&ours), theirs, "two readers disagree");
            written_and_read_again(ours);
            true
        }
        (Err(Malformed::TooLarge(_)), Ok(theirs)) => {
            assert!(theirs.beyond(data.len()), "refused as too large, and is not");
            false
        }
        (Err(error), Ok(theirs)) => panic!("a second reader accepts what ours refuses: {error}: {theirs:?}"),
        // Inside an error, ours skips members without meaning and the second reader parses them; the second may fail
        // only on bytes that are no JSON.
        (Ok(ours), Err(_))
            if ours.set_errs.len() + ours.unknown > 0 && serde_json::from_slice::<Value>(data).is_err() =>
        {
            true
        }
        (Ok(_), Err(error)) => panic!("ours accepts what a second reader refuses: {error}"),
        (Err(_), Err(_)) => false,
    }
}

/// Checks a poll: a SET that is acknowledged and refused counts as refused, only a poll that wants SETs waits (RFC 8936
/// §2.4), and an answer is parsed as it was written.
pub(crate) fn poll(data: &[u8]) -> bool {
    let (headers, body) = labelled(data, header::CONTENT_LANGUAGE);
    let Ok(ask) = poll::wire::Ask::parse(body, &headers) else { return false };
    let ids: HashSet<Jti> = ask.outcomes.iter().map(|(jti, ..)| *jti).collect();
    let refused: HashSet<Jti> = ask.outcomes.iter().filter(|one| one.2.is_err()).map(|(jti, ..)| *jti).collect();
    for (jti, attempt, outcome) in &ask.outcomes {
        assert_eq!(*attempt, None, "a peer names no attempts");
        assert!(outcome.is_err() || !refused.contains(jti), "acknowledged and refused at once");
        presentable(outcome.as_ref().err());
    }
    assert!(ids.len() + ask.unknown <= Bounds::OF_RECEIVER.ids, "more ids than are kept");
    assert!(!ask.waits || ask.sets > 0, "waits for nothing");
    let sets: Vec<_> = ids.iter().zip(1..).map(|(jti, number)| sealed(*jti, number, body)).collect();
    let said = poll::wire::answer(&sets, ask.waits);
    let heard = poll::wire::read_answer(&said).expect("our own answer is not understood");
    assert_eq!(heard.more_available, ask.waits, "`moreAvailable` changed on the way");
    let bodies: Vec<_> = heard.sets.unwrap_or_default();
    assert_eq!(bodies.len(), sets.len(), "SETs were lost on the way");
    for (set, (name, token)) in sets.iter().zip(bodies) {
        assert_eq!((set.jti.as_str(), &set.body), (&*name, &token), "a SET changed on the way");
    }
    true
}

/// Checks that an answer to multi-SET push has a meaning for every status, that only a success settles several SETs at
/// once, and that the receiving half keeps its limits.
pub(crate) fn multipush(data: &[u8]) -> bool {
    let Some(([high, low, sent], rest)) = data.split_first_chunk() else { return false };
    let Ok(status) = StatusCode::from_u16(100 + u16::from_be_bytes([*high, *low]) % 900) else { return false };
    let (headers, body) = labelled(rest, header::RETRY_AFTER);
    let takes = multipush::wire::Receives { sets: usize::from(*sent), bytes: 8 << 10 };
    if let Ok(sets) = multipush::wire::sets(body, takes) {
        let names: HashSet<_> = sets.iter().map(|(name, _)| name).collect();
        assert!(
            sets.len() <= takes.sets && names.len() == sets.len() && body.len() <= takes.bytes,
            "took more than it takes"
        );
    }
    let sent = usize::from(*sent);
    let answer = HttpResponse { status, headers, body: Bytes::copy_from_slice(body), truncated: false };
    match multipush::wire::meaning(&answer, sent, Timestamp::from_seconds(1_800_000_000)) {
        multipush::wire::Meaning::Understood(outcomes) => {
            assert!(status.is_success(), "{status} was taken for a success");
            outcomes.iter().for_each(|(_, _, outcome)| presentable(outcome.as_ref().err()));
            return true;
        }
        multipush::wire::Meaning::TooMany | multipush::wire::Meaning::Halve => {
            assert!(sent > 1 && !status.is_success(), "{sent} SETs cannot be halved after {status}");
        }
        multipush::wire::Meaning::Each(verdict) => {
            let refused = matches!(verdict, Verdict::Refuse(_));
            assert!(!refused || (sent == 1 && !status.is_success()), "one answer refused {sent} SETs at {status}");
            presentable(Some(&verdict));
        }
        multipush::wire::Meaning::Fault(cause) => {
            assert!(sent == 0 && cause.text.len() <= 1024, "a fault with {sent} SETs");
        }
    }
    false
}

/// Checks that a message of a socket is parsed or gets a close code that may be sent (RFC 6455 §7.4), and that a
/// handshake is accepted only in the form of a browser and of RFC 6455 §4.2.1.
pub(crate) fn websocket(data: &[u8]) -> bool {
    let Some((first, rest)) = data.split_first() else { return false };
    if first & 1 == 0 {
        return match websocket::wire::message(rest, BOUNDS) {
            Ok(object) => {
                let says = Members::of(&object);
                let nothing =
                    says.sets.as_ref().is_none_or(BTreeMap::is_empty) && says.ack.is_empty() && says.errors.is_empty();
                let credit = says.max_events.is_some_and(|more| more > 0);
                assert_eq!(websocket::wire::is_empty(&object), nothing && !credit, "chatter is counted wrongly");
                true
            }
            Err(goodbye) => {
                assert!(matches!(goodbye.code, 1000..=1003 | 1007..=1013 | 4000..=4999), "close code {}", goodbye.code);
                assert!(goodbye.reason.len() <= 123, "the reason does not fit into a close frame");
                false
            }
        };
    }
    let mut headers = HeaderMap::new();
    for line in rest.split(|byte| *byte == b'\n').take(64) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    let allowed: [Box<str>; 1] = ["https://app.example.com".into()];
    if websocket::wire::origin(&headers, &allowed).is_ok() {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        assert!(origins.all(|origin| *origin == *allowed[0]), "another origin was let in");
        assert!(headers.get_all(header::ORIGIN).iter().count() <= 1, "two origins were let in");
    }
    match websocket::wire::opening(&Method::GET, &headers) {
        Ok(opening) => {
            let offers: Vec<_> =
                headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|f| f.to_str().ok()).collect();
            let offered =
                offers.iter().flat_map(|offer| offer.split(',')).any(|one| one.trim() == opening.protocol.as_str());
            assert!(offered, "a subprotocol was chosen that was not offered");
            assert_eq!(opening.accept.len(), 28, "the answer is no SHA-1 in base64");
            assert_eq!(headers.get(header::SEC_WEBSOCKET_VERSION).map(HeaderValue::as_bytes), Some(&b"13"[..]));
            true
        }
        Err(declined) => {
            assert!(declined.0.is_client_error(), "{} for a handshake", declined.0);
            false
        }
    }
}

/// Splits the input into a header field, which is its first line, and a body.
fn labelled(data: &[u8], name: HeaderName) -> (HeaderMap, &[u8]) {
    let (field, body) = data.split_at(data.iter().position(|byte| *byte == b'\n').unwrap_or(0));
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_bytes(field) {
        headers.insert(name, value);
    }
    (headers, body)
}

/// Checks that texts for operators have no control characters and are no longer than allowed (hardening H50).
fn presentable(verdict: Option<&Verdict>) {
    let fine = |text: &str, most: usize| text.len() <= most && !text.chars().any(char::is_control);
    match verdict {
        Some(Verdict::Refuse(refusal)) => {
            assert!(fine(refusal.code.as_str(), 64), "a code that nobody should see");
            assert!(
                fine(refusal.description.as_deref().unwrap_or_default(), 512),
                "a description that nobody should see"
            );
            assert!(fine(refusal.language.as_deref().unwrap_or_default(), 64), "a language that nobody should see");
        }
        Some(Verdict::Retry { cause, .. } | Verdict::Halt { cause, .. }) => {
            assert!(fine(&cause.text, 1024), "a cause that nobody should see");
        }
        _ => {}
    }
}

fn sealed(jti: Jti, number: u64, body: &[u8]) -> SealedSet {
    SealedSet {
        jti,
        attempt: Attempt(1),
        body: Bytes::from(String::from_utf8_lossy(body).into_owned()),
        envelope: std::sync::Arc::new(Envelope::new(Timestamp::from_seconds(number), Bytes::from_static(b"{}"))),
        order: OrderKey::from_bits(number),
    }
}

fn written_and_read_again(read: Exchange) {
    let named = |number: usize| Jti::from_block(b'f', (number as u128).to_be_bytes());
    let tokens = read.sets.as_ref();
    let sets: Option<Vec<_>> =
        tokens.map(|all| all.iter().zip(0..).map(|((_, token), at)| sealed(named(at), 1, token)).collect());
    let ack: Vec<Box<str>> = read.ack.iter().map(|jti| jti.as_str().into()).collect();
    let errors: Vec<(Box<str>, Refusal)> =
        read.set_errs.iter().map(|(jti, refusal)| (jti.as_str().into(), refusal.clone())).collect();
    let said = Speech {
        sets: sets.as_deref(),
        ack: Some(&ack),
        set_errs: Some(&errors),
        more_available: Some(read.more_available),
        max_events: read.max_events,
        return_immediately: Some(read.return_immediately),
        max_response_events: read.max_response_events,
    };
    let wide = Bounds { bytes: usize::MAX, ids: usize::MAX, sets: usize::MAX };
    let again = Exchange::parse(&said.to_json(), wide, Some("en")).expect("our own object is not understood");
    let expected = Exchange {
        sets: sets.map(|sets| sets.iter().map(|set| (set.jti.as_str().into(), set.body.clone())).collect()),
        set_errs: read.set_errs.iter().map(|(jti, refusal)| (*jti, said_again(refusal))).collect(),
        unknown: 0,
        ..read
    };
    assert_eq!(again, expected, "the object changed on the way");
}

/// Returns a refusal as it is parsed again: escapes are escaped again, and a missing description has a default text.
fn said_again(refusal: &Refusal) -> Refusal {
    let text = refusal.description.as_deref().unwrap_or("no description");
    Refusal {
        code: setgate_delivery::ErrorCode::from_wire(&setgate_delivery::clean(
            refusal.code.as_str(),
            setgate_delivery::ErrorCode::LONGEST,
        )),
        description: Some(setgate_delivery::clean(text, 512).into()),
        language: refusal.language.clone(),
    }
}

/// The members of an object, in an order that does not depend on the reader.
#[derive(Debug, Default, PartialEq)]
struct Members {
    sets: Option<BTreeMap<String, String>>,
    ack: Vec<String>,
    errors: Vec<(String, String, Option<String>)>,
    unknown: usize,
    ids: usize,
    max_events: Option<u64>,
    max_response_events: Option<u64>,
    return_immediately: bool,
    more_available: bool,
}

impl Members {
    fn of(read: &Exchange) -> Self {
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).expect("a token of a JSON text is text");
        Self {
            sets: read
                .sets
                .as_ref()
                .map(|all| all.iter().map(|(name, token)| (name.to_string(), text(token))).collect()),
            ack: read.ack.iter().map(|jti| jti.as_str().to_owned()).collect(),
            errors: (read.set_errs.iter())
                .map(|(jti, why)| {
                    let code = why.code.as_str().to_owned();
                    (jti.as_str().to_owned(), code, why.description.as_deref().map(str::to_owned))
                })
                .collect(),
            unknown: read.unknown,
            ids: read.ack.len() + read.set_errs.len() + read.unknown,
            max_events: read.max_events,
            max_response_events: read.max_response_events,
            return_immediately: read.return_immediately,
            more_available: read.more_available,
        }
    }

    fn beyond(&self, bytes: usize) -> bool {
        bytes > BOUNDS.bytes || self.ids > BOUNDS.ids || self.sets.as_ref().is_some_and(|sets| sets.len() > BOUNDS.sets)
    }
}

/// Parses with the second reader, which keeps known members as plain values with their duplicates and checks them
/// afterwards.
fn second(data: &[u8]) -> Result<Members, String> {
    let mut json = serde_json::Deserializer::from_slice(data);
    let members = json.deserialize_map(Known).and_then(|all| json.end().map(|()| all)).map_err(|e| e.to_string())?;
    let names: HashSet<_> = members.iter().map(|(name, _)| name).collect();
    if names.len() < members.len() {
        return Err("a member is there twice".to_owned());
    }
    let mut said = Members::default();
    for (name, value) in &members {
        match &**name {
            "sets" => {
                let mut sets = BTreeMap::new();
                for (name, token) in value.pairs()? {
                    if sets.insert(name.clone(), token.text()?.to_owned()).is_some() {
                        return Err(format!("{name} is there twice"));
                    }
                }
                said.sets = Some(sets);
            }
            "ack" => {
                let Tree::List(ids) = value else { return Err("`ack` is no array".to_owned()) };
                for id in ids {
                    said.ids += 1;
                    match id.text()?.parse::<Jti>() {
                        Ok(jti) => said.ack.push(jti.as_str().to_owned()),
                        Err(_) => said.unknown += 1,
                    }
                }
            }
            "setErrs" => {
                for (id, why) in value.pairs()? {
                    said.ids += 1;
                    let (code, text) = (why.optional_text("err")?, why.optional_text("description")?);
                    let code = setgate_delivery::clean(
                        code.unwrap_or("invalid_request"),
                        setgate_delivery::ErrorCode::LONGEST,
                    );
                    let code = setgate_delivery::ErrorCode::from_wire(&code).as_str().to_owned();
                    match id.parse::<Jti>() {
                        Ok(jti) => {
                            said.errors.push((
                                jti.as_str().to_owned(),
                                code,
                                text.map(|text| setgate_delivery::clean(text, 512)),
                            ));
                        }
                        Err(_) => said.unknown += 1,
                    }
                }
            }
            "maxEvents" => said.max_events = Some(value.count()?),
            "maxResponseEvents" => said.max_response_events = Some(value.count()?),
            "returnImmediately" => said.return_immediately = value.flag()?,
            _ => said.more_available = value.flag()?,
        }
    }
    Ok(said)
}

/// A JSON value that keeps duplicates.
#[derive(Debug)]
enum Tree {
    Flag(bool),
    Count(u64),
    /// A number that is negative or not whole.
    Number(#[expect(dead_code, reason = "for the text of a failure")] String),
    Text(String),
    List(Vec<Tree>),
    Pairs(Vec<(String, Tree)>),
    Null,
}

impl Tree {
    fn pairs(&self) -> Result<&[(String, Self)], String> {
        if let Self::Pairs(pairs) = self { Ok(pairs) } else { Err(format!("{self:?} is no object")) }
    }

    fn text(&self) -> Result<&str, String> {
        if let Self::Text(text) = self { Ok(text) } else { Err(format!("{self:?} is no text")) }
    }

    fn count(&self) -> Result<u64, String> {
        if let Self::Count(count) = self { Ok(*count) } else { Err(format!("{self:?} is no count")) }
    }

    fn flag(&self) -> Result<bool, String> {
        if let Self::Flag(flag) = self { Ok(*flag) } else { Err(format!("{self:?} is no flag")) }
    }

    fn optional_text(&self, name: &str) -> Result<Option<&str>, String> {
        let mut all = self.pairs()?.iter().filter(|(called, _)| called == name);
        match (all.next(), all.next()) {
            (None, _) | (Some((_, Self::Null)), None) => Ok(None),
            (Some((_, value)), None) => value.text().map(Some),
            (Some(_), Some(_)) => Err(format!("{name} is there twice")),
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_any(Grow)
    }
}

struct Grow;

impl<'de> Visitor<'de> for Grow {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Tree, E> {
        Ok(Tree::Flag(flag))
    }

    fn visit_u64<E>(self, count: u64) -> Result<Tree, E> {
        Ok(Tree::Count(count))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Tree, E> {
        Ok(Tree::Number(number.to_string()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Tree, E> {
        Ok(Tree::Number(number.to_string()))
    }

    fn visit_str<E>(self, text: &str) -> Result<Tree, E> {
        Ok(Tree::Text(text.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = all.next_element()? {
            items.push(item);
        }
        Ok(Tree::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut all: A) -> Result<Tree, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = all.next_entry()? {
            pairs.push(pair);
        }
        Ok(Tree::Pairs(pairs))
    }
}

/// A visitor for the members that have a meaning; the others are skipped, whatever they hold.
struct Known;

impl<'de> Visitor<'de> for Known {
    type Value = Vec<(String, Tree)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut all: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(name) = all.next_key::<String>()? {
            match &*name {
                "sets" | "ack" | "setErrs" | "maxEvents" | "returnImmediately" | "maxResponseEvents"
                | "moreAvailable" => {
                    members.push((name, all.next_value()?));
                }
                _ => drop(all.next_value::<IgnoredAny>()?),
            }
        }
        Ok(members)
    }
}
