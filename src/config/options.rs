//! The options in force and their origins.

use serde::Serialize;
use setgate_clock::duration;

use super::{DEFAULTS, Loaded, Source};

/// An option in force.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Effective {
    /// The path of the option, for example `net.timeout`.
    pub key: String,
    /// The value of the option; `(not shown)` where it may be a secret.
    pub value: String,
    /// The origin of the value: `default`, `file`, `dev mode`, or the variable's name.
    pub source: String,
}

/// Returns every option with its value and the origin of the value.
#[must_use]
pub fn effective(loaded: &Loaded) -> Vec<Effective> {
    let defaults: toml::Table = DEFAULTS.parse().unwrap_or_default();
    let mut all = Vec::new();
    let mut list = |table: &toml::Table, source: &dyn Fn(&str) -> String| {
        leaves(table, "", &mut |key, value| {
            let secret = key == "net.egress_proxy_credentials" && value.as_str() != Some("");
            let shown = if secret || (key.starts_with("methods.") && value.is_str()) {
                "(not shown)".to_owned()
            } else {
                value.to_string()
            };
            let entry = Effective { key: key.to_owned(), value: shown, source: source(key) };
            match all.iter_mut().find(|old: &&mut Effective| old.key == key) {
                Some(old) => *old = entry,
                None => all.push(entry),
            }
        });
    };
    list(&defaults, &|_| "default".to_owned());
    let file = match &loaded.source {
        Source::File(path) => path.display().to_string(),
        Source::Dev => "dev mode".to_owned(),
    };
    list(&loaded.merged, &|key| {
        let variable = loaded.variables.iter().find(|(_, path)| path.join(".") == key);
        variable.map_or_else(|| file.clone(), |(name, _)| name.clone())
    });
    if loaded.config.gateway.dev {
        let networks: Vec<String> = loaded.config.net.allow_networks.iter().map(|net| format!("\"{net}\"")).collect();
        let changed = [
            ("gateway.dev", "true".to_owned()),
            ("gateway.drain_delay", format!("\"{}\"", duration::show(loaded.config.gateway.drain_delay))),
            ("net.allow_networks", format!("[{}]", networks.join(", "))),
            ("net.allow_http", loaded.config.net.allow_http.to_string()),
        ];
        for (key, value) in changed {
            for option in all.iter_mut().filter(|option| option.key == key && option.value != value) {
                *option = Effective { key: key.to_owned(), value: value.clone(), source: "dev mode".to_owned() };
            }
        }
    }
    all
}

/// Calls `with` for every value that is no table. Lists of tables (issuers, producers, sources, receivers, streams) are
/// no options and are left out.
fn leaves(table: &toml::Table, above: &str, with: &mut dyn FnMut(&str, &toml::Value)) {
    for (name, value) in table {
        let key = if above.is_empty() { name.clone() } else { format!("{above}.{name}") };
        match value {
            toml::Value::Table(below) => leaves(below, &key, with),
            toml::Value::Array(all) if all.iter().any(toml::Value::is_table) => {}
            value => with(&key, value),
        }
    }
}
