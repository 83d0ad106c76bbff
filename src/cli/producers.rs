//! `setgate producers`.

use serde_json::{Value as Json, json};

use crate::{
    Align, Cell, Context, Ended, Exit, Failure, Gateway, Table, args::ProducersCommand, door::Door, out::DIM, show,
    token,
};

/// Does what a command about producers says.
pub(crate) async fn run(gateway: &dyn Gateway, context: &Context, command: ProducersCommand) -> Ended {
    match command {
        ProducersCommand::New { name, issuer, event, subjects, token_file } => {
            let fits = (1..=64).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
            if !fits {
                return Err(Failure::usage("a producer's name has 1 to 64 characters of A-Z a-z 0-9 - . _"));
            }
            let subjects = rules(&subjects)?;
            let minted = gateway.mint(&*context.house.random);
            if let Some(file) = &token_file {
                token::write(file, &minted.token)?;
            }
            let section = section(&name, &minted.hash, &issuer, &event, &subjects);
            if context.out.is_json() {
                let token = token_file.is_none().then(|| minted.token.expose().clone());
                context.out.value(&json!({"name": name, "hash": minted.hash, "token": token, "toml": section}));
                return Ok(Exit::Done);
            }
            match &token_file {
                Some(file) => context.out.note(format!("The token is in {}.", file.display())),
                None => {
                    context.out.note("The token, shown once and kept nowhere:\n");
                    // On standard error, so that `>> setgate.toml` takes the section and never the token.
                    context.out.note(format!("  {}\n", minted.token.expose()));
                }
            }
            context.out.note("For the configuration:\n");
            context.out.raw(section);
        }
        ProducersCommand::List => {
            let all = Door::open(context, gateway)?.get(&["producers"], &[]).await?;
            context.out.value(&all);
            let mut table = Table::new(&[
                ("producer", Align::Left),
                ("issuers", Align::Left),
                ("events", Align::Left),
                ("subjects", Align::Left),
            ]);
            for producer in show::items(&all, "producers") {
                table.row([
                    show::text(&producer, "name").into(),
                    joined(&producer, "issuers").into(),
                    joined(&producer, "events").into(),
                    Cell::styled(show::text(&producer, "subjects"), DIM),
                ]);
            }
            context.out.line(if table.is_empty() {
                "no producers; `setgate producers new` makes one".to_owned()
            } else {
                table.render()
            });
        }
    }
    Ok(Exit::Done)
}

fn joined(of: &Json, member: &str) -> String {
    match of.get(member) {
        Some(Json::Array(all)) => {
            let all: Vec<_> = all.iter().filter_map(Json::as_str).map(|text| telemetry::clean(text, 200)).collect();
            all.join(", ")
        }
        _ => show::text(of, member),
    }
}

/// The rules for subjects, as the configuration has them.
fn rules(asked: &[String]) -> Result<toml::Value, Failure> {
    if asked.is_empty() {
        return Ok(toml::Value::String("any".to_owned()));
    }
    let mut rules = toml::Table::new();
    for rule in asked {
        let name = match rule.split_once('=') {
            Some(("iss", _)) => "iss",
            Some(("domain", _)) => "email_domains",
            Some(("tenant", _)) => "tenants",
            _ => return Err(Failure::usage(format!("`{rule}` is no rule: write iss=URL, domain=DOMAIN or tenant=ID"))),
        };
        let value = rule.split_once('=').map(|(_, value)| value).unwrap_or_default();
        let list = rules.entry(name).or_insert_with(|| toml::Value::Array(Vec::new()));
        if let toml::Value::Array(list) = list {
            list.push(toml::Value::String(value.to_owned()));
        }
    }
    Ok(toml::Value::Table(rules))
}

/// The section of the configuration.
fn section(name: &str, hash: &str, issuers: &[String], events: &[String], subjects: &toml::Value) -> String {
    let list = |all: &[String]| toml::Value::Array(all.iter().map(|one| toml::Value::String(one.clone())).collect());
    let events = if events.is_empty() { "\"all\"".to_owned() } else { list(events).to_string() };
    let text = |text: &str| toml::Value::String(text.to_owned());
    format!(
        "[[producers]]\nname = {}\ntoken_hashes = [{}]\nissuers = {}\nevents = {events}\nsubjects = {subjects}\n",
        text(name),
        text(hash),
        list(issuers)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_section_is_toml_whatever_was_typed() {
        let subjects = rules(&["domain=example.com".to_owned(), "iss=https://x.example".to_owned()]).unwrap();
        let section = section("hr", "sha256:00", &["https://a.example/\"x".to_owned()], &[], &subjects);
        let read: toml::Table = section.parse().unwrap();
        let producer = read.get("producers").and_then(|all| all.get(0)).unwrap();
        assert_eq!(
            producer.get("issuers").and_then(|all| all.get(0)).and_then(toml::Value::as_str),
            Some("https://a.example/\"x")
        );
        assert_eq!(producer.get("events").and_then(toml::Value::as_str), Some("all"));
        let domains = producer.get("subjects").and_then(|subjects| subjects.get("email_domains"));
        assert_eq!(domains.and_then(|all| all.get(0)).and_then(toml::Value::as_str), Some("example.com"));
    }

    #[test]
    fn an_unknown_rule_is_refused() {
        assert!(rules(&["everything".to_owned()]).is_err());
        assert_eq!(rules(&[]).unwrap().as_str(), Some("any"));
    }
}
