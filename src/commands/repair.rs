//! `setgate store repair` and `setgate store export`: recover the contents of a store that does not open.

use std::{
    fs::OpenOptions,
    io::{self, BufWriter, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use setgate_cli::{Context, Ended, Exit, Failure, StoreRepair};
use setgate_store::{Findings, FjallStore, Repair, StorePlace};

use super::configuration;
use crate::state;

/// The most lines of one kind that are shown; `--json` has all of them.
const SHOWN: usize = 20;

/// Rewrites a damaged store from what can be read.
pub(crate) async fn repair(context: &Context, how: StoreRepair) -> Ended {
    let config = configuration::load(context, false)?.config;
    let place = state::place(&config);
    let mut repair = look(place.clone()).await?;
    let (out, findings) = (context.out, repair.findings().clone());
    let needed = repair.is_needed();
    for text in account(&findings) {
        out.line(text);
    }
    let report = |repaired: Option<&setgate_store::Repaired>| {
        out.value(
            &serde_json::json!({"path": place.store, "needed": needed, "findings": findings, "repaired": repaired}),
        );
    };
    if !needed && !how.anyway {
        report(None);
        out.line("nothing is wrong with it: it is left as it is");
        return Ok(Exit::Done);
    }
    if findings.identity.is_some() {
        // The repaired store names its secret: otherwise keys that belong to another store would go unnoticed.
        let secret = state::secret_of(&config, repair.record(state::KEK_RECORD))?;
        repair.identify(&secret, &context.runtime).map_err(|error| state::of_store(&error))?;
    }
    let target = how.into.as_deref().unwrap_or(&place.store).display();
    if !how.yes && !out.confirm(&format!("Write the store anew to {target} and give up what is listed above?")) {
        return Err(Failure::usage("nothing was done").remedy("give --yes to do it without being asked"));
    }
    let (into, runtime) = (how.into.clone(), context.runtime.clone());
    let repaired = tokio::task::spawn_blocking(move || repair.carry_out(into.as_deref(), &runtime)).await;
    let repaired = repaired
        .map_err(|_| Failure::failed("the repair was interrupted; the store is as it was"))?
        .map_err(|error| state::of_store(&error))?;
    report(Some(&repaired));
    let (waiting, at) = (repaired.waiting, repaired.store.display());
    match &repaired.damaged {
        None if how.into.is_none() => {
            out.line(format!(
                "the identity of {at} was written anew, nothing else was changed: {waiting} deliveries wait"
            ));
        }
        kept => {
            out.line(format!("{at} was written anew, opened and checked: {waiting} deliveries wait"));
            if let Some(kept) = kept {
                let kept = kept.display();
                out.line(format!("the parts as they were are kept in {kept}: remove them when you are content"));
            }
        }
    }
    out.line(match (&repaired.copy, &how.into) {
        (_, Some(_)) => format!(
            "{} is as it was; to use the repaired store, put it in its place, then `setgate store adopt`",
            place.store.display()
        ),
        (Some(why), None) => {
            format!("it counts as a copy ({why}): `setgate store adopt`, then `setgate serve`")
        }
        (None, None) => "`setgate serve` goes on delivering".to_owned(),
    });
    Ok(Exit::Done)
}

/// Writes the contents of the store as JSON lines.
pub(crate) async fn export(context: &Context, path: Option<PathBuf>, to: Option<PathBuf>) -> Ended {
    let place = match path {
        Some(store) => StorePlace { owner: store.join("store-owner"), store },
        None => state::place(&configuration::load(context, false)?.config),
    };
    let found = look(place).await?;
    let target = to.clone();
    let exported = tokio::task::spawn_blocking(move || write(&found, target.as_deref())).await;
    let exported = exported
        .map_err(|_| Failure::failed("the export was interrupted"))?
        .map_err(|error| Failure::failed(format!("the export could not be written: {error}")))?;
    if let Some(to) = &to {
        context.out.value(&exported);
        context.out.line(format!(
            "{} events, {} streams and {} parked SETs are in {}",
            exported.events,
            exported.streams,
            exported.parked,
            to.display()
        ));
    }
    if exported.complete {
        return Ok(Exit::Done);
    }
    context.out.warn("not everything could be read: the last line says what is missing");
    Ok(Exit::Partly)
}

fn write(found: &Repair, to: Option<&Path>) -> io::Result<setgate_store::Exported> {
    match to {
        Some(path) => {
            // The export contains events in the clear: only its owner may read it.
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            let mut file = BufWriter::new(file);
            let exported = found.export(&mut |line| writeln!(file, "{line}"))?;
            file.into_inner()?.sync_all()?;
            Ok(exported)
        }
        None => {
            let mut file = BufWriter::new(io::stdout().lock());
            let exported = found.export(&mut |line| writeln!(file, "{line}"))?;
            file.flush()?;
            Ok(exported)
        }
    }
}

async fn look(place: StorePlace) -> Result<Repair, Failure> {
    let found = tokio::task::spawn_blocking(move || FjallStore::repair(&place)).await;
    found
        .map_err(|_| Failure::failed("the store could not be looked through"))?
        .map_err(|error| state::of_store(&error))
}

/// Describes what would be kept and what given up, for people.
fn account(findings: &Findings) -> Vec<String> {
    let (kept, lost) = (&findings.kept, &findings.given_up);
    let mut text = vec![
        format!(
            "records up to {}{}",
            findings.last,
            match findings.promised {
                Some(promised) => format!(", promised up to {promised}"),
                None => ", what was promised is not known".into(),
            }
        ),
        format!(
            "kept:     {} events, {} deliveries of {} streams, {} parked SETs, {} records, {} idempotency keys",
            kept.events, kept.deliveries, kept.streams, kept.parked, kept.records, kept.ids
        ),
    ];
    text.extend(findings.identity.iter().map(|why| {
        let why = setgate_telemetry::clean(why, 1024);
        format!("identity: {why}; it is written anew, and the store counts as a copy until `setgate store adopt`")
    }));
    let mut given_up = Vec::new();
    if lost.event_count > 0 {
        given_up.push(format!("{} events, whoever was owed them:", lost.event_count));
        let some = lost.events.iter().take(SHOWN).map(|stretch| format!("  {} to {}", stretch.from, stretch.to));
        given_up.extend(some);
        if lost.events.len() > SHOWN {
            given_up.push(format!("  and {} stretches more", lost.events.len() - SHOWN));
        }
    }
    given_up
        .extend(lost.deliveries.iter().map(|(stream, count)| format!("{count} deliveries of stream number {stream}")));
    given_up.extend(lost.parked.iter().map(|(stream, count)| format!("{count} parked SETs of stream number {stream}")));
    let named = lost.parked_sets.iter().filter_map(|set| set.jti.as_ref());
    given_up.extend(named.clone().take(SHOWN).map(|jti| format!("  the parked SET {jti}")));
    if named.clone().count() > SHOWN {
        given_up.push(format!("  and {} more; --json names them all", named.count() - SHOWN));
    }
    given_up.extend(lost.records.iter().map(|key| format!("the record {}", setgate_telemetry::clean(key, 256))));
    for (count, what) in [
        (lost.commits, "commits with settlements: what they settled is delivered again"),
        (lost.changes, "changes of streams, subjects, clients or keys"),
        (lost.ids, "idempotency keys: an event put in again with one of them is a new event"),
    ] {
        if count > 0 {
            given_up.push(format!("{count} {what}"));
        }
    }
    if given_up.is_empty() {
        given_up.push("nothing".into());
    }
    text.extend(given_up.into_iter().map(|line| format!("given up: {line}")));
    text.extend(findings.again.iter().map(|(stream, count)| {
        format!("again:    up to {count} deliveries of stream number {stream} that may have been settled, under the same jti")
    }));
    let shown = findings.unreadable.iter().take(SHOWN);
    text.extend(shown.map(|why| format!("because:  {}", setgate_telemetry::clean(why, 1024))));
    if findings.unreadable.len() > SHOWN {
        text.push(format!("because:  and {} places more; --json names them all", findings.unreadable.len() - SHOWN));
    }
    text
}
