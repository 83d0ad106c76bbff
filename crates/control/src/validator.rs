//! The way of one event, from a request or from a source: parsed strictly, checked against its producer's rules,
//! counted, answered.

use std::sync::Arc;

use http::StatusCode;
use setgate_oauth::Producer;
use setgate_router::Accepted;
use setgate_set::Event;

use crate::{Accept, IntakeConfig, Observed, error::Problem, observe::Outcome, policy};

/// The rule that is broken by a subject that names a stream.
pub(crate) const NAMES_STREAM: &str = "names_stream";

/// The checks for the events of one issuer; listeners and sources share them, so that "acceptable" has one meaning.
#[derive(Clone)]
pub(crate) struct EventValidator {
    pub(crate) accept: Arc<dyn Accept>,
    pub(crate) config: Arc<IntakeConfig>,
    pub(crate) observed: Observed,
}

impl EventValidator {
    /// Parses one event and checks it against its producer's rules.
    pub(crate) fn read(&self, producer: &Producer, text: &[u8]) -> Result<Event, Problem> {
        let value = setgate_set::parse_json(text, &self.config.json())?;
        let event = Event::parse(value, &self.config.event())?;
        policy::permit(producer, &event)?;
        Ok(event)
    }

    /// Counts a refusal.
    pub(crate) fn count(&self, problem: &Problem, producer: &Producer) {
        let outcome = match problem.status {
            StatusCode::FORBIDDEN => Outcome::Forbidden,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => Outcome::Unavailable,
            _ => Outcome::Invalid,
        };
        self.observed.count(outcome);
        if let (Outcome::Forbidden, Some(rule)) = (outcome, problem.rule) {
            self.observed.refused_by(&producer.name, rule);
            tracing::debug!(producer = &*producer.name, rule, "an event was refused by its producer's rules");
        }
    }

    /// Counts the router's answer, and turns it into the answer to the caller.
    pub(crate) fn settle(&self, accepted: Option<Accepted>) -> Result<Done, Problem> {
        let (outcome, result) = match accepted {
            Some(Accepted::New { txn, .. }) => (Outcome::Accepted, Ok(Done { txn, repeated: false })),
            Some(Accepted::Repeat { txn }) => (Outcome::Repeated, Ok(Done { txn, repeated: true })),
            Some(Accepted::Conflict) => {
                let detail = "another event was accepted with this id";
                (Outcome::Conflict, Err(Problem::new(StatusCode::CONFLICT, detail)))
            }
            Some(Accepted::NamesStream) => {
                let detail = "the subject names a stream of this gateway";
                (Outcome::Forbidden, Err(Problem::forbidden(detail).ruled(NAMES_STREAM).at("/sub_id")))
            }
            Some(Accepted::Unavailable(closed)) => (Outcome::Unavailable, Err(closed.into())),
            None => {
                let detail = "whether the event was accepted is not known: repeat it with the same id";
                (Outcome::Unavailable, Err(Problem::busy(detail, std::time::Duration::from_secs(1))))
            }
        };
        self.observed.count(outcome);
        result
    }
}

/// The answer to one accepted event.
pub(crate) struct Done {
    pub(crate) txn: Box<str>,
    pub(crate) repeated: bool,
}
