//! How often each action, fault and branch fired. A run over many seeds in which one never did has shown nothing of it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use setgate_store::{Appended, Done, Note, Rule, Unit};
use tracing::{Event, Metadata, Subscriber, field::Field, span};

/// Everything that must fire, by chapter.
pub(crate) const MUST: &[(&str, &[&str])] = &[
    (
        "actions",
        &[
            "events put in",
            "an event is accepted",
            "an event is a repeat",
            "an event is a conflict",
            "an event is refused",
            "a stream is created",
            "a stream is changed",
            "a stream is declared no more",
            "a stream is paused",
            "a stream is resumed",
            "a stream is resumed with its parked SETs",
            "a stream is disabled",
            "a stream is deleted",
            "a parked SET is issued again",
            "a parked SET is not issued again for the sake of order",
            "a parked SET is dropped",
            "a clock is confirmed",
            "a round of housekeeping is asked for",
            "a round of housekeeping rests while events come",
            "everything is compared in between",
        ],
    ),
    (
        "faults",
        &[
            "a crash at a commit",
            "a crash in the midst of tasks",
            "a crash after a round of housekeeping",
            "a crash while housekeeping is under way",
            "an end between two steps of housekeeping",
            "an orderly end",
            "an orderly end between two steps of housekeeping",
            "a commit in doubt was on the disk",
            "a commit in doubt was not on the disk",
            "an end was taken back by a crash",
            "the disk is full",
            "the engine refuses a write for want of room",
            "the engine refuses a write",
            "the disk does not confirm a flush",
            "the clock leaps forward",
            "the clock leaps far forward",
            "the clock leaps back",
            "the clock leaps far back",
            "a request is lost",
            "an answer is lost",
            "a slow answer",
            "a SET is refused",
            "a SET is refused for the stream's sake",
            "a SET fails alone",
            "a receiver asks for patience",
            "a channel is halted",
            "an answer in part",
            "a late acknowledgement",
            "an answer that repeats itself",
            "a receiver does not come",
            "a receiver forgets to acknowledge",
            "acknowledgements come twice",
            "a batch is dropped before it leaves",
            "a socket breaks",
            "a socket gives back what it had no time to write",
        ],
    ),
    (
        "what came of it",
        &[
            "several commits in one group",
            "an append was decided anew",
            "a SET is acknowledged",
            "a SET is parked",
            "a SET is dropped: Disabled",
            "a SET is dropped: Deleted",
            "a SET is dropped: SubjectRemoved",
            "a SET is dropped: EventNotWanted",
            "a SET is dropped: TooOld",
            "a SET is dropped: TooMany",
            "a SET arrived again",
            "a stream is paused by its own fault",
            "a stream is paused by its receiver's absence",
            "a change of streams that broke off is read again",
            "settlements cannot be written for a while",
            "the wall clock is believed by itself",
        ],
    ),
    (
        "housekeeping",
        &[
            "a segment is full",
            "cursors are folded",
            "cursors are folded before segments are given up",
            "segments are dropped",
            "a segment is condensed",
            "held records are swept",
            "parked SETs are forgotten",
            "a producer's ids are forgotten before their time",
            "the engine is opened again",
        ],
    ),
];

/// The counts of one or many histories.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    pub(crate) fn add(&mut self, what: &'static str, count: u64) {
        *self.0.entry(what).or_default() += count;
    }

    /// Adds the counts of another history.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (what, count) in &other.0 {
            self.add(what, *count);
        }
    }

    /// Counts what one unit brought about.
    pub(crate) fn unit(&mut self, unit: &Unit, done: &Done) {
        match (unit, done) {
            (_, Done::Appended(answers)) => {
                let stale = answers.iter().filter(|answer| matches!(answer, Appended::Stale { .. })).count();
                if stale > 0 {
                    self.add("an append was decided anew", stale as u64);
                }
            }
            (Unit::Settle { what, .. }, Done::Settled(news)) if *news > 0 => {
                for settlement in what {
                    match &settlement.note {
                        Note::Acknowledged(_) => self.add("a SET is acknowledged", 1),
                        Note::Parked { .. } => self.add("a SET is parked", 1),
                        Note::Dropped(rule) => self.dropped(*rule, 1),
                        Note::Attempt(_) => {}
                    }
                }
            }
            (Unit::Retain { rule, .. }, Done::Retained(count)) => self.dropped(*rule, *count as u64),
            (Unit::Configure { drop_through, .. }, Done::Configured { .. }) => {
                drop_through.iter().for_each(|(_, rule)| self.dropped(*rule, 1));
            }
            (_, Done::Reissued(Some(_))) => self.add("a parked SET is issued again", 1),
            _ => {}
        }
    }

    fn dropped(&mut self, rule: Rule, count: u64) {
        let what = match rule {
            Rule::Disabled => "a SET is dropped: Disabled",
            Rule::Deleted => "a SET is dropped: Deleted",
            Rule::SubjectRemoved => "a SET is dropped: SubjectRemoved",
            Rule::EventNotWanted => "a SET is dropped: EventNotWanted",
            Rule::TooOld => "a SET is dropped: TooOld",
            Rule::TooMany => "a SET is dropped: TooMany",
            _ => "a SET is dropped by another rule",
        };
        self.add(what, count);
    }

    /// Returns what never fired.
    #[must_use]
    pub(crate) fn never(&self) -> Vec<&'static str> {
        let all = MUST.iter().flat_map(|(_, names)| names.iter().copied());
        all.filter(|name| self.0.get(name).copied().unwrap_or_default() == 0).collect()
    }

    /// Returns how often things fired, in one line.
    #[must_use]
    pub(crate) fn brief(&self) -> String {
        let chapters = MUST.iter().map(|(chapter, names)| {
            let sum: u64 = names.iter().filter_map(|name| self.0.get(name)).sum();
            format!("{chapter} {sum}")
        });
        let all = MUST.iter().flat_map(|(_, names)| names.iter());
        let rarest = all.clone().min_by_key(|name| self.0.get(*name)).copied().unwrap_or_default();
        let count = self.0.get(rarest).copied().unwrap_or_default();
        let chapters = chapters.collect::<Vec<_>>().join(", ");
        format!("{chapters}; of {} kinds the rarest {count} times: {rarest}", all.count())
    }

    /// Returns the table.
    #[must_use]
    pub(crate) fn table(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::new();
        let known: Vec<&str> = MUST.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        for (chapter, names) in MUST {
            let _ = writeln!(text, "{chapter}");
            for name in *names {
                let count = self.0.get(name).copied().unwrap_or_default();
                let _ = writeln!(text, "  {count:>9}  {name}{}", if count == 0 { "  <- NEVER" } else { "" });
            }
        }
        let rest: Vec<_> = self.0.iter().filter(|(name, _)| !known.contains(name)).collect();
        if !rest.is_empty() {
            let _ = writeln!(text, "besides");
            for (name, count) in rest {
                let _ = writeln!(text, "  {count:>9}  {name}");
            }
        }
        text
    }
}

/// What was heard from the logs of the program since the last question.
static HEARD: Mutex<BTreeMap<&'static str, u64>> = Mutex::new(BTreeMap::new());

/// Listens to the logs of the program, from which the branches are counted that no answer shows.
pub(crate) fn listen() {
    let _ = tracing::subscriber::set_global_default(Ear);
}

/// Returns what was heard of all histories since the last call.
pub(crate) fn heard() -> Tally {
    Tally(std::mem::take(&mut *HEARD.lock().unwrap_or_else(PoisonError::into_inner)))
}

/// What a line of the logs counts as: its beginning, a field that must not be zero, and the name.
const LINES: &[(&str, &str, &str)] = &[
    ("a segment is full", "", "a segment is full"),
    ("cursors were written down", "", "cursors are folded"),
    ("what is given up is not folded yet", "", "cursors are folded before segments are given up"),
    ("segments are given up", "gone", "segments are dropped"),
    ("segments are given up", "condensed", "a segment is condensed"),
    ("segments are given up", "swept", "held records are swept"),
    ("parked SETs are beyond", "", "parked SETs are forgotten"),
    ("a producer has too many ids", "", "a producer's ids are forgotten before their time"),
    ("the store is open again", "", "the engine is opened again"),
    ("paused a stream by its own fault", "", "a stream is paused by its own fault"),
    ("paused a stream whose receiver", "", "a stream is paused by its receiver's absence"),
    ("a change of the streams broke off", "", "a change of streams that broke off is read again"),
    ("cannot write what was settled", "", "settlements cannot be written for a while"),
    ("the wall clock has gone on evenly", "", "the wall clock is believed by itself"),
];

struct Ear;

#[derive(Default)]
struct Line {
    message: String,
    numbers: Vec<(&'static str, u64)>,
}

impl tracing::field::Visit for Line {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.numbers.push((field.name(), value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        }
    }
}

impl Subscriber for Ear {
    fn enabled(&self, about: &Metadata<'_>) -> bool {
        about.is_event() && about.target().starts_with("setgate_")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        for (begins, field, name) in LINES {
            let counts = field.is_empty() || line.numbers.iter().any(|(name, count)| name == field && *count > 0);
            if counts && line.message.starts_with(begins) {
                *HEARD.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default() += 1;
            }
        }
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
