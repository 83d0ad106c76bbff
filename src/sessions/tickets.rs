//! Tickets: a browser, which cannot set `Authorization` on a socket, is admitted with one (hardening H24).
//!
//! A ticket is 256 random bits, lives 30 seconds in memory and nowhere else, opens one socket on one stream from one
//! origin, and is offered as a value of `Sec-WebSocket-Protocol` that is removed before a method could echo it. A
//! ticket shown at the wrong place is used up.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, header},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use setgate_clock::Runtime;
use setgate_net::Secret;
use setgate_oauth::{Admitted, Denied};
use url::Url;

use super::budget::{Full, Observed, number};

/// The lifetime of a ticket.
const LIFE: Duration = Duration::from_secs(30);
/// The longest time for the body of a request for a ticket.
const BODY: Duration = Duration::from_secs(10);
/// The largest body of a request for a ticket, in bytes.
const BODY_BYTES: usize = 2048;
/// The longest origin, in bytes.
const ORIGIN_BYTES: usize = 512;
/// The prefix of a ticket in `Sec-WebSocket-Protocol`.
const PREFIX: &str = "ticket.";

/// The tickets that are out and not used yet.
pub(super) struct Tickets {
    runtime: Runtime,
    most: usize,
    most_of_one: usize,
    out: Mutex<Out>,
    observed: Observed,
}

#[derive(Default)]
struct Out {
    tickets: HashMap<[u8; 32], Ticket>,
    /// The random bits of the tickets by the end of their lifetime; the number tells apart those that end together.
    ends: BTreeMap<(Duration, u64), [u8; 32]>,
    by_receiver: HashMap<usize, usize>,
    last: u64,
}

struct Ticket {
    admitted: Admitted,
    issuer: Arc<str>,
    stream: Arc<str>,
    origin: Box<str>,
    end: (Duration, u64),
}

/// A ticket that was issued.
pub(super) struct Issued {
    pub(super) ticket: Secret<String>,
    pub(super) expires_in: Duration,
}

/// The body of a request for a ticket.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TicketRequest {
    origin: String,
}

impl Tickets {
    pub(super) fn new(runtime: Runtime, most: usize, most_of_one: usize, observed: Observed) -> Self {
        Self { runtime, most, most_of_one, out: Mutex::default(), observed }
    }

    /// Returns the origin that a ticket is asked for, from the body or the `Origin` header. If there are both, they
    /// must agree.
    ///
    /// # Errors
    /// Returns a text that says what is wrong with the request.
    pub(super) async fn origin(&self, headers: &HeaderMap, body: Body) -> Result<Box<str>, &'static str> {
        let said = one_origin(headers)?;
        let read = axum::body::to_bytes(body, BODY_BYTES);
        let body = tokio::select! {
            read = read => read.map_err(|_| "the body is too long or broke off")?,
            () = self.runtime.clock.sleep(BODY) => return Err("the body did not come in time"),
        };
        let asked = if body.is_empty() {
            None
        } else {
            let request: TicketRequest =
                serde_json::from_slice(&body).map_err(|_| "the body is empty, or {\"origin\": \"https://…\"}")?;
            Some(request.origin)
        };
        let origin = match (said, asked) {
            (Some(said), Some(asked)) if said != asked => return Err("`origin` differs from the Origin header"),
            (_, Some(asked)) => asked,
            (Some(said), None) => said.to_owned(),
            (None, None) => return Err("name the origin of the page: {\"origin\": \"https://…\"}"),
        };
        if is_origin(&origin) {
            Ok(origin.into())
        } else {
            Err("`origin` is a scheme, a host and a port, as browsers send it")
        }
    }

    /// Issues a ticket.
    ///
    /// # Errors
    /// Returns [`Full`] when too many are out.
    pub(super) fn issue(
        &self,
        admitted: Admitted,
        issuer: Arc<str>,
        stream: Arc<str>,
        origin: Box<str>,
    ) -> Result<Issued, Full> {
        let mut bits = [0; 32];
        self.runtime.random.fill(&mut bits);
        let now = self.runtime.clock.monotonic();
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        out.forget(now);
        if out.tickets.len() >= self.most {
            return Err(Full::Tickets);
        }
        let of_one = out.by_receiver.entry(number(&admitted.receiver)).or_default();
        if *of_one >= self.most_of_one {
            return Err(Full::ReceiverTickets);
        }
        *of_one += 1;
        out.last += 1;
        let end = (now + LIFE, out.last);
        out.ends.insert(end, bits);
        out.tickets.insert(bits, Ticket { admitted, issuer, stream, origin, end });
        drop(out);
        self.observed.ticket_issued();
        Ok(Issued { ticket: Secret::new(URL_SAFE_NO_PAD.encode(bits)), expires_in: LIFE })
    }

    /// Uses a ticket up, and admits its holder if issuer, stream and origin are those that it was issued for.
    ///
    /// # Errors
    /// Returns [`Denied::Invalid`], whatever is wrong.
    pub(super) fn redeem(
        &self,
        ticket: &Secret<String>,
        issuer: &str,
        stream: &str,
        headers: &HeaderMap,
    ) -> Result<Admitted, Denied> {
        let refuse = |reason| {
            self.observed.ticket_refused(reason);
            Denied::Invalid
        };
        let mut bits = [0; 32];
        if URL_SAFE_NO_PAD.decode_slice(ticket.expose(), &mut bits) != Ok(32) {
            return Err(refuse("unknown"));
        }
        let found = {
            let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
            out.forget(self.runtime.clock.monotonic());
            // Keyed hashing hides how close a guess came, and a guess among 2^256 does not come close.
            out.remove(&bits)
        };
        // The ticket was used before, has expired or was never issued; these cannot be told apart any more.
        let Some(found) = found else { return Err(refuse("unknown")) };
        if *found.issuer != *issuer || *found.stream != *stream {
            return Err(refuse("stream"));
        }
        if one_origin(headers).ok().flatten() != Some(&*found.origin) {
            return Err(refuse("origin"));
        }
        if found.admitted.until_millis.is_some_and(|until| self.runtime.clock.wall_millis() >= until) {
            return Err(refuse("credential"));
        }
        Ok(found.admitted)
    }
}

impl Out {
    /// Removes the tickets that have expired.
    fn forget(&mut self, now: Duration) {
        while let Some((&end, &bits)) = self.ends.first_key_value() {
            if end.0 > now {
                return;
            }
            if self.remove(&bits).is_none() {
                self.ends.remove(&end);
            }
        }
    }

    fn remove(&mut self, bits: &[u8; 32]) -> Option<Ticket> {
        let ticket = self.tickets.remove(bits)?;
        self.ends.remove(&ticket.end);
        let who = number(&ticket.admitted.receiver);
        if let Some(of_one) = self.by_receiver.get_mut(&who) {
            *of_one = of_one.saturating_sub(1);
            if *of_one == 0 {
                self.by_receiver.remove(&who);
            }
        }
        Some(ticket)
    }
}

/// Removes the ticket from `Sec-WebSocket-Protocol`, at any position and whether or not it counts, so that it cannot be
/// echoed.
///
/// # Errors
/// Returns [`Denied::Malformed`] when there are two tickets or the field is not ASCII.
pub(super) fn extract(headers: &mut HeaderMap) -> Result<Option<Secret<String>>, Denied> {
    let is_ticket = |value: &str| value.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX));
    let mentions = |value: &HeaderValue| {
        value.as_bytes().windows(PREFIX.len()).any(|part| part.eq_ignore_ascii_case(PREFIX.as_bytes()))
    };
    if !headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().any(mentions) {
        return Ok(None);
    }
    let offered: Vec<HeaderValue> = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().cloned().collect();
    headers.remove(header::SEC_WEBSOCKET_PROTOCOL);
    let mut tickets = Vec::new();
    let mut rest = Vec::new();
    for value in &offered {
        let text = value.to_str().map_err(|_| Denied::Malformed("Sec-WebSocket-Protocol is not ASCII"))?;
        for one in text.split(',').map(str::trim).filter(|one| !one.is_empty()) {
            if is_ticket(one) { tickets.push(one) } else { rest.push(one) }
        }
    }
    if !rest.is_empty()
        && let Ok(value) = HeaderValue::from_str(&rest.join(", "))
    {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, value);
    }
    match tickets.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(Secret::new(one.get(PREFIX.len()..).unwrap_or_default().to_owned()))),
        _ => Err(Denied::Malformed("there are two tickets")),
    }
}

/// Returns the origin that the browser names.
///
/// # Errors
/// Returns an error when there are two, or it is not ASCII.
fn one_origin(headers: &HeaderMap) -> Result<Option<&str>, &'static str> {
    let mut all = headers.get_all(header::ORIGIN).iter();
    let Some(first) = all.next() else { return Ok(None) };
    if all.next().is_some() {
        return Err("there are two Origin headers");
    }
    first.to_str().map(Some).map_err(|_| "the Origin header is not ASCII")
}

/// Returns whether a text is a web origin as browsers write it (RFC 6454 §6.2); `null` is none.
fn is_origin(text: &str) -> bool {
    text.len() <= ORIGIN_BYTES
        && Url::parse(text)
            .is_ok_and(|url| matches!(url.scheme(), "https" | "http") && url.origin().ascii_serialization() == text)
}
