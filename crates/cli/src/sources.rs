//! The command `setgate sources`.

use serde_json::{Value as Json, json};

use crate::{
    Align, Cell, Context, Ended, Exit, Failure, Gateway, Table,
    admin_client::AdminClient,
    args::SourcesCommand,
    context::confirm,
    out::{DIM, WARN},
    show,
};

/// The most records in one request.
const PAGE: usize = 100;

/// Runs a command about sources.
pub(crate) async fn run(gateway: &dyn Gateway, context: &Context, command: SourcesCommand) -> Ended {
    let admin = AdminClient::open(context, gateway)?;
    match command {
        SourcesCommand::List => {
            let all = admin.get(&["sources"], &[]).await?;
            context.out.value(&all);
            list(context, &show::items(&all, "sources"));
        }
        SourcesCommand::Parked { name, limit } => {
            let all = collect(&admin, &name, limit).await?;
            context.out.value(&json!({ "parked": all }));
            parked(context, &all);
        }
        SourcesCommand::Drop { name, at, all, yes } => {
            if at.is_empty() != all {
                return Err(Failure::usage("name records, or give --all"));
            }
            let what = if all { "all parked records".to_owned() } else { format!("{} parked records", at.len()) };
            confirm(context, yes, &format!("Drop {what} of `{name}` for good?"))?;
            let body = if all { json!({ "all": true }) } else { json!({ "at": at }) };
            let done = admin.post(&["sources", &name, "parked", "drop"], &body).await?;
            context.out.value(&done);
            context.out.line(format!("{} parked records are dropped", show::number(&done, "dropped")));
        }
    }
    Ok(Exit::Done)
}

async fn collect(admin: &AdminClient, name: &str, most: usize) -> Result<Vec<Json>, Failure> {
    let mut all: Vec<Json> = Vec::new();
    let mut after: Option<String> = None;
    while all.len() < most {
        let limit = PAGE.min(most - all.len()).to_string();
        let mut query = vec![("limit", limit.as_str())];
        query.extend(after.as_deref().map(|after| ("after", after)));
        let answer = admin.get(&["sources", name, "parked"], &query).await?;
        all.extend(show::items(&answer, "parked"));
        after = answer.get("next").and_then(Json::as_str).map(str::to_owned);
        if after.is_none() {
            break;
        }
    }
    Ok(all)
}

fn list(context: &Context, all: &[Json]) {
    if all.is_empty() {
        context.out.line("no sources; a [[sources]] section of the configuration makes one");
        return;
    }
    let mut table = Table::new(&[
        ("source", Align::Left),
        ("kind", Align::Left),
        ("issuer", Align::Left),
        ("state", Align::Left),
        ("lag", Align::Right),
        ("parked", Align::Right),
        ("last error", Align::Left),
    ]);
    for source in all {
        let state = show::text(source, "state");
        let lag = source.get("lag").and_then(Json::as_f64).map_or_else(|| "-".to_owned(), |lag| format!("{lag:.0}"));
        let state = if state == "failing" { Cell::styled(state, WARN) } else { state.into() };
        table.row([
            show::text(source, "name").into(),
            show::text(source, "kind").into(),
            Cell::styled(show::text(source, "issuer"), DIM),
            state,
            lag.into(),
            show::number(source, "parked").to_string().into(),
            show::cut(source, "last_error", 100).into(),
        ]);
    }
    context.out.line(table.render());
}

fn parked(context: &Context, all: &[Json]) {
    if all.is_empty() {
        context.out.line("nothing is parked");
        return;
    }
    let mut table = Table::new(&[
        ("record", Align::Left),
        ("parked", Align::Left),
        ("bytes", Align::Right),
        ("code", Align::Left),
        ("why", Align::Left),
    ]);
    for record in all {
        table.row([
            show::text(record, "at").into(),
            Cell::styled(show::text(record, "parked_at"), DIM),
            show::number(record, "bytes").to_string().into(),
            Cell::styled(show::text(record, "code"), WARN),
            show::cut(record, "text", 100).into(),
        ]);
    }
    context.out.line(table.render());
}
