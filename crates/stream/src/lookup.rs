//! An index from the subject of an event to the owners that listed it, without a scan of the others.

use std::{borrow::Cow, collections::HashMap};

use roaring::RoaringBitmap;
use setgate_set::{Simple, Subject};

/// An index of the subjects of many owners, in which the cost of finding a subject's owners depends on the matches
/// alone.
///
/// A simple subject is found by its identifiers; a complex one by its members: the candidates that share an identical
/// member with the event, minus those that have another member of the event with another value (SSF 1.0 §8.1.3.1). This
/// is arithmetic on sorted sets: a million subjects with one member in common are one set, not a million candidates.
///
/// An owner is a number: the router uses the numbers of streams, the roster of one stream uses 0.
#[derive(Clone, Debug, Default)]
pub struct Lookup {
    simple: HashMap<Print, Numbers>,
    complex: Complex,
}

impl Lookup {
    /// Lists a subject for an owner. `by_the_letter` has the meaning of [`crate::matches()`]; it does not affect simple
    /// subjects.
    pub fn insert(&mut self, owner: u32, subject: &Subject, by_the_letter: bool) {
        match subject {
            Subject::Simple(simple) => {
                for one in simple.identifiers() {
                    self.simple.entry(print(None, one)).or_default().insert(owner);
                }
            }
            Subject::Complex(members) => self.complex.insert(owner, members, by_the_letter),
        }
    }

    /// Returns the owners that listed a subject which matches this one, as defined by [`crate::matches()`].
    #[must_use]
    pub fn find(&self, subject: &Subject) -> Cow<'_, RoaringBitmap> {
        match subject {
            Subject::Simple(_) if self.simple.is_empty() => Cow::default(),
            Subject::Complex(_) if self.complex.owners.is_empty() => Cow::default(),
            Subject::Simple(simple) => match simple.identifiers() {
                [one] => self.simple.get(&print(None, one)).map(Numbers::to_set).unwrap_or_default(),
                several => union(several.iter().filter_map(|one| self.simple.get(&print(None, one)))),
            },
            Subject::Complex(members) => Cow::Owned(self.complex.find(members)),
        }
    }

    /// Returns whether nothing is listed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.simple.is_empty() && self.complex.owners.is_empty()
    }

    /// Compacts the sets; call it once all subjects are listed.
    pub fn shrink(&mut self) {
        self.simple.values_mut().chain(self.complex.same.values_mut()).for_each(Numbers::shrink);
        self.complex.having.values_mut().for_each(|set| _ = set.optimize());
        self.complex.by_the_letter.optimize();
        self.simple.shrink_to_fit();
        self.complex.same.shrink_to_fit();
        self.complex.owners.shrink_to_fit();
    }
}

/// The complex subjects. The sets hold their numbers, in the order of listing.
#[derive(Clone, Debug, Default)]
struct Complex {
    /// The owner of each subject.
    owners: Vec<u32>,
    /// The subjects that have a member of this name with this identifier.
    same: HashMap<Print, Numbers>,
    /// The subjects that have a member of this name.
    having: HashMap<Box<str>, RoaringBitmap>,
    /// The subjects that match without a member in common.
    by_the_letter: RoaringBitmap,
}

impl Complex {
    fn insert(&mut self, owner: u32, members: &[(Box<str>, Simple)], by_the_letter: bool) {
        // More than 2^32 subjects do not fit into memory.
        let Ok(number) = u32::try_from(self.owners.len()) else { return };
        self.owners.push(owner);
        for (name, simple) in members {
            self.having.entry(name.clone()).or_default().insert(number);
            for one in simple.identifiers() {
                self.same.entry(print(Some(name), one)).or_default().insert(number);
            }
        }
        if by_the_letter {
            self.by_the_letter.insert(number);
        }
    }

    fn find(&self, members: &[(Box<str>, Simple)]) -> RoaringBitmap {
        let same: Vec<(&Box<str>, Cow<'_, RoaringBitmap>)> = members
            .iter()
            .map(|(name, simple)| {
                (name, union(simple.identifiers().iter().filter_map(|one| self.same.get(&print(Some(name), one)))))
            })
            .collect();
        // A member that all listed subjects have narrows the result alone, most often to few.
        let total = u64::try_from(self.owners.len()).unwrap_or(u64::MAX);
        let have_all = |name: &str| self.having.get(name).is_some_and(|having| having.len() == total);
        let mut found = match same.iter().filter(|(name, _)| have_all(name)).min_by_key(|(_, same)| same.len()) {
            Some((_, same)) => same.clone().into_owned(),
            None => same.iter().fold(self.by_the_letter.clone(), |found, (_, same)| found | same.as_ref()),
        };
        for (name, same) in &same {
            if found.is_empty() {
                break;
            }
            if let Some(having) = self.having.get(name.as_ref()) {
                let other = (&found & having) - same.as_ref();
                found -= other;
            }
        }
        found.iter().filter_map(|number| self.owners.get(usize::try_from(number).ok()?).copied()).collect()
    }
}

/// A hash that stands for an identifier, or for a member's name with an identifier.
type Print = [u8; 16];

fn print(member: Option<&str>, simple: &Simple) -> Print {
    let mut hasher = blake3::Hasher::new();
    if let Some(name) = member {
        // The length keeps a name from running into the identifier.
        hasher.update(&u64::try_from(name.len()).unwrap_or(u64::MAX).to_be_bytes()).update(name.as_bytes());
    }
    hasher.update(simple.canonical().as_bytes());
    let mut print = Print::default();
    hasher.finalize_xof().fill(&mut print);
    print
}

/// A set of numbers, optimised for a single one.
#[derive(Clone, Debug, Default)]
enum Numbers {
    #[default]
    None,
    One(u32),
    Many(Box<RoaringBitmap>),
}

impl Numbers {
    fn insert(&mut self, number: u32) {
        match self {
            Self::None => *self = Self::One(number),
            Self::One(one) if *one == number => {}
            Self::One(one) => *self = Self::Many(Box::new([*one, number].into_iter().collect())),
            Self::Many(many) => _ = many.insert(number),
        }
    }

    fn to_set(&self) -> Cow<'_, RoaringBitmap> {
        match self {
            Self::None => Cow::default(),
            Self::One(one) => Cow::Owned([*one].into_iter().collect()),
            Self::Many(many) => Cow::Borrowed(many),
        }
    }

    fn shrink(&mut self) {
        if let Self::Many(many) = self {
            many.optimize();
        }
    }
}

fn union<'a>(sets: impl Iterator<Item = &'a Numbers>) -> Cow<'a, RoaringBitmap> {
    sets.map(Numbers::to_set).reduce(|left, right| Cow::Owned(left.as_ref() | right.as_ref())).unwrap_or_default()
}

#[cfg(test)]
mod tests;
