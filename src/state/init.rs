//! `setgate init`: creates store, signing keys, key-encryption key and admin token together.

use std::{
    fs,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use setgate_cli::Failure;
use setgate_clock::Runtime;
use setgate_jose::KekError;
use setgate_store::{FjallStore, Key, Names, Observed, OpenError, Store as _};

use super::{
    issuers,
    look::Found,
    secrets::{KEK_RECORD, NAMES_PLACE, make_kek, names_file, private, read_kek, read_names},
    store::{blocking, of_store, open_store, place},
};
use crate::config::Config;

/// The result of `init`.
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

/// Creates store, signing keys, key-encryption key and admin token.
///
/// # Errors
/// Returns a failure when one of them exists already and no interrupted `init` is continued, or when one cannot be
/// created.
pub(crate) async fn init(runtime: &Runtime, config: &Config) -> Result<Made, Failure> {
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
    // The store holds events in the clear: its folder is for its owner alone.
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
        runtime.random.fill(&mut secret);
        let sealed = kek.seal_secret(NAMES_PLACE, &secret).map_err(|error| Failure::failed(error.to_string()))?;
        private(&names_file, STANDARD.encode(sealed).as_bytes(), false).map_err(|error| failed(&names_file, error))?;
    }
    let secret = read_names(config, &[&kek])?;
    setgate_oauth::admin_token(&config.secrets.admin_token(), &*runtime.random)
        .map_err(|error| Failure::failed(error.to_string()))?;
    let (place, options, clock) = (place(config), config.store.clone(), runtime.clone());
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
        open_store(runtime, config, secret, Observed::register(&mut prometheus_client::registry::Registry::default()))
            .await?;
    let store = opened.store.clone();
    issuers::put(&*store, Key::from(KEK_RECORD), kek.id().into_bytes())
        .await
        .map_err(|error| Failure::failed(error.to_string()))?;
    let all = issuers::load_or_create(&*store, &kek, &config.issuers, &config.keys.rotation()).await?;
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
