//! The command `setgate producers`.

use crate::{
    Align, Cell, Context, Ended, Exit, Failure, Gateway, Holder, Table, admin_client::AdminClient,
    args::ProducersCommand, minted, out::DIM, show,
};

/// Runs a command about producers.
pub(crate) async fn run(gateway: &dyn Gateway, context: &Context, command: ProducersCommand) -> Ended {
    match command {
        ProducersCommand::New { name, issuer, event, subjects, token_file } => {
            minted::check_name(&name)?;
            let subjects = rules(&subjects)?;
            let minted = gateway.mint(Holder::Producer, &*context.runtime.random);
            let section = section(&name, &minted.hash, &issuer, &event, &subjects);
            minted::hand_over(context, &name, &minted, token_file.as_deref(), section)?;
        }
        ProducersCommand::List => {
            let all = AdminClient::open(context, gateway)?.get(&["producers"], &[]).await?;
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
                    show::joined(&producer, "issuers").into(),
                    show::joined(&producer, "events").into(),
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

/// Returns the rules for subjects in the form of the configuration.
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

/// Returns the producer's section of the configuration.
fn section(name: &str, hash: &str, issuers: &[String], events: &[String], subjects: &toml::Value) -> String {
    let events = if events.is_empty() { "\"all\"".to_owned() } else { minted::list(events) };
    format!("{}events = {events}\nsubjects = {subjects}\n", minted::section("producers", name, hash, issuers))
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
