//! Events that come without a request: a source collected them, and they are checked as the intake endpoint checks.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::StatusCode;
use setgate_oauth::Producer;
use setgate_router::Accepted;
use setgate_set::{ErrorCode, Event};

use crate::{Intake, IntakeConfig, Observed, error::Problem, validator::EventValidator};

/// The most bytes of an `id` (hardening H14).
const LONGEST_ID: usize = 256;
/// The most events of one commit. A source brings events in batches of its own: commits as small as those of a request
/// would only cost time, but a batch should be several commits, so that one part is read while the one before is
/// committed.
const COMMIT_ITEMS: usize = 256;
/// The bytes after which a commit takes no further event.
const COMMIT_BYTES: usize = 1 << 20;
/// The most bytes of a text that states a reason.
const LONGEST_TEXT: usize = 512;

/// A collected event.
#[derive(Clone, Debug)]
pub struct Offered {
    /// The name by which a repetition of the event is recognized.
    pub known_by: KnownBy,
    /// The event as intake JSON.
    pub body: Bytes,
}

/// The name by which a repetition of an event is recognized.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KnownBy {
    /// The name given here, whatever `id` the event has.
    Given(String),
    /// The event's own `id`, or the name given here when it has none. An `id` that begins as that name does, up to the
    /// first colon, is refused.
    OrElse(String),
}

/// The outcome of an offered event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answered {
    /// The event is durable, since this offer or since an earlier one.
    Taken,
    /// The event is not acceptable, and never will be.
    Refused {
        /// The error code.
        code: ErrorCode,
        /// The reason in words; no value of the event is quoted.
        text: String,
    },
    /// The event cannot be accepted now.
    Busy {
        /// The time after which to offer it again.
        after: Duration,
    },
}

/// The intake of one source: it accepts the source's events under its issuer.
pub struct Ingester {
    validator: EventValidator,
    producer: Arc<Producer>,
}

/// The events that are committed together, with the place of each answer.
#[derive(Default)]
struct Part {
    slots: Vec<Result<(), Problem>>,
    events: Vec<Event>,
}

impl Ingester {
    /// Creates the intake of a source, with the rules of this producer.
    #[must_use]
    pub fn new(intake: Intake, producer: Arc<Producer>, config: &IntakeConfig, observed: Observed) -> Self {
        let validator = EventValidator { accept: intake.accept, config: Arc::new(config.clone()), observed };
        Self { validator, producer }
    }

    /// Accepts events in their order, and returns one answer for each after its commit.
    ///
    /// When an event is put off, so are all behind it: events collected in order are accepted in order.
    pub async fn ingest(&self, offered: Vec<Offered>) -> Vec<Answered> {
        if let Err(closed) = self.validator.accept.gate() {
            let busy = self.refuse(&closed.into());
            return vec![busy; offered.len()];
        }
        let mut answers = Vec::with_capacity(offered.len());
        let mut offered = offered.into_iter();
        let mut next = self.part(&mut offered);
        while let Some(Part { slots, events }) = next.take() {
            let mut commit = match events.is_empty() {
                true => Box::pin(std::future::ready(Vec::new())),
                false => self.validator.accept.accept(self.producer.no, events),
            };
            // The commit begins when it is first polled; the next part is read meanwhile, and offered when this one is
            // answered.
            let early = (&mut commit).now_or_never();
            next = self.part(&mut offered);
            let taken = match early {
                Some(taken) => taken,
                None => commit.await,
            };
            self.answer(slots, taken, &mut answers);
            if let Some(busy @ Answered::Busy { .. }) = answers.last().cloned() {
                let left = next.take().map_or(0, |part| part.slots.len()) + offered.len();
                answers.extend(std::iter::repeat_n(busy, left));
                break;
            }
        }
        answers
    }

    /// Reads the events of one commit, or returns `None` when all are read.
    fn part(&self, offered: &mut impl Iterator<Item = Offered>) -> Option<Part> {
        let (mut part, mut bytes) = (Part::default(), 0);
        while part.events.len() < COMMIT_ITEMS && bytes < COMMIT_BYTES && part.slots.len() < 2 * COMMIT_ITEMS {
            let Some(one) = offered.next() else { break };
            bytes += one.body.len();
            let read = self.read(one).map(|event| part.events.push(event));
            part.slots.push(read);
        }
        (!part.slots.is_empty()).then_some(part)
    }

    /// Answers a part; when an event is put off, so are all behind it.
    fn answer(&self, slots: Vec<Result<(), Problem>>, taken: Vec<Accepted>, answers: &mut Vec<Answered>) {
        let mut taken = taken.into_iter();
        let mut busy: Option<Answered> = None;
        for slot in slots {
            let answer = match slot {
                Err(problem) => self.refuse(&problem),
                Ok(()) => match self.validator.settle(taken.next()) {
                    Ok(_) => Answered::Taken,
                    Err(problem) => answer(&problem),
                },
            };
            busy = busy.or_else(|| matches!(answer, Answered::Busy { .. }).then(|| answer.clone()));
            answers.push(busy.clone().unwrap_or(answer));
        }
    }

    fn read(&self, Offered { known_by, body }: Offered) -> Result<Event, Problem> {
        self.validator.observed.read(body.len());
        let most = self.validator.config.item_bytes;
        if body.len() > most {
            return Err(Problem::limit("item_bytes", format!("an event has at most {most} bytes")));
        }
        let mut event = self.validator.read(&self.producer, &body)?;
        let (known_by, given) = match known_by {
            KnownBy::Given(known_by) => (known_by, true),
            KnownBy::OrElse(known_by) => (known_by, false),
        };
        if known_by.is_empty() || known_by.len() > LONGEST_ID {
            return Err(Problem::bad(format!("what names an event has 1 to {LONGEST_ID} bytes")));
        }
        // A writer at a source where others write too must not be able to take the names of their events before they
        // come (hardening H14).
        if let (false, Some(id), Some(kept)) = (given, &event.id, kept(&known_by))
            && id.starts_with(kept)
        {
            return Err(Problem::bad(format!("names with `{kept}` are kept for events without `id`")).at("/id"));
        }
        if given || event.id.is_none() {
            event.id = Some(known_by.into());
        }
        Ok(event)
    }

    /// Counts and answers an event that is refused before the commit.
    fn refuse(&self, problem: &Problem) -> Answered {
        self.validator.count(problem, &self.producer);
        answer(problem)
    }
}

/// Returns the prefix that events of such a source may not use for an `id` of their own.
fn kept(known_by: &str) -> Option<&str> {
    known_by.find(':').and_then(|at| known_by.get(..=at))
}

fn answer(problem: &Problem) -> Answered {
    if let Some(after) = problem.retry_after {
        return Answered::Busy { after };
    }
    let code = match problem.status {
        StatusCode::FORBIDDEN => ErrorCode::AccessDenied,
        StatusCode::PAYLOAD_TOO_LARGE => ErrorCode::TooLarge,
        StatusCode::CONFLICT => ErrorCode::Other("id_conflict".into()),
        _ => ErrorCode::InvalidRequest,
    };
    // Below the subject, a pointer may contain member names that are personal data.
    let place = problem.pointer.as_deref().map(|at| if at.starts_with("/sub_id/") { "/sub_id" } else { at });
    let text = match (place, problem.rule) {
        (Some(place), Some(rule)) => format!("{}: {} ({rule})", place, problem.detail),
        (Some(place), None) => format!("{}: {}", place, problem.detail),
        (None, Some(rule)) => format!("{} ({rule})", problem.detail),
        (None, None) => problem.detail.clone(),
    };
    Answered::Refused { code, text: setgate_telemetry::clean(&text, LONGEST_TEXT) }
}

#[cfg(test)]
mod tests;
