//! The sender's table: what an answer means for the SET. The table in the README, in code.

use setgate_delivery::{
    ErrorCode, HttpResponse, Outcome, Receipt, Refusal, Scope, Timestamp, Verdict,
    endpoint::{self, Said},
    fields,
};

/// Which successes acknowledge a SET.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// 202, and what receivers say in its place: 200, 201 and 204.
    Tolerant,
    /// 202 (RFC 8935 §2.2).
    ByTheLetter,
}

/// What an answer means for the SET.
///
/// # Errors
/// The verdict, when the SET was not taken.
pub fn outcome(answer: &HttpResponse, taken: Taken, now: Timestamp) -> Outcome {
    let status = answer.status.as_u16();
    let because = |scope, cause| Err(Verdict::Retry { scope, after: fields::retry_after(&answer.headers, now), cause });
    let retry = |scope| because(scope, endpoint::cause(status, &answer.body, hint(status, taken)));
    let unless_contradicted = || match endpoint::contradiction(answer).filter(|_| !says_taken(&answer.body)) {
        Some(cause) => because(Scope::Channel, cause),
        None => Ok(Receipt::Receiver),
    };
    match status {
        202 => unless_contradicted(),
        200 | 201 | 204 if taken == Taken::Tolerant => unless_contradicted(),
        // RFC 8935 §2.3 has 400 only; receivers that validate say 422.
        400 | 422 if says_taken(&answer.body) => Ok(Receipt::Receiver),
        400 | 422 => match Said::read(&answer.body) {
            Some(said) => {
                Err(Verdict::Refuse(fields::refusal(&said.err, said.description.as_deref(), &answer.headers)))
            }
            // Nobody who knows the protocol says it like that: a proxy, or a receiver that chokes on this SET.
            None => retry(Scope::Set),
        },
        // One SET a request: it is this one that is too large.
        413 => Err(Verdict::Refuse(Refusal {
            code: ErrorCode::TooLarge,
            description: Some("the receiver answered 413".into()),
            language: None,
        })),
        // The receiver's handler failed on this SET; whether on others as well is seen when they are tried.
        500 => retry(Scope::Set),
        _ => retry(Scope::Channel),
    }
}

/// The drafts before RFC 8935 had codes for "I have it already".
fn says_taken(body: &[u8]) -> bool {
    Said::read(body).is_some_and(|said| matches!(said.err.as_str(), "dup" | "duplicate"))
}

const fn hint(status: u16, taken: Taken) -> &'static str {
    match (status, taken) {
        (200 | 201 | 204, Taken::ByTheLetter) => "; with `accept_only_202` only 202 acknowledges a SET",
        (200..=299, _) => "; a receiver acknowledges a SET with 202 (RFC 8935, section 2.2)",
        (415, _) => "; a receiver from before RFC 8935 may want `content_type` to be `application/jwt`",
        _ => "",
    }
}
