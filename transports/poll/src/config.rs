//! Options of poll: the operator's section, the grant of a stream, the receiver's terms, and the source of the
//! receiving half.

use std::{ops::RangeInclusive, time::Duration};

use serde::{Deserialize, Deserializer, de::IgnoredAny};
use setgate_delivery::{
    Cause, Env, Fault, Options, Secret, Url, duration,
    endpoint::{Endpoint, Trust},
};

const HOLD: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
const REDELIVERY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(86_400));
const SETS: RangeInclusive<usize> = 1..=10_000;
const BYTES: RangeInclusive<usize> = 1 << 20..=16 << 20;
const TIMEOUT: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(600));

/// `[methods.poll]`: the settings of every polled stream whose grant does not override them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Section {
    /// The time for which a long poll is held while nothing is due, 1s to 5m. Proxies on the way must allow more.
    #[serde(with = "setgate_delivery::duration")]
    pub hold: Duration,
    /// The time after which SETs that were handed over and not acknowledged are handed over again, 5s to 1d.
    #[serde(with = "setgate_delivery::duration")]
    pub redelivery_timeout: Duration,
    /// The most SETs in one answer, 1 to 10000; a receiver asks for fewer by `maxEvents`.
    pub answer_sets: usize,
    /// The most bytes of SETs in one answer, 1 MiB to 16 MiB.
    pub answer_bytes: usize,
}

impl Default for Section {
    fn default() -> Self {
        Self {
            hold: Duration::from_secs(25),
            redelivery_timeout: Duration::from_secs(60),
            answer_sets: 1000,
            answer_bytes: 4 << 20,
        }
    }
}

impl Options for Section {}

impl Section {
    pub(crate) fn validate(&self) -> Result<(), Fault> {
        let validated = between("hold", self.hold, HOLD)
            .and_then(|_| between("redelivery_timeout", self.redelivery_timeout, REDELIVERY))
            .and_then(|_| within("answer_sets", self.answer_sets, &SETS))
            .and_then(|_| within("answer_bytes", self.answer_bytes, &BYTES));
        validated.map(|_| ()).map_err(|(option, why)| {
            Fault::Start(Cause::configuration("configuration", format!("[methods.poll]: `{option}`: {why}")))
        })
    }
}

/// The operator's settings for one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Grant {
    /// The time for which a long poll is held, at most the section's.
    #[serde(with = "setgate_delivery::duration::optional")]
    pub hold: Option<Duration>,
    /// The time after which SETs that are not acknowledged are handed over again, 5s to 1d, instead of the section's.
    #[serde(with = "setgate_delivery::duration::optional")]
    pub redelivery_timeout: Option<Duration>,
    /// The most SETs in one answer, at most the section's.
    pub answer_sets: Option<usize>,
}

impl Options for Grant {}

impl Grant {
    pub(crate) fn hold(&self, section: &Section) -> Result<Duration, Fault> {
        let lowered = self.hold.unwrap_or(section.hold);
        between("hold", lowered, (HOLD.0, section.hold)).map_err(fault)
    }

    pub(crate) fn redelivery_timeout(&self, section: &Section) -> Result<Duration, Fault> {
        let timeout = self.redelivery_timeout.unwrap_or(section.redelivery_timeout);
        between("redelivery_timeout", timeout, REDELIVERY).map_err(fault)
    }

    pub(crate) fn answer_sets(&self, section: &Section) -> Result<usize, Fault> {
        let lowered = self.answer_sets.unwrap_or(section.answer_sets);
        within("answer_sets", lowered, &(*SETS.start()..=section.answer_sets)).map_err(fault)
    }
}

fn fault((member, why): (&'static str, String)) -> Fault {
    Fault::Terms { pointer: format!("/grant/{member}"), cause: Cause::configuration("invalid", why) }
}

fn between(
    option: &'static str,
    value: Duration,
    (least, most): (Duration, Duration),
) -> Result<Duration, (&'static str, String)> {
    duration::outside(value, least, most).map_or(Ok(value), |why| Err((option, why)))
}

fn within<N: PartialOrd + std::fmt::Display + Copy>(
    option: &'static str,
    value: N,
    range: &RangeInclusive<N>,
) -> Result<N, (&'static str, String)> {
    let ok = range.contains(&value);
    if ok { Ok(value) } else { Err((option, format!("write {} to {}", range.start(), range.end()))) }
}

/// The members of `delivery` other than `method`, as the receiver writes them; none has an effect.
///
/// The endpoint is the gateway's (SSF 1.0 §6.1.2). A receiver that sends back what it was shown is not refused for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Terms {
    /// The endpoint, accepted and ignored.
    #[serde(deserialize_with = "forget")]
    pub endpoint_url: (),
}

impl Options for Terms {}

fn forget<'de, D: Deserializer<'de>>(json: D) -> Result<(), D::Error> {
    IgnoredAny::deserialize(json).map(|_| ())
}

/// The source of the receiving half, in addition to its [`Trust`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PollSource {
    /// The transmitter's poll endpoint.
    pub endpoint_url: String,
    /// The value of `Authorization`, sent verbatim with every request.
    #[serde(default)]
    pub authorization_header: Option<Secret<String>>,
    /// The most SETs in one answer, 1 to 10000.
    #[serde(default = "PollSource::max_events")]
    pub max_events: usize,
    /// The time that a poll may take, 2s to 10m; it must be longer than the transmitter holds a poll.
    #[serde(default = "PollSource::timeout", with = "setgate_delivery::duration")]
    pub timeout: Duration,
}

impl PollSource {
    const fn max_events() -> usize {
        100
    }

    const fn timeout() -> Duration {
        Duration::from_secs(90)
    }

    fn validate(&self) -> Result<(), Fault> {
        within("max_events", self.max_events, &SETS)
            .and_then(|_| between("timeout", self.timeout, TIMEOUT))
            .map(|_| ())
            .map_err(|(member, why)| of_source(member, &why))
    }

    /// Checks the source without I/O and returns its endpoint.
    pub(crate) fn endpoint(&self, trust: &Trust, env: &Env) -> Result<Endpoint, Fault> {
        self.validate()?;
        // There is no issuer here: sources that have the same policy and origin share connections (hardening H20).
        let origin =
            Url::parse(&self.endpoint_url).map_or_else(|_| String::new(), |url| url.origin().ascii_serialization());
        let endpoint = trust.policy(&origin).and_then(|policy| {
            Endpoint::new(&env.http, &policy, &self.endpoint_url, self.authorization_header.as_ref())
        });
        endpoint.map_err(|fault| match fault {
            Fault::Terms { pointer, cause } => of_source(pointer.rsplit('/').next().unwrap_or_default(), &cause.text),
            other => other,
        })
    }
}

/// Returns the fault for a member of a source.
fn of_source(member: &str, why: &str) -> Fault {
    Fault::Start(Cause::configuration("configuration", format!("`{member}`: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_take_an_endpoint_back_and_nothing_else() {
        let read = |text: &str| serde_json::from_str::<Terms>(text);
        assert_eq!(read("{}").unwrap(), read(r#"{"endpoint_url":"https://idp.example/poll/1"}"#).unwrap());
        assert!(read(r#"{"authorization_header":"x"}"#).is_err());
    }

    #[test]
    fn a_grant_lowers_and_names_the_member_that_is_wrong() {
        let section = Section::default();
        let grant = |text: &str| serde_json::from_str::<Grant>(text).unwrap();
        let pointer = |fault: Fault| match fault {
            Fault::Terms { pointer, .. } => pointer,
            other => other.to_string(),
        };
        assert_eq!(grant(r#"{"hold":"5s"}"#).hold(&section).unwrap(), Duration::from_secs(5));
        assert_eq!(pointer(grant(r#"{"hold":"26s"}"#).hold(&section).unwrap_err()), "/grant/hold");
        assert_eq!(pointer(grant(r#"{"hold":"0s"}"#).hold(&section).unwrap_err()), "/grant/hold");
        assert_eq!(
            pointer(grant(r#"{"redelivery_timeout":"4s"}"#).redelivery_timeout(&section).unwrap_err()),
            "/grant/redelivery_timeout"
        );
        assert_eq!(pointer(grant(r#"{"answer_sets":1001}"#).answer_sets(&section).unwrap_err()), "/grant/answer_sets");
        assert!(section.validate().is_ok());
        for wrong in [
            Section { hold: Duration::ZERO, ..Section::default() },
            Section { redelivery_timeout: Duration::from_secs(1), ..Section::default() },
            Section { answer_sets: 0, ..Section::default() },
            Section { answer_bytes: 1, ..Section::default() },
        ] {
            assert!(wrong.validate().unwrap_err().to_string().contains("[methods.poll]"));
        }
    }

    #[test]
    fn a_source_is_read_strictly_and_hides_its_secret() {
        let read = |text: &str| serde_json::from_str::<PollSource>(text);
        let source = read(r#"{"endpoint_url":"https://a.example","authorization_header":"Bearer canary"}"#).unwrap();
        assert!(source.validate().is_ok() && !format!("{source:?}").contains("canary"));
        assert!(read(r#"{"endpoint_url":"https://a.example","endpoint":1}"#).is_err());
        assert!(PollSource { max_events: 0, ..source.clone() }.validate().is_err());
        assert!(PollSource { timeout: Duration::from_secs(1), ..source }.validate().is_err());
    }
}
