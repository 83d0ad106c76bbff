//! The answers of the admin listener, formatted for people.

use serde_json::Value as Json;

use crate::out::HEAD;

/// The most bytes of a foreign text on a line.
const LONGEST: usize = 512;

/// Returns the items of a list, whether it stands alone or under a name.
pub(crate) fn items(answer: &Json, name: &str) -> Vec<Json> {
    answer.get(name).unwrap_or(answer).as_array().cloned().unwrap_or_default()
}

/// Returns a member as text, which is empty when the member is absent.
pub(crate) fn text(of: &Json, member: &str) -> String {
    of.get(member).map(value).unwrap_or_default()
}

/// Returns a member as text of at most `most` bytes, for a table.
pub(crate) fn cut(of: &Json, member: &str, most: usize) -> String {
    of.get(member).and_then(Json::as_str).map(|text| setgate_telemetry::clean(text, most)).unwrap_or_default()
}

/// Returns a member as a number, which is 0 when the member is absent.
pub(crate) fn number(of: &Json, member: &str) -> u64 {
    of.get(member).and_then(Json::as_u64).unwrap_or_default()
}

fn value(value: &Json) -> String {
    match value {
        Json::Null => String::new(),
        Json::String(text) => setgate_telemetry::clean(text, LONGEST),
        other => setgate_telemetry::clean(&other.to_string(), LONGEST),
    }
}

/// Formats all members, one a line, except those that are null.
pub(crate) fn members(of: &Json) -> String {
    let Some(members) = of.as_object() else { return value(of) };
    let width = members.keys().map(|name| name.chars().count()).max().unwrap_or_default();
    let lines: Vec<String> = members
        .iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, member)| {
            let name = setgate_telemetry::clean(name, 64).replace('_', " ");
            format!("{HEAD}{name:width$}{HEAD:#}  {}", value(member))
        })
        .collect();
    lines.join("\n")
}

/// Formats seconds in the unit that a person would use.
pub(crate) fn time(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => format!("{:.0}ms", s * 1000.0),
        s if s < 120.0 => format!("{s:.0}s"),
        s if s < 7200.0 => format!("{:.0}m", s / 60.0),
        s if s < 172_800.0 => format!("{:.0}h", s / 3600.0),
        s => format!("{:.0}d", s / 86_400.0),
    }
}

/// Formats bytes in the unit that a person would use.
pub(crate) fn bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut amount = bytes as f64;
    let mut unit = 0;
    while amount >= 1024.0 && unit + 1 < units.len() {
        amount /= 1024.0;
        unit += 1;
    }
    let name = units.get(unit).copied().unwrap_or_default();
    if unit == 0 { format!("{bytes} B") } else { format!("{amount:.1} {name}") }
}

/// Formats a list of texts for one cell, or returns the word that stands for all of them.
pub(crate) fn joined(of: &Json, member: &str) -> String {
    match of.get(member) {
        Some(Json::Array(all)) => {
            let all: Vec<_> =
                all.iter().filter_map(Json::as_str).map(|text| setgate_telemetry::clean(text, 200)).collect();
            all.join(", ")
        }
        _ => text(of, member),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_those_of_people() {
        assert_eq!([0.25, 59.0, 600.0, 86_400.0, 864_000.0].map(time), ["250ms", "59s", "10m", "24h", "10d"]);
        assert_eq!([512, 2048, 5_368_709_120].map(bytes), ["512 B", "2.0 KiB", "5.0 GiB"]);
    }

    #[test]
    fn foreign_texts_are_harmless() {
        let stream: Json = serde_json::json!({"id": "a", "last_error": "x\u{1b}[2J"});
        assert_eq!(text(&stream, "last_error"), "x\\u{1b}[2J");
        assert!(!members(&stream).contains("\u{1b}[2J"));
    }
}
