//! The receiving half: polls a transmitter, and acknowledges with the next poll.

use std::{future::Future, mem, sync::Arc, time::Duration};

use setgate_delivery::{
    Answer, Backoff, Bytes, Cause, Env, Fault, HttpRequest, Incoming, Ingest, Jitter, Json, Refusal, Runtime, Stop,
    Timestamp,
    endpoint::{Endpoint, Trusting},
    exchange::Exchange,
    fields,
    http::{Method, StatusCode},
};

use crate::{config::PollSource, wire};

/// The most ids in one request; the transmitter may limit them as this gateway does.
const IDS: usize = 5_000;
/// The most bytes of ids and texts in one request.
const ID_BYTES: usize = 512 * 1024;
/// The pauses after failures.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(250), LONGEST);
/// The longest pause, unless the transmitter asks for a longer one.
const LONGEST: Duration = Duration::from_secs(60);
/// The longest `Retry-After` that is respected (hardening H50).
const RETRY_AFTER: Duration = Duration::from_secs(3600);
/// The shortest time between polls of a transmitter that does not hold them.
const PACE: Duration = Duration::from_secs(1);
/// The shortest time between such polls while the transmitter says that there is more.
const MORE: Duration = Duration::from_millis(100);
/// The time at shutdown for SETs that the ingest still has, and again for the last acknowledgements.
const GRACE: Duration = Duration::from_secs(5);

/// Polls until `stop`.
///
/// # Errors
/// Returns [`Fault::Start`] when `from` is not acceptable, or the transmitter refuses the collector for good.
pub(crate) async fn collect(env: &Env, from: Json, ingest: Arc<dyn Ingest>, mut stop: Stop) -> Result<(), Fault> {
    let mut collector = Collector::new(env, from, ingest)?;
    let mut failures = 0;
    while !*stop.borrow_and_update() {
        let asked = collector.runtime.clock.monotonic();
        let Some(answer) = until(&mut stop, collector.ask(collector.most, false)).await else { break };
        let pause = match answer {
            Ok(exchange) => {
                if failures > 0 {
                    tracing::info!(endpoint = %collector.peer, failures, "polls are answered again");
                }
                failures = 0;
                let took = collector.runtime.clock.monotonic().saturating_sub(asked);
                collector.hand_in(exchange, took, &mut stop).await
            }
            Err(Trouble::Turned(fault)) => return Err(fault),
            Err(Trouble::Later { after, cause }) => {
                failures += 1;
                if failures == 1 {
                    tracing::warn!(endpoint = %collector.peer, %cause, "a poll failed; trying again");
                } else {
                    tracing::debug!(endpoint = %collector.peer, %cause, failures, "a poll failed again");
                }
                Some(collector.back_off(failures).max(after.unwrap_or_default().min(RETRY_AFTER)))
            }
        };
        if let Some(pause) = pause
            && until(&mut stop, collector.runtime.clock.sleep(pause)).await.is_none()
        {
            break;
        }
    }
    collector.farewell().await;
    Ok(())
}

/// Runs `work`; returns `None` if the stop comes first.
async fn until<T>(stop: &mut Stop, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        // A signal whose sender is gone can never be raised, so this counts as a stop, too.
        _ = stop.wait_for(|stop| *stop) => None,
        done = work => Some(done),
    }
}

/// The reason why a poll has no answer.
enum Trouble {
    /// The transmitter refuses in a way that no wait changes.
    Turned(Fault),
    Later {
        after: Option<Duration>,
        cause: Cause,
    },
}

struct Collector {
    endpoint: Endpoint,
    timeout: Duration,
    /// The number of SETs to ask for: as configured, or fewer since an answer was too large.
    most: usize,
    ids: usize,
    runtime: Runtime,
    ingest: Arc<dyn Ingest>,
    peer: String,
    /// The outcomes that the transmitter does not have yet, or may not have.
    taken: Vec<Box<str>>,
    refused: Vec<(Box<str>, Refusal)>,
}

impl Collector {
    fn new(env: &Env, from: Json, ingest: Arc<dyn Ingest>) -> Result<Self, Fault> {
        let Trusting { own: source, trust }: Trusting<PollSource> = serde_json::from_value(from)
            .map_err(|error| Fault::Start(Cause::configuration("configuration", error.to_string())))?;
        let endpoint = source.endpoint(&trust, env)?;
        Ok(Self {
            peer: endpoint.url.origin().ascii_serialization(),
            endpoint,
            timeout: source.timeout,
            most: source.max_events,
            ids: IDS,
            runtime: env.runtime.clone(),
            ingest,
            taken: Vec::new(),
            refused: Vec::new(),
        })
    }

    /// Sends one poll with the outcomes that are owed. An answer confirms them; without an answer they are sent again.
    ///
    /// The future can be dropped at any time.
    async fn ask(&mut self, max_events: usize, at_once: bool) -> Result<Exchange, Trouble> {
        let taken = share(&self.taken, self.ids, |id| id.len());
        let size =
            |(id, refusal): &(Box<str>, Refusal)| id.len() + refusal.description.as_ref().map_or(0, |text| text.len());
        let refused = share(&self.refused, self.ids.saturating_sub(taken.len()), size);
        let owes_more = taken.len() + refused.len() < self.taken.len() + self.refused.len();
        let body = wire::request(taken, refused, max_events, at_once || owes_more);
        let (taken, refused) = (taken.len(), refused.len());
        let request = HttpRequest {
            method: Method::POST,
            url: self.endpoint.url.clone(),
            headers: wire::request_fields(self.endpoint.authorization.as_ref(), refused > 0),
            body: Bytes::from(body),
            keep_body: wire::LARGEST_ANSWER,
            timeout: Some(self.timeout),
        };
        let answer = match self.endpoint.client.send(request).await {
            Ok(answer) => answer,
            Err(error) => return Err(Trouble::Later { after: None, cause: Cause::new(error.code(), error.text) }),
        };
        let now = Timestamp::from_millis(self.runtime.clock.wall_millis());
        let after = fields::retry_after(&answer.headers, now);
        let later = |code, text: String| Err(Trouble::Later { after, cause: Cause::new(code, text) });
        match answer.status {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => {
                let text = format!("the transmitter answers polls with {}", answer.status);
                return Err(Trouble::Turned(Fault::Start(Cause::new("turned_away", text))));
            }
            status => {
                if matches!(status, StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE) {
                    // The transmitter may accept only fewer ids.
                    self.ids = (self.ids / 2).max(1);
                }
                return later("http_status", format!("the transmitter answers polls with {status}"));
            }
        }
        if answer.truncated {
            if answer.body.len() < wire::LARGEST_ANSWER {
                return later("closed", "the answer broke off".to_owned());
            }
            if max_events > 1 {
                self.most = (max_events / 2).max(1);
            }
            return later("too_large", format!("the answer has more than {} bytes", wire::LARGEST_ANSWER));
        }
        // The status alone says that the request was accepted, whatever is wrong with the body.
        self.taken.drain(..taken);
        self.refused.drain(..refused);
        wire::read_answer(&answer.body).or_else(|malformed| later("malformed", malformed.to_string()))
    }

    /// Passes the SETs of an answer to the ingest, and returns the time to wait before the next poll.
    async fn hand_in(&mut self, exchange: Exchange, took: Duration, stop: &mut Stop) -> Option<Duration> {
        let sets = exchange.sets.unwrap_or_default();
        if sets.is_empty() {
            let pace = if exchange.more_available { MORE } else { PACE };
            return Some(pace.saturating_sub(took)).filter(|left| !left.is_zero());
        }
        let (names, what): (Vec<_>, Vec<_>) =
            sets.into_iter().map(|(name, token)| (name.clone(), Incoming::Set { named: Some(name), token })).unzip();
        let ingest = self.ingest.clone();
        let answers = ingest.accept(&self.peer, what);
        let end = async {
            let _ = stop.wait_for(|stop| *stop).await;
            self.runtime.clock.sleep(GRACE).await;
        };
        let answers = tokio::select! {
            biased;
            answers = answers => answers,
            // The outcomes are not known: the SETs are delivered again.
            () = end => return None,
        };
        let mut busy: Option<Duration> = None;
        for (name, answer) in names.into_iter().zip(answers) {
            match answer {
                Answer::Taken => self.taken.push(name),
                Answer::Refused(refusal) => self.refused.push((name, refusal)),
                // The SET is neither acknowledged nor refused: the transmitter sends it again.
                Answer::Busy { after } => busy = Some(busy.map_or(after, |other| other.min(after))),
                Answer::Status(_) => busy = Some(busy.map_or(PACE, |other| other.min(PACE))),
            }
        }
        let busy = busy?.clamp(MORE, LONGEST);
        if !self.taken.is_empty() || !self.refused.is_empty() {
            // The outcomes of the other SETs do not wait for those that were put off.
            let _ = until(stop, self.ask(0, true)).await;
        }
        Some(busy)
    }

    fn back_off(&self, failures: u32) -> Duration {
        PAUSES.wait(failures, Jitter::Half(&*self.runtime.random))
    }

    /// Sends the outcomes that are still owed before the collector ends.
    async fn farewell(&mut self) {
        let runtime = self.runtime.clone();
        let all = async {
            while !self.taken.is_empty() || !self.refused.is_empty() {
                if self.ask(0, true).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            () = all => {}
            () = runtime.clock.sleep(GRACE) => {}
        }
        let owed = mem::take(&mut self.taken).len() + mem::take(&mut self.refused).len();
        if owed > 0 {
            tracing::warn!(endpoint = %self.peer, owed, "ended before all SETs were acknowledged; they come again");
        }
    }
}

/// Returns as many items from the front as one request can carry, at least one.
fn share<T>(all: &[T], most: usize, size: impl Fn(&T) -> usize) -> &[T] {
    let mut bytes = 0;
    let fits = |one: &&T| {
        bytes += size(one);
        bytes <= ID_BYTES
    };
    let count = all.iter().take(most).take_while(fits).count().max(usize::from(!all.is_empty() && most > 0));
    all.get(..count).unwrap_or_default()
}
