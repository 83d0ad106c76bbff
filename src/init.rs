//! `setgate init`, and what is done to a store while no gateway runs.

use std::path::PathBuf;

use cli::{Context, Ended, Exit, Failure, args::InitArgs};
use store::{FjallStore, Place};

use crate::{config, opening, serve};

/// Makes store, keys, key-encryption key and admin token.
pub(crate) async fn run(context: &Context, args: InitArgs) -> Ended {
    if args.print_config {
        context.out.raw(config::DEFAULTS.trim_end());
        return Ok(Exit::Done);
    }
    let loaded = serve::load(context, false)?;
    let made = opening::init(&context.house, &loaded.config).await?;
    context.out.value(&made);
    context.out.line(format!("store        {}  ({})", made.store.display(), made.store_id));
    context.out.line(format!("secrets      {}  (key-encryption key {})", made.secrets.display(), made.kek_id));
    context.out.line(format!("admin token  {}", made.admin_token_file.display()));
    for issuer in &made.issuers {
        for key in &issuer.keys {
            context.out.line(format!("{:<5} key    {}  for {}", key.algorithm, key.kid, issuer.url));
        }
    }
    context.out.note("Keep a copy of the secrets apart from the store: neither is of use without the other.");
    Ok(Exit::Done)
}

/// Reads the whole store and says whether it is sound.
pub(crate) async fn store_check(context: &Context, path: Option<PathBuf>) -> Ended {
    let place = match path {
        // A copy that somebody looks at has no owner token beside it: it is a copy, and the report says so.
        Some(store) => Place { owner: store.join("store-owner"), store },
        None => opening::place(&serve::load(context, false)?.config),
    };
    let at = place.clone();
    let report = tokio::task::spawn_blocking(move || FjallStore::check(&at)).await;
    let report =
        report.map_err(|_| Failure::failed("the check was interrupted"))?.map_err(|error| opening::of_store(&error))?;
    context.out.value(&serde_json::json!({"sound": report.is_sound(), "path": place.store, "report": report}));
    let out = context.out;
    out.line(format!("store {} in {}", report.id, place.store.display()));
    out.line(format!(
        "  records {} to {}, {} heads and {} bodies read, {} deliveries waiting in {} streams, {} parked SETs",
        report.bounds.first,
        report.bounds.last,
        report.heads,
        report.bodies,
        report.waiting,
        report.streams,
        report.parked
    ));
    if !report.clean {
        out.line("  it was not closed in order: the next start replays");
    }
    if let Some(why) = &report.copy {
        out.line(format!("  it is a copy: {}", telemetry::clean(why, 512)));
    }
    if report.is_sound() {
        out.line("it is sound: everything that was promised is there");
        return Ok(Exit::Done);
    }
    for problem in &report.problems {
        out.line(format!("  {}", telemetry::clean(problem, 1024)));
    }
    Err(Failure::new(Exit::Store, format!("the store is not sound: {} problems", report.problems.len()))
        .remedy("restore it from a backup"))
}

/// Makes this copy of a store the one that delivers.
pub(crate) async fn store_adopt(context: &Context, yes: bool) -> Ended {
    let loaded = serve::load(context, false)?;
    let place = opening::place(&loaded.config);
    if !yes
        && !context.out.confirm(&format!(
            "Deliver from {} from now on? The original must not deliver any more.",
            place.store.display()
        ))
    {
        return Err(Failure::usage("nothing was done").remedy("give --yes to do it without being asked"));
    }
    let house = context.house.clone();
    let at = place.clone();
    let adopted = tokio::task::spawn_blocking(move || FjallStore::adopt(&at, &house)).await;
    adopted.map_err(|_| Failure::failed("the adoption was interrupted"))?.map_err(|error| opening::of_store(&error))?;
    context.out.value(&serde_json::json!({"adopted": place.store}));
    context.out.line(format!("{} delivers from the next start on", place.store.display()));
    Ok(Exit::Done)
}
