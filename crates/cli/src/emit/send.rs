//! The requests to the intake, and their repetition.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use setgate_clock::{Backoff, Jitter, Runtime};
use setgate_net::Secret;
use url::Url;

use super::{
    answer::{self, Became, Put, Tally},
    progress::Progress,
    source::Item,
};
use crate::{
    Context, Exit, Failure,
    args::EmitArgs,
    client::{self, Client},
};

/// The waits between attempts, where the gateway does not ask for one.
const WAITS: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(30));
/// The longest time that one request may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// The sender of items, which repeats each until it is answered.
pub(super) struct Sender {
    client: Client,
    url: Url,
    runtime: Runtime,
    retry_for: Duration,
}

/// The reasons why a request has no answers.
enum Trouble {
    /// A later attempt may succeed, after the time that the gateway asked for, if it did.
    Wait(Option<Duration>, String),
    /// The request is too large, and is to be halved.
    TooLarge(String),
    /// The failure is final: a later attempt would not succeed.
    Give(Failure),
}

impl Sender {
    /// Creates a sender to an intake.
    ///
    /// # Errors
    /// [`Failure`] when the client cannot be created.
    pub(super) fn new(context: &Context, args: &EmitArgs, url: Url, token: &Secret<String>) -> Result<Self, Failure> {
        let client = Client::new(context, &args.ca, token)?;
        Ok(Self { client, url, runtime: context.runtime.clone(), retry_for: args.retry_for })
    }

    /// Sends items, in order, until each is accepted or refused.
    ///
    /// # Errors
    /// [`Failure`] when no request succeeds for too long, or when a later attempt would not help: a bad token, an
    /// unknown issuer, an intake that is closed until an operator acts.
    pub(super) async fn send(&self, items: Vec<Item>, progress: &Progress) -> Result<Tally, Failure> {
        let mut tally = Tally::default();
        let mut pending: Vec<(u64, String)> = Vec::with_capacity(items.len());
        for item in items {
            match item.event {
                Ok(event) => pending.push((item.number, event)),
                Err(why) => {
                    tally.refused += 1;
                    progress.refused(item.number, &why);
                }
            }
        }
        let mut failures = 0_u32;
        let mut moved = self.runtime.clock.monotonic();
        let mut most = pending.len();
        while !pending.is_empty() {
            let some = pending.get(..most.min(pending.len())).unwrap_or_default();
            let (asked, why) = match self.post(some).await {
                Ok(answers) => {
                    let before = pending.len();
                    let put_off = answers.iter().find_map(|became| match became {
                        Became::Again(Some(put_off)) => Some(put_off.clone()),
                        _ => None,
                    });
                    pending = settle(pending, answers, &mut tally, progress);
                    if pending.len() < before {
                        (failures, moved) = (0, self.runtime.clock.monotonic());
                        continue;
                    }
                    match put_off {
                        Some(Put { why, lasts: true }) => return Err(closed(why)),
                        Some(Put { why, lasts: false }) => (None, why),
                        None => (None, "the gateway is overloaded".to_owned()),
                    }
                }
                Err(Trouble::TooLarge(why)) if most > 1 => {
                    most = most.div_ceil(2);
                    tracing::debug!(items = most, why, "sending smaller requests");
                    continue;
                }
                Err(Trouble::TooLarge(why)) => {
                    tally.refused += 1;
                    progress.refused(pending.first().map_or(0, |(number, _)| *number), &why);
                    pending.remove(0);
                    continue;
                }
                Err(Trouble::Give(failure)) => return Err(failure),
                Err(Trouble::Wait(asked, why)) => (asked, why),
            };
            failures = failures.saturating_add(1);
            let pause = asked.unwrap_or(WAITS.wait(failures, Jitter::None));
            if self.runtime.clock.monotonic().saturating_sub(moved) + pause > self.retry_for {
                return Err(Failure::new(Exit::Unreachable, format!("given up: {why}")));
            }
            progress.say(&format!("{why}; trying again in {:.1} s", pause.as_secs_f64()));
            self.runtime.clock.sleep(pause).await;
        }
        Ok(tally)
    }

    async fn post(&self, items: &[(u64, String)]) -> Result<Vec<Became>, Trouble> {
        let mut body = String::with_capacity(items.iter().map(|(_, event)| event.len() + 1).sum());
        for (_, event) in items {
            body.push_str(event);
            body.push('\n');
        }
        let sent = Bytes::from(body);
        let answer = self
            .client
            .send(Method::POST, self.url.clone(), Some(("application/x-ndjson", sent)), PATIENCE)
            .await
            .map_err(|error| Trouble::Wait(None, format!("the gateway cannot be reached: {error}")))?;
        let failure = || client::failure("the intake refuses", answer.status, &answer.headers, &answer.body);
        match answer.status {
            StatusCode::OK | StatusCode::ACCEPTED => Ok(answer::read(&answer.body, items.len())),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
                if answer::lasts(problem.get("rule").and_then(serde_json::Value::as_str)) {
                    return Err(Trouble::Give(closed(failure().message)));
                }
                Err(Trouble::Wait(client::retry_after(&answer.headers), failure().message))
            }
            StatusCode::PAYLOAD_TOO_LARGE => Err(Trouble::TooLarge(failure().message)),
            StatusCode::REQUEST_TIMEOUT => Err(Trouble::Wait(None, failure().message)),
            status if status.is_server_error() => Err(Trouble::Wait(None, failure().message)),
            StatusCode::NOT_FOUND => {
                Err(Trouble::Give(failure().remedy("is --issuer exactly as the gateway's configuration has it?")))
            }
            _ => Err(Trouble::Give(failure())),
        }
    }
}

/// Creates the failure of an intake that is closed until an operator acts.
fn closed(why: String) -> Failure {
    Failure::new(Exit::Store, format!("the gateway takes no events: {why}"))
}

/// Counts the items that are answered, and returns the others in order.
fn settle(
    pending: Vec<(u64, String)>,
    answers: Vec<Became>,
    tally: &mut Tally,
    progress: &Progress,
) -> Vec<(u64, String)> {
    let mut answers = answers.into_iter();
    let mut rest = Vec::new();
    for item in pending {
        match answers.next().unwrap_or(Became::Again(None)) {
            Became::Accepted => tally.accepted += 1,
            Became::Repeated => tally.repeated += 1,
            Became::Refused(why) => {
                tally.refused += 1;
                progress.refused(item.0, &why);
            }
            Became::Again(_) => rest.push(item),
        }
    }
    rest
}
