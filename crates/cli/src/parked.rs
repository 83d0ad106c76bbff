//! The command `setgate parked`.

use serde_json::{Value as Json, json};

use crate::{
    Align, Cell, Context, Ended, Exit, Failure, Gateway, Table,
    admin_client::AdminClient,
    args::{OnSets, ParkedCommand, ParkedList},
    context::confirm,
    out::{DIM, WARN},
    show,
};

/// The most SETs in one request.
const PAGE: usize = 500;

/// Runs a command about parked SETs.
pub(crate) async fn run(gateway: &dyn Gateway, context: &Context, command: ParkedCommand) -> Ended {
    let admin = AdminClient::open(context, gateway)?;
    match command {
        ParkedCommand::List(ParkedList { stream, code, limit }) => {
            let all = collect(&admin, stream.as_deref(), code.as_deref(), limit).await?;
            context.out.value(&json!({"parked": all}));
            list(context, &all);
            Ok(Exit::Done)
        }
        ParkedCommand::Show { jti } => {
            let one = admin.get(&["parked", &jti], &[]).await?;
            context.out.value(&one);
            let mut rest = one.clone();
            let claims = rest.as_object_mut().and_then(|members| members.remove("claims"));
            context.out.line(show::members(&rest));
            if let Some(claims) = claims.filter(|claims| !claims.is_null()) {
                // JSON escapes control characters itself.
                context.out.line(serde_json::to_string_pretty(&claims).unwrap_or_default());
            }
            Ok(Exit::Done)
        }
        ParkedCommand::Reissue { which, out_of_order } => {
            let jtis = named(&admin, which).await?;
            let mut results = Vec::new();
            for some in jtis.chunks(PAGE) {
                let answer =
                    admin.post(&["parked", "reissue"], &json!({"jtis": some, "out_of_order": out_of_order})).await?;
                results.extend(show::items(&answer, "results"));
            }
            context.out.value(&json!({"results": results}));
            let mut failed = 0;
            for result in &results {
                match result.get("error").and_then(Json::as_str) {
                    Some(_) => {
                        failed += 1;
                        context.out.line(format!(
                            "{}  not issued again: {}",
                            show::text(result, "jti"),
                            show::text(result, "error")
                        ));
                    }
                    None => context.out.line(format!(
                        "{}  issued again as {}",
                        show::text(result, "jti"),
                        show::text(result, "new_jti")
                    )),
                }
            }
            Ok(match failed {
                0 => Exit::Done,
                all if all == results.len() => Exit::Failed,
                _ => Exit::Partly,
            })
        }
        ParkedCommand::Drop { which, yes } => {
            let jtis = named(&admin, which).await?;
            confirm(context, yes, &format!("Drop {} parked SETs for good?", jtis.len()))?;
            let mut dropped = 0;
            for some in jtis.chunks(PAGE) {
                dropped += show::number(&admin.post(&["parked", "drop"], &json!({"jtis": some})).await?, "dropped");
            }
            context.out.value(&json!({"dropped": dropped}));
            context.out.line(format!("{dropped} parked SETs are dropped"));
            Ok(Exit::Done)
        }
    }
}

/// Returns the `jti`s of the SETs that the command is to act on.
async fn named(admin: &AdminClient, which: OnSets) -> Result<Vec<String>, Failure> {
    let OnSets { jti, stream, code } = which;
    if !jti.is_empty() {
        return Ok(jti);
    }
    let all = collect(admin, stream.as_deref(), code.as_deref(), usize::MAX).await?;
    if all.is_empty() {
        return Err(Failure::new(Exit::Unknown, "no such SET is parked"));
    }
    Ok(all.iter().map(|parked| show::text(parked, "jti")).collect())
}

async fn collect(
    admin: &AdminClient,
    stream: Option<&str>,
    code: Option<&str>,
    most: usize,
) -> Result<Vec<Json>, Failure> {
    let mut all: Vec<Json> = Vec::new();
    let mut after: Option<String> = None;
    while all.len() < most {
        let page = PAGE.min(most - all.len());
        let limit = page.to_string();
        let mut query = vec![("limit", limit.as_str())];
        query.extend(stream.map(|stream| ("stream", stream)));
        query.extend(code.map(|code| ("code", code)));
        query.extend(after.as_deref().map(|after| ("after", after)));
        let answer = admin.get(&["parked"], &query).await?;
        let some = show::items(&answer, "parked");
        let whole = some.len() >= page;
        all.extend(some);
        after = answer.get("next").and_then(Json::as_str).map(str::to_owned);
        if !whole || after.is_none() {
            break;
        }
    }
    Ok(all)
}

fn list(context: &Context, all: &[Json]) {
    if all.is_empty() {
        context.out.line("nothing is parked");
        return;
    }
    let mut table = Table::new(&[
        ("jti", Align::Left),
        ("txn", Align::Left),
        ("stream", Align::Left),
        ("parked", Align::Left),
        ("attempts", Align::Right),
        ("code", Align::Left),
        ("what the receiver said", Align::Left),
    ]);
    for parked in all {
        table.row([
            show::text(parked, "jti").into(),
            show::cut(parked, "txn", 36).into(),
            show::text(parked, "stream").into(),
            Cell::styled(show::text(parked, "parked_at"), DIM),
            show::number(parked, "attempts").to_string().into(),
            Cell::styled(show::text(parked, "code"), WARN),
            show::cut(parked, "text", 100).into(),
        ]);
    }
    context.out.line(table.render());
}
