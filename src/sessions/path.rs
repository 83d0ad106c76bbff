//! The paths of streams: `{issuer path}/{method}/{stream}`.

use std::{fmt::Write as _, sync::Arc};

use axum::http::Uri;
use setgate_delivery::spi::AnyMethod;
use setgate_discovery::IssuerUrl;

/// The error for a path that could mean the streams of one issuer and another issuer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the issuer `{inner}` lies where `{outer}` has its streams of the method {method}: give it a path that does not go on with /{method}"
)]
pub(crate) struct CollisionError {
    outer: String,
    inner: String,
    method: &'static str,
}

/// The paths of all streams.
pub(super) struct Paths {
    /// The path of each issuer, without a final slash, and its URL.
    issuers: Vec<(Box<str>, Arc<str>)>,
    methods: Vec<Mounted>,
}

/// A method with its routes.
pub(super) struct Mounted {
    pub(super) name: &'static str,
    pub(super) routes: axum::Router,
}

/// The stream that a path names, and the rest of the path.
pub(super) struct Asked<'a> {
    pub(super) issuer: &'a Arc<str>,
    pub(super) method: &'a Mounted,
    pub(super) stream: &'a str,
    /// The part that follows the stream: empty, or `/` and more.
    pub(super) rest: &'a str,
}

impl Paths {
    /// Creates the paths of all streams of these issuers on the methods that are responders.
    ///
    /// # Errors
    /// Returns [`CollisionError`] when a path could mean two things.
    pub(super) fn new(issuers: &[&str], methods: &[Arc<dyn AnyMethod>]) -> Result<Self, CollisionError> {
        // An issuer whose URL does not parse is refused where its metadata are served.
        let issuers: Vec<(Box<str>, Arc<str>)> = issuers
            .iter()
            .filter_map(|url| Some((IssuerUrl::parse(url).ok()?.path().into(), Arc::from(*url))))
            .collect();
        let methods: Vec<_> = methods
            .iter()
            .filter_map(|method| Some(Mounted { name: method.entry().name, routes: method.routes()? }))
            .collect();
        for (outer, outer_url) in &issuers {
            for (inner, inner_url) in &issuers {
                let below = inner.strip_prefix(&**outer).and_then(|rest| rest.strip_prefix('/')).unwrap_or_default();
                let first = below.split('/').next().unwrap_or_default();
                if let Some(method) = methods.iter().find(|method| method.name == first) {
                    let (outer, inner) = (outer_url.to_string(), inner_url.to_string());
                    return Err(CollisionError { outer, inner, method: method.name });
                }
            }
        }
        Ok(Self { issuers, methods })
    }

    /// Returns what a path names, without decoding anything in it.
    pub(super) fn find<'a>(&'a self, path: &'a str) -> Option<Asked<'a>> {
        self.issuers.iter().find_map(|(prefix, issuer)| {
            let (name, below) = path.strip_prefix(&**prefix)?.strip_prefix('/')?.split_once('/')?;
            let method = self.methods.iter().find(|method| method.name == name)?;
            let (stream, rest) = below.split_at(below.find('/').unwrap_or(below.len()));
            Some(Asked { issuer, method, stream, rest })
        })
    }
}

impl Asked<'_> {
    /// Returns whether the path has no ambiguous part: no escapes, no empty segments, no dot segments.
    pub(super) fn is_plain(&self) -> bool {
        is_plain(self.stream) && self.rest.split('/').skip(1).all(is_plain)
    }

    /// Returns the path as the method sees it.
    pub(super) fn inner_uri(&self, query: Option<&str>) -> Uri {
        if self.rest.is_empty() && query.is_none() {
            return Uri::from_static("/");
        }
        let mut text = if self.rest.is_empty() { "/".to_owned() } else { self.rest.to_owned() };
        if let Some(query) = query {
            // Writing to a string cannot fail.
            let _ = write!(text, "?{query}");
        }
        text.parse().unwrap_or_else(|_| Uri::from_static("/"))
    }
}

/// Returns whether a segment is made of unreserved characters (RFC 3986 §2.3) and is no dot segment.
fn is_plain(segment: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    !matches!(segment, "" | "." | "..") && segment.bytes().all(plain)
}
