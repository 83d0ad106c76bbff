//! Events that come without a request: what a source collected, checked as the intake endpoint checks.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::StatusCode;
use setgate_oauth::Producer;
use setgate_router::Accepted;
use setgate_set::{ErrorCode, Event};

use crate::{Intake, IntakeConfig, Observed, error::Problem, validator::EventValidator};

/// Longest `id` (hardening H14).
const LONGEST_ID: usize = 256;
/// Events of one commit. A source brings them in batches of its own: commits as small as those of a request would only cost time;
/// small enough that a batch is several: one is read while the one before is committed.
const COMMIT_ITEMS: usize = 256;
/// Bytes of one commit.
const COMMIT_BYTES: usize = 1 << 20;
/// Longest text that says why.
const LONGEST_TEXT: usize = 512;

/// An event as it was collected.
#[derive(Clone, Debug)]
pub struct Offered {
    /// By what it is known when it comes again.
    pub known_by: KnownBy,
    /// The intake JSON.
    pub body: Bytes,
}

/// By what an event is known when it comes again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KnownBy {
    /// By this, whatever the event says of itself.
    Given(String),
    /// By its own `id`; by this where it has none. An `id` that begins as this does, up to the first colon, is refused.
    OrElse(String),
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answered {
    /// It is durable, now or since an earlier time.
    Taken,
    /// It is not acceptable, and never will be.
    Refused {
        /// The code.
        code: ErrorCode,
        /// Why; no value of the event is quoted.
        text: String,
    },
    /// Not now.
    Busy {
        /// Try again then.
        after: Duration,
    },
}

/// Takes the events of one source under its issuer.
pub struct Ingester {
    validator: EventValidator,
    producer: Arc<Producer>,
}

/// What is committed together, with the place of each answer.
#[derive(Default)]
struct Part {
    slots: Vec<Result<(), Problem>>,
    events: Vec<Event>,
}

impl Ingester {
    /// For this source, by the rules of this producer.
    #[must_use]
    pub fn new(intake: Intake, producer: Arc<Producer>, config: &IntakeConfig, observed: Observed) -> Self {
        let validator = EventValidator { accept: intake.accept, config: Arc::new(config.clone()), observed };
        Self { validator, producer }
    }

    /// Takes events in their order; one answer each, after their commit. Behind one that is put off all are put off, so that what
    /// was collected in order is taken in order.
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
            // The commit has begun with the first look at it; the next part is read meanwhile, and offered when this one is answered.
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

    /// Reads what is committed together; nothing when all is read.
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

    /// Answers a part; behind one that is put off all are put off.
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
        // Whoever may write where others write as well must not take the names of their events before they come (hardening H14).
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

    /// Counts and answers what is refused before the commit.
    fn refuse(&self, problem: &Problem) -> Answered {
        self.validator.count(problem, &self.producer);
        answer(problem)
    }
}

/// The beginning that no event of such a source may give itself.
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
    // Below the subject a pointer may hold names that are values of somebody.
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
