//! The object that peers exchange where SETs travel in batches: `sets`, `ack`, `setErrs`, and what each method adds.
//!
//! Poll (RFC 8936 §2.2, §2.3), multi-SET push (draft-deshpande-secevent-http-multi-set-push §4.3, §4.4) and push-pull
//! (draft-tulshibagwale-saag-pushpull-delivery §5) use the same members, so they are read and written here once.

use std::{collections::HashSet, fmt, sync::Arc};

use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use setgate_set::{ErrorCode, Jti, Receipt};
use setgate_telemetry::clean;

use crate::{Attempt, Outcome, Refusal, SealedSet, Verdict};

/// The upper bounds of one object (hardening H43).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of the whole object.
    pub bytes: usize,
    /// Ids in `ack` and `setErrs` together.
    pub ids: usize,
    /// Number of SETs.
    pub sets: usize,
}

impl Bounds {
    /// The bounds for a receiver that only acknowledges: 1 MiB, 10,000 ids.
    pub const OF_RECEIVER: Self = Self { bytes: 1 << 20, ids: 10_000, sets: 1_000 };
}

/// An object that a peer sent. Members that are not known are ignored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exchange {
    /// SETs under the `jti` that the peer gave them; `None` when there is no such member.
    pub sets: Option<Vec<(Box<str>, Bytes)>>,
    /// Acknowledged SETs of this gateway.
    pub ack: Vec<Jti>,
    /// Refused SETs of this gateway.
    pub set_errs: Vec<(Jti, Refusal)>,
    /// The number of ids in `ack` and `setErrs` that no gateway makes; they are ignored.
    pub unknown: usize,
    /// The member `maxEvents` (RFC 8936 §2.2); over the gateway's own WebSocket protocol it is the credit.
    pub max_events: Option<u64>,
    /// The member `returnImmediately` (RFC 8936 §2.2).
    pub return_immediately: bool,
    /// The member `maxResponseEvents` (push-pull over HTTP).
    pub max_response_events: Option<u64>,
    /// The member `moreAvailable` (RFC 8936 §2.3).
    pub more_available: bool,
}

/// The reason why an object is not acceptable.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// The object holds more than [`Bounds`] allow; the text names the limit.
    #[error("{0}")]
    TooLarge(String),
    /// The text is not an acceptable JSON object.
    #[error("it is no acceptable JSON object: {0}")]
    Invalid(#[source] Arc<serde_json::Error>),
}

impl Exchange {
    /// Reads an object. `language` is the peer's `Content-Language`, for the texts of `setErrs`.
    ///
    /// # Errors
    /// [`Malformed`] when the text is not a JSON object, a member has another type or occurs twice, or a bound is
    /// exceeded.
    pub fn parse(text: &[u8], bounds: Bounds, language: Option<&str>) -> Result<Self, Malformed> {
        if text.len() > bounds.bytes {
            return Err(Malformed::TooLarge(format!("more than {} bytes", bounds.bytes)));
        }
        let reader = Reader { bounds, language, passed: std::cell::Cell::new(None) };
        let mut json = serde_json::Deserializer::from_slice(text);
        let read = json.deserialize_map(&reader).and_then(|exchange| json.end().map(|()| exchange));
        read.map_err(|error| match reader.passed.take() {
            Some(limit) => Malformed::TooLarge(limit),
            None => Malformed::Invalid(Arc::new(error)),
        })
    }

    /// Returns the outcomes that the peer reports, ready for [`crate::Subscription::settle_all`].
    ///
    /// An id that is both acknowledged and refused counts as refused; RFC 8936 leaves it open.
    #[must_use]
    pub fn outcomes(&mut self) -> Vec<(Jti, Option<Attempt>, Outcome)> {
        let refused: HashSet<Jti> = self.set_errs.iter().map(|(jti, _)| *jti).collect();
        let taken = std::mem::take(&mut self.ack).into_iter().filter(|jti| !refused.contains(jti));
        let mut all: Vec<_> = taken.map(|jti| (jti, None, Ok(Receipt::Receiver))).collect();
        let refused = std::mem::take(&mut self.set_errs).into_iter();
        all.extend(refused.map(|(jti, refusal)| (jti, None, Err(Verdict::Refuse(refusal)))));
        all
    }
}

/// Reads the object member by member, so that a bound is noticed before more is kept.
struct Reader<'a> {
    bounds: Bounds,
    language: Option<&'a str>,
    passed: std::cell::Cell<Option<String>>,
}

impl Reader<'_> {
    fn within<E: serde::de::Error>(&self, count: usize, most: usize, what: &str) -> Result<(), E> {
        if count <= most {
            return Ok(());
        }
        self.passed.set(Some(format!("more than {most} {what}")));
        Err(E::custom("too many"))
    }
}

impl<'de> Visitor<'de> for &Reader<'_> {
    type Value = Exchange;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Exchange, A::Error> {
        let mut exchange = Exchange::default();
        let mut seen = 0u8;
        let mut ids = 0;
        while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            let bit = match &*name {
                "sets" => 1,
                "ack" => 2,
                "setErrs" => 4,
                "maxEvents" => 8,
                "returnImmediately" => 16,
                "maxResponseEvents" => 32,
                "moreAvailable" => 64,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            if seen & bit != 0 {
                return Err(A::Error::custom(format_args!("`{name}` is there twice")));
            }
            seen |= bit;
            match bit {
                1 => exchange.sets = Some(map.next_value_seed(Sets(self))?),
                2 => map.next_value_seed(Acks { reader: self, into: &mut exchange, ids: &mut ids })?,
                4 => map.next_value_seed(Errors { reader: self, into: &mut exchange, ids: &mut ids })?,
                8 => exchange.max_events = Some(map.next_value()?),
                16 => exchange.return_immediately = map.next_value()?,
                32 => exchange.max_response_events = Some(map.next_value()?),
                _ => exchange.more_available = map.next_value()?,
            }
        }
        Ok(exchange)
    }
}

struct Sets<'r, 'a>(&'r Reader<'a>);

impl<'de> DeserializeSeed<'de> for Sets<'_, '_> {
    type Value = Vec<(Box<str>, Bytes)>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Sets<'_, '_> {
    type Value = Vec<(Box<str>, Bytes)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of SETs")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut sets = Vec::new();
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<Box<str>>()? {
            self.0.within(sets.len() + 1, self.0.bounds.sets, "SETs")?;
            let token: std::borrow::Cow<'de, str> = map.next_value()?;
            if !names.insert(name.clone()) {
                return Err(A::Error::custom("a SET is there twice"));
            }
            sets.push((name, Bytes::copy_from_slice(token.as_bytes())));
        }
        Ok(sets)
    }
}

struct Acks<'r, 'a, 'o> {
    reader: &'r Reader<'a>,
    into: &'o mut Exchange,
    ids: &'o mut usize,
}

impl<'de> DeserializeSeed<'de> for Acks<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Acks<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of ids")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(id) = seq.next_element::<std::borrow::Cow<'de, str>>()? {
            *self.ids += 1;
            self.reader.within(*self.ids, self.reader.bounds.ids, "ids")?;
            match id.parse() {
                Ok(jti) => self.into.ack.push(jti),
                Err(_) => self.into.unknown += 1,
            }
        }
        Ok(())
    }
}

struct Errors<'r, 'a, 'o> {
    reader: &'r Reader<'a>,
    into: &'o mut Exchange,
    ids: &'o mut usize,
}

impl<'de> DeserializeSeed<'de> for Errors<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }
}

/// An error in `setErrs`. Both members may be missing, since older versions of the texts made them optional.
struct Said {
    err: Option<String>,
    description: Option<String>,
}

impl<'de> serde::Deserialize<'de> for Said {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        // A derived reader would also accept an array.
        json.deserialize_map(SaidVisitor)
    }
}

struct SaidVisitor;

impl<'de> Visitor<'de> for SaidVisitor {
    type Value = Said;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `err` and `description`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Said, A::Error> {
        let (mut err, mut description) = (None, None);
        while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            let (name, slot) = match &*name {
                "err" => ("err", &mut err),
                "description" => ("description", &mut description),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            if slot.replace(map.next_value::<Option<String>>()?).is_some() {
                return Err(A::Error::duplicate_field(name));
            }
        }
        Ok(Said { err: err.flatten(), description: description.flatten() })
    }
}

impl<'de> Visitor<'de> for Errors<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of errors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(id) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            *self.ids += 1;
            self.reader.within(*self.ids, self.reader.bounds.ids, "ids")?;
            let said: Said = map.next_value()?;
            let Ok(jti) = id.parse() else {
                self.into.unknown += 1;
                continue;
            };
            let code = said.err.as_deref().unwrap_or("invalid_request");
            let refusal = Refusal {
                code: ErrorCode::from_wire(&clean(code, ErrorCode::LONGEST)),
                description: said.description.map(|text| clean(&text, 512).into()),
                language: self.reader.language.map(Into::into),
            };
            self.into.set_errs.push((jti, refusal));
        }
        Ok(())
    }
}

/// An object to send to a peer. `None` leaves a member out. Members are written in a fixed order: `sets`, `ack`,
/// `setErrs`, the flags, then the numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Speech<'a> {
    /// SETs to hand over.
    pub sets: Option<&'a [SealedSet]>,
    /// SETs of the peer that were accepted, by the peer's `jti`.
    pub ack: Option<&'a [Box<str>]>,
    /// SETs of the peer that were refused; written with `err` and `description`, both of which push-pull demands.
    pub set_errs: Option<&'a [(Box<str>, Refusal)]>,
    /// The member `moreAvailable`.
    pub more_available: Option<bool>,
    /// The member `maxEvents`.
    pub max_events: Option<u64>,
    /// The member `returnImmediately`.
    pub return_immediately: Option<bool>,
    /// The member `maxResponseEvents`.
    pub max_response_events: Option<u64>,
}

impl Speech<'_> {
    /// Returns the object as JSON.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let sets = self.sets.unwrap_or_default();
        let ids = self.ack.unwrap_or_default().len() + self.set_errs.unwrap_or_default().len();
        let mut out = Vec::with_capacity(64 + ids * 64 + sets.iter().map(|set| set.body.len() + 32).sum::<usize>());
        out.push(b'{');
        if let Some(sets) = self.sets {
            member(&mut out, "sets");
            list(&mut out, b"{}", sets, |out, set| {
                quote(out, set.jti.as_str());
                out.push(b':');
                quote_bytes(out, &set.body);
            });
        }
        if let Some(ack) = self.ack {
            member(&mut out, "ack");
            list(&mut out, b"[]", ack, |out, id| quote(out, id));
        }
        if let Some(errors) = self.set_errs {
            member(&mut out, "setErrs");
            list(&mut out, b"{}", errors, |out, (id, refusal)| {
                quote(out, id);
                out.extend_from_slice(br#":{"err":"#);
                quote(out, refusal.code.as_str());
                out.extend_from_slice(br#","description":"#);
                quote(out, refusal.description.as_deref().unwrap_or("no description"));
                out.push(b'}');
            });
        }
        let flags = [("moreAvailable", self.more_available), ("returnImmediately", self.return_immediately)];
        let numbers = [("maxEvents", self.max_events), ("maxResponseEvents", self.max_response_events)];
        for (name, value) in flags.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            member(&mut out, name);
            out.extend_from_slice(if value { b"true" } else { b"false" });
        }
        for (name, value) in numbers.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            member(&mut out, name);
            out.extend_from_slice(value.to_string().as_bytes());
        }
        out.push(b'}');
        out
    }
}

fn member(out: &mut Vec<u8>, name: &str) {
    if out.len() > 1 {
        out.push(b',');
    }
    quote(out, name);
    out.push(b':');
}

fn list<T>(out: &mut Vec<u8>, around: &[u8; 2], all: &[T], mut each: impl FnMut(&mut Vec<u8>, &T)) {
    let [open, close] = *around;
    out.push(open);
    for (at, one) in all.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        each(out, one);
    }
    out.push(close);
}

fn quote(out: &mut Vec<u8>, text: &str) {
    quote_bytes(out, text.as_bytes());
}

/// Appends a JSON string. Tokens and the gateway's own ids need no escapes; other text is escaped as JSON demands.
fn quote_bytes(out: &mut Vec<u8>, text: &[u8]) {
    if is_plain(text) {
        out.push(b'"');
        out.extend_from_slice(text);
        out.push(b'"');
    } else {
        let text = String::from_utf8_lossy(text);
        out.extend_from_slice(serde_json::Value::from(&*text).to_string().as_bytes());
    }
}

/// Returns whether JSON may hold a text unescaped. The text is checked in blocks without a branch for each byte, since
/// every SET passes here.
fn is_plain(text: &[u8]) -> bool {
    let plain = |byte: &u8| (0x20..0x7f).contains(byte) & (*byte != b'"') & (*byte != b'\\');
    text.chunks(64).all(|block| block.iter().fold(true, |all, byte| all & plain(byte)))
}

#[cfg(test)]
mod tests;
