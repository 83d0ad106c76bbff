use std::collections::BTreeSet;

use super::*;
use crate::config::{DEFAULTS, parse};

fn error(text: &str, variables: &[(&str, &str)]) -> ConfigError {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    parse(text, Source::File("a.toml".into()), variables).unwrap_err()
}

/// Returns a file with this option at this path, where `*` is replaced by `main`, or by the first element of a list.
fn file(path: &str, value: toml::Value) -> String {
    let whole = path.split('.').rev().fold(value, |below, name| match name {
        "*" if path.starts_with("streams.") => toml::Value::Array(vec![below]),
        "*" => toml::Table::from_iter([("main".to_owned(), below)]).into(),
        name => toml::Table::from_iter([(name.to_owned(), below)]).into(),
    });
    toml::to_string(&whole).unwrap()
}

/// Returns every option that the file with the defaults names, examples included.
fn known() -> BTreeSet<String> {
    fn walk(value: &toml::Value, path: &str, all: &mut BTreeSet<String>) {
        all.insert(path.to_owned());
        let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        match value {
            toml::Value::Table(table) if path == "methods.kafka.clusters" => {
                table.values().for_each(|value| walk(value, &below("*"), all));
            }
            toml::Value::Table(table) => table.iter().for_each(|(name, value)| walk(value, &below(name), all)),
            toml::Value::Array(list) if list.iter().any(toml::Value::is_table) => {
                list.iter().for_each(|value| walk(value, &below("*"), all));
            }
            _ => {}
        }
    }
    let example = |line: &str| {
        line.strip_prefix('#').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '['))
    };
    let text: Vec<_> =
        DEFAULTS.lines().map(|line| if example(line) { line.trim_start_matches('#') } else { line }).collect();
    let mut all = BTreeSet::new();
    walk(&toml::Value::Table(text.join("\n").parse().unwrap()), "", &mut all);
    all
}

/// Returns the options that the grants of the methods know.
fn granted() -> String {
    use setgate_transports::{multipush, poll, push};
    let wrong = || serde_json::json!({ "§": true });
    [
        serde_json::from_value::<push::Grant>(wrong()).unwrap_err(),
        serde_json::from_value::<multipush::Grant>(wrong()).unwrap_err(),
        serde_json::from_value::<poll::Grant>(wrong()).unwrap_err(),
    ]
    .map(|error| error.to_string())
    .join(" ")
}

#[test]
fn every_old_name_is_refused_with_the_new_one_and_the_value_to_write() {
    let (known, granted) = (known(), granted());
    for (old, new, how) in RENAMED {
        let section = !old.contains('.') || old.ends_with("_tls");
        let value = if section { toml::Table::new().into() } else { toml::Value::Integer(7) };
        let text = file(old, value);
        let named = |path: &str| path.replace('*', if path.starts_with("streams.") { "0" } else { "main" });
        let last = new.rsplit('.').next().unwrap();
        let write = match how {
            _ if section => format!("write [{new}]"),
            Same => format!("write {last} = 7"),
            Milliseconds => format!("write {last} = \"7ms\""),
            Seconds => format!("write {last} = \"7s\""),
            Days => format!("write {last} = \"7d\""),
        };
        let error = error(&text, &[]);
        assert_eq!((error.key.as_str(), error.what.as_str()), (&*named(old), &*format!("it is now `{}`", named(new))));
        assert_eq!(error.remedy, Some(write), "{old}");
        assert!(matches!(error.place, Place::File(_, Some(_))), "{old}: {text}");
        let is_known = known.contains(*new) || (new.contains(".grant.") && granted.contains(&format!("`{last}`")));
        assert!(is_known, "{new} is no option");
        assert!(!known.contains(*old), "{old} is an option still");
    }
}

#[test]
fn an_old_name_is_found_on_its_line() {
    let text = "[router]\nflush = \"20ms\"\n# pause_after_s = 1\npause_after_s = 600\n";
    let found = error(text, &[]);
    assert_eq!(found.to_string(), "a.toml, line 4: `router.pause_after_s`: it is now `router.pause_after`");
    assert_eq!(found.remedy.as_deref(), Some("write pause_after = \"10m\""));
    let text = "[[streams]]\nid = \"a\"\n[[streams]]\nid = \"b\"\nbatch = { sets = 1, linger_ms = 200 }\n";
    let found = error(text, &[]);
    assert_eq!((found.key.as_str(), found.place), ("streams.1.batch.linger_ms", Place::File("a.toml".into(), Some(5))));
}

#[test]
fn old_names_of_variables_are_refused_with_the_new_one() {
    let remedy = |name: &str, value: &str| error("", &[(name, value)]).remedy.unwrap();
    assert_eq!(remedy("SETGATE__NET__TIMEOUT_SECONDS", "90"), "unset it, and set SETGATE__NET__TIMEOUT=90s");
    assert_eq!(remedy("SETGATE__LISTEN__WORLD", "127.0.0.1:1"), "unset it, and set SETGATE__LISTEN__PUBLIC");
    assert_eq!(remedy("SETGATE__VISITS__CONNECTIONS", "9"), "unset it, and set SETGATE__SESSIONS__CONNECTIONS=9");
    assert_eq!(
        remedy("SETGATE__METHODS__KAFKA__CLUSTERS__MAIN__LINGER_MS", "9"),
        "unset it, and set SETGATE__METHODS__KAFKA__CLUSTERS__MAIN__LINGER=9ms"
    );
}

#[test]
fn a_duration_without_a_unit_is_refused_with_what_to_write() {
    for text in ["[net]\ntimeout = 30\n", "[net]\ntimeout = \"30\"\n"] {
        let error = error(text, &[]);
        assert_eq!(error.key, "net.timeout");
        assert!(error.what.contains("write \"30s\" for seconds"), "{error}");
    }
    assert!(error("", &[("SETGATE__NET__TIMEOUT", "30")]).what.contains("write \"30s\" for seconds"));
}
