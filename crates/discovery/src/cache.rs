//! A key set in the cache.

use std::{sync::Arc, time::Duration};

use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{CACHE_CONTROL, ETAG, IF_NONE_MATCH},
};
use parking_lot::Mutex;
use setgate_clock::Runtime;
use setgate_jose::Jwks;
use url::Url;

use crate::document::{FetchError, Keys, Wire, accept, whole};

/// The shortest time between two requests to a URL for an unknown key or after a failure (hardening H42).
const PAUSE: Duration = Duration::from_secs(60);
/// The shortest time between two requests while there is no good set at all, since nothing can be verified without one.
const PAUSE_WITHOUT: Duration = Duration::from_secs(5);
/// The time that a set is fresh when the answer does not say.
const FRESH: Duration = Duration::from_secs(15 * 60);
/// The bounds of the freshness that an answer may ask for.
const FRESH_AT_LEAST: Duration = PAUSE;
const FRESH_AT_MOST: Duration = Duration::from_secs(24 * 3600);

/// A key set that is kept, and the one request for it that may be under way.
#[derive(Default)]
pub(crate) struct Slot {
    kept: Mutex<CacheEntry>,
    flight: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct CacheEntry {
    good: Option<Good>,
    attempted: Option<Duration>,
    failure: Option<FetchError>,
}

struct Good {
    keys: Keys,
    etag: Option<HeaderValue>,
    fetched: Duration,
    fresh_for: Duration,
}

impl Slot {
    /// Returns the time of the last request.
    pub(crate) fn attempted(&self) -> Option<Duration> {
        self.kept.lock().attempted
    }

    pub(crate) async fn keys(&self, wire: &dyn Wire, url: &Url, runtime: &Runtime) -> Result<Keys, FetchError> {
        if let Some(kept) = self.usable(runtime.clock.monotonic()) {
            return kept;
        }
        let stale = self.good();
        let _alone = match (self.flight.try_lock(), stale) {
            (Ok(alone), _) => alone,
            // A request is under way already, and the old set is better than waiting.
            (Err(_), Some(stale)) => return Ok(stale),
            (Err(_), None) => self.flight.lock().await,
        };
        if let Some(kept) = self.usable(runtime.clock.monotonic()) {
            return kept;
        }
        self.fetch(wire, url, runtime).await
    }

    pub(crate) async fn keys_after(
        &self,
        wire: &dyn Wire,
        url: &Url,
        runtime: &Runtime,
        seen: &Keys,
    ) -> Result<Keys, FetchError> {
        let _alone = self.flight.lock().await;
        let good = self.good();
        let asked_lately = {
            let now = runtime.clock.monotonic();
            self.kept.lock().attempted.is_some_and(|at| now.saturating_sub(at) < PAUSE)
        };
        match good {
            Some(good) if good.version > seen.version || asked_lately => Ok(good),
            _ => self.fetch(wire, url, runtime).await,
        }
    }

    fn good(&self) -> Option<Keys> {
        self.kept.lock().good.as_ref().map(|good| good.keys.clone())
    }

    /// Returns what can be answered without a request: a fresh set, or the result of the last attempt while the next
    /// must wait.
    fn usable(&self, now: Duration) -> Option<Result<Keys, FetchError>> {
        let kept = self.kept.lock();
        let since = |at: Duration| now.saturating_sub(at);
        match (&kept.good, kept.attempted, &kept.failure) {
            (Some(good), attempted, _) => {
                let waits = attempted.is_some_and(|at| since(at) < PAUSE);
                (since(good.fetched) < good.fresh_for || waits).then(|| Ok(good.keys.clone()))
            }
            (None, Some(at), Some(failure)) => (since(at) < PAUSE_WITHOUT).then(|| Err(failure.clone())),
            (None, ..) => None,
        }
    }

    /// Requests the set. The attempt counts from its start, so that a caller that gives up does not cause another at
    /// once.
    async fn fetch(&self, wire: &dyn Wire, url: &Url, runtime: &Runtime) -> Result<Keys, FetchError> {
        let now = runtime.clock.monotonic();
        let mut headers = accept("application/jwk-set+json, application/json");
        {
            let mut kept = self.kept.lock();
            kept.attempted = Some(now);
            if let Some(etag) = kept.good.as_ref().and_then(|good| good.etag.clone()) {
                headers.insert(IF_NONE_MATCH, etag);
            }
        }
        let answer = wire.get(url.clone(), headers).await;
        let mut kept = self.kept.lock();
        if let (Ok(answer), Some(good)) = (&answer, &mut kept.good)
            && answer.status == StatusCode::NOT_MODIFIED
        {
            good.fetched = now;
            good.fresh_for = freshness(&answer.headers);
            let keys = good.keys.clone();
            kept.failure = None;
            return Ok(keys);
        }
        match whole("key set", answer).and_then(|answer| {
            let set = Jwks::parse(&answer.body)
                .map_err(|error| FetchError::Malformed { what: "key set", source: Arc::new(error) })?;
            Ok((set, answer.headers))
        }) {
            Ok((set, headers)) => {
                let version = kept.good.as_ref().map_or(0, |good| good.keys.version) + 1;
                for ignored in set.ignored() {
                    tracing::warn!(why = ignored.why, "a key of a foreign key set is not used");
                }
                let keys = Keys { set: Arc::new(set), version };
                let (etag, fresh_for) = (headers.get(ETAG).cloned(), freshness(&headers));
                kept.good = Some(Good { keys: keys.clone(), etag, fetched: now, fresh_for });
                kept.failure = None;
                Ok(keys)
            }
            Err(error) => {
                kept.failure = Some(error.clone());
                let Some(good) = &kept.good else { return Err(error) };
                tracing::warn!(%error, "a key set could not be fetched; the last good one stays in use");
                Ok(good.keys.clone())
            }
        }
    }
}

/// Returns the time that the answer may be kept (RFC 9111 §5.2.2.1), within the bounds.
fn freshness(headers: &HeaderMap) -> Duration {
    let mut fresh = None;
    for value in headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok()) {
        for directive in value.split(',').map(|directive| directive.trim().to_ascii_lowercase()) {
            if directive == "no-store" || directive == "no-cache" {
                return FRESH_AT_LEAST;
            }
            if let Some(seconds) = directive.strip_prefix("max-age=") {
                fresh = seconds.trim_matches('"').parse().ok().map(Duration::from_secs);
            }
        }
    }
    fresh.unwrap_or(FRESH).clamp(FRESH_AT_LEAST, FRESH_AT_MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freshness_is_what_the_answer_says_within_bounds() {
        for (value, seconds) in [
            ("public, max-age=600", 600),
            ("max-age=0", 60),
            ("max-age=99999999", 24 * 3600),
            ("Max-Age=\"120\"", 120),
            ("no-store, max-age=600", 60),
            ("max-age=600, no-cache", 60),
            ("max-age=soon", 15 * 60),
            ("", 15 * 60),
        ] {
            let headers = HeaderMap::from_iter([(CACHE_CONTROL, HeaderValue::from_static(value))]);
            assert_eq!(freshness(&headers), Duration::from_secs(seconds), "{value}");
        }
        assert_eq!(freshness(&HeaderMap::new()), FRESH);
    }
}
