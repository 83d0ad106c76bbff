//! The receiving half: accepts SETs that a transmitter pushes in batches.

use std::time::Duration;

use setgate_delivery::{
    Answer, Arrival, BodyFault, Incoming, Runtime,
    axum::{Extension, Router, extract::Request, response::Response},
    http::{Method, StatusCode, header},
    raised, read_body,
};

use crate::wire::{self, Receives, Reply};

/// The `Retry-After` of a request that is refused because the receiving half shuts down.
const LATER: Duration = Duration::from_secs(5);
/// The time at shutdown for SETs that are being accepted.
const GRACE: Duration = Duration::from_secs(5);
/// The number of SETs that are passed to the ingest in one call; between two calls a shutdown is noticed.
const PORTION: usize = 16;

/// Returns routes that accept a POST on any path; the mount decides the prefix and checks callers.
pub(crate) fn routes(receives: Receives, runtime: Runtime) -> Router {
    Router::new().fallback(move |Extension(arrival): Extension<Arrival>, request: Request| {
        let runtime = runtime.clone();
        async move { Response::from(receive(arrival, request, receives, &runtime).await) }
    })
}

async fn receive(mut arrival: Arrival, request: Request, receives: Receives, runtime: &Runtime) -> Reply {
    // All checks that do not need the body come before it is read.
    if request.method() != Method::POST {
        return Reply::Status(StatusCode::METHOD_NOT_ALLOWED);
    }
    if !wire::is_json(request.headers().get(header::CONTENT_TYPE))
        || request.headers().contains_key(header::CONTENT_ENCODING)
    {
        return Reply::Status(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    let body = tokio::select! {
        biased;
        body = read_body(request.into_body(), receives.bytes, runtime) => body,
        () = raised(&mut arrival.ends) => return Reply::Busy(LATER),
    };
    let body = match body {
        Ok(body) => body,
        Err(BodyFault::TooLarge) => return Reply::TooMany,
        Err(BodyFault::TooSlow) => return Reply::Status(StatusCode::REQUEST_TIMEOUT),
        Err(BodyFault::BrokeOff) => return Reply::Invalid("the body broke off"),
    };
    let sets = match wire::sets(&body, receives) {
        Ok(sets) => sets,
        Err(reply) => return reply,
    };
    let names: Vec<Box<str>> = sets.iter().map(|(name, _)| name.clone()).collect();
    let mut what = sets.into_iter().map(|(name, token)| Incoming::Set { named: Some(name), token });
    let ends = arrival.ends.clone();
    let work = async {
        let mut answers = Vec::with_capacity(names.len());
        // At shutdown the SETs accepted so far are acknowledged, and the others are sent again.
        while !*ends.borrow() {
            let portion: Vec<_> = what.by_ref().take(PORTION).collect();
            let asked = portion.len();
            let before = answers.len();
            if asked > 0 {
                answers.extend(arrival.ingest.accept(&arrival.peer, portion).await.into_iter().take(asked));
            }
            // This was the last portion, or the ingest did not answer for each SET: later answers would be attributed
            // to other SETs.
            if answers.len() - before < PORTION {
                break;
            }
        }
        answers
    };
    let end = async {
        raised(&mut arrival.ends).await;
        runtime.clock.sleep(GRACE).await;
    };
    let answers = tokio::select! {
        biased;
        answers = work => answers,
        () = end => return Reply::Busy(LATER),
    };
    if answers.is_empty() && !names.is_empty() { Reply::Busy(LATER) } else { reply(names, answers) }
}

/// Combines the ingest's answers to the SETs into one answer.
fn reply(names: Vec<Box<str>>, answers: Vec<Answer>) -> Reply {
    let (mut ack, mut set_errs, mut busy) = (Vec::new(), Vec::new(), None);
    for (name, answer) in names.into_iter().zip(answers) {
        match answer {
            Answer::Taken => ack.push(name),
            Answer::Refused(refusal) => set_errs.push((name, refusal)),
            Answer::Busy { after } => busy = busy.max(Some(after)),
            Answer::Status(status) => {
                return Reply::Status(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR));
            }
        }
    }
    match busy {
        // Nothing was accepted, and the transmitter may know it. Otherwise SETs that were put off are left out of the
        // answer.
        Some(after) if ack.is_empty() && set_errs.is_empty() => Reply::Busy(after),
        _ => Reply::Understood { ack, set_errs },
    }
}

#[cfg(test)]
mod tests {
    use setgate_delivery::{ErrorCode, Refusal};

    use super::*;

    fn names(all: &[&str]) -> Vec<Box<str>> {
        all.iter().map(|name| (*name).into()).collect()
    }

    #[test]
    fn what_is_busy_is_named_in_neither_list() {
        let refusal = Refusal { code: ErrorCode::InvalidKey, description: None, language: None };
        let busy = Answer::Busy { after: Duration::from_secs(2) };
        let said = reply(names(&["a", "b", "c"]), vec![Answer::Taken, busy.clone(), Answer::Refused(refusal.clone())]);
        assert_eq!(said, Reply::Understood { ack: names(&["a"]), set_errs: vec![("c".into(), refusal)] });
        assert_eq!(reply(names(&["a", "b"]), vec![busy.clone(), busy]), Reply::Busy(Duration::from_secs(2)));
        assert_eq!(reply(vec![], vec![]), Reply::Understood { ack: vec![], set_errs: vec![] });
        assert_eq!(
            reply(names(&["a", "b"]), vec![Answer::Taken, Answer::Status(418)]),
            Reply::Status(StatusCode::IM_A_TEAPOT)
        );
    }
}
