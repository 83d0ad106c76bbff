//! The subjects that were added to a stream, and those that were removed (SSF 1.0 §8.1.3).

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, OnceLock},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use setgate_set::{Simple, Subject};

use crate::Lookup;

/// Returns whether a subject that was added to a stream covers the subject of an event (SSF 1.0 §8.1.3.1).
///
/// Simple subjects match when they are identical; aliases when they have an identifier in common. Complex subjects
/// match when each member is missing on one side or matches. The letter of the standard lets two complex subjects match
/// that have no member in common, the default does not (openid/sharedsignals#312). A simple and a complex subject never
/// match.
#[must_use]
pub fn matches(added: &Subject, event: &Subject, by_the_letter: bool) -> bool {
    match (added, event) {
        (Subject::Simple(added), Subject::Simple(event)) => same(added, event),
        (Subject::Complex(members), Subject::Complex(_)) => {
            let mut common = members.iter().filter_map(|(name, added)| Some((added, event.member(name)?))).peekable();
            (by_the_letter || common.peek().is_some()) && common.all(|(added, event)| same(added, event))
        }
        _ => false,
    }
}

fn same(left: &Simple, right: &Simple) -> bool {
    left.identifiers().iter().any(|one| right.identifiers().contains(one))
}

/// The subjects that were added to a stream, and those that were removed. No subject is in both.
///
/// The JSON form is `{"added": […], "removed": […]}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roster {
    #[serde(default, skip_serializing_if = "Subjects::is_empty")]
    added: Subjects,
    #[serde(default, skip_serializing_if = "Subjects::is_empty")]
    removed: Subjects,
}

impl Roster {
    /// Returns the subjects that were added.
    #[must_use]
    pub fn added(&self) -> &Subjects {
        &self.added
    }

    /// Returns the subjects that were removed.
    #[must_use]
    pub fn removed(&self) -> &Subjects {
        &self.removed
    }

    /// Adds a subject and undoes its removal (SSF 1.0 §8.1.3.2). Returns whether that changed anything.
    pub fn add(&mut self, subject: &Subject) -> bool {
        let back = self.removed.remove(subject);
        self.added.put(subject) || back
    }

    /// Removes a subject and undoes its addition (SSF 1.0 §8.1.3.3). Returns whether that changed anything.
    pub fn remove(&mut self, subject: &Subject) -> bool {
        let back = self.added.remove(subject);
        self.removed.put(subject) || back
    }

    /// Returns whether an added subject covers the subject of an event; `by_the_letter` has the meaning of
    /// [`matches()`].
    #[must_use]
    pub fn has_added(&self, event: &Subject, by_the_letter: bool) -> bool {
        self.added.cover(event, by_the_letter)
    }

    /// Returns whether a removed subject covers the subject of an event.
    ///
    /// A member in common is always required here: by the letter, one removed user would silence every device.
    #[must_use]
    pub fn has_removed(&self, event: &Subject) -> bool {
        self.removed.cover(event, false)
    }
}

/// A set of distinct subjects, in which the cost of a lookup depends on the matches alone.
#[derive(Clone, Default)]
pub struct Subjects {
    texts: BTreeSet<Box<str>>,
    // Built on first use: the router has an index over all streams and rarely asks a single one.
    careful: OnceLock<Arc<Lookup>>,
    by_the_letter: OnceLock<Arc<Lookup>>,
}

impl Subjects {
    /// Returns the number of subjects.
    #[must_use]
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Returns whether there are no subjects.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Returns whether the set contains an equal subject.
    #[must_use]
    pub fn contains(&self, subject: &Subject) -> bool {
        self.texts.contains(subject.canonical().as_ref())
    }

    /// Returns the subjects in the order of their texts. Each is parsed from its text when the iterator reaches it.
    pub fn iter(&self) -> impl Iterator<Item = Subject> {
        // Only subjects are put in, so each text parses to the same one.
        self.values().filter_map(|value| Subject::parse(&value).ok())
    }

    fn values(&self) -> impl Iterator<Item = Value> {
        self.texts.iter().filter_map(|text| serde_json::from_str(text).ok())
    }

    fn put(&mut self, subject: &Subject) -> bool {
        let is_new = self.texts.insert(subject.canonical().into());
        if is_new {
            self.forget();
        }
        is_new
    }

    fn remove(&mut self, subject: &Subject) -> bool {
        let was_there = self.texts.remove(subject.canonical().as_ref());
        if was_there {
            self.forget();
        }
        was_there
    }

    fn cover(&self, event: &Subject, by_the_letter: bool) -> bool {
        if self.is_empty() {
            return false;
        }
        let made = if by_the_letter { &self.by_the_letter } else { &self.careful };
        let lookup = made.get_or_init(|| {
            let mut lookup = Lookup::default();
            self.iter().for_each(|subject| lookup.insert(0, &subject, by_the_letter));
            Arc::new(lookup)
        });
        !lookup.find(event).is_empty()
    }

    fn forget(&mut self) {
        self.careful.take();
        self.by_the_letter.take();
    }
}

impl PartialEq for Subjects {
    fn eq(&self, other: &Self) -> bool {
        self.texts == other.texts
    }
}

impl Eq for Subjects {}

/// Shows only the number of subjects, since subjects never enter logs.
impl fmt::Debug for Subjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Subjects({})", self.len())
    }
}

impl FromIterator<Subject> for Subjects {
    fn from_iter<T: IntoIterator<Item = Subject>>(subjects: T) -> Self {
        let mut all = Self::default();
        for subject in subjects {
            all.put(&subject);
        }
        all
    }
}

impl Serialize for Subjects {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.values())
    }
}

impl<'de> Deserialize<'de> for Subjects {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Vec::<Subject>::deserialize(from)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests;
