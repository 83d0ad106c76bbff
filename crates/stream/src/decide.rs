//! The decision whether an event is owed to a stream, and the reason if it is not.

use std::fmt;

use setgate_set::Subject;

use crate::{DefaultSubjects, EventsWanted, Status, Stream};

/// The decision about an event for a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decision {
    /// The event is owed, and is delivered.
    Deliver,
    /// The event is owed, and is held while the stream is paused (SSF 1.0 §8.1.2.1).
    Hold,
    /// The event is not owed.
    Skip(Why),
}

impl Decision {
    /// Returns whether the stream is owed the event.
    #[must_use]
    pub fn is_owed(self) -> bool {
        matches!(self, Self::Deliver | Self::Hold)
    }
}

/// The reason why an event is not owed to a stream. Its text is a sentence for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Why {
    /// The stream is disabled: events are not held (SSF 1.0 §8.1.2.1).
    Disabled,
    /// The stream wants none of the event's types.
    EventNotWanted,
    /// The subject was removed from the stream.
    SubjectRemoved,
    /// The stream is sent added subjects only, and this one was not added.
    SubjectNotAdded,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disabled => "The stream is disabled, and a disabled stream holds no events.",
            Self::EventNotWanted => "The stream wants none of the event's types.",
            Self::SubjectRemoved => "The subject was removed from the stream.",
            Self::SubjectNotAdded => "The stream is sent only subjects that were added to it, and this one was not.",
        })
    }
}

/// Decides whether an event of these types about this subject is owed to a stream.
///
/// One wanted type is enough: several types of one event describe the same change (RFC 8417 §2). A removed subject wins
/// over an added one that covers the event as well. The issuer is not compared. Framework events do not pass through
/// this decision; they are addressed to a stream.
#[must_use]
pub fn decide(stream: &Stream, types: &[Box<str>], subject: &Subject) -> Decision {
    let owed = match stream.status {
        Status::Enabled => Decision::Deliver,
        Status::Paused { .. } => Decision::Hold,
        Status::Disabled { .. } => return Decision::Skip(Why::Disabled),
    };
    if !types.iter().any(|event| stream.events.wants(event)) {
        return Decision::Skip(Why::EventNotWanted);
    }
    if stream.roster.has_removed(subject) {
        return Decision::Skip(Why::SubjectRemoved);
    }
    match stream.default_subjects {
        DefaultSubjects::All => owed,
        DefaultSubjects::None if stream.roster.has_added(subject, stream.match_by_the_letter) => owed,
        DefaultSubjects::None => Decision::Skip(Why::SubjectNotAdded),
    }
}

/// Returns the reason why the stream cannot receive any event, as a sentence for people, or `None` where it can.
#[must_use]
pub fn why_nothing(stream: &Stream) -> Option<String> {
    match &stream.status {
        Status::Enabled => {}
        Status::Paused { why, .. } => return Some(format!("The stream is paused: {}. Events are held.", why.text())),
        Status::Disabled { why, .. } => {
            return Some(format!("The stream is disabled: {}. Events are not held.", why.text()));
        }
    }
    if matches!(&stream.events, EventsWanted::Exact(uris) if uris.is_empty()) {
        return Some("The stream wants no event types.".into());
    }
    if stream.default_subjects == DefaultSubjects::None && stream.roster.added().is_empty() {
        return Some(
            "The stream is sent only subjects that were added to it (default_subjects = NONE), and none was added."
                .into(),
        );
    }
    None
}

#[cfg(test)]
mod tests;
