//! What goes over the wire: the handshake, close codes, the object of push-pull. Pure; checked by tests and fuzzed.

use setgate_delivery::{
    Closed, Refusal, Url,
    exchange::{Bounds, Exchange, Malformed},
    fields,
    http::{HeaderMap, Method, StatusCode, header},
};
use tokio_tungstenite::tungstenite::{self, error::ProtocolError};

/// What a socket speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subprotocol {
    /// The gateway's own: the objects of push-pull, with credit.
    Setgate,
    /// Plain push-pull (draft-tulshibagwale-saag-pushpull-delivery §6.4): without credit.
    PushPull,
}

impl Subprotocol {
    /// Both, as a client offers them: the better one first.
    pub const OFFER: &'static str = "setgate.v1, pushpull";

    /// Its name in `Sec-WebSocket-Protocol`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Setgate => "setgate.v1",
            Self::PushPull => "pushpull",
        }
    }

    /// The subprotocol of this name; names are compared as they are (RFC 6455 §4.1).
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Setgate, Self::PushPull].into_iter().find(|known| known.as_str() == name)
    }

    /// The first of a client's offers that is known: clients list them in order of preference (RFC 6455 §11.3.4).
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
    /// What the answer has as `Sec-WebSocket-Accept`.
    pub accept: String,
    /// What the socket speaks.
    pub protocol: Subprotocol,
}

/// A handshake that is refused: the status, and a text for who looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Declined(pub StatusCode, pub &'static str);

/// Whether a page of this origin may connect: no `Origin` at all, or exactly one, which is on the list (RFC 6455 §10.2,
/// hardening H24). The list is kept as browsers write origins.
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

/// Checks an opening handshake (RFC 6455 §4.2.1). Offers of extensions are declined by not answering them (RFC 7692 §5,
/// hardening H44).
///
/// # Errors
/// [`Declined`].
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

/// Why a socket is closed: the code (RFC 6455 §7.4) and a reason for people, at most 123 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goodbye {
    /// The code.
    pub code: u16,
    /// The reason.
    pub reason: &'static str,
}

/// A table of them: `name, code, reason`.
macro_rules! goodbyes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $reason:literal;)*) => {
        impl Goodbye {
            $($(#[$doc])* pub const $name: Self = Self { code: $code, reason: $reason };)*
            /// All of them, for the table of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
        }
    };
}

goodbyes! {
    /// The stream has nothing more to say; only suites meet it.
    IDLE = 1000, "nothing is owed any more";
    /// This side stops on purpose.
    LEAVING = 1001, "going away";
    /// A frame breaks RFC 6455.
    PROTOCOL = 1002, "protocol error";
    /// A binary message.
    BINARY = 1003, "only text messages are understood";
    /// A text message that is no UTF-8, no JSON, or no object of push-pull.
    MALFORMED = 1007, "the message is no acceptable JSON object";
    /// The stream is gone.
    DELETED = 1008, "the stream was deleted";
    /// The stream is disabled.
    DISABLED = 1008, "the stream is disabled";
    /// SETs beyond the credit that was granted.
    OVER_CREDIT = 1008, "more SETs than credit was granted";
    /// Pings, pongs and empty objects without end.
    CHATTER = 1008, "too many messages that say nothing";
    /// SETs were handed over and nothing is settled.
    UNSETTLED = 1008, "SETs were neither acknowledged nor refused in time";
    /// A message beyond the limits.
    TOO_BIG = 1009, "the message is larger than allowed";
    /// No sign of life for two intervals.
    SILENT = 1011, "no sign of life, not even a pong";
    /// Something of ours broke.
    BROKEN = 1011, "the line is out of order";
    /// The gateway stops.
    DRAINING = 1012, "the gateway restarts";
    /// Method or endpoint of the stream changed.
    RECONFIGURED = 1012, "the stream was reconfigured";
    /// SETs or refusals beyond what is kept.
    OVER_BOUND = 1013, "more SETs than can be taken now";
    /// Enough sockets are open.
    TOO_MANY = 1013, "too many sockets are open";
    /// Another consumer took the place.
    SUPERSEDED = 1013, "another connection took this one's place";
    /// The credential is over.
    CREDENTIAL = 4401, "the credential has expired or was taken away";
}

impl Goodbye {
    /// What a consumer's end means for the socket; draining is told first and waits for acknowledgements.
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

    /// What to say to a peer whose message cannot be read; nothing where there is nobody left to hear it.
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

    /// What to say to a peer whose object is not acceptable.
    #[must_use]
    pub const fn of_object(malformed: &Malformed) -> Self {
        match malformed {
            Malformed::TooLarge(_) => Self::TOO_BIG,
            _ => Self::MALFORMED,
        }
    }
}

/// Reads a message of a socket.
///
/// # Errors
/// The [`Goodbye`] that it deserves.
pub fn message(text: &[u8], bounds: Bounds) -> Result<Exchange, Goodbye> {
    Exchange::parse(text, bounds, None).map_err(|malformed| Goodbye::of_object(&malformed))
}

/// Whether an object says nothing at all.
#[must_use]
pub fn is_empty(object: &Exchange) -> bool {
    let sets = object.sets.as_ref().is_none_or(Vec::is_empty);
    sets && object.ack.is_empty() && object.set_errs.is_empty() && object.max_events.is_none_or(|more| more == 0)
}

/// Whether a request body is JSON, in whatever charset it claims (RFC 8259 knows one).
#[must_use]
pub fn is_json(headers: &HeaderMap) -> bool {
    let Some(Ok(text)) = headers.get(header::CONTENT_TYPE).map(|value| value.to_str()) else { return false };
    let media = text.split(';').next().unwrap_or_default().trim();
    media.eq_ignore_ascii_case("application/json") && !headers.contains_key(header::CONTENT_ENCODING)
}

/// Reads the body of a push-pull request or answer.
///
/// # Errors
/// [`Malformed`].
pub fn body(text: &[u8], bounds: Bounds, headers: &HeaderMap) -> Result<Exchange, Malformed> {
    Exchange::parse(text, bounds, fields::language(headers))
}

/// Why SETs of a peer are refused that may not send any (hardening H25).
#[must_use]
pub fn not_allowed() -> Refusal {
    Refusal {
        code: setgate_delivery::ErrorCode::AccessDenied,
        description: Some("this stream takes no SETs of its receiver".into()),
        language: Some("en".into()),
    }
}

/// What an HTTP status means for who wants to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Waiting fixes nothing: the credential or the stream is not there.
    ForGood,
    /// Not now.
    Later,
    /// Not by WebSocket; perhaps by HTTP (draft-tulshibagwale-saag-pushpull-delivery §6.4).
    ByHttp,
}

/// What it means that a handshake was answered so.
#[must_use]
pub fn refused(status: StatusCode) -> Refused {
    match status.as_u16() {
        401 | 403 | 404 => Refused::ForGood,
        429 | 503 => Refused::Later,
        _ => Refused::ByHttp,
    }
}

/// `Host` of a URL, with the port where it is not the scheme's own (RFC 9110 §7.2).
#[must_use]
pub fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests;
