//! The sections `[[producers]]`, `[[sources]]` and `[[receivers]]`: those who put events in, the places where events
//! are collected, and those who come for SETs.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};

use crate::TokenHash;

/// A `[[producers]]` section of the configuration. There are no defaults: a producer may do what the section says and
/// no more (hardening H2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProducerSection {
    /// The producer's name, kept with each record: 1 to 64 characters of `a-z A-Z 0-9 . _ -`.
    pub name: String,
    /// The hashes of the producer's tokens; two while a token is exchanged.
    ///
    /// An element is a hash, or `{ hash = "…", expires = "2027-01-31T00:00:00Z" }`.
    pub token_hashes: Vec<TokenHashSection>,
    /// The URLs of the issuers under which the producer puts events in.
    pub issuers: Vec<String>,
    /// The URIs of the event types it may put in, compared as exact strings, or `"all"`.
    pub events: EventsSection,
    /// The rules that each subject must meet, or `"any"`.
    pub subjects: SubjectsSection,
}

/// A `[[sources]]` section of the configuration: a place from which a method collects events; a producer without
/// tokens.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceSection {
    /// The source's name, kept with each record: of the same form as that of a producer, and no producer's.
    pub name: String,
    /// The delivery method that collects, for example `kafka`.
    pub kind: String,
    /// The URL of the issuer under which its events are put in.
    pub issuer: String,
    /// The URIs of the event types it may put in, or `"all"`.
    pub events: EventsSection,
    /// The rules that each subject must meet, or `"any"`.
    pub subjects: SubjectsSection,
    /// The method's own description of the place to collect from, passed on unread.
    pub from: serde_json::Value,
}

/// An element of `token_hashes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TokenHashSection {
    /// The hash of the token.
    pub hash: TokenHash,
    /// The time from which the token is no longer valid, as an RFC 3339 text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<jiff::Timestamp>,
}

impl From<TokenHash> for TokenHashSection {
    fn from(hash: TokenHash) -> Self {
        Self { hash, expires: None }
    }
}

impl<'de> Deserialize<'de> for TokenHashSection {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = TokenHashSection;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a token hash, or a table with `hash` and `expires`")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<TokenHashSection, E> {
                text.parse::<TokenHash>().map(Into::into).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TokenHashSection, A::Error> {
                let (mut hash, mut expires) = (None, None);
                while let Some(name) = map.next_key::<String>()? {
                    match name.as_str() {
                        "hash" => hash = Some(map.next_value::<TokenHash>()?),
                        "expires" => {
                            let text: String = map.next_value()?;
                            expires = Some(text.parse::<jiff::Timestamp>().map_err(|_| {
                                A::Error::custom(
                                    "`expires` is a text like \"2027-01-31T00:00:00Z\", in quotation marks",
                                )
                            })?);
                        }
                        _ => return Err(A::Error::unknown_field(&name, &["hash", "expires"])),
                    }
                }
                let hash = hash.ok_or_else(|| A::Error::missing_field("hash"))?;
                Ok(TokenHashSection { hash, expires })
            }
        }
        from.deserialize_any(Reader)
    }
}

/// The event types that a producer may put in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventsSection {
    /// Every event type but those of the SSF framework, which only the gateway makes.
    All,
    /// The event types with these URIs.
    Exact(Vec<String>),
}

impl Serialize for EventsSection {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Self::Exact(uris) = self else { return to.serialize_str(ALL) };
        uris.serialize(to)
    }
}

impl<'de> Deserialize<'de> for EventsSection {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let uris = from.deserialize_any(AllOr("\"all\", or an array of event URIs"))?;
        Ok(uris.map_or(Self::All, Self::Exact))
    }
}

/// A `[[receivers]]` section of the configuration. There are no defaults here either.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiverSection {
    /// The receiver's name, which logs show: 1 to 64 characters of `a-z A-Z 0-9 . _ -`.
    pub name: String,
    /// The hashes of the receiver's tokens, in the form of a producer's.
    pub token_hashes: Vec<TokenHashSection>,
    /// The URLs of the issuers whose streams the receiver may open.
    pub issuers: Vec<String>,
    /// The ids of the streams that the receiver may open, or `"all"`.
    pub streams: StreamsSection,
}

/// The streams that a receiver may open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamsSection {
    /// Every stream of its issuers.
    All,
    /// The streams with these ids.
    Exact(Vec<String>),
}

impl Serialize for StreamsSection {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Self::Exact(ids) = self else { return to.serialize_str(ALL) };
        ids.serialize(to)
    }
}

impl<'de> Deserialize<'de> for StreamsSection {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let ids = from.deserialize_any(AllOr("\"all\", or an array of stream ids"))?;
        Ok(ids.map_or(Self::All, Self::Exact))
    }
}

/// The word that stands for everything in a list's place.
const ALL: &str = "all";

/// A visitor that reads the word for everything, or a list; the text says what was expected.
struct AllOr(&'static str);

impl<'de> Visitor<'de> for AllOr {
    type Value = Option<Vec<String>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        if text == ALL { Ok(None) } else { Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)) }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while let Some(one) = seq.next_element()? {
            list.push(one);
        }
        Ok(Some(list))
    }
}

/// The subjects that a producer may put events in about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubjectsSection {
    /// Any subject.
    Any,
    /// The subjects that the rules grant; see [`crate::SubjectRules`].
    Rules {
        /// The allowed values of `iss` in `iss_sub` (and `jwt_id`) subjects, and of `issuer` in `saml_assertion_id`
        /// subjects.
        iss: Vec<String>,
        /// The allowed domains of `email` subjects; subdomains are not included.
        email_domains: Vec<String>,
        /// The allowed ids of opaque `tenant` members of complex subjects.
        tenants: Vec<String>,
    },
}

impl Serialize for SubjectsSection {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap as _;
        match self {
            Self::Any => to.serialize_str("any"),
            Self::Rules { iss, email_domains, tenants } => {
                let mut map = to.serialize_map(None)?;
                for (name, list) in [("iss", iss), ("email_domains", email_domains), ("tenants", tenants)] {
                    if !list.is_empty() {
                        map.serialize_entry(name, list)?;
                    }
                }
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for SubjectsSection {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = SubjectsSection;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"any\", or a table with `iss`, `email_domains` or `tenants`")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<SubjectsSection, E> {
                if text == "any" {
                    Ok(SubjectsSection::Any)
                } else {
                    Err(E::invalid_value(serde::de::Unexpected::Str(text), &self))
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SubjectsSection, A::Error> {
                let (mut iss, mut email_domains, mut tenants) = (Vec::new(), Vec::new(), Vec::new());
                while let Some(name) = map.next_key::<String>()? {
                    let list = match name.as_str() {
                        "iss" => &mut iss,
                        "email_domains" => &mut email_domains,
                        "tenants" => &mut tenants,
                        _ => return Err(A::Error::unknown_field(&name, &["iss", "email_domains", "tenants"])),
                    };
                    *list = map.next_value::<Vec<String>>()?;
                    if list.is_empty() {
                        return Err(A::Error::custom(format!(
                            "`{name}` is empty: leave it out, or name at least one value"
                        )));
                    }
                }
                if iss.is_empty() && email_domains.is_empty() && tenants.is_empty() {
                    return Err(A::Error::custom(
                        "name at least one of `iss`, `email_domains` and `tenants`, or write \"any\"",
                    ));
                }
                Ok(SubjectsSection::Rules { iss, email_domains, tenants })
            }
        }
        from.deserialize_any(Reader)
    }
}

#[cfg(test)]
mod tests;
