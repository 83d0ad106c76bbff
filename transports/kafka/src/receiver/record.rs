//! The reading of a record as an event of intake, plain or as a CloudEvent. It is pure, and its input is whatever a
//! producer of the topic wrote.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use setgate_delivery::{Bytes, ErrorCode, Identity, Json, JsonLimits, Refusal, parse_json};

use crate::config::{Format, KnownBy};

/// The most headers of a record that is read.
pub const MOST_HEADERS: usize = 128;
/// The most bytes of all headers of a record that is read.
pub const MOST_HEADER_BYTES: usize = 64 << 10;
/// The longest identity of an event, in bytes.
const LONGEST_ID: usize = 256;
/// The limits that keep the reader's stack and work bounded; the ingest has limits of its own.
const LIMITS: JsonLimits = JsonLimits { depth: 128, members: 10_000 };

/// The headers of a record, in their order.
pub type Headers = Vec<(String, Option<Bytes>)>;

/// The content of a record.
#[derive(Clone, Debug, PartialEq)]
pub enum Read {
    /// An event, as far as can be told before intake reads it.
    Event(Identity, Bytes),
    /// A tombstone, which holds no event.
    Nothing,
    /// A record that is no event, with the refusal.
    Bad(Refusal),
}

/// Reads one record; `at` names its place, and is the same whenever the record comes.
#[must_use]
pub fn read(format: Format, known_by: KnownBy, at: &str, headers: &Headers, value: Option<&Bytes>) -> Read {
    let Some(value) = value else { return Read::Nothing };
    match event(format, headers, value) {
        Ok((named, body)) => {
            let at = fitting("kafka:", at.to_owned());
            Read::Event(
                match (known_by, named) {
                    (KnownBy::Offset, _) => Identity::Given(at),
                    (KnownBy::Id, Some(named)) => Identity::Given(named),
                    (KnownBy::Id, None) => Identity::OrElse(at),
                },
                body,
            )
        }
        Err(why) => Read::Bad(refusal(ErrorCode::InvalidRequest, why)),
    }
}

/// Returns a refusal with a description.
pub(crate) fn refusal(code: ErrorCode, why: &str) -> Refusal {
    Refusal { code, description: Some(why.into()), language: None }
}

/// Returns the event's own name, if it is a CloudEvent, and its JSON.
fn event(format: Format, headers: &Headers, value: &Bytes) -> Result<(Option<String>, Bytes), &'static str> {
    let kind = one(headers, "content-type")?.map(str::trim);
    if kind.is_some_and(|kind| essence(kind).eq_ignore_ascii_case("application/secevent+jwt")) {
        return Err("the record is a SET: taking SETs from topics comes with the receiver side; a source takes events");
    }
    // RFC 8259 §8.1; the same octets would be another subject to a reader that believes the header.
    if kind.is_some_and(|kind| !is_utf8(kind)) {
        return Err("the `content-type` names a charset, and it is not UTF-8");
    }
    if format == Format::Json {
        return Ok((None, value.clone()));
    }
    // CloudEvents 1.0, Kafka protocol binding §3: the media type says which mode it is.
    if kind.is_some_and(|kind| begins(kind, "application/cloudevents")) {
        return structured(essence(kind.unwrap_or_default()), value);
    }
    if let Some(version) = one(headers, "ce_specversion")? {
        return binary(version, kind, headers, value);
    }
    if format == Format::Cloudevents {
        return Err("the record is no CloudEvent: it has neither `ce_specversion` nor a `content-type` of CloudEvents");
    }
    Ok((None, value.clone()))
}

fn binary(
    version: &str,
    kind: Option<&str>,
    headers: &Headers,
    value: &Bytes,
) -> Result<(Option<String>, Bytes), &'static str> {
    is_version(version)?;
    if kind.is_some_and(|kind| !is_json(kind)) {
        return Err("the data of the CloudEvent is not JSON, says its `content-type`");
    }
    let needed = |name| match one(headers, name) {
        Ok(Some(text)) if !text.is_empty() => Ok(text),
        Ok(_) => Err("a CloudEvent has `ce_id`, `ce_source` and `ce_type`, each not empty (CloudEvents 1.0 §3.1)"),
        Err(why) => Err(why),
    };
    let (id, source) = (needed("ce_id")?, needed("ce_source")?);
    needed("ce_type")?;
    Ok((Some(name(source, id)), value.clone()))
}

fn structured(media_type: &str, value: &Bytes) -> Result<(Option<String>, Bytes), &'static str> {
    if !media_type.eq_ignore_ascii_case("application/cloudevents+json") {
        return Err(
            "of CloudEvents in structured mode only `application/cloudevents+json` is read: one event, in JSON",
        );
    }
    // This is as strict as intake: no name twice, so that no other reader can find another event in it.
    let Ok(Json::Object(mut event)) = parse_json(value, &LIMITS) else {
        return Err("the CloudEvent is no JSON object without repeated names (RFC 7493)");
    };
    let mut text = |name: &str| match event.remove(name) {
        Some(Json::String(text)) => Ok(Some(text)),
        None => Ok(None),
        Some(_) => Err("the attributes of a CloudEvent are texts (CloudEvents 1.0, JSON format §2.2)"),
    };
    is_version(text("specversion")?.as_deref().unwrap_or_default())?;
    let needed = |text: Option<String>| {
        let missing = "a CloudEvent has `id`, `source` and `type`, each not empty (CloudEvents 1.0 §3.1)";
        text.filter(|text| !text.is_empty()).ok_or(missing)
    };
    let (id, source) = (needed(text("id")?)?, needed(text("source")?)?);
    needed(text("type")?)?;
    if text("datacontenttype")?.is_some_and(|kind| !is_json(&kind)) {
        return Err("the data of the CloudEvent is not JSON, says its `datacontenttype`");
    }
    let body = match (event.remove("data"), event.remove("data_base64")) {
        (Some(data @ Json::Object(_)), None) => {
            serde_json::to_vec(&data).map_err(|_| "the data cannot be written")?.into()
        }
        (None, Some(Json::String(text))) => {
            STANDARD.decode(text).map_err(|_| "`data_base64` of the CloudEvent is no base64 (RFC 4648 §4)")?.into()
        }
        _ => {
            return Err(
                "a CloudEvent has its event as an object in `data`, or its text in `data_base64`, and not both",
            );
        }
    };
    Ok((Some(name(&source, &id)), body))
}

fn is_version(version: &str) -> Result<(), &'static str> {
    if version == "1.0" { Ok(()) } else { Err("the version of the CloudEvent is not 1.0") }
}

/// Returns the one value of a header; two would mean different things to different readers.
fn one<'a>(headers: &'a Headers, name: &str) -> Result<Option<&'a str>, &'static str> {
    let mut found = headers.iter().filter(|(header, _)| header.eq_ignore_ascii_case(name));
    let Some((_, value)) = found.next() else { return Ok(None) };
    if found.next().is_some() {
        return Err("a header that says what the record is occurs twice");
    }
    let value = value.as_deref().unwrap_or_default();
    std::str::from_utf8(value).map(Some).map_err(|_| "a header that says what the record is is not UTF-8")
}

fn essence(kind: &str) -> &str {
    kind.split(';').next().unwrap_or_default().trim()
}

fn begins(text: &str, with: &str) -> bool {
    text.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with))
}

fn is_utf8(kind: &str) -> bool {
    kind.split(';').skip(1).filter_map(|parameter| parameter.split_once('=')).all(|(name, value)| {
        let value = value.trim().trim_matches('"');
        !name.trim().eq_ignore_ascii_case("charset")
            || ["utf-8", "utf8", "us-ascii"].iter().any(|charset| value.eq_ignore_ascii_case(charset))
    })
}

fn is_json(kind: &str) -> bool {
    let essence = essence(kind).to_ascii_lowercase();
    essence == "application/json" || essence == "text/json" || essence.ends_with("+json")
}

/// Returns the name of a CloudEvent, which is its `source` and `id` together (CloudEvents 1.0 §3.1.1); the length keeps
/// the two apart.
fn name(source: &str, id: &str) -> String {
    fitting("ce:", format!("ce:{}:{source}:{id}", source.len()))
}

/// Returns a name that intake accepts: one that is too long is replaced by its hash, behind the same prefix, since that
/// prefix is reserved for the source.
fn fitting(kind: &str, name: String) -> String {
    if name.len() <= LONGEST_ID { name } else { format!("{kind}blake3:{}", blake3::hash(name.as_bytes()).to_hex()) }
}

#[cfg(test)]
mod tests;
