//! What becomes of one event, whichever way it came: read strictly, held against its producer's rules, counted, answered.

use std::sync::Arc;

use http::StatusCode;
use setgate_oauth::Producer;
use setgate_router::Accepted;
use setgate_set::Event;

use crate::{Accept, IntakeConfig, Observed, error::Problem, observe::Outcome, policy};

/// The rule that a subject which names a stream breaks.
pub(crate) const NAMES_STREAM: &str = "names_stream";

/// Checks the events of one issuer; listeners and sources share it, so that there is one meaning of "acceptable".
#[derive(Clone)]
pub(crate) struct EventValidator {
    pub(crate) accept: Arc<dyn Accept>,
    pub(crate) config: Arc<IntakeConfig>,
    pub(crate) observed: Observed,
}

impl EventValidator {
    /// Parses one event and holds it against its producer's rules.
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

    /// Counts what the router said, and turns it into an answer.
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

/// What one accepted event is answered.
pub(crate) struct Done {
    pub(crate) txn: Box<str>,
    pub(crate) repeated: bool,
}
