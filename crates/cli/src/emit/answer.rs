//! The answer of the intake, item by item.

use http::StatusCode;
use serde::Deserialize;

/// The number of events by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// The number of events accepted now.
    pub accepted: u64,
    /// The number of events that had been accepted before.
    pub repeated: u64,
    /// The number of events refused.
    pub refused: u64,
}

/// The outcome of one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Became {
    /// The item is durable now.
    Accepted,
    /// The item has been durable since an earlier request.
    Repeated,
    /// The item is not acceptable, for the reason given.
    Refused(String),
    /// The item is to be sent again: the gateway is overloaded, with the reason if it gave one, or no answer arrived.
    Again(Option<Put>),
}

/// The reason why an event was put off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Put {
    /// The reason in words.
    pub why: String,
    /// Whether the reason does not pass by itself, so that waiting does not help.
    pub lasts: bool,
}

/// The rules, as the gateway names them, by which intake is closed until an operator acts.
const LASTING: [&str; 2] = ["store_is_a_copy", "store_failed"];

/// Returns whether the gateway names a reason that does not pass by itself.
pub(super) fn lasts(rule: Option<&str>) -> bool {
    rule.is_some_and(|rule| LASTING.contains(&rule))
}

/// A line of an answer to NDJSON.
#[derive(Debug, Deserialize)]
struct Line {
    index: Option<usize>,
    status: Option<u16>,
    #[serde(default)]
    repeated: bool,
    #[serde(alias = "detail", alias = "title")]
    error: Option<String>,
    pointer: Option<String>,
    rule: Option<String>,
}

/// Reads the answer to `items` items. An item without a line of its own was not committed, or its answer was lost.
pub(super) fn read(body: &[u8], items: usize) -> Vec<Became> {
    let mut all = vec![Became::Again(None); items];
    for line in body.split(|byte| *byte == b'\n') {
        let Ok(line) = serde_json::from_slice::<Line>(line) else { continue };
        if let (Some(index), Some(status)) = (line.index, line.status)
            && let Some(place) = all.get_mut(index)
        {
            *place = became(status, line);
        }
    }
    all
}

fn became(status: u16, line: Line) -> Became {
    let Line { repeated, error, pointer, rule, .. } = line;
    match status {
        200..300 if repeated => Became::Repeated,
        200..300 => Became::Accepted,
        429 | 503 => Became::Again(
            error.map(|why| Put { why: setgate_telemetry::clean(&why, 512), lasts: lasts(rule.as_deref()) }),
        ),
        _ => {
            let code = StatusCode::from_u16(status).map_or_else(|_| status.to_string(), |status| status.to_string());
            let mut why = error
                .map_or_else(|| code.clone(), |error| format!("{} ({code})", setgate_telemetry::clean(&error, 512)));
            if let Some(pointer) = pointer.filter(|pointer| !pointer.is_empty()) {
                why.push_str(&format!(" at {}", setgate_telemetry::clean(&pointer, 256)));
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
                Became::Again(None),
                Became::Refused("no subject (400 Bad Request) at /sub_id".into()),
                Became::Again(None)
            ]
        );
    }

    #[test]
    fn overload_is_no_refusal() {
        let put_off = |lasts| [Became::Again(Some(Put { why: "full".into(), lasts }))];
        assert_eq!(read(b"{\"index\":0,\"status\":503,\"error\":\"full\"}", 1), put_off(false));
        let copy = b"{\"index\":0,\"status\":503,\"error\":\"full\",\"rule\":\"store_is_a_copy\"}";
        assert_eq!(read(copy, 1), put_off(true));
        assert_eq!(read(b"{\"index\":0,\"status\":202,\"repeated\":true}", 1), [Became::Repeated]);
        assert!(matches!(read(b"{\"index\":0,\"status\":409}", 1).as_slice(), [Became::Refused(_)]));
    }

    #[test]
    fn lines_about_nothing_that_was_sent_are_ignored() {
        assert_eq!(read(b"{\"index\":9,\"status\":202}\n{\"status\":202}\n", 1), [Became::Again(None)]);
    }
}
