//! `setgate init`, `setgate store check` and `setgate store adopt`.

use std::path::PathBuf;

use setgate_cli::{Context, Ended, Exit, Failure, args::InitArgs};
use setgate_store::{FjallStore, StorePlace};

use super::configuration;
use crate::{config, state};

/// Creates store, signing keys, key-encryption key and admin token.
pub(crate) async fn run(context: &Context, args: InitArgs) -> Ended {
    if args.print_config {
        context.out.raw(config::DEFAULTS.trim_end());
        return Ok(Exit::Done);
    }
    let loaded = configuration::load(context, false)?;
    let made = state::init(&context.runtime, &loaded.config).await?;
    if let Some((what, remedy)) = state::misfit(&loaded.config) {
        context.out.warn(format!("{what}\n  {remedy}"));
    }
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

/// Reads the whole store and reports whether it is sound.
pub(crate) async fn store_check(context: &Context, path: Option<PathBuf>) -> Ended {
    let place = match path {
        // A copy that is only inspected has no owner token beside it; the report says that it is a copy.
        Some(store) => StorePlace { owner: store.join("store-owner"), store },
        None => state::place(&configuration::load(context, false)?.config),
    };
    let at = place.clone();
    let report = tokio::task::spawn_blocking(move || FjallStore::check(&at)).await;
    let report =
        report.map_err(|_| Failure::failed("the check was interrupted"))?.map_err(|error| state::of_store(&error))?;
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
        out.line(format!("  it is a copy: {}", setgate_telemetry::clean(why, 512)));
    }
    if report.is_sound() {
        out.line("it is sound: everything that was promised is there");
        return Ok(Exit::Done);
    }
    for problem in &report.problems {
        out.line(format!("  {}", setgate_telemetry::clean(problem, 1024)));
    }
    Err(Failure::new(Exit::Store, format!("the store is not sound: {} problems", report.problems.len()))
        .remedy("`setgate store repair` says what can be saved, and asks before it does it; or restore a backup"))
}

/// Makes this copy of a store the one that delivers.
pub(crate) async fn store_adopt(context: &Context, yes: bool) -> Ended {
    let loaded = configuration::load(context, false)?;
    let place = state::place(&loaded.config);
    let at = place.clone();
    let found = tokio::task::spawn_blocking(move || FjallStore::holdings(&at)).await;
    let found = found
        .map_err(|_| Failure::failed("looking at the store was interrupted"))?
        .map_err(|error| state::of_store(&error))?;
    let holds = Holds::of(&found, state::read_kek(&loaded.config).ok().as_ref());
    holds.tell(context, &place);
    if found.copy.is_none() {
        context.out.value(&serde_json::json!({"adopted": null, "path": place.store, "holds": holds}));
        context.out.line("it is the original already: nothing was done");
        return Ok(Exit::Done);
    }
    if !yes
        && !context.out.confirm(&format!(
            "Deliver from {} from now on? The original must not deliver any more.",
            place.store.display()
        ))
    {
        return Err(Failure::usage("nothing was done").remedy("give --yes to do it without being asked"));
    }
    let runtime = context.runtime.clone();
    let at = place.clone();
    let adopted = tokio::task::spawn_blocking(move || FjallStore::adopt(&at, &runtime)).await;
    adopted.map_err(|_| Failure::failed("the adoption was interrupted"))?.map_err(|error| state::of_store(&error))?;
    context.out.value(&serde_json::json!({"adopted": place.store, "path": place.store, "holds": holds}));
    context.out.line(format!("{} delivers from the next start on", place.store.display()));
    Ok(Exit::Done)
}

/// The contents of a store, shown before it is adopted.
#[derive(serde::Serialize)]
struct Holds {
    id: String,
    copy: Option<String>,
    first: String,
    last: String,
    last_accepted: String,
    waiting: u64,
    parked: u64,
    issuers: Vec<IssuerHeld>,
    streams: Vec<String>,
    producers: usize,
}

/// An issuer with its stored keys; `None` if the key-encryption key does not open them.
#[derive(serde::Serialize)]
struct IssuerHeld {
    url: String,
    keys: Option<Vec<setgate_jose::KeyInfo>>,
}

impl Holds {
    fn of(found: &setgate_store::Holdings, kek: Option<&setgate_jose::Kek>) -> Self {
        let (mut issuers, mut streams, mut producers) = (Vec::new(), Vec::new(), 0);
        for record in &found.records {
            let key = record.key.0.as_str();
            if let Some(url) = key.strip_prefix("issuer/") {
                let keys = kek.and_then(|kek| state::issuers::keys_of(&found.records, record, kek));
                issuers.push(IssuerHeld { url: url.to_owned(), keys });
            } else if key.starts_with("stream/") {
                let stream: serde_json::Value = serde_json::from_slice(&record.value).unwrap_or_default();
                let id = stream.get("id").and_then(serde_json::Value::as_str).unwrap_or(key);
                streams.push(setgate_telemetry::clean(id, 128));
            } else if key.starts_with("producer/") {
                producers += 1;
            }
        }
        Self {
            id: found.id.clone(),
            copy: found.copy.clone(),
            first: found.bounds.first.to_string(),
            last: found.bounds.last.to_string(),
            last_accepted: found.last_accepted.to_string(),
            waiting: found.waiting,
            parked: found.parked,
            issuers,
            streams,
            producers,
        }
    }

    fn tell(&self, context: &Context, place: &StorePlace) {
        let out = context.out;
        out.note(format!("store {} in {}", self.id, place.store.display()));
        if let Some(why) = &self.copy {
            out.note(format!("  it counts as a copy: {}", setgate_telemetry::clean(why, 512)));
        }
        out.note(format!(
            "  records {} to {}, the last accepted at {}; {} deliveries waiting, {} parked SETs",
            self.first, self.last, self.last_accepted, self.waiting, self.parked
        ));
        for IssuerHeld { url, keys } in &self.issuers {
            out.note(format!("  issuer {}", setgate_telemetry::clean(url, 256)));
            match keys {
                Some(keys) => keys.iter().for_each(|key| {
                    out.note(format!(
                        "    {:<5} {}  {}",
                        key.algorithm,
                        key.kid,
                        format!("{:?}", key.state).to_lowercase()
                    ));
                }),
                None => out.note("    its keys do not open with the key-encryption key of this configuration"),
            }
        }
        let named: Vec<&str> = self.streams.iter().take(STREAMS_NAMED).map(String::as_str).collect();
        let more = self.streams.len().saturating_sub(named.len());
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        out.note(format!("  {} streams: {}{more}; {} producers", self.streams.len(), named.join(", "), self.producers));
    }
}

/// The most streams that are named; further ones are only counted.
const STREAMS_NAMED: usize = 20;
