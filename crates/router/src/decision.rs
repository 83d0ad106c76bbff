//! The table of outcomes: whose fault decides what happens next. Its functions are pure.

use std::time::Duration;

use setgate_delivery::{Cause, Order, Outcome, Refusal, Scope, Verdict};
use setgate_set::{ErrorCode, Receipt};

/// The consequence of one outcome.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Disposition {
    /// The SET is settled: acknowledged.
    Acknowledge(Receipt),
    /// The SET is settled: parked.
    Park {
        code: ErrorCode,
        text: Box<str>,
        /// The fault was the stream's: `streams resume` offers to issue it again.
        stream_fault: bool,
    },
    /// The SET failed; others may still be delivered.
    RetrySet { after: Option<Duration>, cause: Cause },
    /// The channel failed; the class of the cause tells whether waiting fixes it.
    RetryChannel { after: Option<Duration>, cause: Cause },
    /// A person is needed: the stream is paused at once.
    Halt { cause: Cause },
    /// The endpoint that many channels share failed; the stream has no part in it.
    ///
    /// With `ours` a person must fix it, and no attempt is counted.
    Endpoint { after: Option<Duration>, cause: Cause, ours: bool },
    /// The SET was not tried.
    Return,
}

/// Returns the consequence of an outcome, by the one table of codes, which tells whose fault a refusal is.
///
/// A refusal of a single push answers one attempt and is tried again when the fault is the stream's; where the receiver
/// has settled that `jti` (`setErrs`) it is never sent again, so it is parked and can be issued anew. `shares` is true
/// when the channel names an endpoint.
pub(crate) fn classify(outcome: Outcome, order: Order, shares: bool) -> Disposition {
    match outcome {
        Err(Verdict::Retry { scope: Scope::Endpoint, after, cause }) if shares => {
            Disposition::Endpoint { after, cause, ours: false }
        }
        Err(Verdict::Halt { scope: Scope::Endpoint, cause }) if shares => {
            Disposition::Endpoint { after: None, cause, ours: true }
        }
        Ok(receipt) => Disposition::Acknowledge(receipt),
        Err(Verdict::Retry { scope: Scope::Set, after, cause }) => Disposition::RetrySet { after, cause },
        Err(Verdict::Retry { scope: Scope::Channel | Scope::Endpoint, after, cause }) => {
            Disposition::RetryChannel { after, cause }
        }
        Err(Verdict::Refuse(refusal)) => refused(refusal, order),
        Err(Verdict::Halt { scope: Scope::Set, cause }) => {
            Disposition::Park { code: ErrorCode::from_wire(cause.code), text: cause.text, stream_fault: false }
        }
        Err(Verdict::Halt { scope: Scope::Channel | Scope::Endpoint, cause }) => Disposition::Halt { cause },
        // `Verdict` may grow: an unknown verdict counts as not tried.
        Err(_) => Disposition::Return,
    }
}

fn refused(refusal: Refusal, order: Order) -> Disposition {
    let text: Box<str> = refusal.description.clone().unwrap_or_else(|| "no description".into());
    let stream_fault = matches!(
        refusal.code,
        ErrorCode::InvalidKey
            | ErrorCode::InvalidIssuer
            | ErrorCode::InvalidAudience
            | ErrorCode::AuthenticationFailed
            | ErrorCode::AccessDenied
    );
    if stream_fault && order == Order::PerSet {
        let code = match refusal.code {
            ErrorCode::InvalidKey => "invalid_key",
            ErrorCode::InvalidIssuer => "invalid_issuer",
            ErrorCode::InvalidAudience => "invalid_audience",
            ErrorCode::AuthenticationFailed => "authentication_failed",
            _ => "access_denied",
        };
        return Disposition::RetryChannel { after: None, cause: Cause::configuration(code, text) };
    }
    Disposition::Park { code: refusal.code, text, stream_fault }
}

#[cfg(test)]
mod tests {
    use setgate_delivery::Class;

    use super::*;

    fn refuse(code: ErrorCode) -> Outcome {
        Err(Verdict::Refuse(Refusal { code, description: Some("because".into()), language: None }))
    }

    #[test]
    fn a_fault_of_the_stream_never_costs_a_pushed_set() {
        for code in [
            ErrorCode::InvalidKey,
            ErrorCode::InvalidIssuer,
            ErrorCode::InvalidAudience,
            ErrorCode::AuthenticationFailed,
            ErrorCode::AccessDenied,
        ] {
            let classified = classify(refuse(code.clone()), Order::PerSet, false);
            assert!(
                matches!(
                    classified,
                    Disposition::RetryChannel { cause: Cause { class: Class::Configuration, .. }, .. }
                ),
                "{code}"
            );
            let classified = classify(refuse(code.clone()), Order::PerBatch, false);
            assert!(matches!(classified, Disposition::Park { stream_fault: true, .. }), "{code}: setErrs settles");
        }
    }

    #[test]
    fn a_fault_of_the_set_parks_it() {
        for code in
            [ErrorCode::InvalidRequest, ErrorCode::TooLarge, ErrorCode::InvalidState, ErrorCode::Other("novel".into())]
        {
            assert!(
                matches!(
                    classify(refuse(code.clone()), Order::PerSet, false),
                    Disposition::Park { stream_fault: false, .. }
                ),
                "{code}"
            );
        }
    }

    #[test]
    fn an_endpoint_that_a_channel_does_not_name_is_the_channel() {
        let cause = || Cause::configuration("tls", "x");
        let retry = || Err(Verdict::Retry { scope: Scope::Endpoint, after: None, cause: cause() });
        let halt = || Err(Verdict::Halt { scope: Scope::Endpoint, cause: cause() });
        assert!(
            matches!(classify(retry(), Order::PerSet, false), Disposition::RetryChannel { cause: said, .. } if said == cause())
        );
        assert!(matches!(classify(halt(), Order::PerSet, false), Disposition::Halt { .. }));
        assert!(matches!(classify(retry(), Order::PerSet, true), Disposition::Endpoint { ours: false, .. }));
        assert!(matches!(classify(halt(), Order::PerSet, true), Disposition::Endpoint { ours: true, .. }));
    }
}
