//! A receiver and the streams that its tokens open.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    ReceiverSection, SectionError, StreamsSection, TokenHashSection,
    section::{self, Common},
};

/// A receiver that comes for SETs, with the streams it may open.
#[derive(Clone, Debug)]
pub struct Receiver {
    /// The receiver's name, which every session carries.
    pub name: Arc<str>,
    issuers: BTreeSet<Box<str>>,
    streams: StreamsAllowed,
    pub(crate) tokens: Vec<TokenHashSection>,
}

/// The streams that a receiver may open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamsAllowed {
    /// Every stream of its issuers.
    All,
    /// The streams with these ids, compared as exact strings.
    Exact(BTreeSet<Box<str>>),
}

impl Receiver {
    /// Creates the receiver that a section describes.
    ///
    /// # Errors
    /// [`SectionError`] when the section contradicts itself or names an issuer that is not among `issuers`.
    pub fn new(section: &ReceiverSection, issuers: &[&str]) -> Result<Self, SectionError> {
        check(section, issuers)?;
        let set = |values: &[String]| values.iter().map(|value| value.as_str().into()).collect::<BTreeSet<Box<str>>>();
        let streams = match &section.streams {
            StreamsSection::All => StreamsAllowed::All,
            StreamsSection::Exact(ids) => StreamsAllowed::Exact(set(ids)),
        };
        Ok(Self {
            name: section.name.as_str().into(),
            issuers: set(&section.issuers),
            streams,
            tokens: section.token_hashes.clone(),
        })
    }

    /// Creates all receivers of a configuration.
    ///
    /// # Errors
    /// [`SectionError`] of the first section that is not acceptable.
    pub fn all(sections: &[ReceiverSection], issuers: &[&str]) -> Result<Vec<Self>, SectionError> {
        let all = sections.iter().map(|section| Self::new(section, issuers)).collect::<Result<_, _>>()?;
        let held = sections.iter().map(|section| (section.name.as_str(), section.token_hashes.as_slice()));
        section::apart(LIST, held)?;
        Ok(all)
    }

    /// Returns whether the receiver may open streams of this issuer.
    #[must_use]
    pub fn serves(&self, issuer: &str) -> bool {
        self.issuers.contains(issuer)
    }

    /// Returns whether the receiver may open this stream of this issuer, without regard to whether there is such a
    /// stream.
    #[must_use]
    pub fn may_open(&self, issuer: &str, stream: &str) -> bool {
        self.serves(issuer)
            && match &self.streams {
                StreamsAllowed::All => true,
                StreamsAllowed::Exact(ids) => ids.contains(stream),
            }
    }

    /// Returns the issuers whose streams the receiver may open.
    pub fn issuers(&self) -> impl Iterator<Item = &str> {
        self.issuers.iter().map(AsRef::as_ref)
    }

    /// Returns the streams that the receiver may open.
    #[must_use]
    pub const fn streams(&self) -> &StreamsAllowed {
        &self.streams
    }

    /// Returns the expiry of each token, in the order of the configuration; `None` where it does not expire. Hashes are
    /// not returned.
    pub fn expiries(&self) -> impl Iterator<Item = Option<jiff::Timestamp>> {
        self.tokens.iter().map(|token| token.expires)
    }
}

/// The name of the list of sections.
const LIST: &str = "receivers";

fn check(section: &ReceiverSection, issuers: &[&str]) -> Result<(), SectionError> {
    let common = Common {
        list: LIST,
        name: &section.name,
        token_hashes: Some(&section.token_hashes),
        issuers: &section.issuers,
    };
    common.check(issuers)?;
    let StreamsSection::Exact(ids) = &section.streams else { return Ok(()) };
    if ids.is_empty() {
        return Err(common.empty("streams", "name stream ids, or write \"all\""));
    }
    let fits = |id: &str| {
        (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b))
    };
    match ids.iter().find(|id| !fits(id)) {
        Some(id) => Err(SectionError::Stream { name: section.name.clone(), stream: id.clone() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TokenHash;

    const ISSUERS: &[&str] = &["https://a.example", "https://b.example"];

    fn section(name: &str, streams: StreamsSection) -> ReceiverSection {
        ReceiverSection {
            name: name.into(),
            token_hashes: vec![TokenHash::of(name).into()],
            issuers: vec![ISSUERS[0].into()],
            streams,
        }
    }

    #[test]
    fn opens_its_streams_of_its_issuers_and_no_other() {
        let named = Receiver::new(&section("crm", StreamsSection::Exact(vec!["crm".into()])), ISSUERS).unwrap();
        let all = Receiver::new(&section("ops", StreamsSection::All), ISSUERS).unwrap();
        assert!(named.may_open(ISSUERS[0], "crm") && all.may_open(ISSUERS[0], "crm"));
        assert!(all.may_open(ISSUERS[0], "hr") && !named.may_open(ISSUERS[0], "hr"));
        for other in ["CRM", "crm/", "", "crm%20"] {
            assert!(!named.may_open(ISSUERS[0], other), "{other}");
        }
        for receiver in [named, all] {
            assert!(!receiver.may_open(ISSUERS[1], "crm") && !receiver.may_open("https://a.example/", "crm"));
        }
    }

    #[test]
    fn refuses_sections_that_cannot_be_meant() {
        let change = |change: fn(&mut ReceiverSection)| {
            let mut section = section("crm", StreamsSection::All);
            change(&mut section);
            Receiver::all(&[section], ISSUERS).unwrap_err().to_string()
        };
        assert!(change(|s| s.name = "a b".into()).contains("1 to 64"));
        assert!(change(|s| s.token_hashes.clear()).contains("receivers new"));
        assert!(change(|s| s.issuers.clear()).contains("empty `issuers`"));
        assert!(change(|s| s.issuers.push("https://other.example".into())).contains("https://other.example"));
        assert!(change(|s| s.streams = StreamsSection::Exact(vec![])).contains("\"all\""));
        assert!(change(|s| s.streams = StreamsSection::Exact(vec!["a/b".into()])).contains("a/b"));
        let twice = [section("crm", StreamsSection::All), section("crm", StreamsSection::All)];
        assert_eq!(Receiver::all(&twice, ISSUERS).unwrap_err(), SectionError::Twice(LIST, "crm".into()));
    }
}
