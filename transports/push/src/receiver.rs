//! The receiving half: accepts SETs that a transmitter pushes.

use std::time::Duration;

use setgate_delivery::{
    Answer, Arrival, BodyFault, Bytes, ErrorCode, Incoming, Refusal, Runtime,
    axum::{Extension, Router, body::Body, extract::Request, response::Response},
    http::{Method, StatusCode, header},
    raised, read_body,
};

use crate::wire::{self, Reply};

/// The `Retry-After` of a request that is refused because the receiving half shuts down.
const LATER: Duration = Duration::from_secs(5);

/// Returns routes that accept a POST on any path; the mount decides the prefix and checks callers.
pub(crate) fn routes(accept_legacy: bool, runtime: Runtime) -> Router {
    Router::new().fallback(move |Extension(arrival): Extension<Arrival>, request: Request| {
        let runtime = runtime.clone();
        async move { Response::from(receive(arrival, request, accept_legacy, &runtime).await) }
    })
}

async fn receive(mut arrival: Arrival, request: Request, accept_legacy: bool, runtime: &Runtime) -> Reply {
    // All checks that do not need the body come before it is read.
    if request.method() != Method::POST {
        return Reply::Status(StatusCode::METHOD_NOT_ALLOWED);
    }
    if !wire::is_set(request.headers().get(header::CONTENT_TYPE), accept_legacy) {
        return Reply::Status(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    if request.headers().contains_key(header::CONTENT_ENCODING) {
        return Reply::Status(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    let work = async {
        let token = match body(request.into_body(), runtime).await {
            Ok(token) => token,
            Err(reply) => return reply,
        };
        let what = vec![Incoming::Set { named: None, token }];
        match arrival.ingest.accept(&arrival.peer, what).await.pop() {
            Some(Answer::Taken) => Reply::Accepted,
            Some(Answer::Refused(refusal)) => Reply::Refused(refusal),
            Some(Answer::Busy { after }) => Reply::Busy(after),
            Some(Answer::Status(status)) => {
                Reply::Status(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
            }
            None => Reply::Status(StatusCode::INTERNAL_SERVER_ERROR),
        }
    };
    tokio::select! {
        biased;
        reply = work => reply,
        () = raised(&mut arrival.ends) => Reply::Busy(LATER),
    }
}

async fn body(body: Body, runtime: &Runtime) -> Result<Bytes, Reply> {
    match read_body(body, wire::LARGEST, runtime).await {
        Ok(token) if token.is_empty() => Err(invalid("the body is empty")),
        Ok(token) => Ok(token),
        Err(BodyFault::TooLarge) => Err(Reply::Status(StatusCode::PAYLOAD_TOO_LARGE)),
        Err(BodyFault::TooSlow) => Err(Reply::Status(StatusCode::REQUEST_TIMEOUT)),
        Err(BodyFault::BrokeOff) => Err(invalid("the body broke off")),
    }
}

fn invalid(why: &str) -> Reply {
    Reply::Refused(Refusal { code: ErrorCode::InvalidRequest, description: Some(why.into()), language: None })
}
