//! A producer and the permissions of its tokens.

use std::collections::BTreeSet;

use serde::Serialize;
use setgate_store::ProducerNo;

use crate::{
    EventsSection, ProducerSection, SectionError, SourceSection, SubjectsSection, TokenHashSection,
    section::{self, Common},
};

/// A producer, with the events it may put in (hardening H2).
///
/// The rules are data: the intake endpoint checks each event against them, since this crate does not know what an event
/// is.
#[derive(Clone, Debug)]
pub struct Producer {
    /// The producer's number in the store: the same for the same name, forever.
    pub no: ProducerNo,
    /// The producer's name.
    pub name: Box<str>,
    /// The event types that the producer may put in.
    pub events: EventsAllowed,
    /// The subjects that the producer may put events in about.
    pub subjects: SubjectPolicy,
    issuers: BTreeSet<Box<str>>,
    pub(crate) tokens: Vec<TokenHashSection>,
}

/// The event types that a producer may put in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EventsAllowed {
    /// Every event type but those of the SSF framework.
    All,
    /// The event types with these URIs, compared as exact strings.
    Exact(BTreeSet<Box<str>>),
}

impl EventsAllowed {
    /// Returns whether this event type is allowed.
    #[must_use]
    pub fn allows(&self, uri: &str) -> bool {
        match self {
            Self::All => true,
            Self::Exact(uris) => uris.contains(uri),
        }
    }
}

/// The subjects that a producer may put events in about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SubjectPolicy {
    /// Any subject.
    Any,
    /// The subjects that the rules grant.
    Rules(SubjectRules),
}

/// Rules that grant subjects. A kind of identifier without a rule is not granted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SubjectRules {
    /// The allowed issuers of identifiers.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub iss: BTreeSet<Box<str>>,
    /// The allowed domains of e-mail addresses, in lower case.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub email_domains: BTreeSet<Box<str>>,
    /// The ids of the tenants whose members are allowed.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub tenants: BTreeSet<Box<str>>,
}

impl Producer {
    /// Creates the producer that a section describes, under the number that the store gave its name.
    ///
    /// # Errors
    /// [`SectionError`] when the section contradicts itself or names an issuer that is not among `issuers`.
    pub fn new(no: ProducerNo, section: &ProducerSection, issuers: &[&str]) -> Result<Self, SectionError> {
        check(section, issuers)?;
        Ok(Self::made(no, section.clone()))
    }

    /// Creates the producer that a source stands for: without tokens, under one issuer.
    ///
    /// # Errors
    /// [`SectionError`] as for [`Producer::new`].
    pub fn of_source(no: ProducerNo, section: &SourceSection, issuers: &[&str]) -> Result<Self, SectionError> {
        check_source(section, issuers)?;
        let SourceSection { name, issuer, events, subjects, .. } = section.clone();
        Ok(Self::made(no, ProducerSection { name, token_hashes: Vec::new(), issuers: vec![issuer], events, subjects }))
    }

    fn made(no: ProducerNo, section: ProducerSection) -> Self {
        let set = |values: &[String]| values.iter().map(|value| value.as_str().into()).collect::<BTreeSet<Box<str>>>();
        let subjects = match &section.subjects {
            SubjectsSection::Any => SubjectPolicy::Any,
            SubjectsSection::Rules { iss, email_domains, tenants } => SubjectPolicy::Rules(SubjectRules {
                iss: set(iss),
                email_domains: email_domains.iter().map(|domain| domain.to_ascii_lowercase().into()).collect(),
                tenants: set(tenants),
            }),
        };
        let events = match &section.events {
            EventsSection::All => EventsAllowed::All,
            EventsSection::Exact(uris) => EventsAllowed::Exact(set(uris)),
        };
        Self {
            no,
            name: section.name.as_str().into(),
            events,
            subjects,
            issuers: set(&section.issuers),
            tokens: section.token_hashes,
        }
    }

    /// Returns whether the producer may put events in under this issuer, which is compared byte for byte.
    #[must_use]
    pub fn serves(&self, issuer: &str) -> bool {
        self.issuers.contains(issuer)
    }

    /// Returns the issuers under which the producer may put events in.
    pub fn issuers(&self) -> impl Iterator<Item = &str> {
        self.issuers.iter().map(AsRef::as_ref)
    }

    /// Returns the expiry of each token, in the order of the configuration; `None` where it does not expire. Hashes are
    /// not returned.
    pub fn expiries(&self) -> impl Iterator<Item = Option<jiff::Timestamp>> {
        self.tokens.iter().map(|token| token.expires)
    }
}

/// Checks all `[[producers]]` sections, without a store.
///
/// # Errors
/// [`SectionError`] of the first section that is not acceptable.
pub(crate) fn check_all(sections: &[ProducerSection], issuers: &[&str]) -> Result<(), SectionError> {
    sections.iter().try_for_each(|section| check(section, issuers))?;
    section::apart(LIST, sections.iter().map(|section| (section.name.as_str(), section.token_hashes.as_slice())))
}

/// Checks all `[[sources]]` sections beside those of producers, with which they share names and therefore numbers.
///
/// # Errors
/// [`SectionError`] of the first section that is not acceptable.
pub(crate) fn check_sources(
    sections: &[SourceSection],
    producers: &[ProducerSection],
    issuers: &[&str],
) -> Result<(), SectionError> {
    sections.iter().try_for_each(|section| check_source(section, issuers))?;
    section::apart(SOURCES, sections.iter().map(|section| (section.name.as_str(), &[][..])))?;
    match sections.iter().find(|section| producers.iter().any(|producer| producer.name == section.name)) {
        Some(section) => Err(SectionError::Producer(section.name.clone())),
        None => Ok(()),
    }
}

/// The names of the lists of sections.
const LIST: &str = "producers";
const SOURCES: &str = "sources";

fn check(section: &ProducerSection, issuers: &[&str]) -> Result<(), SectionError> {
    let common = Common {
        list: LIST,
        name: &section.name,
        token_hashes: Some(&section.token_hashes),
        issuers: &section.issuers,
    };
    common.check(issuers)?;
    rules(&common, &section.events, &section.subjects)
}

/// Checks one `[[sources]]` section.
pub(crate) fn check_source(section: &SourceSection, issuers: &[&str]) -> Result<(), SectionError> {
    let issuer = std::slice::from_ref(&section.issuer);
    let common = Common { list: SOURCES, name: &section.name, token_hashes: None, issuers: issuer };
    common.check(issuers)?;
    rules(&common, &section.events, &section.subjects)
}

fn rules(common: &Common<'_>, events: &EventsSection, subjects: &SubjectsSection) -> Result<(), SectionError> {
    if matches!(events, EventsSection::Exact(uris) if uris.is_empty()) {
        return Err(common.empty("events", "name event URIs, or write \"all\""));
    }
    if let SubjectsSection::Rules { email_domains, .. } = subjects
        && let Some(domain) = email_domains.iter().find(|domain| domain.is_empty() || domain.contains(['@', '*', ' ']))
    {
        let (list, name) = (common.list, common.name.to_owned());
        return Err(SectionError::Domain { list, name, domain: domain.clone() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TokenHash;

    fn section() -> ProducerSection {
        ProducerSection {
            name: "idp".into(),
            token_hashes: vec![TokenHash::of("a").into()],
            issuers: vec!["https://issuer.example".into()],
            events: EventsSection::All,
            subjects: SubjectsSection::Any,
        }
    }

    const ISSUERS: &[&str] = &["https://issuer.example"];

    #[test]
    fn serves_only_its_issuers_byte_for_byte() {
        let producer = Producer::new(ProducerNo(1), &section(), ISSUERS).unwrap();
        assert!(producer.serves("https://issuer.example"));
        for other in ["https://issuer.example/", "https://issuer.example/tenant", "https://ISSUER.example", ""] {
            assert!(!producer.serves(other), "{other}");
        }
    }

    #[test]
    fn refuses_sections_that_cannot_be_meant() {
        let change = |change: fn(&mut ProducerSection)| {
            let mut section = section();
            change(&mut section);
            check_all(&[section], ISSUERS).unwrap_err().to_string()
        };
        assert!(change(|s| s.name = "a b".into()).contains("1 to 64"));
        assert!(change(|s| s.token_hashes.clear()).contains("producers new"));
        assert!(change(|s| s.issuers.clear()).contains("empty `issuers`"));
        assert!(change(|s| s.issuers.push("https://other.example".into())).contains("https://other.example"));
        assert!(change(|s| s.events = EventsSection::Exact(vec![])).contains("\"all\""));
        let domain = |domain: &str| SubjectsSection::Rules {
            iss: vec![],
            email_domains: vec![domain.to_owned()],
            tenants: vec![],
        };
        for wrong in ["@example.com", "*.example.com", ""] {
            let error = check_all(&[ProducerSection { subjects: domain(wrong), ..section() }], ISSUERS).unwrap_err();
            assert!(matches!(error, SectionError::Domain { .. }), "{wrong}");
        }
    }

    #[test]
    fn refuses_one_name_or_one_token_for_two() {
        let error = check_all(&[section(), section()], ISSUERS).unwrap_err();
        assert_eq!(error, SectionError::Twice(LIST, "idp".into()));
        let error = check_all(&[section(), ProducerSection { name: "app".into(), ..section() }], ISSUERS).unwrap_err();
        assert_eq!(error, SectionError::SharedToken(LIST, "idp".into(), "app".into()));
    }

    fn source() -> SourceSection {
        SourceSection {
            name: "hr".into(),
            kind: "kafka".into(),
            issuer: ISSUERS[0].into(),
            events: EventsSection::All,
            subjects: SubjectsSection::Any,
            from: serde_json::Value::Null,
        }
    }

    #[test]
    fn a_source_has_no_token_and_no_name_of_a_producer() {
        check_sources(&[source()], &[section()], ISSUERS).unwrap();
        let wrong = |source: SourceSection| check_sources(&[source], &[section()], ISSUERS).unwrap_err();
        assert_eq!(wrong(SourceSection { name: "idp".into(), ..source() }), SectionError::Producer("idp".into()));
        let error = check_sources(&[source(), source()], &[], ISSUERS).unwrap_err();
        assert_eq!(error, SectionError::Twice(SOURCES, "hr".into()));
        let error = wrong(SourceSection { issuer: "https://other.example".into(), ..source() }).to_string();
        assert!(error.starts_with("sources: `hr`") && error.contains("https://other.example"), "{error}");
        assert!(
            wrong(SourceSection { events: EventsSection::Exact(vec![]), ..source() }).to_string().contains("\"all\"")
        );
        assert!(matches!(wrong(SourceSection { name: "a/b".into(), ..source() }), SectionError::Name(..)));
        let made = Producer::of_source(ProducerNo(3), &source(), ISSUERS).unwrap();
        assert!(made.serves(ISSUERS[0]) && made.expiries().next().is_none());
    }

    #[test]
    fn exact_events_are_exact() {
        let allowed = EventsAllowed::Exact(["urn:a".into()].into());
        assert!(allowed.allows("urn:a"));
        assert!(!allowed.allows("URN:a"));
        assert!(!allowed.allows("urn:a/"));
        assert!(EventsAllowed::All.allows("urn:b"));
    }
}
