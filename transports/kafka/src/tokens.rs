//! Bearer tokens for a cluster, obtained by client credentials (RFC 6749 §4.4) ahead of time, so that the client
//! library never waits.
//!
//! The operator names the token endpoint, and the guarded client asks it: one on this machine or in a private network
//! needs `[net]` `allow_networks`, and one that is not on port 443 or 8443 `allow_ports` as well.

mod wire;

use std::{error::Error, sync::Arc, time::Duration};

use parking_lot::Mutex;
use rdkafka::client::OAuthToken;
use setgate_delivery::{
    Backoff, Cause, Env, HttpClient, HttpRequest, Jitter, Secret, TlsPolicy, Url,
    http::{Method, header},
};
use tokio::sync::{Notify, watch};

use crate::config::TokenSection;

/// The longest time of one request.
const PATIENCE: Duration = Duration::from_secs(20);
/// The most bytes of an answer that are read.
const ANSWER_BYTES: usize = 64 << 10;
/// The time by which a token is given out as ending sooner than it does: connections made with it at its end would be
/// refused.
const MARGIN: Duration = Duration::from_secs(5);
/// The lifetime that the library is shown of a token that is good for longer. It asks again at 80 % of this, and so
/// soon learns of a new token.
const SHOWN: Duration = Duration::from_secs(30);
/// The least time from the fetch of a token until it is fetched anew because a broker refuses it.
const ANEW: Duration = Duration::from_secs(10);
/// The time between two attempts after failures.
const ATTEMPTS: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));

/// The tokens of one cluster.
///
/// Dropping it ends the task that renews them.
pub(crate) struct Tokens {
    shared: Arc<Shared>,
    tried: watch::Receiver<bool>,
    /// The sender whose end is the end of the task.
    _alive: watch::Sender<()>,
}

struct Shared {
    env: Env,
    client: HttpClient,
    /// The token endpoint, which every checked section has.
    url: Option<Url>,
    section: TokenSection,
    state: Mutex<State>,
    /// Notified when a token is needed; nothing is asked before that.
    wanted: Notify,
    /// Notified when a broker refused the token in use.
    refused: Notify,
}

#[derive(Default)]
struct State {
    held: Option<Held>,
    failure: Option<Cause>,
}

struct Held {
    token: Secret<String>,
    /// The time until which the token is given out, by the wall clock, which is the library's.
    given_out_until_ms: u64,
}

impl Tokens {
    /// Starts a task that asks for tokens from the first time that one is wanted, until the value is dropped.
    pub(crate) fn start(env: &Env, section: &TokenSection) -> Arc<Self> {
        let url = Url::parse(&section.token_endpoint).ok();
        let client = env.http.client(&TlsPolicy { issuer: "kafka".into(), ..TlsPolicy::default() });
        let (state, wanted, refused) = (Mutex::default(), Notify::new(), Notify::new());
        let (lent, section) = (env.clone(), section.clone());
        let shared = Arc::new(Shared { env: lent, client, url, section, state, wanted, refused });
        let (alive, ends) = watch::channel(());
        let (tell, tried) = watch::channel(false);
        env.runtime.spawn("kafka tokens", renew(shared.clone(), tell, ends));
        Arc::new(Self { shared, tried, _alive: alive })
    }

    /// Returns the token to authenticate with; never waits.
    ///
    /// # Errors
    /// There is no token yet, or the last one has ended and there is no new one: the text says why, and holds no
    /// secret.
    pub(crate) fn current(&self) -> Result<OAuthToken, Box<dyn Error>> {
        self.shared.wanted.notify_one();
        let now = self.shared.env.runtime.clock.wall_millis();
        let shown = now.saturating_add(u64::try_from(SHOWN.as_millis()).unwrap_or(u64::MAX));
        let state = self.shared.state.lock();
        if let Some(held) = state.held.as_ref().filter(|held| held.given_out_until_ms > now) {
            return Ok(OAuthToken {
                token: held.token.expose().clone(),
                principal_name: self.shared.section.client_id.clone(),
                lifetime_ms: i64::try_from(held.given_out_until_ms.min(shown)).unwrap_or(i64::MAX),
            });
        }
        let why = state.failure.as_ref().map_or_else(|| "it has not answered yet".to_owned(), ToString::to_string);
        Err(format!("no token from {}: {why}", self.shared.host()).into())
    }

    /// Notes that a broker refused the token: what was wrong may be fixed at the authorization server, so it is asked
    /// for another one.
    pub(crate) fn refused(&self) {
        self.shared.refused.notify_one();
    }

    /// Waits until the token endpoint was asked once, however that ended.
    ///
    /// Await this before a client is created: the library asks again only 10 seconds after it got no token.
    ///
    /// # Errors
    /// The reason why there is no token.
    pub(crate) async fn ready(&self) -> Result<(), Cause> {
        self.shared.wanted.notify_one();
        let mut tried = self.tried.clone();
        // The sender is gone only when the task is, and then waiting is of no use.
        drop(tried.wait_for(|tried| *tried).await);
        self.current().map(|_| ()).map_err(|error| Cause::new("token", error.to_string()))
    }
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokens({})", self.shared.host())
    }
}

impl Shared {
    fn host(&self) -> &str {
        self.url.as_ref().and_then(Url::host_str).unwrap_or_default()
    }

    /// Asks once, and returns the token with its lifetime, counted from before the request.
    async fn ask(&self) -> Result<(Secret<String>, Duration), Cause> {
        let url =
            self.url.clone().ok_or_else(|| Cause::configuration("configuration", "`token_endpoint` is no URL"))?;
        let request = HttpRequest {
            method: Method::POST,
            url,
            headers: wire::headers(&self.section)?,
            body: wire::form(&self.section),
            keep_body: ANSWER_BYTES,
            timeout: Some(PATIENCE),
        };
        let answer = self.client.send(request).await;
        let answer =
            answer.map_err(|error| Cause::new("token_endpoint", setgate_delivery::clean(&error.to_string(), 300)))?;
        if answer.truncated {
            return Err(Cause::new("token_endpoint", "its answer is too long, or broke off"));
        }
        let kind = answer.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        wire::token(answer.status, kind, &answer.body)
    }

    fn keep(&self, asked_at_ms: u64, token: Secret<String>, lifetime: Duration) -> Duration {
        let margin = MARGIN.min(lifetime / 5);
        let until = asked_at_ms.saturating_add(u64::try_from((lifetime - margin).as_millis()).unwrap_or(u64::MAX));
        let mut state = self.state.lock();
        state.held = Some(Held { token, given_out_until_ms: until });
        if state.failure.take().is_some() {
            tracing::info!(endpoint = self.host(), "the token endpoint gives tokens again");
        }
        // Renewal at 75 to 80 % of the lifetime keeps gateways that were started together from asking together for
        // ever.
        let twentieth = lifetime / 20;
        let jitter = self.env.runtime.random.below(u64::try_from(twentieth.as_millis()).unwrap_or(0).max(1));
        (lifetime * 4 / 5 - Duration::from_millis(jitter)).max(Duration::from_secs(1))
    }

    /// Waits until a broker has refused the token, and not less than is fair to the authorization server.
    async fn refusal(&self, pause: Duration) {
        self.env.runtime.clock.sleep(ANEW.min(pause)).await;
        self.refused.notified().await;
    }

    fn fail(&self, cause: Cause, failures: u32) -> Duration {
        let mut state = self.state.lock();
        if state.failure.as_ref().is_none_or(|before| *before != cause) {
            tracing::warn!(endpoint = self.host(), %cause, "no token for Kafka; asking again");
        }
        state.failure = Some(cause);
        drop(state);
        ATTEMPTS.wait(failures, Jitter::Half(&*self.env.runtime.random))
    }
}

async fn renew(shared: Arc<Shared>, tell: watch::Sender<bool>, mut ends: watch::Receiver<()>) {
    tokio::select! {
        () = shared.wanted.notified() => {}
        _ = ends.changed() => return,
    }
    let mut failures = 0_u32;
    loop {
        let asked_at_ms = shared.env.runtime.clock.wall_millis();
        let asked = tokio::select! {
            asked = shared.ask() => asked,
            _ = ends.changed() => return,
        };
        let pause = match asked {
            Ok((token, lifetime)) => {
                failures = 0;
                shared.keep(asked_at_ms, token, lifetime)
            }
            Err(cause) => {
                failures = failures.saturating_add(1);
                shared.fail(cause, failures)
            }
        };
        tell.send_replace(true);
        tokio::select! {
            () = shared.env.runtime.clock.sleep(pause) => {}
            () = shared.refusal(pause) => {}
            _ = ends.changed() => return,
        }
    }
}

#[cfg(test)]
mod tests;
