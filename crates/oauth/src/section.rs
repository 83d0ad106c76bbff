//! The parts that sections of producers, sources and receivers share: a name, tokens, issuers.

use std::collections::{BTreeMap, BTreeSet};

use crate::TokenHashSection;

/// The reason why a `[[producers]]`, `[[sources]]` or `[[receivers]]` section is not acceptable, with the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SectionError {
    /// The name cannot be shown in logs and metrics.
    #[error("{0}: the name `{1}` is not acceptable: use 1 to 64 characters of a-z A-Z 0-9 . _ -")]
    Name(&'static str, String),
    /// Two sections have the same name.
    #[error("{0}: `{1}` is there twice: merge the two sections or rename one")]
    Twice(&'static str, String),
    /// A producer and a source have the same name, and would therefore have the same number.
    #[error("sources: `{0}` is the name of a producer as well: rename the source")]
    Producer(String),
    /// Two sections have a token in common.
    #[error("{0}: `{1}` and `{2}` have a token in common: make each its own with `setgate {0} new`")]
    SharedToken(&'static str, String, String),
    /// The section names an issuer that this gateway does not serve.
    #[error("{list}: `{name}` names the issuer `{issuer}`, which no [[issuers]] section declares")]
    Issuer {
        /// The name of the list of sections.
        list: &'static str,
        /// The name of the section.
        name: String,
        /// The issuer's URL.
        issuer: String,
    },
    /// A list that must not be empty is empty.
    #[error("{list}: `{name}` has an empty `{key}`: {remedy}")]
    Empty {
        /// The name of the list of sections.
        list: &'static str,
        /// The name of the section.
        name: String,
        /// The key of the list.
        key: &'static str,
        /// The remedy.
        remedy: String,
    },
    /// A domain can match no e-mail address.
    #[error(
        "{list}: `{name}` has the e-mail domain `{domain}`: write the part behind the @ alone, for example example.com"
    )]
    Domain {
        /// The name of the list of sections.
        list: &'static str,
        /// The name of the section.
        name: String,
        /// The domain.
        domain: String,
    },
    /// A stream id is one that no stream can have.
    #[error("receivers: `{name}` names the stream `{stream}`: an id has 1 to 128 characters of A-Z a-z 0-9 - . _ ~")]
    Stream {
        /// The name of the receiver.
        name: String,
        /// The stream id.
        stream: String,
    },
}

/// The parts that every section has.
pub(crate) struct Common<'a> {
    pub(crate) list: &'static str,
    pub(crate) name: &'a str,
    /// The hashes of the tokens; `None` for a section that has no tokens.
    pub(crate) token_hashes: Option<&'a [TokenHashSection]>,
    pub(crate) issuers: &'a [String],
}

impl Common<'_> {
    /// Checks the parts; `known` are the issuers of the gateway.
    ///
    /// # Errors
    /// [`SectionError`] of the first part that is not acceptable.
    pub(crate) fn check(&self, known: &[&str]) -> Result<(), SectionError> {
        let Self { list, name, token_hashes, issuers } = *self;
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if !(1..=64).contains(&name.len()) || !name.bytes().all(plain) {
            return Err(SectionError::Name(list, name.to_owned()));
        }
        if token_hashes.is_some_and(<[_]>::is_empty) {
            return Err(self.empty("token_hashes", &format!("make a token with `setgate {list} new`")));
        }
        if issuers.is_empty() {
            return Err(self.empty("issuers", "name the issuers that it has to do with"));
        }
        match issuers.iter().find(|issuer| !known.contains(&issuer.as_str())) {
            Some(issuer) => Err(SectionError::Issuer { list, name: name.to_owned(), issuer: issuer.clone() }),
            None => Ok(()),
        }
    }

    /// Returns the error for the empty list `key` of this section.
    pub(crate) fn empty(&self, key: &'static str, remedy: &str) -> SectionError {
        SectionError::Empty { list: self.list, name: self.name.to_owned(), key, remedy: remedy.to_owned() }
    }
}

/// Checks that no two sections have a name or a token in common.
///
/// # Errors
/// [`SectionError`], which names both.
pub(crate) fn apart<'a>(
    list: &'static str,
    sections: impl Iterator<Item = (&'a str, &'a [TokenHashSection])>,
) -> Result<(), SectionError> {
    let (mut names, mut tokens) = (BTreeSet::new(), BTreeMap::new());
    for (name, token_hashes) in sections {
        if !names.insert(name) {
            return Err(SectionError::Twice(list, name.to_owned()));
        }
        for token in token_hashes {
            if let Some(other) = tokens.insert(*token.hash.bytes(), name)
                && other != name
            {
                return Err(SectionError::SharedToken(list, other.to_owned(), name.to_owned()));
            }
        }
    }
    Ok(())
}
