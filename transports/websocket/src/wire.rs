//! The wire format: the handshake, close codes, the object of push-pull. Pure; checked by tests and fuzzed.

use setgate_delivery::{
    Closed, Refusal, Url,
    exchange::{Bounds, Exchange, Malformed},
    fields,
    http::{HeaderMap, Method, StatusCode, header},
};
use tokio_tungstenite::tungstenite::{self, error::ProtocolError};

/// The subprotocol of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subprotocol {
    /// The gateway's own subprotocol: the objects of push-pull, with credit.
    Setgate,
    /// Plain push-pull (draft-tulshibagwale-saag-pushpull-delivery §6.4), without credit.
    PushPull,
}

impl Subprotocol {
    /// Both subprotocols as a client offers them, the preferred one first.
    pub const OFFER: &'static str = "setgate.v1, pushpull";

    /// Returns the name in `Sec-WebSocket-Protocol`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Setgate => "setgate.v1",
            Self::PushPull => "pushpull",
        }
    }

    /// Returns the subprotocol of this name; names are compared as they are (RFC 6455 §4.1).
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Setgate, Self::PushPull].into_iter().find(|known| known.as_str() == name)
    }

    /// Returns the first known subprotocol of a client's offer: clients list them in order of preference (RFC 6455
    /// §11.3.4).
    #[must_use]
    pub fn chosen(offer: &HeaderMap) -> Option<Self> {
        let fields = offer.get_all(header::SEC_WEBSOCKET_PROTOCOL).into_iter();
        fields
            .filter_map(|field| field.to_str().ok())
            .flat_map(|field| field.split(','))
            .find_map(|name| Self::named(name.trim()))
    }
}

/// An opening handshake that is acceptable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The value of `Sec-WebSocket-Accept` in the answer.
    pub accept: String,
    /// The subprotocol of the socket.
    pub protocol: Subprotocol,
}

/// The refusal of a handshake: the status, and a text for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Declined(pub StatusCode, pub &'static str);

/// Checks that a page of this origin may connect: there is no `Origin`, or exactly one, which is on the list (RFC 6455
/// §10.2, hardening H24). The list holds origins as browsers write them.
///
/// # Errors
/// [`Declined`] with 403.
pub fn origin(headers: &HeaderMap, allowed: &[Box<str>]) -> Result<(), Declined> {
    let mut origins = headers.get_all(header::ORIGIN).into_iter();
    let Some(first) = origins.next() else { return Ok(()) };
    let known = first.to_str().is_ok_and(|origin| allowed.iter().any(|allowed| **allowed == *origin));
    if known && origins.next().is_none() {
        return Ok(());
    }
    Err(Declined(StatusCode::FORBIDDEN, "this origin is not on the stream's list of `origins`\n"))
}

/// Checks an opening handshake (RFC 6455 §4.2.1). Extensions are declined by not answering the offers (RFC 7692 §5,
/// hardening H44).
///
/// # Errors
/// [`Declined`] with the status and the text of the answer.
pub fn opening(method: &Method, headers: &HeaderMap) -> Result<Opening, Declined> {
    let has = |name: header::HeaderName, token: &str| {
        let fields = headers.get_all(name).into_iter();
        fields
            .filter_map(|field| field.to_str().ok())
            .flat_map(|f| f.split(','))
            .any(|one| one.trim().eq_ignore_ascii_case(token))
    };
    if method != Method::GET {
        return Err(Declined(StatusCode::METHOD_NOT_ALLOWED, "GET opens a WebSocket, POST is push-pull over HTTP\n"));
    }
    if !has(header::UPGRADE, "websocket") || !has(header::CONNECTION, "upgrade") {
        return Err(Declined(
            StatusCode::UPGRADE_REQUIRED,
            "this is a WebSocket endpoint: the request has no `Upgrade: websocket`\n",
        ));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Declined(StatusCode::UPGRADE_REQUIRED, "`Sec-WebSocket-Version` must be 13\n"));
    }
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).into_iter();
    let key = match (keys.next(), keys.next()) {
        // Sixteen bytes in base64.
        (Some(key), None) if key.len() == 24 && key.as_bytes().ends_with(b"==") => key.as_bytes(),
        _ => {
            return Err(Declined(
                StatusCode::BAD_REQUEST,
                "`Sec-WebSocket-Key` must be there once, with 16 bytes in base64\n",
            ));
        }
    };
    let Some(protocol) = Subprotocol::chosen(headers) else {
        return Err(Declined(
            StatusCode::BAD_REQUEST,
            "offer `setgate.v1` or `pushpull` in `Sec-WebSocket-Protocol`: nothing else is spoken here\n",
        ));
    };
    Ok(Opening { accept: tungstenite::handshake::derive_accept_key(key), protocol })
}

/// The reason why a socket is closed: the code (RFC 6455 §7.4) and a text for people, at most 123 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goodbye {
    /// The code.
    pub code: u16,
    /// The text.
    pub reason: &'static str,
}

/// Defines the close codes from a table of `name = code, reason`.
macro_rules! goodbyes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $reason:literal;)*) => {
        impl Goodbye {
            $($(#[$doc])* pub const $name: Self = Self { code: $code, reason: $reason };)*
            /// Every close code, for the table of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
        }
    };
}

goodbyes! {
    /// The stream owes nothing more; only test suites meet this end.
    IDLE = 1000, "nothing is owed any more";
    /// A deliberate stop of this end.
    LEAVING = 1001, "going away";
    /// A frame breaks RFC 6455.
    PROTOCOL = 1002, "protocol error";
    /// A binary message was received.
    BINARY = 1003, "only text messages are understood";
    /// A text message is not UTF-8, not JSON, or not an object of push-pull.
    MALFORMED = 1007, "the message is no acceptable JSON object";
    /// The stream was deleted.
    DELETED = 1008, "the stream was deleted";
    /// The stream is disabled.
    DISABLED = 1008, "the stream is disabled";
    /// The peer sent more SETs than the credit that was granted.
    OVER_CREDIT = 1008, "more SETs than credit was granted";
    /// The peer sent too many pings, pongs and empty objects.
    CHATTER = 1008, "too many messages that say nothing";
    /// The peer got SETs and settled none in time.
    UNSETTLED = 1008, "SETs were neither acknowledged nor refused in time";
    /// A message exceeds the limits.
    TOO_BIG = 1009, "the message is larger than allowed";
    /// The peer gave no sign of life for two intervals.
    SILENT = 1011, "no sign of life, not even a pong";
    /// An internal error ended the socket.
    BROKEN = 1011, "the line is out of order";
    /// The gateway stops.
    DRAINING = 1012, "the gateway restarts";
    /// The delivery method or endpoint of the stream changed.
    RECONFIGURED = 1012, "the stream was reconfigured";
    /// The peer sent more SETs, or caused more refusals, than are kept.
    OVER_BOUND = 1013, "more SETs than can be taken now";
    /// The limit of open sockets is reached.
    TOO_MANY = 1013, "too many sockets are open";
    /// A newer consumer replaced this one.
    SUPERSEDED = 1013, "another connection took this one's place";
    /// The credential expired or was withdrawn.
    CREDENTIAL = 4401, "the credential has expired or was taken away";
}

impl Goodbye {
    /// Returns the close code for a consumer's end. A socket that drains waits for acknowledgements before it sends the
    /// code.
    #[must_use]
    pub const fn of_consumer(closed: &Closed) -> Self {
        match closed {
            Closed::Idle => Self::IDLE,
            Closed::Draining => Self::DRAINING,
            Closed::Superseded => Self::SUPERSEDED,
            Closed::Disabled => Self::DISABLED,
            Closed::Deleted => Self::DELETED,
            Closed::Reconfigured => Self::RECONFIGURED,
            _ => Self::BROKEN,
        }
    }

    /// Returns the close code for a peer whose message cannot be read; `None` when the connection is gone.
    #[must_use]
    pub const fn of_error(error: &tungstenite::Error) -> Option<Self> {
        match error {
            tungstenite::Error::Capacity(_) => Some(Self::TOO_BIG),
            tungstenite::Error::Utf8(_) => Some(Self::MALFORMED),
            tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
            tungstenite::Error::Protocol(_) => Some(Self::PROTOCOL),
            _ => None,
        }
    }

    /// Returns the close code for a peer whose object is not acceptable.
    #[must_use]
    pub const fn of_object(malformed: &Malformed) -> Self {
        match malformed {
            Malformed::TooLarge(_) => Self::TOO_BIG,
            _ => Self::MALFORMED,
        }
    }
}

/// Parses a message of a socket.
///
/// # Errors
/// The [`Goodbye`] to close the socket with.
pub fn message(text: &[u8], bounds: Bounds) -> Result<Exchange, Goodbye> {
    Exchange::parse(text, bounds, None).map_err(|malformed| Goodbye::of_object(&malformed))
}

/// Returns whether an object has no content.
#[must_use]
pub fn is_empty(object: &Exchange) -> bool {
    let sets = object.sets.as_ref().is_none_or(Vec::is_empty);
    sets && object.ack.is_empty() && object.set_errs.is_empty() && object.max_events.is_none_or(|more| more == 0)
}

/// Returns whether a request body is JSON without a content encoding, whatever charset it claims (RFC 8259 knows one).
#[must_use]
pub fn is_json(headers: &HeaderMap) -> bool {
    let Some(Ok(text)) = headers.get(header::CONTENT_TYPE).map(|value| value.to_str()) else { return false };
    let media = text.split(';').next().unwrap_or_default().trim();
    media.eq_ignore_ascii_case("application/json") && !headers.contains_key(header::CONTENT_ENCODING)
}

/// Parses the body of a push-pull request or answer.
///
/// # Errors
/// [`Malformed`] when it is not acceptable.
pub fn body(text: &[u8], bounds: Bounds, headers: &HeaderMap) -> Result<Exchange, Malformed> {
    Exchange::parse(text, bounds, fields::language(headers))
}

/// Returns the refusal for SETs of a peer that may not send any (hardening H25).
#[must_use]
pub fn not_allowed() -> Refusal {
    Refusal {
        code: setgate_delivery::ErrorCode::AccessDenied,
        description: Some("this stream takes no SETs of its receiver".into()),
        language: Some("en".into()),
    }
}

/// The meaning of an HTTP status for a client that wants to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// A later attempt cannot succeed: the credential or the stream does not exist.
    ForGood,
    /// A later attempt may succeed.
    Later,
    /// A WebSocket is not possible, but HTTP may be (draft-tulshibagwale-saag-pushpull-delivery §6.4).
    ByHttp,
}

/// Returns the meaning of the status that a handshake was answered with.
#[must_use]
pub fn refused(status: StatusCode) -> Refused {
    match status.as_u16() {
        401 | 403 | 404 => Refused::ForGood,
        429 | 503 => Refused::Later,
        _ => Refused::ByHttp,
    }
}

/// Returns the `Host` of a URL, with the port unless it is the scheme's default (RFC 9110 §7.2).
#[must_use]
pub fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests;
