//! The command `setgate keys`.

use std::{io::Read as _, path::Path};

use serde_json::Value as Json;

use crate::{
    Align, Cell, Context, Ended, Exit, Failure, Gateway, Table,
    admin_client::AdminClient,
    args::KeysCommand,
    context::confirm,
    out::{BAD, DIM, GOOD, WARN},
    show,
};

/// Runs a command about signing keys.
pub(crate) async fn run(gateway: &dyn Gateway, context: &Context, command: KeysCommand) -> Ended {
    let admin = AdminClient::open(context, gateway)?;
    match command {
        KeysCommand::List { issuer } => {
            let query: Vec<_> = issuer.as_deref().map(|issuer| ("issuer", issuer)).into_iter().collect();
            let all = admin.get(&["keys"], &query).await?;
            context.out.value(&all);
            context.out.line(table(&show::items(&all, "keys")));
        }
        KeysCommand::Import { file, issuer, algorithm } => {
            let pem = pem(&file)?;
            let body = body(&[
                ("issuer", issuer.into()),
                ("algorithm", algorithm.into()),
                ("pem", pem.expose().as_str().into()),
            ]);
            report(context, &admin.post(&["keys", "import"], &body).await?);
        }
        KeysCommand::Rotate { issuer, algorithm, bits, force } => {
            let body = body(&[
                ("issuer", issuer.into()),
                ("algorithm", algorithm.into()),
                ("bits", bits.into()),
                ("force", force.then_some(true).into()),
            ]);
            report(context, &admin.post(&["keys", "rotate"], &body).await?);
        }
        KeysCommand::Revoke { kid, issuer, yes } => {
            confirm(context, yes, &format!("Withdraw the key {kid} at once? Receivers refuse what it signed."))?;
            let body = body(&[("issuer", issuer.into()), ("kid", kid.into())]);
            report(context, &admin.post(&["keys", "revoke"], &body).await?);
        }
        KeysCommand::RotateKek(_) => return Err(Failure::failed("that is done without the gateway")),
    }
    Ok(Exit::Done)
}

/// Builds a body of the members that have a value.
fn body(members: &[(&str, Json)]) -> Json {
    members
        .iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect()
}

fn pem(file: &Path) -> Result<setgate_net::Secret<String>, Failure> {
    let unreadable = |error: std::io::Error| Failure::usage(format!("{} cannot be read: {error}", file.display()));
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().take(65_536).read_to_string(&mut text).map_err(unreadable)?;
    } else {
        text = std::fs::read_to_string(file).map_err(unreadable)?;
    }
    Ok(setgate_net::Secret::new(text))
}

fn report(context: &Context, answer: &Json) {
    context.out.value(answer);
    let keys = show::items(answer, "keys");
    context.out.line(if keys.is_empty() { show::members(answer) } else { table(&keys) });
}

fn table(keys: &[Json]) -> String {
    let mut table = Table::new(&[
        ("kid", Align::Left),
        ("issuer", Align::Left),
        ("alg", Align::Left),
        ("bits", Align::Right),
        ("state", Align::Left),
        ("since", Align::Left),
        ("until", Align::Left),
    ]);
    for key in keys {
        let state = show::text(key, "state");
        let style = match state.as_str() {
            "current" => GOOD,
            "next" => WARN,
            "revoked" => BAD,
            _ => DIM,
        };
        table.row([
            show::text(key, "kid").into(),
            show::text(key, "issuer").into(),
            show::text(key, "algorithm").into(),
            show::text(key, "bits").into(),
            Cell::styled(state, style),
            Cell::styled(show::text(key, "since"), DIM),
            match show::text(key, "waits_because") {
                why if why.is_empty() => Cell::styled(show::text(key, "until"), DIM),
                why => Cell::styled(why, WARN),
            },
        ]);
    }
    table.render()
}
