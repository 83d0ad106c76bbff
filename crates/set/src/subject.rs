//! Subject identifiers (RFC 9493, SSF 1.0 §3).

use std::{
    fmt,
    hash::{Hash, Hasher},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::json::{compact, token};

mod format;

pub use format::Format;
pub(crate) use format::uri;

/// The reason why a value is not a subject identifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", self.place())]
pub struct SubjectError {
    /// The JSON pointer below the subject; empty for the subject itself.
    pub pointer: String,
    /// The fault, in words for people. It never quotes a value, since subjects are personal data.
    pub message: String,
}

impl SubjectError {
    pub(crate) fn new(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), message: message.into() }
    }

    fn below(mut self, name: &str) -> Self {
        self.pointer.insert_str(0, &format!("/{}", token(name)));
        self
    }

    fn place(&self) -> String {
        if self.pointer.is_empty() { String::new() } else { format!("{}: ", self.pointer) }
    }
}

/// A simple subject: one identifier, or aliases of one entity (RFC 9493 §3).
///
/// Two simple subjects are equal when their JSON values are: the order of members does not matter, strings are compared
/// byte for byte.
#[derive(Clone)]
pub struct Simple {
    format: Format,
    value: Value,
    canonical: Box<str>,
    aliases: Box<[Simple]>,
}

impl Simple {
    /// Reads a simple subject strictly: all members of its format and no other (RFC 9493 §3). Only `scim` and
    /// proprietary formats may have further members.
    ///
    /// # Errors
    /// Returns [`SubjectError`] with the fault and its place.
    pub fn parse(value: &Value) -> Result<Self, SubjectError> {
        let simple = Self::read(value.clone(), false)?;
        within_limit(simple.canonical.len())?;
        Ok(simple)
    }

    fn read(value: Value, is_alias: bool) -> Result<Self, SubjectError> {
        let members = object(&value)?;
        let format = Format::of(members)?;
        if is_alias && format == Format::Aliases {
            return Err(SubjectError::new("", "aliases must not contain aliases (RFC 9493 §3.2.8)"));
        }
        format.check(members)?;
        let aliases = match (&format, members.get("identifiers")) {
            (Format::Aliases, Some(Value::Array(items))) => items
                .iter()
                .enumerate()
                .map(|(index, item)| {
                    Self::read(item.clone(), true).map_err(|error| error.below(&index.to_string()).below("identifiers"))
                })
                .collect::<Result<_, _>>()?,
            _ => Box::default(),
        };
        Ok(Self { format, canonical: compact(&value).into(), value, aliases })
    }

    /// Returns the format.
    #[must_use]
    pub fn format(&self) -> &Format {
        &self.format
    }

    /// Returns the JSON object.
    #[must_use]
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// Returns a member that is a string: `iss` of `iss_sub`, `email` of `email`, and so on.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&str> {
        self.value.get(name)?.as_str()
    }

    /// Returns the compact JSON text with members in the order of their names; equal subjects have equal texts.
    #[must_use]
    pub fn canonical(&self) -> &str {
        &self.canonical
    }

    /// Returns the identifiers of the entity: those of aliases, else the subject itself. There is at least one.
    #[must_use]
    pub fn identifiers(&self) -> &[Simple] {
        match self.format {
            Format::Aliases => &self.aliases,
            _ => std::slice::from_ref(self),
        }
    }

    /// Returns the identifier that names the entity for the purpose of order.
    pub(crate) fn principal(&self) -> &Self {
        const FIRST: [Format; 7] = [
            Format::IssSub,
            Format::Opaque,
            Format::Account,
            Format::Email,
            Format::PhoneNumber,
            Format::Did,
            Format::Uri,
        ];
        // The least text decides, not the first in the list, since the order in which a producer lists aliases means
        // nothing.
        FIRST
            .iter()
            .find_map(|format| {
                self.aliases.iter().filter(|alias| alias.format == *format).min_by_key(|alias| &alias.canonical)
            })
            .unwrap_or(self)
    }
}

impl PartialEq for Simple {
    fn eq(&self, other: &Self) -> bool {
        self.canonical == other.canonical
    }
}

impl Eq for Simple {}

impl Hash for Simple {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.canonical.hash(state);
    }
}

/// Shows only the format, since subjects never enter logs.
impl fmt::Debug for Simple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Simple({}, ..)", self.format.as_str())
    }
}

/// A subject: simple, or complex (SSF 1.0 §3.3).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A single identifier, or aliases of one entity.
    Simple(Simple),
    /// Members by name, in the order of names; all describe one principal.
    Complex(Vec<(Box<str>, Simple)>),
}

impl Subject {
    /// The most identifiers in `aliases` (hardening H30).
    pub const MOST_ALIASES: usize = 16;
    /// The most members of a complex subject, `format` not counted (hardening H30).
    pub const MOST_MEMBERS: usize = 16;
    /// The longest subject as compact JSON, in bytes (hardening H30).
    pub const LONGEST: usize = 2048;
    /// The longest URI in a subject, in bytes (hardening H30).
    pub const LONGEST_URI: usize = 512;
    /// The longest name of a format or of a complex subject's member, in bytes.
    pub const LONGEST_NAME: usize = 128;

    /// Reads a subject, strictly and within the limits.
    ///
    /// An unknown format is accepted unless it is the older name of a known one (SSF 1.0 §3.4).
    ///
    /// # Errors
    /// Returns [`SubjectError`] with the fault and its place; for spellings of older drafts it says what to write
    /// instead.
    pub fn parse(value: &Value) -> Result<Self, SubjectError> {
        Self::read(value.clone())
    }

    /// Reads a subject as [`Subject::parse`] does, from a value that the caller no longer needs.
    pub(crate) fn read(value: Value) -> Result<Self, SubjectError> {
        let subject = match value {
            Value::Object(members) if members.get("format").is_some_and(|format| format == "complex") => {
                Self::Complex(complex(members)?)
            }
            other => Self::Simple(Simple::read(other, false)?),
        };
        within_limit(subject.length())?;
        Ok(subject)
    }

    /// Returns the compact JSON text with members in the order of their names; equal subjects have equal texts.
    #[must_use]
    pub fn canonical(&self) -> std::borrow::Cow<'_, str> {
        match self {
            Self::Simple(simple) => simple.canonical().into(),
            Self::Complex(members) => {
                let mut out = String::with_capacity(self.length());
                let (before, after) = members.split_at(members.partition_point(|(name, _)| **name < *"format"));
                out.push('{');
                write_members(&mut out, before);
                out.push_str("\"format\":\"complex\",");
                write_members(&mut out, after);
                out.pop();
                out.push('}');
                out.into()
            }
        }
    }

    /// Returns the JSON object.
    #[must_use]
    pub fn value(&self) -> Value {
        match self {
            Self::Simple(simple) => simple.value.clone(),
            Self::Complex(members) => std::iter::once(("format".to_owned(), Value::from("complex")))
                .chain(members.iter().map(|(name, simple)| (name.to_string(), simple.value.clone())))
                .collect::<Map<_, _>>()
                .into(),
        }
    }

    /// Returns the members of a complex subject in the order of their names; a simple one has none.
    #[must_use]
    pub fn members(&self) -> &[(Box<str>, Simple)] {
        match self {
            Self::Simple(_) => &[],
            Self::Complex(members) => members,
        }
    }

    /// Returns the member of a complex subject with this name.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&Simple> {
        self.members().iter().find(|(known, _)| **known == *name).map(|(_, simple)| simple)
    }

    /// Returns the length of the canonical text in bytes.
    fn length(&self) -> usize {
        match self {
            Self::Simple(simple) => simple.canonical.len(),
            Self::Complex(members) => {
                let frame = "{\"format\":\"complex\"}".len();
                members.iter().fold(frame, |sum, (name, simple)| sum + compact(name).len() + simple.canonical.len() + 2)
            }
        }
    }

    /// Returns the text that names the subject for the purpose of order.
    pub(crate) fn order_text(&self) -> std::borrow::Cow<'_, str> {
        match self {
            Self::Simple(simple) => simple.principal().canonical().into(),
            Self::Complex(_) => ["user", "session", "device", "application", "tenant"]
                .iter()
                .find_map(|name| self.member(name))
                .map_or_else(|| self.canonical(), |simple| simple.principal().canonical().into()),
        }
    }
}

impl Serialize for Subject {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.value().serialize(to)
    }
}

impl<'de> Deserialize<'de> for Subject {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::parse(&Value::deserialize(from)?).map_err(serde::de::Error::custom)
    }
}

fn object(value: &Value) -> Result<&Map<String, Value>, SubjectError> {
    value.as_object().ok_or_else(|| SubjectError::new("", "a subject identifier is a JSON object"))
}

fn complex(members: Map<String, Value>) -> Result<Vec<(Box<str>, Simple)>, SubjectError> {
    match members.len() - 1 {
        0 => return Err(SubjectError::new("", "a complex subject needs a member beside `format` (SSF 1.0 §3.3)")),
        count if count > Subject::MOST_MEMBERS => {
            let most = Subject::MOST_MEMBERS;
            return Err(SubjectError::new("", format!("a complex subject has more than {most} members")));
        }
        _ => {}
    }
    members
        .into_iter()
        .filter(|(name, _)| name != "format")
        .map(|(name, value)| {
            if name.is_empty() || name.len() > Subject::LONGEST_NAME {
                let longest = Subject::LONGEST_NAME;
                return Err(SubjectError::new("", format!("the name of a member has 1 to {longest} bytes")));
            }
            match Simple::read(value, false) {
                Ok(simple) => Ok((name.into(), simple)),
                Err(error) => Err(error.below(&name)),
            }
        })
        .collect()
}

/// Writes members of a complex subject, a comma after each.
fn write_members(out: &mut String, members: &[(Box<str>, Simple)]) {
    for (name, simple) in members {
        out.push_str(&compact(name));
        out.push(':');
        out.push_str(&simple.canonical);
        out.push(',');
    }
}

fn within_limit(length: usize) -> Result<(), SubjectError> {
    if length > Subject::LONGEST {
        return Err(SubjectError::new("", format!("a subject has at most {} bytes", Subject::LONGEST)));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
