//! The resources that a session holds: its place among sessions, and the place that its connection has left to others.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use axum::{
    body::{Body, Bytes},
    http::StatusCode,
    response::Response,
};
use http_body::{Frame, SizeHint};
use setgate_net::{Away, ConnectionPermit};

use super::budget::Taking;

/// A place among sessions.
pub(super) struct Held {
    _taking: Taking,
}

impl Held {
    pub(super) const fn new(taking: Taking) -> Self {
        Self { _taking: taking }
    }
}

/// The place of a session, and the connection that left its own place for it.
pub(super) struct HeldPlace {
    permit: Option<ConnectionPermit>,
    held: Both,
}

/// Both places, given back in this order: the connection asks for a place of its own before the session's is free.
struct Both {
    _away: Option<Away>,
    _held: Held,
}

impl HeldPlace {
    pub(super) fn new(permit: Option<ConnectionPermit>, held: Held) -> Self {
        Self { held: Both { _away: permit.as_ref().map(ConnectionPermit::leave), _held: held }, permit }
    }

    /// Ends the session with the last byte of its answer, or with its connection where that has switched protocols.
    pub(super) fn hold(self, answer: Response) -> Response {
        let Self { permit, held } = self;
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            if let Some(permit) = permit {
                permit.keep(held);
            }
            return answer;
        }
        answer.map(|body| Body::new(Holding { body, _held: held }))
    }
}

/// A body that holds the places until it is dropped.
struct Holding {
    body: Body,
    _held: Both,
}

impl http_body::Body for Holding {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
