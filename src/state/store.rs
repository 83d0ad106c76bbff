//! The store of a gateway: its place, its opening, and its errors as an operator sees them.

use setgate_cli::{Exit, Failure};
use setgate_clock::Runtime;
use setgate_store::{FjallStore, Names, Observed, OpenError, StorePlace};

use crate::config::Config;

/// Returns the paths of the store and of its owner token.
pub(crate) fn place(config: &Config) -> StorePlace {
    StorePlace { store: config.store.path.clone(), owner: config.secrets.store_owner() }
}

/// Returns which limits of the store do not fit its disk, and what to set.
pub(crate) fn misfit(config: &Config) -> Option<(String, String)> {
    FjallStore::room(&place(config), &config.store).ok()?.misfit()
}

/// Opens the store with its secret.
pub(super) async fn open_store(
    runtime: &Runtime,
    config: &Config,
    secret: [u8; Names::SECRET],
    observed: Observed,
) -> Result<setgate_store::Opened, Failure> {
    let (place, options, clock) = (place(config), config.store.clone(), runtime.clone());
    blocking(move || FjallStore::open(&place, &options, &secret, &clock, observed))
        .await?
        .map_err(|error| of_store(&error))
}

/// Runs slow work on a thread where blocking is allowed.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Failure::failed("the work was interrupted"))
}

/// Describes to an operator why the store cannot be used, with the remedy.
pub(crate) fn of_store(error: &OpenError) -> Failure {
    let failure = |exit| Failure::new(exit, error.to_string());
    match error {
        OpenError::Locked { pid, .. } => failure(Exit::Locked).remedy(format!(
            "stop the gateway that has it (process {pid}, as it says itself), or name another folder as `path` in [store]"
        )),
        error if error.is_full() => failure(Exit::Full).remedy(format!(
            "free some room there, then do it again; `setgate serve` goes on by itself as soon as there is some{}",
            match error {
                OpenError::Io { path, .. } => format!(" ({})", path.display()),
                _ => String::new(),
            }
        )),
        OpenError::Network { .. } => failure(Exit::Store).remedy("name a folder on a local disk as `path` in [store]"),
        OpenError::Io { path, .. } => failure(Exit::Store)
            .remedy(format!("see to the disk, and that the user that runs setgate may read and write {}", path.display())),
        _ => failure(Exit::Store),
    }
}
