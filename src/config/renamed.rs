//! Option names of earlier versions: each is refused with its present name and the value to write.

use std::time::Duration;

use setgate_clock::duration;

use super::{ConfigError, Source, error::Place, load::locate};

/// The way in which the value of an old option is written today.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    /// The value is unchanged.
    Same,
    /// A number of milliseconds became a duration.
    Milliseconds,
    /// A number of seconds became a duration.
    Seconds,
    /// A number of days became a duration.
    Days,
}

use Value::{Days, Milliseconds, Same, Seconds};

/// The old and new names, whole sections first; `*` stands for one name, or for all elements of a list.
const RENAMED: &[(&str, &str, Value)] = &[
    ("operator", "admin", Same),
    ("visits", "sessions", Same),
    ("listen.world", "listen.public", Same),
    ("listen.operator", "listen.admin", Same),
    ("listen.world_tls", "listen.public_tls", Same),
    ("listen.operator_tls", "listen.admin_tls", Same),
    ("gateway.drain_delay_seconds", "gateway.drain_delay", Seconds),
    ("gateway.shutdown_seconds", "gateway.shutdown_timeout", Seconds),
    ("listen.limits.handshake_seconds", "listen.limits.handshake_timeout", Seconds),
    ("listen.limits.idle_seconds", "listen.limits.idle_timeout", Seconds),
    ("listen.limits.write_stall_seconds", "listen.limits.write_timeout", Seconds),
    ("listen.limits.header_seconds", "listen.limits.header_timeout", Seconds),
    ("listen.limits.drain_seconds", "listen.limits.drain_timeout", Seconds),
    ("keys.max_age_seconds", "keys.max_age", Seconds),
    ("keys.retire_after_days", "keys.retire_after", Days),
    ("store.idempotency_window_seconds", "store.idempotency_window", Seconds),
    ("store.keep_settled_seconds", "store.keep_settled", Seconds),
    ("store.parked_seconds", "store.parked_age", Seconds),
    ("store.clock_steady_seconds", "store.clock_steady", Seconds),
    ("store.flush_milliseconds", "store.flush", Milliseconds),
    ("intake.idle_seconds", "intake.idle_timeout", Seconds),
    ("intake.grace_seconds", "intake.grace_period", Seconds),
    ("intake.minimum_rate", "intake.minimum_bytes_per_second", Same),
    ("router.flush_ms", "router.flush", Milliseconds),
    ("router.ready_set", "router.ready_sets", Same),
    ("router.handed_out_sets", "router.in_flight_sets", Same),
    ("router.handed_out_bytes", "router.in_flight_bytes", Same),
    ("router.backoff_first_ms", "router.backoff_initial", Milliseconds),
    ("router.backoff_most_s", "router.backoff_max", Seconds),
    ("router.retry_after_most_s", "router.retry_after_max", Seconds),
    ("router.pause_after_s", "router.pause_after", Seconds),
    ("router.seal_threads", "router.signing_threads", Same),
    ("router.retention_every_s", "router.retention_interval", Seconds),
    ("net.timeout_seconds", "net.timeout", Seconds),
    ("methods.push.timeout_seconds", "methods.push.timeout", Seconds),
    ("methods.multipush.timeout_seconds", "methods.multipush.timeout", Seconds),
    ("methods.multipush.ack_within_seconds", "methods.multipush.redelivery_timeout", Seconds),
    ("methods.multipush.knock_seconds", "methods.multipush.ack_probe_after", Seconds),
    ("methods.poll.hold_seconds", "methods.poll.hold", Seconds),
    ("methods.poll.ack_within_seconds", "methods.poll.redelivery_timeout", Seconds),
    ("methods.websocket.ping_seconds", "methods.websocket.ping_interval", Seconds),
    ("methods.websocket.settle_seconds", "methods.websocket.settle_timeout", Seconds),
    ("methods.websocket.ack_within_seconds", "methods.websocket.redelivery_timeout", Seconds),
    ("methods.websocket.post_wait_ms", "methods.websocket.post_wait", Milliseconds),
    ("methods.kafka.clusters.*.linger_ms", "methods.kafka.clusters.*.linger", Milliseconds),
    ("methods.kafka.clusters.*.timeout_seconds", "methods.kafka.clusters.*.timeout", Seconds),
    ("methods.kafka.clusters.*.statistics_seconds", "methods.kafka.clusters.*.statistics_interval", Seconds),
    ("streams.*.inactivity_timeout_seconds", "streams.*.inactivity_timeout", Seconds),
    ("streams.*.batch.linger_ms", "streams.*.batch.linger", Milliseconds),
    ("streams.*.grant.timeout_seconds", "streams.*.grant.timeout", Seconds),
    ("streams.*.grant.hold_seconds", "streams.*.grant.hold", Seconds),
    ("streams.*.grant.ack_within_seconds", "streams.*.grant.redelivery_timeout", Seconds),
    ("streams.*.grant.knock_seconds", "streams.*.grant.ack_probe_after", Seconds),
];

/// An option of an earlier version that the configuration names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Renamed {
    /// The old path, with elements of lists counted from 0.
    key: String,
    /// The present path.
    new: String,
    /// The text to write: a whole line where the value is a number, a section's head for a table, else the name alone,
    /// since errors do not show other values.
    write: String,
    /// The value of that line.
    value: Option<String>,
}

impl Renamed {
    /// Finds the first old option in a parsed file.
    pub(super) fn of_file(table: &toml::Table) -> Option<Self> {
        let root = toml::Value::Table(table.clone());
        RENAMED.iter().find_map(|row| found(row, &root, row.0, String::new()))
    }

    /// Finds the old option that the path of a variable names.
    pub(super) fn of_variable(path: &[String], value: &str) -> Option<Self> {
        let value = value.parse::<i64>().map_or_else(|_| toml::Value::String(value.to_owned()), toml::Value::Integer);
        RENAMED.iter().find_map(|row| {
            let old: Vec<_> = row.0.split('.').collect();
            let same = |(old, name): (&&str, &String)| *old == "*" || *old == name;
            let fits = path.len() >= old.len() && old.iter().zip(path).all(same);
            fits.then(|| {
                // The path below a renamed section stays as it is.
                let rest: String = path.iter().skip(old.len()).map(|name| format!(".{name}")).collect();
                let (old, new) = (format!("{}{rest}", row.0), format!("{}{rest}", row.1));
                Self::new((&old, &new, row.2), path.join("."), &value)
            })
        })
    }

    fn new((old, new, how): (&str, &str, Value), key: String, value: &toml::Value) -> Self {
        // The names that `*` stands for are taken from the old path.
        let mut names = old.split('.').zip(key.split('.')).filter(|(part, _)| *part == "*").map(|(_, name)| name);
        let new: Vec<_> =
            new.split('.').map(|part| if part == "*" { names.next().unwrap_or(part) } else { part }).collect();
        let last = new.last().copied().unwrap_or_default();
        let new = new.join(".");
        let (write, value) = match (value, how.today(value)) {
            (toml::Value::Table(_), _) => (format!("[{new}]"), None),
            (_, Some(value)) => (format!("{last} = {value}"), Some(value)),
            (_, None) => (format!("`{last}`"), None),
        };
        Self { key, new, write, value }
    }

    fn what(&self) -> String {
        format!("it is now `{}`", self.new)
    }

    /// Returns the error for an option in a file.
    pub(super) fn in_file(&self, source: &Source, text: &str) -> ConfigError {
        let place = match source {
            Source::File(path) => Place::File(path.clone(), self.line(text)),
            Source::Dev => Place::BuiltIn,
        };
        ConfigError::new(place, self.key.clone(), self.what()).remedy(format!("write {}", self.write))
    }

    /// Returns the error for an option in a variable.
    pub(super) fn in_variable(&self, name: &str) -> ConfigError {
        let variable = format!("SETGATE__{}", self.new.to_ascii_uppercase().replace('.', "__"));
        let value = self.value.as_ref().map(|value| format!("={}", value.trim_matches('"'))).unwrap_or_default();
        ConfigError::new(Place::Variable(name.to_owned()), self.key.clone(), self.what())
            .remedy(format!("unset it, and set {variable}{value}"))
    }

    /// Returns the line of the option, found by a text search that does not count the elements of lists.
    fn line(&self, text: &str) -> Option<usize> {
        let plain: Vec<_> = self.key.split('.').filter(|part| part.parse::<usize>().is_err()).collect();
        let last = *plain.last()?;
        let mut at = 0;
        for line in text.split_inclusive('\n') {
            let (number, path) = locate(text, at);
            let names = |line: &str| {
                line.split(|c: char| !(c.is_ascii_alphanumeric() || "_-".contains(c))).any(|word| word == last)
            };
            let key = plain.join(".");
            let here = path == key || key.starts_with(&format!("{path}."));
            if here && !line.trim_start().starts_with('#') && names(line) {
                return number;
            }
            at += line.len();
        }
        None
    }
}

/// Finds the option of one row in a value, with `path` left to descend.
fn found(row: &(&str, &str, Value), at: &toml::Value, path: &str, above: String) -> Option<Renamed> {
    let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
    let below = |key: String| if above.is_empty() { key } else { format!("{above}.{key}") };
    let step = |key: String, value: &toml::Value| match rest {
        Some(rest) => found(row, value, rest, below(key)),
        None => Some(Renamed::new(*row, below(key), value)),
    };
    match at {
        toml::Value::Table(table) if name == "*" => table.iter().find_map(|(key, value)| step(key.clone(), value)),
        toml::Value::Table(table) => table.get(name).and_then(|value| step(name.to_owned(), value)),
        toml::Value::Array(list) if name == "*" => {
            list.iter().enumerate().find_map(|(number, value)| step(number.to_string(), value))
        }
        _ => None,
    }
}

impl Value {
    /// Returns an old number as it is written now; `None` for other values, which may be secrets.
    fn today(self, value: &toml::Value) -> Option<String> {
        let number = value.as_integer()?;
        let unit = match self {
            Same => return Some(number.to_string()),
            Milliseconds => 1,
            Seconds => 1000,
            Days => 86_400_000,
        };
        let millis = u64::try_from(number).ok()?.saturating_mul(unit);
        Some(format!("\"{}\"", duration::show(Duration::from_millis(millis))))
    }
}

#[cfg(test)]
mod tests;
