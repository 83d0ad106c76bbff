//! What the intake answers, item by item.

use http::StatusCode;
use serde::Deserialize;

/// How many events ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Accepted now.
    pub accepted: u64,
    /// Accepted before.
    pub repeated: u64,
    /// Refused.
    pub refused: u64,
}

/// What became of one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Became {
    /// Durable now.
    Accepted,
    /// Durable before.
    Repeated,
    /// Not acceptable.
    Refused(String),
    /// To be sent again: overloaded, or no answer came.
    Again,
}

/// One line of an answer to NDJSON.
#[derive(Debug, Deserialize)]
struct Line {
    index: Option<usize>,
    status: Option<u16>,
    #[serde(default)]
    repeated: bool,
    #[serde(alias = "detail", alias = "title")]
    error: Option<String>,
    pointer: Option<String>,
}

/// Reads the answer to `items` items: what has no line of its own was not committed, or its answer was lost.
pub(super) fn read(body: &[u8], items: usize) -> Vec<Became> {
    let mut all = vec![Became::Again; items];
    for line in body.split(|byte| *byte == b'\n') {
        let Ok(Line { index: Some(index), status: Some(status), repeated, error, pointer }) =
            serde_json::from_slice(line)
        else {
            continue;
        };
        if let Some(place) = all.get_mut(index) {
            *place = became(status, repeated, error, pointer);
        }
    }
    all
}

fn became(status: u16, repeated: bool, error: Option<String>, pointer: Option<String>) -> Became {
    match status {
        200..300 if repeated => Became::Repeated,
        200..300 => Became::Accepted,
        429 | 503 => Became::Again,
        _ => {
            let code = StatusCode::from_u16(status).map_or_else(|_| status.to_string(), |status| status.to_string());
            let mut why =
                error.map_or_else(|| code.clone(), |error| format!("{} ({code})", telemetry::clean(&error, 512)));
            if let Some(pointer) = pointer.filter(|pointer| !pointer.is_empty()) {
                why.push_str(&format!(" at {}", telemetry::clean(&pointer, 256)));
            }
            Became::Refused(why)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_without_an_answer_is_sent_again() {
        let body = b"{\"index\":0,\"id\":\"a\",\"status\":202,\"txn\":\"t\"}\n{\"index\":2,\"status\":400,\"error\":\"no subject\",\"pointer\":\"/sub_id\"}\n{\"ind";
        let all = read(body, 4);
        assert_eq!(
            all,
            [
                Became::Accepted,
                Became::Again,
                Became::Refused("no subject (400 Bad Request) at /sub_id".into()),
                Became::Again
            ]
        );
    }

    #[test]
    fn overload_is_no_refusal() {
        assert_eq!(read(b"{\"index\":0,\"status\":503,\"error\":\"full\"}", 1), [Became::Again]);
        assert_eq!(read(b"{\"index\":0,\"status\":202,\"repeated\":true}", 1), [Became::Repeated]);
        assert!(matches!(read(b"{\"index\":0,\"status\":409}", 1).as_slice(), [Became::Refused(_)]));
    }

    #[test]
    fn lines_about_nothing_that_was_sent_are_ignored() {
        assert_eq!(read(b"{\"index\":9,\"status\":202}\n{\"status\":202}\n", 1), [Became::Again]);
    }
}
