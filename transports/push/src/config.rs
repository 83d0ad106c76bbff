//! Options of push: the operator's section, the grant of a stream, the receiver's terms.

use std::time::Duration;

use serde::Deserialize;
use setgate_delivery::{Cause, Fault, Json, Options, Secret, duration};

use crate::wire::Taken;

/// The largest window: requests of one stream under way at once.
const WIDEST: usize = 1024;
/// The shortest and the longest time for one request.
const TIMEOUT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// `[methods.push]`: the settings of every push stream whose grant does not override them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Section {
    /// The most SETs of one stream that may be under way at once, 1 to 1024.
    pub window: usize,
    /// The time from resolving the receiver's name to its answer, 1s to 5m.
    #[serde(with = "setgate_delivery::duration")]
    pub timeout: Duration,
    /// Whether a SET is acknowledged by 202 alone, as in RFC 8935 §2.2; otherwise also by 200, 201 and 204, unless the
    /// answer contradicts that.
    pub accept_only_202: bool,
    /// Whether the receiving half accepts `application/jwt` in addition to `application/secevent+jwt`.
    pub accept_legacy: bool,
}

impl Default for Section {
    fn default() -> Self {
        Self { window: 64, timeout: Duration::from_secs(30), accept_only_202: false, accept_legacy: false }
    }
}

impl Options for Section {}

impl Section {
    pub(crate) fn validate(&self) -> Result<(), Fault> {
        window(self.window).and_then(|_| timeout(self.timeout)).map(|_| ()).map_err(|(option, why)| {
            Fault::Start(Cause::configuration("configuration", format!("[methods.push]: `{option}`: {why}")))
        })
    }
}

/// The operator's settings for one stream, in addition to its [trust](setgate_delivery::endpoint::Trust).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Grant {
    /// The most SETs under way at once, 1 to 1024, instead of the section's.
    pub window: Option<usize>,
    /// The time from resolving the receiver's name to its answer, 1s to 5m, instead of the section's.
    #[serde(with = "setgate_delivery::duration::optional")]
    pub timeout: Option<Duration>,
    /// Whether a SET is acknowledged by 202 alone, instead of the section's value.
    pub accept_only_202: Option<bool>,
}

impl Options for Grant {}

impl Grant {
    pub(crate) fn window(&self, section: &Section) -> Result<usize, Fault> {
        window(self.window.unwrap_or(section.window)).map_err(fault)
    }

    pub(crate) fn timeout(&self, section: &Section) -> Result<Duration, Fault> {
        timeout(self.timeout.unwrap_or(section.timeout)).map_err(fault)
    }

    /// Returns which statuses acknowledge a SET: 202 alone if the receiver's terms or the operator say so.
    pub(crate) fn taken(&self, section: &Section, terms: &Terms) -> Taken {
        let letter = terms.accept_only_202 || self.accept_only_202.unwrap_or(section.accept_only_202);
        if letter { Taken::ByTheLetter } else { Taken::Tolerant }
    }
}

fn fault((member, why): (&str, String)) -> Fault {
    Fault::Terms { pointer: format!("/grant/{member}"), cause: Cause::configuration("invalid", why) }
}

fn window(sets: usize) -> Result<usize, (&'static str, String)> {
    if (1..=WIDEST).contains(&sets) { Ok(sets) } else { Err(("window", format!("write 1 to {WIDEST}"))) }
}

fn timeout(timeout: Duration) -> Result<Duration, (&'static str, String)> {
    match duration::outside(timeout, TIMEOUT.0, TIMEOUT.1) {
        None => Ok(timeout),
        Some(why) => Err(("timeout", why)),
    }
}

/// The members of `delivery` other than `method`, as the receiver writes them (SSF 1.0 §6.1.1).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    /// The URL that SETs are pushed to.
    pub endpoint_url: String,
    /// The value of `Authorization`, sent verbatim with every request.
    #[serde(default)]
    pub authorization_header: Option<Secret<String>>,
    /// The media type of the SET; receivers from before RFC 8935 know `application/jwt` only.
    #[serde(default)]
    pub content_type: ContentType,
    /// Whether 202 alone acknowledges a SET, so that anything else that answers under the receiver's URL does not.
    #[serde(default)]
    pub accept_only_202: bool,
}

impl Options for Terms {
    const SECRETS: &'static [&'static str] = &["/authorization_header"];
}

impl Terms {
    pub(crate) fn publish(&self, method: &str) -> Json {
        let mut shown = serde_json::json!({ "method": method, "endpoint_url": self.endpoint_url });
        if let (ContentType::Jwt, Some(shown)) = (self.content_type, shown.as_object_mut()) {
            shown.insert("content_type".to_owned(), Json::from(self.content_type.as_str()));
        }
        if let (true, Some(shown)) = (self.accept_only_202, shown.as_object_mut()) {
            shown.insert("accept_only_202".to_owned(), Json::from(true));
        }
        shown
    }
}

/// The media type of a pushed SET.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum ContentType {
    /// The media type of RFC 8935 §2.1.
    #[default]
    #[serde(rename = "application/secevent+jwt")]
    SeceventJwt,
    /// The media type of the drafts before RFC 8935.
    #[serde(rename = "application/jwt")]
    Jwt,
}

impl ContentType {
    /// Returns the media type as text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SeceventJwt => "application/secevent+jwt",
            Self::Jwt => "application/jwt",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_take_nothing_they_do_not_know() {
        let read = |text: &str| serde_json::from_str::<Terms>(text);
        assert!(read(r#"{"endpoint_url":"https://a.example"}"#).is_ok());
        assert!(read(r#"{"endpoint_url":"https://a.example","content_type":"application/jwt"}"#).is_ok());
        assert!(read(r#"{"endpoint_url":"https://a.example","content_type":"text/plain"}"#).is_err());
        assert!(read(r#"{"endpoint_url":"https://a.example","allow_networks":["127.0.0.0/8"]}"#).is_err());
        assert!(read("{}").is_err());
    }

    #[test]
    fn what_is_shown_has_no_secret() {
        let terms = r#"{"endpoint_url":"https://a.example/x","authorization_header":"Bearer canary"}"#;
        let terms: Terms = serde_json::from_str(terms).unwrap();
        let shown = terms.publish("urn:ietf:rfc:8935");
        assert_eq!(shown, serde_json::json!({"method":"urn:ietf:rfc:8935","endpoint_url":"https://a.example/x"}));
        assert!(!format!("{terms:?}").contains("canary"));
    }

    #[test]
    fn whoever_wants_the_letter_gets_it() {
        let taken = |section, grant: &str, terms: &str| {
            let section = Section { accept_only_202: section, ..Section::default() };
            let terms = format!(r#"{{"endpoint_url":"https://a.example"{terms}}}"#);
            let terms: Terms = serde_json::from_str(&terms).unwrap();
            let shown = terms.publish("urn:ietf:rfc:8935").get("accept_only_202").cloned();
            assert_eq!(shown, terms.accept_only_202.then_some(Json::from(true)));
            serde_json::from_str::<Grant>(grant).unwrap().taken(&section, &terms)
        };
        assert_eq!(taken(false, "{}", ""), Taken::Tolerant);
        assert_eq!(taken(true, "{}", ""), Taken::ByTheLetter);
        assert_eq!(taken(true, r#"{"accept_only_202":false}"#, ""), Taken::Tolerant);
        assert_eq!(taken(false, r#"{"accept_only_202":true}"#, ""), Taken::ByTheLetter);
        assert_eq!(taken(true, r#"{"accept_only_202":false}"#, r#","accept_only_202":true"#), Taken::ByTheLetter);
    }

    #[test]
    fn a_grant_names_the_member_that_is_wrong() {
        let section = Section::default();
        let grant = |text: &str| serde_json::from_str::<Grant>(text).unwrap();
        let pointer = |fault: Fault| match fault {
            Fault::Terms { pointer, .. } => pointer,
            other => other.to_string(),
        };
        assert_eq!(pointer(grant(r#"{"window":0}"#).window(&section).unwrap_err()), "/grant/window");
        assert_eq!(pointer(grant(r#"{"timeout":"301s"}"#).timeout(&section).unwrap_err()), "/grant/timeout");
        assert!(Section { window: 0, ..Section::default() }.validate().is_err());
    }
}
