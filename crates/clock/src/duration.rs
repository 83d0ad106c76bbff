//! Durations as operators write them: a whole number with its unit, such as `50ms`, `30s`, `5m`, `12h` or `7d`.
//!
//! A configuration field is read with `#[serde(with = "setgate_clock::duration")]`, an optional one with [`optional`].

use std::{fmt, time::Duration};

use serde::{Deserializer, Serializer, de};

/// The units and their milliseconds, the largest first.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
/// The form of a duration, for error messages.
const EXPECTED: &str = "a duration with its unit (ms, s, m, h or d), for example \"30s\"";

/// Reads a duration: a whole number and its unit.
///
/// # Errors
/// The error is a text for people that says what to write instead.
pub fn parse(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    if unit.is_empty() && !number.is_empty() {
        return Err(without_unit(number));
    }
    let of_unit = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, millis)| *millis);
    let millis = number.parse::<u64>().ok().zip(of_unit).and_then(|(number, millis)| number.checked_mul(millis));
    millis.map(Duration::from_millis).ok_or_else(|| format!("`{}` is not {EXPECTED}", text.escape_debug()))
}

/// Writes a duration as [`parse`] reads it, in the largest unit that shows it exactly; durations below a millisecond
/// become `0s`.
#[must_use]
pub fn show(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    match UNITS.iter().find(|(_, unit)| millis >= *unit && millis.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", millis / unit),
        None => "0s".to_owned(),
    }
}

/// Returns a message for people that names the bounds, both inclusive, or `None` where the duration lies within them.
#[must_use]
pub fn outside(duration: Duration, least: Duration, most: Duration) -> Option<String> {
    let within = (least..=most).contains(&duration);
    (!within).then(|| format!("write \"{}\" to \"{}\"", show(least), show(most)))
}

fn without_unit(number: &str) -> String {
    format!("`{number}` has no unit: write \"{number}s\" for seconds, or another of ms, s, m, h and d")
}

/// Writes a duration as a string.
///
/// # Errors
/// Returns the errors of the serializer.
pub fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&show(*duration))
}

/// Reads a duration from a string.
///
/// # Errors
/// A string that is not a duration, and a bare number, are refused with a message that says what to write instead.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    from.deserialize_any(Reader)
}

struct Reader;

impl de::Visitor<'_> for Reader {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
        parse(text).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Duration, E> {
        Err(E::custom(without_unit(&number.to_string())))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Duration, E> {
        match u64::try_from(number) {
            Ok(number) => self.visit_u64(number),
            Err(_) => Err(E::invalid_value(de::Unexpected::Signed(number), &self)),
        }
    }
}

/// An optional duration: `#[serde(default, with = "setgate_clock::duration::optional")]`, for reading only.
pub mod optional {
    use std::time::Duration;

    use serde::Deserializer;

    /// Reads a duration from a string.
    ///
    /// # Errors
    /// The errors are those of [`deserialize`](super::deserialize).
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        super::deserialize(from).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_unit() {
        for (text, duration) in [
            ("0s", Duration::ZERO),
            ("250ms", Duration::from_millis(250)),
            ("30s", Duration::from_secs(30)),
            ("90m", Duration::from_secs(5400)),
            ("2h", Duration::from_secs(7200)),
            ("7d", Duration::from_secs(7 * 86_400)),
        ] {
            assert_eq!(parse(text), Ok(duration), "{text}");
            assert_eq!(show(duration), text);
        }
        assert_eq!(show(Duration::from_millis(60_000)), "1m");
        assert_eq!(show(Duration::from_micros(300)), "0s");
    }

    #[test]
    fn what_is_no_duration_is_refused_with_what_to_write() {
        for text in ["", "s", "-1s", "1.5s", "1 s", "1w", "1S", "five", "99999999999999999999h", "9999999999999999d"] {
            assert!(parse(text).unwrap_err().contains("for example \"30s\""), "{text}");
        }
        assert!(parse("30").unwrap_err().contains("write \"30s\""));
    }

    #[test]
    fn bounds_are_shown_with_their_units() {
        let seconds = Duration::from_secs;
        assert_eq!(outside(seconds(300), seconds(1), seconds(300)), None);
        assert_eq!(outside(seconds(301), seconds(1), seconds(300)).as_deref(), Some("write \"1s\" to \"5m\""));
    }
}
