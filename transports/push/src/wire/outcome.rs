//! The meaning of a receiver's answer, as in the table of the README.

use setgate_delivery::{
    ErrorCode, HttpResponse, Outcome, Receipt, Refusal, Scope, Timestamp, Verdict,
    endpoint::{self, Said},
    fields,
};

/// The statuses that acknowledge a SET.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// 202, and what receivers send in its place: 200, 201 and 204.
    Tolerant,
    /// 202 alone (RFC 8935 §2.2).
    ByTheLetter,
}

/// Returns the outcome of a SET that was answered like this.
///
/// # Errors
/// Returns the verdict when the SET was not accepted.
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
        // RFC 8935 §2.3 has 400 only; receivers that validate answer 422.
        400 | 422 if says_taken(&answer.body) => Ok(Receipt::Receiver),
        400 | 422 => match Said::read(&answer.body) {
            Some(said) => {
                Err(Verdict::Refuse(fields::refusal(&said.err, said.description.as_deref(), &answer.headers)))
            }
            // The answer is not in the protocol's form: it comes from a proxy, or from a receiver that fails on this
            // SET.
            None => retry(Scope::Set),
        },
        // The request has one SET, so this SET is too large.
        413 => Err(Verdict::Refuse(Refusal {
            code: ErrorCode::TooLarge,
            description: Some("the receiver answered 413".into()),
            language: None,
        })),
        // The receiver's handler failed on this SET; attempts with others show whether it fails on them as well.
        500 => retry(Scope::Set),
        _ => retry(Scope::Channel),
    }
}

/// Returns whether the body has one of the error codes with which the drafts before RFC 8935 reported a duplicate.
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
