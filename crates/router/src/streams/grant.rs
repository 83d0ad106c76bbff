//! The conversion of grants that an earlier version kept: their times were numbers of seconds, and are durations with
//! units now.

use std::time::Duration;

use serde_json::Value as Json;
use setgate_clock::duration;

/// The former and the present names of the members.
const SECONDS: [(&str, &str); 4] = [
    ("timeout_seconds", "timeout"),
    ("hold_seconds", "hold"),
    ("ack_within_seconds", "redelivery_timeout"),
    ("knock_seconds", "ack_probe_after"),
];

/// Writes the times of a kept grant as durations. A configuration that holds the former members is refused instead,
/// with what to write.
pub(super) fn with_units(grant: &mut Json) {
    let Some(members) = grant.as_object_mut() else { return };
    for (old, new) in SECONDS {
        if let Some(seconds) = members.get(old).and_then(Json::as_u64) {
            members.remove(old);
            members.insert(new.to_owned(), duration::show(Duration::from_secs(seconds)).into());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn seconds_of_a_kept_grant_become_durations() {
        let mut grant = json!({ "timeout_seconds": 90, "ack_within_seconds": 120, "window": 3, "allow_http": true });
        with_units(&mut grant);
        assert_eq!(grant, json!({ "timeout": "90s", "redelivery_timeout": "2m", "window": 3, "allow_http": true }));
        let before = grant.clone();
        with_units(&mut grant);
        assert_eq!(grant, before);
        with_units(&mut Json::Null);
    }
}
