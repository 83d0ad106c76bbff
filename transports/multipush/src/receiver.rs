//! The other end: takes SETs that a transmitter pushes by the batch.

use std::time::Duration;

use setgate_delivery::{
    Answer, Arrival, BodyFault, Incoming, Runtime,
    axum::{Extension, Router, extract::Request, response::Response},
    http::{Method, StatusCode, header},
    raised, read_body,
};

use crate::wire::{self, Receives, Reply};

/// When a transmitter is asked to come back after an end that is ours.
const LATER: Duration = Duration::from_secs(5);
/// What is being taken when everything must end gets so long.
const GRACE: Duration = Duration::from_secs(5);
/// SETs that go in by one call: between two calls it is seen that everything must end.
const PORTION: usize = 16;

/// Takes a POST on any path; the mount decides where it begins and who may pass.
pub(crate) fn routes(receives: Receives, runtime: Runtime) -> Router {
    Router::new().fallback(move |Extension(arrival): Extension<Arrival>, request: Request| {
        let runtime = runtime.clone();
        async move { Response::from(receive(arrival, request, receives, &runtime).await) }
    })
}

async fn receive(mut arrival: Arrival, request: Request, receives: Receives, runtime: &Runtime) -> Reply {
    // Everything that can be said without the body is said before it is read.
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
        // When the end comes what was taken is acknowledged, and the rest comes again.
        while !*ends.borrow() {
            let portion: Vec<_> = what.by_ref().take(PORTION).collect();
            let asked = portion.len();
            let before = answers.len();
            if asked > 0 {
                answers.extend(arrival.ingest.accept(&arrival.peer, portion).await.into_iter().take(asked));
            }
            // The last portion, or an ingest that did not answer for each: what follows would get another's answer.
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

/// What the ingest said, SET by SET, as one answer.
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
        // Nothing was taken, and the transmitter may know it. Otherwise it hears of those that were not by silence.
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
