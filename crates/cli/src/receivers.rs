//! The command `setgate receivers`.

use crate::{
    Align, Context, Ended, Exit, Gateway, Holder, Table, admin_client::AdminClient, args::ReceiversCommand, minted,
    show,
};

/// Runs a command about receivers.
pub(crate) async fn run(gateway: &dyn Gateway, context: &Context, command: ReceiversCommand) -> Ended {
    match command {
        ReceiversCommand::New { name, issuer, stream, all_streams: _, token_file } => {
            minted::check_name(&name)?;
            let minted = gateway.mint(Holder::Receiver, &*context.runtime.random);
            let section = section(&name, &minted.hash, &issuer, &stream);
            minted::hand_over(context, &name, &minted, token_file.as_deref(), section)?;
        }
        ReceiversCommand::List => {
            let all = AdminClient::open(context, gateway)?.get(&["receivers"], &[]).await?;
            context.out.value(&all);
            let mut table =
                Table::new(&[("receiver", Align::Left), ("issuers", Align::Left), ("streams", Align::Left)]);
            for receiver in show::items(&all, "receivers") {
                table.row([
                    show::text(&receiver, "name").into(),
                    show::joined(&receiver, "issuers").into(),
                    show::joined(&receiver, "streams").into(),
                ]);
            }
            context.out.line(if table.is_empty() {
                "no receivers; `setgate receivers new` makes one".to_owned()
            } else {
                table.render()
            });
        }
    }
    Ok(Exit::Done)
}

/// Returns the receiver's section of the configuration; an empty list of streams means `--all-streams`, which the
/// command line requires then.
fn section(name: &str, hash: &str, issuers: &[String], streams: &[String]) -> String {
    let streams = if streams.is_empty() { "\"all\"".to_owned() } else { minted::list(streams) };
    format!("{}streams = {streams}\n", minted::section("receivers", name, hash, issuers))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::Cli;

    #[test]
    fn the_section_is_toml_whatever_was_typed() {
        let issuers = ["https://a.example/\"x".to_owned()];
        for (streams, shown) in [(vec![], "\"all\""), (vec!["crm".to_owned(), "h\"r".to_owned()], "[\"crm\", 'h\"r']")]
        {
            let section = section("crm", "sha256:00", &issuers, &streams);
            let read: toml::Table = section.parse().unwrap();
            let receiver = read.get("receivers").and_then(|all| all.get(0)).unwrap();
            assert_eq!(
                receiver.get("issuers").and_then(|all| all.get(0)).and_then(toml::Value::as_str),
                Some(issuers[0].as_str())
            );
            assert_eq!(receiver.get("streams").map(ToString::to_string).as_deref(), Some(shown));
        }
    }

    #[test]
    fn which_streams_must_be_said_in_one_way() {
        let parse = |more: &[&str]| {
            let words = ["setgate", "receivers", "new", "crm", "--issuer", "https://a.example"];
            Cli::try_parse_from(words.iter().chain(more))
        };
        assert!(parse(&["--stream", "crm", "--stream", "hr"]).is_ok() && parse(&["--all-streams"]).is_ok());
        assert!(parse(&[]).is_err(), "nothing has a silent default");
        assert!(parse(&["--all-streams", "--stream", "crm"]).is_err());
    }
}
