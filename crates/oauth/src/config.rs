//! `[[producers]]`, `[[sources]]` and `[[receivers]]`: who may put events in, where they are collected, and who may come for SETs.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};

use crate::TokenHash;

/// One `[[producers]]` of the configuration. Nothing has a silent default: a producer may do what is written, and no more (hardening H2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProducerSection {
    /// Its name, kept with each record: 1 to 64 characters of `a-z A-Z 0-9 . _ -`.
    pub name: String,
    /// The hashes of its tokens; two while a token is exchanged. An element is a hash, or `{ hash = "…", expires = "2027-01-31T00:00:00Z" }`.
    pub token_hashes: Vec<TokenHashSection>,
    /// The URLs of the issuers under which it puts events in.
    pub issuers: Vec<String>,
    /// `"all"`, or the URIs of the event types it may put in, compared as exact strings.
    pub events: EventsSection,
    /// `"any"`, or rules that each subject must meet.
    pub subjects: SubjectsSection,
}

/// One `[[sources]]` of the configuration: a place from which a method collects events; a producer without tokens.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceSection {
    /// Its name, kept with each record: as that of a producer, and no producer's.
    pub name: String,
    /// The delivery method that collects, for example `kafka`.
    pub kind: String,
    /// The URL of the issuer under which its events go.
    pub issuer: String,
    /// `"all"`, or the URIs of the event types it may put in.
    pub events: EventsSection,
    /// `"any"`, or rules that each subject must meet.
    pub subjects: SubjectsSection,
    /// Where to collect: the method's own, passed on unread.
    pub from: serde_json::Value,
}

/// One element of `token_hashes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TokenHashSection {
    /// The hash.
    pub hash: TokenHash,
    /// From when on the token counts no more, as an RFC 3339 text.
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

/// Which event types a producer may put in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventsSection {
    /// All but those of the SSF framework, which only the gateway makes.
    All,
    /// These URIs.
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

/// One `[[receivers]]` of the configuration. Nothing has a silent default here either.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiverSection {
    /// Its name, which logs show: 1 to 64 characters of `a-z A-Z 0-9 . _ -`.
    pub name: String,
    /// The hashes of its tokens, as those of a producer.
    pub token_hashes: Vec<TokenHashSection>,
    /// The URLs of the issuers whose streams it may open.
    pub issuers: Vec<String>,
    /// `"all"`, or the ids of the streams it may open.
    pub streams: StreamsSection,
}

/// Which streams a receiver may open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamsSection {
    /// Every stream of its issuers.
    All,
    /// These ids.
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

/// The word for everything.
const ALL: &str = "all";

/// Reads the word for everything, or a list; says what was expected.
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

/// About which subjects a producer may put events in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubjectsSection {
    /// About any.
    Any,
    /// About those that the rules grant; see [`crate::SubjectRules`].
    Rules {
        /// Values of `iss` of `iss_sub` (and `jwt_id`) subjects, and of `issuer` of `saml_assertion_id` subjects.
        iss: Vec<String>,
        /// Domains of `email` subjects; subdomains are not included.
        email_domains: Vec<String>,
        /// Ids of opaque `tenant` members of complex subjects.
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
