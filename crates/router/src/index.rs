//! The index from an event to the streams that are owed it, without a look at the streams that are not.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    fmt,
    sync::{Arc, OnceLock},
};

use setgate_set::{Event, Format, Simple, Subject};
use setgate_store::{StreamNo, Streams, Version};
use setgate_stream::{Decision, DefaultSubjects, EventsWanted, Lookup, Status, Stream};

/// The index of all streams at one version of the control-plane records. It never changes: a new version is a new
/// index.
///
/// It decides as [`setgate_stream::decide`] does, stream by stream, but its cost follows what matches (`P7`): streams
/// are found by issuer, event type and subject, as ready-made sets.
pub struct Index {
    version: Version,
    issuers: HashMap<Arc<str>, OfIssuer>,
    streams: HashMap<StreamNo, Arc<Stream>>,
    ids: HashSet<Arc<str>>,
}

/// The decision about an event.
#[derive(Clone, Debug, PartialEq)]
pub struct Decided {
    /// The streams that are owed the event, paused ones among them. Where no subject list matters, all events share one
    /// set.
    pub targets: Arc<Streams>,
    /// The version of the control-plane records at the decision.
    pub version: Version,
    /// The number of streams that were checked one by one, since they list the subject; for tests and metrics.
    pub looked_at: u64,
}

#[derive(Default)]
struct OfIssuer {
    streams: Vec<Arc<Stream>>,
    by_id: HashMap<Arc<str>, StreamNo>,
    /// Streams that want every type.
    any: Wanting,
    /// Streams that want this very type.
    exact: HashMap<Box<str>, Wanting>,
    /// Subjects that were added to streams with the default NONE.
    added: Lookup,
    /// Subjects that were removed from any stream.
    removed: Lookup,
}

/// Streams that want a type and are not disabled.
#[derive(Default)]
struct Wanting {
    /// Streams with the default ALL.
    all: Arc<Streams>,
    /// Streams with the default NONE.
    none: Arc<Streams>,
    /// Both, joined with the streams that want every type; made when the type first occurs, since most types that
    /// streams want never do.
    joined: OnceLock<(Arc<Streams>, Arc<Streams>)>,
}

impl Index {
    /// Builds the index of these streams at this version.
    #[must_use]
    pub fn build(streams: &[Arc<Stream>], version: Version) -> Self {
        let mut issuers: HashMap<Arc<str>, OfIssuer> = HashMap::new();
        for stream in streams {
            issuers.entry(stream.issuer.clone()).or_default().add(stream);
        }
        issuers.values_mut().for_each(OfIssuer::close);
        Self {
            version,
            issuers,
            streams: streams.iter().map(|stream| (StreamNo(stream.no), stream.clone())).collect(),
            ids: streams.iter().map(|stream| stream.id.shared()).collect(),
        }
    }

    /// Returns the version of the control-plane records.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Returns the streams that are owed an event that was put in under an issuer.
    #[must_use]
    pub fn decide(&self, issuer: &str, event: &Event) -> Decided {
        let (targets, looked_at) = match self.issuers.get(issuer) {
            Some(of) => of.decide(&event.types, &event.subject),
            None => Default::default(),
        };
        Decided { targets, version: self.version, looked_at }
    }

    /// Returns the decision and its reason for each stream of the issuer, by number; every stream is checked.
    #[must_use]
    pub fn explain(&self, issuer: &str, event: &Event) -> Vec<(StreamNo, Decision)> {
        let streams = self.issuers.get(issuer).map(|of| of.streams.as_slice()).unwrap_or_default();
        let mut all: Vec<_> = streams
            .iter()
            .map(|stream| (StreamNo(stream.no), setgate_stream::decide(stream, &event.types, &event.subject)))
            .collect();
        all.sort_by_key(|(no, _)| *no);
        all
    }

    /// Returns the stream with this number.
    #[must_use]
    pub fn stream(&self, no: StreamNo) -> Option<&Arc<Stream>> {
        self.streams.get(&no)
    }

    /// Returns the stream of an issuer with this public id.
    #[must_use]
    pub fn by_id(&self, issuer: &str, id: &str) -> Option<&Arc<Stream>> {
        self.stream(*self.issuers.get(issuer)?.by_id.get(id)?)
    }

    /// Returns all streams, in no order.
    pub fn streams(&self) -> impl Iterator<Item = &Arc<Stream>> {
        self.streams.values()
    }

    /// Returns whether a subject names a stream of this gateway, of any issuer, as framework events do (SSF 1.0
    /// §8.1.4.1).
    ///
    /// Producers may not send such a subject (hardening H3).
    #[must_use]
    pub fn names_stream(&self, subject: &Subject) -> bool {
        let names = |simple: &Simple| {
            simple
                .identifiers()
                .iter()
                .any(|one| *one.format() == Format::Opaque && one.member("id").is_some_and(|id| self.ids.contains(id)))
        };
        match subject {
            Subject::Simple(simple) => names(simple),
            Subject::Complex(members) => members.iter().any(|(_, simple)| names(simple)),
        }
    }
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index").field("version", &self.version).field("streams", &self.streams.len()).finish()
    }
}

impl OfIssuer {
    fn add(&mut self, stream: &Arc<Stream>) {
        self.by_id.insert(stream.id.shared(), StreamNo(stream.no));
        self.streams.push(stream.clone());
        if matches!(stream.status, Status::Disabled { .. }) {
            return;
        }
        match &stream.events {
            EventsWanted::All => self.any.add(stream),
            EventsWanted::Exact(uris) => {
                for uri in uris {
                    self.exact.entry(uri.as_str().into()).or_default().add(stream);
                }
            }
        }
        if stream.default_subjects == DefaultSubjects::None {
            for subject in stream.roster.added().iter() {
                self.added.insert(stream.no, &subject, stream.match_by_the_letter);
            }
        }
        for subject in stream.roster.removed().iter() {
            self.removed.insert(stream.no, &subject, false);
        }
    }

    fn close(&mut self) {
        self.any.close();
        self.exact.values_mut().for_each(Wanting::close);
        self.added.shrink();
        self.removed.shrink();
    }

    /// Returns the targets, and the number of streams that were checked one by one.
    fn decide(&self, types: &[Box<str>], subject: &Subject) -> (Arc<Streams>, u64) {
        let (all, none) = self.wanting(types);
        let added = if none.is_empty() { Cow::default() } else { self.added.find(subject) };
        let removed = self.removed.find(subject);
        let looked_at = added.len() + removed.len();
        let added = &*added & &*none;
        if added.is_empty() && removed.is_disjoint(&all) {
            return (all, looked_at);
        }
        (Arc::new((added | &*all) - &*removed), looked_at)
    }

    /// Returns the streams with the default ALL, and those with NONE, that want one of these types.
    fn wanting(&self, types: &[Box<str>]) -> (Arc<Streams>, Arc<Streams>) {
        let mut found =
            types.iter().filter_map(|event| self.exact.get(event)).map(|exact| exact.joined_with(&self.any));
        let Some((mut all, mut none)) = found.next() else {
            return (self.any.all.clone(), self.any.none.clone());
        };
        for (more_all, more_none) in found {
            all = Arc::new(&*all | &*more_all);
            none = Arc::new(&*none | &*more_none);
        }
        (all, none)
    }
}

impl Wanting {
    fn add(&mut self, stream: &Stream) {
        let set = match stream.default_subjects {
            DefaultSubjects::All => &mut self.all,
            DefaultSubjects::None => &mut self.none,
        };
        Arc::make_mut(set).insert(stream.no);
    }

    fn close(&mut self) {
        Arc::make_mut(&mut self.all).optimize();
        Arc::make_mut(&mut self.none).optimize();
    }

    fn joined_with(&self, any: &Self) -> (Arc<Streams>, Arc<Streams>) {
        let join = |one: &Arc<Streams>, other: &Arc<Streams>| {
            if other.is_empty() {
                return one.clone();
            }
            let mut both = &**one | &**other;
            both.optimize();
            Arc::new(both)
        };
        self.joined.get_or_init(|| (join(&self.all, &any.all), join(&self.none, &any.none))).clone()
    }
}

#[cfg(test)]
mod tests;
