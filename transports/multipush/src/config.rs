//! Options of multi-SET push: the operator's section, the grant of a stream, the receiver's terms.

use std::{ops::RangeInclusive, time::Duration};

use serde::Deserialize;
use setgate_delivery::{Cause, Fault, Json, Options, Secret, duration};

use crate::wire::Receives;

const REQUESTS: RangeInclusive<usize> = 1..=64;
const SETS: RangeInclusive<usize> = 1..=1000;
const BYTES: RangeInclusive<usize> = 4096..=(16 << 20);
const TIMEOUT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
const REDELIVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));
const ACK_PROBE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
const RECEIVE_SETS: RangeInclusive<usize> = 1..=10_000;
const RECEIVE_BYTES: RangeInclusive<usize> = 4096..=(64 << 20);

/// `[methods.multipush]`: the settings of every multi-SET push stream whose grant does not override them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Section {
    /// The most requests of one stream under way at once, 1 to 64.
    pub requests: usize,
    /// The most SETs in one request, 1 to 1000; fewer where the receiver says that they are too many.
    pub sets: usize,
    /// The most bytes of SETs in one request, 4096 to 16 MiB; a larger SET travels alone.
    pub bytes: usize,
    /// The time from resolving the receiver's name to its answer, 1s to 5m.
    #[serde(with = "setgate_delivery::duration")]
    pub timeout: Duration,
    /// The time in which the receiver has to acknowledge or refuse a SET, 1s to 1h, before it is sent again.
    #[serde(with = "setgate_delivery::duration")]
    pub redelivery_timeout: Duration,
    /// The time after which an empty request asks for outstanding acknowledgements, 1s to 5m; it grows while none come.
    #[serde(with = "setgate_delivery::duration")]
    pub ack_probe_after: Duration,
    /// The most SETs in one request that the receiving half accepts, 1 to 10,000.
    pub receive_sets: usize,
    /// The most bytes of one request that the receiving half reads, 4096 to 64 MiB.
    pub receive_bytes: usize,
}

impl Default for Section {
    fn default() -> Self {
        Self {
            requests: 4,
            sets: 200,
            bytes: 768 << 10,
            timeout: Duration::from_secs(30),
            redelivery_timeout: Duration::from_secs(30),
            ack_probe_after: Duration::from_secs(1),
            receive_sets: 1000,
            receive_bytes: 4 << 20,
        }
    }
}

impl Options for Section {}

type Wrong = (&'static str, String);

impl Section {
    pub(crate) fn validate(&self) -> Result<(), Fault> {
        self.pace().and_then(|_| self.validate_receives()).map_err(|(option, why)| {
            Fault::Start(Cause::configuration("configuration", format!("[methods.multipush]: `{option}`: {why}")))
        })
    }

    fn validate_receives(&self) -> Result<(), Wrong> {
        within("receive_sets", self.receive_sets, &RECEIVE_SETS)?;
        within("receive_bytes", self.receive_bytes, &RECEIVE_BYTES).map(|_| ())
    }

    pub(crate) const fn receives(&self) -> Receives {
        Receives { sets: self.receive_sets, bytes: self.receive_bytes }
    }

    fn pace(&self) -> Result<Measures, Wrong> {
        Ok(Measures {
            requests: within("requests", self.requests, &REQUESTS)?,
            sets: within("sets", self.sets, &SETS)?,
            bytes: within("bytes", self.bytes, &BYTES)?,
            timeout: between("timeout", self.timeout, TIMEOUT)?,
            ack_within: between("redelivery_timeout", self.redelivery_timeout, REDELIVERY)?,
            ack_probe: between("ack_probe_after", self.ack_probe_after, ACK_PROBE)?,
        })
    }
}

/// The limits and times of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Measures {
    pub(crate) requests: usize,
    pub(crate) sets: usize,
    pub(crate) bytes: usize,
    pub(crate) timeout: Duration,
    pub(crate) ack_within: Duration,
    pub(crate) ack_probe: Duration,
}

/// The operator's settings for one stream, in addition to its [trust](setgate_delivery::endpoint::Trust).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Grant {
    /// The most requests under way at once, instead of the section's.
    pub requests: Option<usize>,
    /// The most SETs in one request, instead of the section's.
    pub sets: Option<usize>,
    /// The most bytes of SETs in one request, instead of the section's.
    pub bytes: Option<usize>,
    /// The time from resolving the receiver's name to its answer, instead of the section's.
    #[serde(with = "setgate_delivery::duration::optional")]
    pub timeout: Option<Duration>,
    /// The time in which the receiver has to acknowledge or refuse a SET, instead of the section's.
    #[serde(with = "setgate_delivery::duration::optional")]
    pub redelivery_timeout: Option<Duration>,
    /// The time after which an empty request asks for outstanding acknowledgements, instead of the section's.
    #[serde(with = "setgate_delivery::duration::optional")]
    pub ack_probe_after: Option<Duration>,
}

impl Options for Grant {}

impl Grant {
    /// Returns the limits and times of a channel: those of the section and the grant, lowered by the receiver's terms.
    pub(crate) fn measures(&self, section: &Section, terms: &Terms) -> Result<Measures, Fault> {
        let fault = |pointer: String, why| Fault::Terms { pointer, cause: Cause::configuration("invalid", why) };
        let own = Section {
            requests: self.requests.unwrap_or(section.requests),
            sets: self.sets.unwrap_or(section.sets),
            bytes: self.bytes.unwrap_or(section.bytes),
            timeout: self.timeout.unwrap_or(section.timeout),
            redelivery_timeout: self.redelivery_timeout.unwrap_or(section.redelivery_timeout),
            ack_probe_after: self.ack_probe_after.unwrap_or(section.ack_probe_after),
            ..section.clone()
        };
        let mut measures = own.pace().map_err(|(member, why)| fault(format!("/grant/{member}"), why))?;
        if let Some(most) = terms.max_sets {
            if most == 0 {
                return Err(fault("/max_sets".to_owned(), "write 1 or more".to_owned()));
            }
            measures.sets = measures.sets.min(most);
        }
        Ok(measures)
    }
}

fn between(option: &'static str, value: Duration, (least, most): (Duration, Duration)) -> Result<Duration, Wrong> {
    duration::outside(value, least, most).map_or(Ok(value), |why| Err((option, why)))
}

fn within<T: Copy + PartialOrd + std::fmt::Display>(
    option: &'static str,
    value: T,
    range: &RangeInclusive<T>,
) -> Result<T, Wrong> {
    if range.contains(&value) {
        Ok(value)
    } else {
        Err((option, format!("write {} to {}", range.start(), range.end())))
    }
}

/// The members of `delivery` other than `method`, as the receiver writes them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    /// The URL that SETs are pushed to; not the endpoint of single push (draft §3).
    pub endpoint_url: String,
    /// The value of `Authorization`, sent verbatim with every request.
    #[serde(default)]
    pub authorization_header: Option<Secret<String>>,
    /// The receiver's own maximum of SETs in one request (draft §7.1).
    #[serde(default)]
    pub max_sets: Option<usize>,
}

impl Options for Terms {
    const SECRETS: &'static [&'static str] = &["/authorization_header"];
}

impl Terms {
    pub(crate) fn publish(&self, method: &str) -> Json {
        let mut shown = serde_json::json!({ "method": method, "endpoint_url": self.endpoint_url });
        if let (Some(most), Some(shown)) = (self.max_sets, shown.as_object_mut()) {
            shown.insert("max_sets".to_owned(), Json::from(most));
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(text: &str) -> Terms {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn terms_take_nothing_they_do_not_know() {
        let read = |text: &str| serde_json::from_str::<Terms>(text);
        assert!(read(r#"{"endpoint_url":"https://a.example","max_sets":20}"#).is_ok());
        assert!(read(r#"{"endpoint_url":"https://a.example","content_type":"application/jwt"}"#).is_err());
        assert!(read(r#"{"endpoint_url":"https://a.example","allow_networks":["127.0.0.0/8"]}"#).is_err());
        assert!(read("{}").is_err());
    }

    #[test]
    fn what_is_shown_has_no_secret() {
        let terms =
            terms(r#"{"endpoint_url":"https://a.example/x","authorization_header":"Bearer canary","max_sets":5}"#);
        assert_eq!(
            terms.publish("urn:x"),
            serde_json::json!({"method":"urn:x","endpoint_url":"https://a.example/x","max_sets":5})
        );
        assert!(!format!("{terms:?}").contains("canary"));
    }

    #[test]
    fn the_receivers_maximum_lowers_what_a_request_may_hold() {
        let section = Section::default();
        let sets = |text| Grant::default().measures(&section, &terms(text)).map(|measures| measures.sets);
        assert_eq!(sets(r#"{"endpoint_url":"https://a.example"}"#).unwrap(), 200);
        assert_eq!(sets(r#"{"endpoint_url":"https://a.example","max_sets":20}"#).unwrap(), 20);
        assert_eq!(sets(r#"{"endpoint_url":"https://a.example","max_sets":2000}"#).unwrap(), 200);
        let Err(Fault::Terms { pointer, .. }) = sets(r#"{"endpoint_url":"https://a.example","max_sets":0}"#) else {
            panic!()
        };
        assert_eq!(pointer, "/max_sets");
    }

    #[test]
    fn a_number_out_of_range_is_named() {
        let terms = terms(r#"{"endpoint_url":"https://a.example"}"#);
        let numbers = ["requests", "sets", "bytes"].map(|member| (member, [Json::from(0), Json::from(1 << 30)]));
        let durations = ["timeout", "redelivery_timeout", "ack_probe_after"];
        let durations = durations.map(|member| (member, [Json::from("0s"), Json::from("99d")]));
        for (member, wrong) in numbers.into_iter().chain(durations) {
            for bad in wrong {
                let grant: Grant = serde_json::from_value(serde_json::json!({ member: bad.clone() })).unwrap();
                let Err(Fault::Terms { pointer, .. }) = grant.measures(&Section::default(), &terms) else {
                    panic!("{member} {bad}")
                };
                assert_eq!(pointer, format!("/grant/{member}"));
            }
        }
        assert!(Section::default().validate().is_ok());
        assert!(Section { receive_sets: 0, ..Section::default() }.validate().is_err());
        assert!(Section { ack_probe_after: Duration::ZERO, ..Section::default() }.validate().is_err());
    }
}
