//! Store and secrets: made together, opened together, each naming the other (hardening H36).

#[path = "opening_look.rs"]
mod look;

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use setgate_cli::{Exit, Failure};
use setgate_clock::House;
use setgate_jose::{Kek, KekError};
use setgate_net::Secret;
use setgate_store::{FjallStore, Key, Names, Observed, OpenError, Place, Store};
use setgate_telemetry::Registry;

use crate::{
    config::Config,
    issuers::{self, IssuerError},
    rekey,
};

use look::Secrets;
pub(crate) use look::{Exposed, Looked, exposed, look, of_admin, of_kek};

/// The record by which the store names the key-encryption key that belongs to it.
pub(crate) const KEK_RECORD: &str = "gateway/kek";
/// What the secret by which the store names things is sealed for.
pub(crate) const NAMES_PLACE: &str = "gateway/store-names";

/// What lives longer than the process.
pub(crate) struct Kept {
    /// The durable memory.
    pub(crate) store: Arc<dyn Store>,
    /// The same, as far as it can fail for good.
    pub(crate) engine: Option<Arc<FjallStore>>,
    /// The key-encryption key.
    pub(crate) kek: Arc<Kek>,
    /// The operator's token.
    pub(crate) admin: Secret<String>,
    /// Where everything is counted.
    pub(crate) registry: Registry,
    /// The change of the key-encryption key that this opening finished.
    pub(crate) rekeyed: Option<rekey::Changed>,
}

/// What `init` made.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Made {
    pub(crate) store: PathBuf,
    pub(crate) store_id: String,
    pub(crate) budget_bytes: u64,
    pub(crate) kek_id: String,
    pub(crate) secrets: PathBuf,
    pub(crate) admin_token_file: PathBuf,
    pub(crate) issuers: Vec<MadeIssuer>,
}

/// An issuer with its first keys.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct MadeIssuer {
    pub(crate) url: String,
    pub(crate) keys: Vec<setgate_jose::KeyInfo>,
}

/// Where a gateway keeps what.
pub(crate) fn place(config: &Config) -> Place {
    Place { store: config.store.path.clone(), owner: config.secrets.store_owner() }
}

/// What of the store's limits does not fit its disk, and what to set.
pub(crate) fn misfit(config: &Config) -> Option<(String, String)> {
    FjallStore::room(&place(config), &config.store).ok()?.misfit()
}

/// Makes store, keys, key-encryption key and admin token.
///
/// # Errors
/// When any of them is there already, or cannot be made.
pub(crate) async fn init(house: &House, config: &Config) -> Result<Made, Failure> {
    let secrets = &config.secrets.folder;
    let unfinished = secrets.join("init-unfinished");
    let found = Found::look(config)?;
    let interrupted = unfinished.exists();
    if !interrupted && found.any() {
        return Err(Failure::usage(format!("there is something already: {}", found.present().join(", ")))
            .remedy("`setgate serve` starts with it; to begin anew, move all of it away, together"));
    }
    let failed =
        |what: &Path, error: std::io::Error| Failure::failed(format!("{} cannot be written: {error}", what.display()));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(secrets).map_err(|error| failed(secrets, error))?;
    // The store holds events in clear: its folder is for its owner alone.
    let store = &config.store.path;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(store).map_err(|error| failed(store, error))?;
    private(&unfinished, b"An interrupted `setgate init` goes on where it was.\n", true)
        .map_err(|error| failed(&unfinished, error))?;

    let kek = match make_kek(config) {
        Ok(kek) => kek,
        Err(KekError::Io(error)) if error.kind() == std::io::ErrorKind::AlreadyExists => read_kek(config)?,
        Err(error) => return Err(Failure::failed(error.to_string())),
    };
    let names_file = names_file(config);
    if !names_file.exists() {
        let mut secret = [0u8; Names::SECRET];
        house.random.fill(&mut secret);
        let sealed = kek.seal_secret(NAMES_PLACE, &secret).map_err(|error| Failure::failed(error.to_string()))?;
        private(&names_file, STANDARD.encode(sealed).as_bytes(), false).map_err(|error| failed(&names_file, error))?;
    }
    let secret = read_names(config, &[&kek])?;
    setgate_oauth::admin_token(&config.secrets.admin_token(), &*house.random)
        .map_err(|error| Failure::failed(error.to_string()))?;
    let (place, options, clock) = (place(config), config.store.clone(), house.clone());
    let made = move || {
        if interrupted {
            FjallStore::clear_unfinished(&place)?;
        }
        FjallStore::init(&place, &options, &secret, &clock)
    };
    let created = blocking(made).await?;
    let (store_id, budget_bytes) = match created {
        Ok(created) => (created.id, created.budget),
        Err(OpenError::Exists(_)) if found.store => (String::new(), 0),
        Err(error) => return Err(of_store(&error)),
    };
    let opened =
        open_store(house, config, secret, Observed::register(&mut prometheus_client::registry::Registry::default()))
            .await?;
    let store = opened.store.clone();
    issuers::put(&*store, Key::from(KEK_RECORD), kek.id().into_bytes())
        .await
        .map_err(|error| Failure::failed(error.to_string()))?;
    let all = issuers::take_up(&*store, &kek, &config.issuers, &config.keys.rotation()).await.map_err(of_issuer)?;
    let issuers = all
        .iter()
        .map(|issuer| MadeIssuer { url: issuer.url.to_string(), keys: issuer.keyring.ring().describe() })
        .collect();
    store.close().await.map_err(|error| Failure::failed(error.to_string()))?;
    fs::remove_file(&unfinished).map_err(|error| failed(&unfinished, error))?;
    Ok(Made {
        store: config.store.path.clone(),
        store_id: if store_id.is_empty() { opened.report.id } else { store_id },
        budget_bytes,
        kek_id: kek.id(),
        secrets: secrets.clone(),
        admin_token_file: config.secrets.admin_token(),
        issuers,
    })
}

/// Opens what `init` made. With `make`, makes it where nothing is there yet.
///
/// # Errors
/// When a part is missing: an unmounted volume must not look like a first start.
pub(crate) async fn open(house: &House, config: &Config, make: bool) -> Result<Kept, Failure> {
    let looked = match look(config)? {
        Looked::Nothing | Looked::Unfinished if make => {
            let made = init(house, config).await?;
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
    let admin = setgate_oauth::admin_token(&config.secrets.admin_token(), &*house.random).map_err(of_admin)?;
    let registry = Registry::new();
    let opened = open_store(house, config, secret, registry.lend(Observed::register)).await?;
    // Once, however often a store was asked for that another process had.
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
    Ok(Kept { store: opened.store.clone(), engine: Some(opened.store), kek: Arc::new(kek), admin, registry, rekeyed })
}

pub(crate) fn not_made(what: &str) -> Failure {
    Failure::new(Exit::Store, format!("this gateway {what}: neither store nor keys can be used"))
        .remedy("`setgate init` makes them, or `setgate serve --init` at the first start")
}

async fn open_store(
    house: &House,
    config: &Config,
    secret: [u8; Names::SECRET],
    observed: Observed,
) -> Result<setgate_store::Opened, Failure> {
    let (place, options, clock) = (place(config), config.store.clone(), house.clone());
    blocking(move || FjallStore::open(&place, &options, &secret, &clock, observed))
        .await?
        .map_err(|error| of_store(&error))
}

/// What is there of what belongs together.
struct Found {
    store: bool,
    kek: bool,
    names: bool,
    config: [String; 3],
    kek_is_file: bool,
}

impl Found {
    fn look(config: &Config) -> Result<Self, Failure> {
        let folder = &config.store.path;
        let store = match fs::read_dir(folder) {
            Ok(mut entries) => entries.any(|entry| entry.is_ok_and(|entry| entry.file_name() != "lost+found")),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
            Err(error) => {
                return Err(Failure::new(
                    Exit::Store,
                    format!("the store {} cannot be looked at: {error}", folder.display()),
                ));
            }
        };
        let kek_file = kek_file(config);
        let names = names_file(config);
        Ok(Self {
            store,
            kek: kek_file.as_ref().is_none_or(|path| path.exists()),
            names: names.exists(),
            config: [
                format!("the store {}", folder.display()),
                match &kek_file {
                    Some(path) => format!("the key-encryption key {}", path.display()),
                    None => "the key-encryption key".to_owned(),
                },
                format!("the store's secret {}", names.display()),
            ],
            kek_is_file: kek_file.is_some(),
        })
    }

    fn any(&self) -> bool {
        self.store || self.names || (self.kek && self.kek_is_file)
    }

    fn all(&self) -> bool {
        self.store && self.names && self.kek
    }

    fn present(&self) -> Vec<&str> {
        self.named(true)
    }

    fn missing(&self) -> Vec<&str> {
        self.named(false)
    }

    fn named(&self, there: bool) -> Vec<&str> {
        let parts = [self.store, self.kek && (self.kek_is_file || !there), self.names];
        self.config.iter().zip(parts).filter(|(_, part)| *part == there).map(|(name, _)| name.as_str()).collect()
    }
}

pub(crate) fn names_file(config: &Config) -> PathBuf {
    config.secrets.folder.join("store-names")
}

/// The file of the key-encryption key; nothing where it is in the environment.
pub(crate) fn kek_file(config: &Config) -> Option<PathBuf> {
    match config.secrets.kek.as_str() {
        "" => Some(config.secrets.folder.join("kek")),
        reference => reference.strip_prefix("file:").map(PathBuf::from),
    }
}

/// The store's secret, where the store itself does not say whose it is: its record of the key-encryption key has to name one of these.
///
/// # Errors
/// When key or secret cannot be had, or belong to another store.
pub(crate) fn secret_of(config: &Config, belongs: Option<Vec<u8>>) -> Result<[u8; Names::SECRET], Failure> {
    let kek = read_kek(config)?;
    let next = rekey::begun(config)?;
    let both: Vec<&Kek> = std::iter::once(&kek).chain(next.as_ref().map(|next| &next.kek)).collect();
    if let Some(belongs) = belongs.filter(|belongs| both.iter().all(|kek| **belongs != *kek.id().as_bytes())) {
        let belongs = String::from_utf8_lossy(&belongs).into_owned();
        return Err(Failure::new(
            Exit::Store,
            format!("the store belongs to the key-encryption key {belongs}, not to {}", kek.id()),
        )
        .remedy(where_it_is(config, &belongs)));
    }
    read_names(config, &both)
}

fn make_kek(config: &Config) -> Result<Kek, KekError> {
    match kek_file(config) {
        Some(path) => {
            let kek = Kek::generate()?;
            kek.save_new(&path)?;
            Ok(kek)
        }
        None => Err(std::io::Error::from(std::io::ErrorKind::AlreadyExists).into()),
    }
}

pub(crate) fn read_kek(config: &Config) -> Result<Kek, Failure> {
    let refused =
        |why: String| Failure::new(Exit::Secrets, why).remedy("`kek` in [secrets] of the configuration names it");
    match kek_file(config) {
        Some(path) => Kek::load(&path).map_err(|error| of_kek(&path.display().to_string(), &error)),
        None => {
            let text = setgate_net::SecretRef::from(config.secrets.kek.clone())
                .load()
                .map_err(|error| refused(error.to_string()))?;
            Kek::from_text(text.expose()).map_err(|error| of_kek(&config.secrets.kek, &error))
        }
    }
}

/// The store's secret, opened with the one of these keys that sealed it.
pub(crate) fn read_names(config: &Config, keks: &[&Kek]) -> Result<[u8; Names::SECRET], Failure> {
    let path = names_file(config);
    let refused = |why: String, remedy: String| {
        Failure::new(Exit::Store, format!("the store's secret {} cannot be opened: {why}", path.display()))
            .remedy(remedy)
    };
    let together = || "restore it together with the key-encryption key that sealed it".to_owned();
    let text = fs::read_to_string(&path).map_err(|error| refused(error.to_string(), together()))?;
    let sealed = STANDARD.decode(text.trim()).map_err(|_| refused("it is no base64".to_owned(), together()))?;
    let needs = Kek::id_of(&sealed).unwrap_or_default();
    let kek = keks.iter().find(|kek| kek.id() == needs).or(keks.first());
    let kek = kek.ok_or_else(|| refused("there is no key-encryption key".to_owned(), together()))?;
    let plain = kek.open_secret(NAMES_PLACE, &sealed).map_err(|error| {
        let remedy = if matches!(error, setgate_jose::SealError::WrongKek { .. }) {
            where_it_is(config, &needs)
        } else {
            together()
        };
        refused(error.to_string(), remedy)
    })?;
    plain.as_slice().try_into().map_err(|_| refused("it has the wrong length".to_owned(), together()))
}

/// What to do where another key-encryption key is needed.
fn where_it_is(config: &Config, id: &str) -> String {
    match rekey::aside(config, id) {
        Some(path) => format!(
            "{} is that key: an older backup needs it in the place of the present one, with the secrets of the same day",
            path.display()
        ),
        None => "restore the key that was made together with it".to_owned(),
    }
}

/// Writes a file that only its owner reads, durably and whole: an interruption leaves the old file or none.
pub(crate) fn private(path: &Path, text: &[u8], again: bool) -> std::io::Result<()> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".unfinished");
    let unfinished = PathBuf::from(unfinished);
    // What an interruption left may be another name of the file in force: it is taken away, never written into.
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    file.write_all(text)?;
    file.sync_all()?;
    if again {
        fs::rename(&unfinished, path)?;
    } else {
        // Unlike a rename, a link refuses to take the place of a file.
        fs::hard_link(&unfinished, path)?;
        fs::remove_file(&unfinished)?;
    }
    fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// Does slow work where blocking is allowed.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Failure::failed("the work was interrupted"))
}

/// A store that cannot be used is an operator's business.
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

fn of_issuer(error: IssuerError) -> Failure {
    match error {
        IssuerError::Missing(_) => Failure::usage(error.to_string()).remedy(
            "write its section again; or start once with `setgate serve --force`: its metadata and keys are published no more then, and what \
             is signed with them cannot be verified",
        ),
        IssuerError::Sealed { .. } => Failure::new(Exit::Store, error.to_string()),
        error => Failure::new(Exit::Failed, error.to_string()),
    }
}

/// The same for those who assemble.
impl From<IssuerError> for Failure {
    fn from(error: IssuerError) -> Self {
        of_issuer(error)
    }
}

#[cfg(test)]
#[path = "opening_tests.rs"]
mod tests;
