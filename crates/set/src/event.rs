//! An event as producers put it in.

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::{Map, Number, Value};

use crate::{
    Subject, framework,
    json::{compact, token},
    subject::uri,
};

/// The limits of one event, in addition to those of its JSON and its subject.
#[derive(Clone, Copy, Debug)]
pub struct EventLimits {
    /// The most event URIs.
    pub types: usize,
    /// The longest event URI in bytes; 512 is the upper bound.
    pub uri: usize,
    /// The longest `txn`, `id` and `order_key` in bytes.
    pub name: usize,
}

impl Default for EventLimits {
    fn default() -> Self {
        Self { types: 16, uri: 512, name: 256 }
    }
}

/// The reason why a value is not an event that a producer may put in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", self.place())]
pub struct EventError {
    /// The JSON pointer to the member; empty for the event itself.
    pub pointer: String,
    /// The fault, in words for the producer. It never quotes the value of a member.
    pub message: String,
    /// True when the event is well-formed but producers may not send it: 403 instead of 400 (hardening H3).
    pub forbidden: bool,
}

impl EventError {
    fn new(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), message: message.into(), forbidden: false }
    }

    fn place(&self) -> String {
        if self.pointer.is_empty() { String::new() } else { format!("{}: ", self.pointer) }
    }
}

/// An event as a producer put it in: one change of one subject, in one or several event types (RFC 8417 §2).
///
/// It cannot hold a framework event ([`framework`]), which only the router makes (hardening H3).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Event {
    /// The event URIs, sorted. There is at least one; several describe the same change (RFC 8417 §2).
    pub types: Vec<Box<str>>,
    /// The subject that the event is about (RFC 9493, SSF 1.0 §3.1).
    pub subject: Subject,
    /// The transaction that all SETs of one cause share (RFC 8417 §2.2), given by the producer or set by
    /// [`Event::txn_or`].
    pub txn: Option<Box<str>>,
    /// The time at which the change happened (RFC 8417 §2.2).
    pub toe: Option<Number>,
    /// The time at which the producer says that it issued the event. It never becomes the `iat` of a SET.
    pub iat: Option<Number>,
    /// The producer's name for this event, for idempotent repetition.
    pub id: Option<Box<str>>,
    /// The producer's key for the order of events, in place of the subject.
    pub order_key: Option<Box<str>>,
    events: Box<str>,
    made_txn: bool,
}

impl Event {
    /// Reads an event from JSON that [`crate::parse_json`] has read.
    ///
    /// # Errors
    /// Returns [`EventError`], which names the member; it is `forbidden` for framework events.
    pub fn parse(value: Value, limits: &EventLimits) -> Result<Self, EventError> {
        let Value::Object(mut members) = value else {
            return Err(EventError::new("", "an event is a JSON object"));
        };
        let events = members.remove("events");
        let sub_id = members.remove("sub_id");
        let txn = members.remove("txn").map(|value| txn(value, limits)).transpose()?;
        let toe = members.remove("toe").map(|value| date("/toe", value)).transpose()?;
        let iat = members.remove("iat").map(|value| date("/iat", value)).transpose()?;
        let id = members.remove("id").map(|value| name("/id", value, limits)).transpose()?;
        let order_key = members.remove("order_key").map(|value| name("/order_key", value, limits)).transpose()?;
        if let Some(name) = members.keys().next() {
            return Err(EventError::new(format!("/{}", token(name)), unknown(name)));
        }
        let events = events.ok_or_else(|| EventError::new("", "`events` is missing (RFC 8417 §2.2)"))?;
        let types = types(&events, limits)?;
        let sub_id = sub_id.ok_or_else(|| EventError::new("", "`sub_id` is missing (SSF 1.0 §3.1)"))?;
        let subject = Subject::read(sub_id)
            .map_err(|error| EventError::new(format!("/sub_id{}", error.pointer), error.message))?;
        Ok(Self { types, subject, txn, toe, iat, id, order_key, events: compact(&events).into(), made_txn: false })
    }

    /// Returns the `txn`, which `make` creates once where the producer gave none.
    pub fn txn_or(&mut self, make: impl FnOnce() -> String) -> &str {
        let made_txn = &mut self.made_txn;
        self.txn.get_or_insert_with(|| {
            *made_txn = true;
            make().into()
        })
    }

    /// Returns the `events` member as compact JSON, members in the order of their names.
    #[must_use]
    pub fn events_json(&self) -> &str {
        &self.events
    }

    /// Returns the part of the payload that all SETs of this event share:
    /// `{"events":…,"sub_id":…[,"toe":…][,"txn":…]}`.
    ///
    /// The members stand in this order, nested ones in the order of their names. A producer's `iat` becomes `toe` where
    /// no `toe` is given.
    #[must_use]
    pub fn body(&self) -> Bytes {
        let subject = self.subject.canonical();
        let mut out = String::with_capacity(self.events.len() + subject.len() + 96);
        self.write_shared(&mut out, &subject);
        if let Some(toe) = self.toe.as_ref().or(self.iat.as_ref()) {
            out.push_str(",\"toe\":");
            out.push_str(&toe.to_string());
        }
        if let Some(txn) = &self.txn {
            out.push_str(",\"txn\":");
            out.push_str(&compact(txn));
        }
        out.push('}');
        out.into()
    }

    /// Returns the hash of what the producer sent, without `id`: a repetition has the same hash, whatever its white
    /// space and order of members.
    ///
    /// A `txn` that [`Event::txn_or`] made is not part of the hash.
    #[must_use]
    pub fn digest(&self) -> [u8; 16] {
        let subject = self.subject.canonical();
        let mut text = String::with_capacity(self.events.len() + subject.len() + 192);
        self.write_shared(&mut text, &subject);
        let mut write = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                text.push_str(name);
                text.push_str(&value);
            }
        };
        write(",\"toe\":", self.toe.as_ref().map(Number::to_string));
        write(",\"iat\":", self.iat.as_ref().map(Number::to_string));
        write(",\"order_key\":", self.order_key.as_ref().map(compact));
        write(",\"txn\":", self.txn.as_ref().filter(|_| !self.made_txn).map(compact));
        let hash = blake3::hash(text.as_bytes());
        let mut digest = [0u8; 16];
        digest.iter_mut().zip(hash.as_bytes()).for_each(|(to, from)| *to = *from);
        digest
    }

    /// Returns the text that names the subject for the order of events (`P4`).
    ///
    /// The text is the producer's `order_key` if there is one. Otherwise, for a complex subject it is the first of its
    /// `user`, `session`, `device`, `application` and `tenant`, or the whole subject; for aliases the strongest
    /// identifier; else the subject.
    #[must_use]
    pub fn order_text(&self) -> Cow<'_, str> {
        match &self.order_key {
            Some(key) => Cow::Borrowed(key),
            None => self.subject.order_text(),
        }
    }

    fn write_shared(&self, out: &mut String, subject: &str) {
        out.push_str("{\"events\":");
        out.push_str(&self.events);
        out.push_str(",\"sub_id\":");
        out.push_str(subject);
    }
}

fn unknown(name: &str) -> String {
    match name {
        "iss" | "aud" | "jti" => "the gateway sets this claim for each stream; leave it out".into(),
        "sub" => "a SET has no `sub` (SSF 1.0 §4.1.2); name the subject in `sub_id`".into(),
        "exp" => "a SET has no `exp` (SSF 1.0 §4.1.7)".into(),
        "subject" => "name the subject in `sub_id` (SSF 1.0 §3.1)".into(),
        _ => "an event has no such member: `events`, `sub_id`, `txn`, `toe`, `iat`, `id` and `order_key` are expected"
            .into(),
    }
}

fn types(events: &Value, limits: &EventLimits) -> Result<Vec<Box<str>>, EventError> {
    let wrong = |message: String| EventError::new("/events", message);
    let payloads: &Map<String, Value> =
        events.as_object().ok_or_else(|| wrong("an object of event URIs and payloads is expected".into()))?;
    if payloads.is_empty() || payloads.len() > limits.types {
        return Err(wrong(format!("1 to {} event URIs are expected (RFC 8417 §2.2)", limits.types)));
    }
    let mut types = Vec::with_capacity(payloads.len());
    for (name, payload) in payloads {
        if name.len() > limits.uri {
            return Err(wrong(format!("an event URI has at most {} bytes", limits.uri)));
        }
        let at = || format!("/events/{}", token(name));
        if uri(name).is_err() {
            return Err(EventError::new(at(), "the name of an event is an absolute URI (RFC 8417 §2.2)"));
        }
        if framework::is_reserved(name) {
            let message = "only the gateway itself sends this event";
            return Err(EventError { pointer: at(), message: message.into(), forbidden: true });
        }
        if !payload.is_object() {
            return Err(EventError::new(
                at(),
                "the payload of an event is an object; without data it is `{}` (RFC 8417 §2.2)",
            ));
        }
        types.push(name.as_str().into());
    }
    Ok(types)
}

fn name(pointer: &str, value: Value, limits: &EventLimits) -> Result<Box<str>, EventError> {
    match value {
        Value::String(text) if (1..=limits.name).contains(&text.len()) && !text.contains(char::is_control) => {
            Ok(text.into())
        }
        _ => {
            let message = format!("a string of 1 to {} bytes without control characters is expected", limits.name);
            Err(EventError::new(pointer, message))
        }
    }
}

/// Reads a string; a number becomes one, since older drafts printed numbers.
fn txn(value: Value, limits: &EventLimits) -> Result<Box<str>, EventError> {
    match value {
        Value::Number(number) => Ok(number.to_string().into()),
        other => name("/txn", other, limits),
    }
}

/// Reads a NumericDate (RFC 7519 §2) before the year 5138; later values are milliseconds and are refused.
fn date(pointer: &str, value: Value) -> Result<Number, EventError> {
    match value {
        Value::Number(number) if number.as_f64().is_some_and(|seconds| (0.0..1e11).contains(&seconds)) => Ok(number),
        Value::Number(_) => Err(EventError::new(pointer, "seconds since 1970-01-01 are expected, not milliseconds")),
        _ => Err(EventError::new(pointer, "a number of seconds since 1970-01-01 is expected (RFC 7519 §2)")),
    }
}

#[cfg(test)]
mod tests;
