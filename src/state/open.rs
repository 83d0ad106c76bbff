//! Opening of what `setgate init` made, or making of it where nothing is there yet.

use std::sync::Arc;

use setgate_cli::{Exit, Failure};
use setgate_clock::Runtime;
use setgate_jose::Kek;
use setgate_net::Secret;
use setgate_store::{FjallStore, Key, Observed, Store};
use setgate_telemetry::Registry;

use super::{
    init::init,
    look::{Exposed, Looked, Secrets, exposed, look},
    rekey,
    secrets::{KEK_RECORD, of_admin, where_it_is},
    store::{misfit, open_store},
};
use crate::config::Config;

/// The state that outlives the process, opened.
pub(crate) struct OpenState {
    /// The durable store.
    pub(crate) store: Arc<dyn Store>,
    /// The engine of the store, which can fail permanently; `None` for a store without one.
    pub(crate) engine: Option<Arc<FjallStore>>,
    /// The key-encryption key.
    pub(crate) kek: Arc<Kek>,
    /// The operator's token.
    pub(crate) admin: Secret<String>,
    /// The registry of all metrics.
    pub(crate) registry: Registry,
    /// The change of the key-encryption key that was finished while opening.
    pub(crate) rekeyed: Option<rekey::Changed>,
}

/// Opens the state that `init` made. With `make`, creates it where nothing is there yet.
///
/// # Errors
/// Returns a failure when a part is missing: an unmounted volume must not look like a first start.
pub(crate) async fn open(runtime: &Runtime, config: &Config, make: bool) -> Result<OpenState, Failure> {
    let looked = match look(config)? {
        Looked::Nothing | Looked::Unfinished if make => {
            let made = init(runtime, config).await?;
            tracing::info!(store = %made.store.display(), id = made.store_id, kek = made.kek_id, "store and keys were made");
            look(config)?
        }
        looked => looked,
    };
    let Secrets { mut kek, next, names: secret } = match looked {
        Looked::Made(secrets) => *secrets,
        Looked::Nothing => return Err(not_made("is not initialised")),
        Looked::Unfinished => return Err(not_made("was not finished")),
    };
    let both: Vec<&Kek> = std::iter::once(&kek).chain(next.as_ref().map(|next| &next.kek)).collect();
    let admin = setgate_oauth::admin_token(&config.secrets.admin_token(), &*runtime.random).map_err(of_admin)?;
    let registry = Registry::new();
    let opened = open_store(runtime, config, secret, registry.lend(Observed::register)).await?;
    // These are logged once, however often the store was tried while another process had it.
    for Exposed { what, remedy } in exposed(config) {
        tracing::warn!(remedy, "{what}");
    }
    let report = &opened.report;
    tracing::info!(
        store = %config.store.path.display(), id = report.id, replayed = report.replayed, waiting = report.waiting,
        clean = report.clean, took_ms = u64::try_from(report.took.as_millis()).unwrap_or(u64::MAX), "the store is open"
    );
    if let Some((what, remedy)) = misfit(config) {
        tracing::warn!(remedy, "{what}");
    }
    if let Some(why) = &report.held {
        tracing::warn!(why, "this store is a copy: nothing is delivered or taken in before `setgate store adopt`");
    }
    if report.clock_suspect {
        tracing::warn!("the wall clock jumped: nothing is destroyed by age until it is plausible again");
    }
    let kept = opened
        .store
        .get(vec![Key::from(KEK_RECORD)])
        .await
        .map_err(|error| Failure::new(Exit::Store, error.to_string()))?;
    if let Some(record) = kept.into_iter().flatten().next()
        && both.iter().all(|kek| *record.value != *kek.id().as_bytes())
    {
        let belongs = String::from_utf8_lossy(&record.value).into_owned();
        return Err(Failure::new(
            Exit::Store,
            format!("the store {} belongs to the key-encryption key {belongs}, not to {}", report.id, kek.id()),
        )
        .remedy(where_it_is(config, &belongs)));
    }
    let mut rekeyed = None;
    if let Some(next) = next {
        let changed = match rekey::finish(config, &opened.store, &kek, &next, true).await {
            Ok(changed) => changed,
            Err(failure) => {
                let _ = opened.store.close().await;
                return Err(failure);
            }
        };
        for line in changed.describe() {
            tracing::warn!(from = changed.from, to = changed.to, "{line}");
        }
        (kek, rekeyed) = (next.kek, Some(changed));
    }
    Ok(OpenState {
        store: opened.store.clone(),
        engine: Some(opened.store),
        kek: Arc::new(kek),
        admin,
        registry,
        rekeyed,
    })
}

/// Returns the failure for a gateway that is not there, or only in part.
pub(crate) fn not_made(what: &str) -> Failure {
    Failure::new(Exit::Store, format!("this gateway {what}: neither store nor keys can be used"))
        .remedy("`setgate init` makes them, or `setgate serve --init` at the first start")
}
