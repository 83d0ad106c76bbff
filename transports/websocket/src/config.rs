//! The options of the method: the operator's section, the grant of a stream, the receiver's terms, and the address that
//! the other end connects to.

use std::time::Duration;

use serde::Deserialize;
use setgate_delivery::{Cause, Fault, Options, Secret, Url, duration};

use crate::wire::Subprotocol;

/// The section `[methods.websocket]`, which holds for every stream unless its grant says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Section {
    /// The time between two pings, 5s to 5m; a peer that is silent for twice as long is disconnected.
    #[serde(with = "setgate_delivery::duration")]
    pub ping_interval: Duration,
    /// The time in which a socket that holds SETs must settle at least one, 10s to 1h; then it is closed.
    #[serde(with = "setgate_delivery::duration")]
    pub settle_timeout: Duration,
    /// The most SETs of one frame, 1 to 1000.
    pub frame_sets: usize,
    /// The most bytes of SETs in one frame, 4096 to 1048576; a larger SET travels alone.
    pub frame_bytes: usize,
    /// The most bytes of one message of a peer, 4096 to 1048576.
    pub message_bytes: usize,
    /// The most SETs that a `pushpull` socket, which has no credit, may hold unsettled, 1 to 1024.
    pub in_flight: usize,
    /// The time after which SETs of an answer to a POST are due again, 5s to 1h.
    #[serde(with = "setgate_delivery::duration")]
    pub redelivery_timeout: Duration,
    /// The time that a POST waits for a SET before it is answered without one, 0s to 10s.
    #[serde(with = "setgate_delivery::duration")]
    pub post_wait: Duration,
    /// The most sockets of all streams together, 1 to 1000000.
    pub sockets: usize,
    /// The most sockets of one stream, 1 to 1024.
    pub sockets_per_stream: usize,
}

impl Default for Section {
    fn default() -> Self {
        Self {
            ping_interval: Duration::from_secs(25),
            settle_timeout: Duration::from_secs(300),
            frame_sets: 64,
            frame_bytes: 32 << 10,
            message_bytes: 256 << 10,
            in_flight: 64,
            redelivery_timeout: Duration::from_secs(60),
            post_wait: Duration::ZERO,
            sockets: 20_000,
            sockets_per_stream: 16,
        }
    }
}

impl Options for Section {}

impl Section {
    pub(crate) fn validate(&self) -> Result<(), Fault> {
        let durations = [
            ("ping_interval", self.ping_interval, 5, 300),
            ("settle_timeout", self.settle_timeout, 10, 3600),
            ("redelivery_timeout", self.redelivery_timeout, 5, 3600),
            ("post_wait", self.post_wait, 0, 10),
        ];
        let seconds = Duration::from_secs;
        let wrong = durations.into_iter().find_map(|(option, value, least, most)| {
            duration::outside(value, seconds(least), seconds(most)).map(|why| (option, why))
        });
        let ranges = [
            ("frame_sets", self.frame_sets as u64, 1, 1000),
            ("frame_bytes", self.frame_bytes as u64, 4096, 1 << 20),
            ("message_bytes", self.message_bytes as u64, 4096, 1 << 20),
            ("in_flight", self.in_flight as u64, 1, 1024),
            ("sockets", self.sockets as u64, 1, 1_000_000),
            ("sockets_per_stream", self.sockets_per_stream as u64, 1, 1024),
        ];
        let wrong = wrong.or_else(|| {
            let out = ranges.into_iter().find(|(_, value, least, most)| value < least || value > most);
            out.map(|(option, _, least, most)| (option, format!("write {least} to {most}")))
        });
        wrong.map_or(Ok(()), |(option, why)| {
            let why = format!("[methods.websocket]: `{option}`: {why}");
            Err(Fault::Start(Cause::configuration("configuration", why)))
        })
    }
}

/// The operator's options for one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Grant {
    /// The origins whose pages may connect, each as `scheme://host` or `scheme://host:port` (RFC 6454 §6.2, hardening
    /// H24).
    pub origins: Vec<String>,
    /// The most sockets of the stream, 1 to 1024; replaces the section's.
    pub sockets: Option<usize>,
    /// The most SETs that a `pushpull` socket may hold unsettled, 1 to 1024; replaces the section's.
    pub in_flight: Option<usize>,
}

impl Options for Grant {}

impl Grant {
    /// Returns the section with this grant's options in place of its own.
    pub(crate) fn over(&self, section: &Section) -> Result<Section, Fault> {
        let merged = Section {
            sockets_per_stream: self.sockets.unwrap_or(section.sockets_per_stream),
            in_flight: self.in_flight.unwrap_or(section.in_flight),
            ..section.clone()
        };
        for (member, value) in [("sockets", merged.sockets_per_stream), ("in_flight", merged.in_flight)] {
            if !(1..=1024).contains(&value) {
                return Err(fault(member, "write 1 to 1024"));
            }
        }
        Ok(merged)
    }

    /// Returns the origins as browsers write them.
    pub(crate) fn origins(&self) -> Result<Box<[Box<str>]>, Fault> {
        let one = |(at, text): (usize, &String)| {
            let origin = Url::parse(text).ok().filter(|url| {
                matches!(url.scheme(), "https" | "http")
                    && url.path() == "/"
                    && url.query().is_none()
                    && url.fragment().is_none()
            });
            match origin {
                Some(url) if url.username().is_empty() => Ok(url.origin().ascii_serialization().into()),
                _ => {
                    Err(fault(&format!("origins/{at}"), "write `https://host` or `https://host:port`, without a path"))
                }
            }
        };
        self.origins.iter().enumerate().map(one).collect()
    }
}

fn fault(member: &str, why: &str) -> Fault {
    Fault::Terms { pointer: format!("/grant/{member}"), cause: Cause::configuration("invalid", why) }
}

/// The members that a receiver may write in `delivery` beside `method`. Both are ignored, since the gateway assigns the
/// URL.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Terms {
    /// The stream's URL, which is ignored: receivers send back what they read (SSF 1.0 §8.1.1.4).
    pub endpoint_url: Option<String>,
    /// The subprotocols, which are ignored for the same reason.
    pub subprotocols: Option<Vec<String>>,
}

impl Options for Terms {}

/// The address that the other end connects to, the argument of `collect`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SocketSource {
    /// The stream's URL: `https`, `http`, `wss` or `ws`.
    endpoint_url: String,
    /// The value of `Authorization`, sent verbatim.
    #[serde(default)]
    pub(crate) authorization_header: Option<Secret<String>>,
    /// The transport of SETs.
    #[serde(default)]
    pub(crate) transport: Transport,
    /// The only subprotocol to offer, `setgate.v1` or `pushpull`; both are offered without it.
    #[serde(default)]
    subprotocol: Option<String>,
    /// The most SETs that may be unsettled at this end, 1 to 10000.
    #[serde(default)]
    credit: Option<u32>,
    /// The time between two requests over HTTP while no SETs come, 1s to 1h.
    #[serde(default, with = "setgate_delivery::duration::optional")]
    poll_interval: Option<Duration>,
}

/// The transport by which the other end requests SETs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Transport {
    /// A WebSocket, or HTTP where that is refused.
    #[default]
    Websocket,
    /// Push-pull over HTTP.
    Http,
}

impl SocketSource {
    /// Returns the URL with the scheme `https` or `http`.
    pub(crate) fn url(&self) -> Result<Url, Fault> {
        let text = match self.endpoint_url.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("wss") => format!("https://{rest}"),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("ws") => format!("http://{rest}"),
            _ => self.endpoint_url.clone(),
        };
        Url::parse(&text).map_err(|error| wrong("endpoint_url", format!("it is no absolute URL: {error}")))
    }

    /// Returns the offer for `Sec-WebSocket-Protocol`.
    pub(crate) fn offer(&self) -> Result<&'static str, Fault> {
        match self.subprotocol.as_deref().map(Subprotocol::named) {
            None => Ok(Subprotocol::OFFER),
            Some(Some(one)) => Ok(one.as_str()),
            Some(None) => Err(wrong("subprotocol", "write `setgate.v1` or `pushpull`".to_owned())),
        }
    }

    pub(crate) fn credit(&self) -> Result<u32, Fault> {
        let credit = self.credit.unwrap_or(256);
        if (1..=10_000).contains(&credit) { Ok(credit) } else { Err(wrong("credit", "write 1 to 10000".to_owned())) }
    }

    pub(crate) fn pause(&self) -> Result<Duration, Fault> {
        let pause = self.poll_interval.unwrap_or(Duration::from_secs(5));
        match duration::outside(pause, Duration::from_secs(1), Duration::from_secs(3600)) {
            None => Ok(pause),
            Some(why) => Err(wrong("poll_interval", why)),
        }
    }
}

/// Returns the fault for a wrong member of the argument of `collect`.
pub(crate) fn wrong(member: &str, why: String) -> Fault {
    Fault::Terms { pointer: format!("/{member}"), cause: Cause::configuration("invalid", why) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointer(fault: Fault) -> String {
        match fault {
            Fault::Terms { pointer, .. } => pointer,
            other => other.to_string(),
        }
    }

    #[test]
    fn origins_are_kept_as_browsers_write_them() {
        let grant =
            |origins: &[&str]| Grant { origins: origins.iter().map(|o| (*o).to_owned()).collect(), ..Grant::default() };
        let kept =
            grant(&["https://App.example:443", "http://localhost:8080/", "https://b.example:8443"]).origins().unwrap();
        let kept: Vec<_> = kept.iter().map(|origin| &**origin).collect();
        assert_eq!(kept, ["https://app.example", "http://localhost:8080", "https://b.example:8443"]);
        for bad in [
            "app.example",
            "*",
            "null",
            "https://a.example/path",
            "https://u@a.example",
            "file:///x",
            "https://a.example?x",
        ] {
            assert_eq!(
                pointer(grant(&["https://ok.example", bad]).origins().unwrap_err()),
                "/grant/origins/1",
                "{bad}"
            );
        }
    }

    #[test]
    fn a_section_and_a_grant_name_the_option_that_is_out_of_range() {
        assert!(Section::default().validate().is_ok());
        let bad = Section { ping_interval: Duration::from_secs(4), ..Section::default() };
        assert!(bad.validate().unwrap_err().to_string().contains("`ping_interval`: write \"5s\" to \"5m\""));
        assert!(Section { frame_bytes: 4095, ..Section::default() }.validate().is_err());
        let grant = Grant { in_flight: Some(0), ..Grant::default() };
        assert_eq!(pointer(grant.over(&Section::default()).unwrap_err()), "/grant/in_flight");
        assert!(serde_json::from_str::<Grant>(r#"{"origin":[]}"#).is_err());
    }

    #[test]
    fn a_source_takes_both_families_of_schemes() {
        let read = |text: &str| serde_json::from_str::<SocketSource>(text);
        let url = |text: &str| read(text).unwrap().url().unwrap().to_string();
        assert_eq!(url(r#"{"endpoint_url":"wss://a.example/ws/1"}"#), "https://a.example/ws/1");
        assert_eq!(url(r#"{"endpoint_url":"ws://127.0.0.1:1/x"}"#), "http://127.0.0.1:1/x");
        assert_eq!(url(r#"{"endpoint_url":"https://a.example/"}"#), "https://a.example/");
        assert!(read(r#"{"endpoint_url":"https://a.example/","surprise":1}"#).is_err());
        assert!(read(r#"{"endpoint_url":"https://a.example/","transport":"carrier pigeon"}"#).is_err());
        assert_eq!(
            pointer(read(r#"{"endpoint_url":"https://a.example/","credit":0}"#).unwrap().credit().unwrap_err()),
            "/credit"
        );
        let canary = read(r#"{"endpoint_url":"https://a.example/","authorization_header":"Bearer canary"}"#).unwrap();
        assert!(!format!("{canary:?}").contains("canary"));
    }
}
