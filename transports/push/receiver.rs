//! The other end: takes SETs that a transmitter pushes.

use std::{pin::Pin, time::Duration};

use delivery::{
    Answer, Arrival, Bytes, ErrorCode, House, Incoming, Refusal,
    axum::{
        Extension, Router,
        body::{Body, HttpBody},
        extract::Request,
        response::Response,
    },
    http::{Method, StatusCode, header},
};

use crate::wire::{self, Reply};

/// How long a body may take to arrive.
const BODY: Duration = Duration::from_secs(30);

/// When a transmitter is asked to come back after an end that is ours.
const LATER: Duration = Duration::from_secs(5);

/// Takes a POST on any path; the mount decides where it begins and who may pass.
pub(crate) fn routes(accept_legacy: bool, house: House) -> Router {
    Router::new().fallback(move |Extension(arrival): Extension<Arrival>, request: Request| {
        let house = house.clone();
        async move { Response::from(take(arrival, request, accept_legacy, &house).await) }
    })
}

async fn take(mut arrival: Arrival, request: Request, accept_legacy: bool, house: &House) -> Reply {
    // Everything that can be said without the body is said before it is read.
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
        let token = match body(request.into_body(), house).await {
            Ok(token) => token,
            Err(reply) => return reply,
        };
        let what = vec![Incoming::Set { named: None, token }];
        match arrival.inlet.take(&arrival.peer, what).await.pop() {
            Some(Answer::Taken) => Reply::Accepted,
            Some(Answer::Refused(refusal)) => Reply::Refused(refusal),
            Some(Answer::Busy { after }) => Reply::Busy(after),
            Some(Answer::Status(status)) => {
                Reply::Status(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
            }
            None => Reply::Status(StatusCode::INTERNAL_SERVER_ERROR),
        }
    };
    let end = async {
        // A signal that nobody can raise any more never comes.
        if arrival.ends.wait_for(|end| *end).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        biased;
        reply = work => reply,
        () = end => Reply::Busy(LATER),
    }
}

async fn body(body: Body, house: &House) -> Result<Bytes, Reply> {
    // A declared length is believed when it is too large.
    if body.size_hint().lower() > wire::LARGEST as u64 {
        return Err(Reply::Status(StatusCode::PAYLOAD_TOO_LARGE));
    }
    tokio::select! {
        biased;
        token = read(body) => match token {
            Ok(token) if token.is_empty() => Err(invalid("the body is empty")),
            token => token,
        },
        () = house.clock.sleep(BODY) => Err(Reply::Status(StatusCode::REQUEST_TIMEOUT)),
    }
}

async fn read(mut body: Body) -> Result<Bytes, Reply> {
    let mut token = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|_| invalid("the body broke off"))?;
        let Ok(data) = frame.into_data() else { continue };
        if token.len() + data.len() > wire::LARGEST {
            return Err(Reply::Status(StatusCode::PAYLOAD_TOO_LARGE));
        }
        token.extend_from_slice(&data);
    }
    Ok(token.into())
}

fn invalid(why: &str) -> Reply {
    Reply::Refused(Refusal { code: ErrorCode::InvalidRequest, description: Some(why.into()), language: None })
}
