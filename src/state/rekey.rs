//! The change to another key-encryption key for everything that is sealed at rest (hardening H36).
//!
//! The new key lies beside the old one before anything is sealed with it, each sealed value names its key, and the old
//! one is removed last: a change that breaks off anywhere is finished by the next start, or by the same command.

use std::{
    fs,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::Serialize;
use setgate_cli::{Exit, Failure};
use setgate_jose::{Kek, Ring};
use setgate_net::SecretRef;
use setgate_store::{Durability, FjallStore, Key, Names, Put, Record, Store, Unit};

use super::{
    issuers,
    secrets::{KEK_RECORD, NAMES_PLACE, kek_file, names_file, of_kek, private, read_names, suffixed},
};
use crate::config::Config;

/// The most records that are sealed again in one commit.
const PAGE: usize = 64;

/// A key that is to replace the present one.
pub(crate) struct Next {
    pub(crate) kek: Kek,
    place: NextPlace,
}

enum NextPlace {
    /// The gateway's own file, which takes the old one's name in the end.
    Beside(PathBuf),
    /// A place of the operator's, which a file in the secrets folder names.
    Named { pointer: PathBuf, reference: String },
}

/// The result of a change.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Changed {
    /// The check value of the old key.
    pub(crate) from: String,
    /// The check value of the new key.
    pub(crate) to: String,
    /// The number of records that were sealed again in this run.
    pub(crate) records: usize,
    /// Whether an earlier run broke off and this one finished it.
    pub(crate) finished_an_earlier_one: bool,
    /// The file of the old key, which backups made before still need.
    pub(crate) old_key: Option<PathBuf>,
    /// The reference that the configuration must name from now on.
    pub(crate) configure: Option<String>,
    /// The reason why overwritten values may remain on the disk for some time.
    pub(crate) traces: Option<String>,
}

impl Changed {
    /// Returns the lines that describe the change to people.
    pub(crate) fn describe(&self) -> Vec<String> {
        let begin = if self.finished_an_earlier_one { "a change that was begun is finished: " } else { "" };
        let mut lines = vec![format!(
            "{begin}everything is sealed with key-encryption key {}, nothing with {} any more ({} records were sealed now)",
            self.to, self.from, self.records
        )];
        if let Some(reference) = &self.configure {
            lines.push(format!("write kek = \"{reference}\" into [secrets] of the configuration"));
        }
        if let Some(path) = &self.old_key {
            lines.push(format!(
                "the old key lies in {}: backups made before need it; remove it when none of them is needed",
                path.display()
            ));
        }
        if let Some(why) = &self.traces {
            lines.push(format!("values sealed with the old key may lie in the store's files for some time yet: {why}"));
        }
        lines
    }
}

/// Returns the key of a change that was begun, if there is one.
///
/// # Errors
/// Returns a failure when the key cannot be read: nothing that it sealed opens without it.
pub(crate) fn begun(config: &Config) -> Result<Option<Next>, Failure> {
    let pointer = pointer(config);
    if pointer.exists() {
        let unreadable =
            |error: std::io::Error| Failure::new(Exit::Store, format!("{} cannot be read: {error}", pointer.display()));
        let reference = fs::read_to_string(&pointer).map_err(unreadable)?.trim().to_owned();
        let kek = read(&reference)?;
        return Ok(Some(Next { kek, place: NextPlace::Named { pointer, reference } }));
    }
    match kek_file(config).map(|path| suffixed(&path, "next")) {
        Some(path) if path.exists() => {
            let kek = Kek::load(&path).map_err(|error| of_kek(&path.display().to_string(), &error))?;
            Ok(Some(Next { kek, place: NextPlace::Beside(path) }))
        }
        _ => Ok(None),
    }
}

/// Begins a change, or continues one that was begun; every start finds the new key from now on.
///
/// # Errors
/// Returns a failure when the new key cannot be made, read or written down, or is the present one.
pub(crate) fn prepare(config: &Config, present: &Kek, new: Option<String>) -> Result<Next, Failure> {
    if let Some(next) = begun(config)? {
        return Ok(next);
    }
    let failed = |path: &Path, why: String| Failure::failed(format!("{} cannot be written: {why}", path.display()));
    match (new, kek_file(config)) {
        (Some(reference), _) => {
            let kek = read(&reference)?;
            if kek.id() == present.id() {
                return Err(Failure::usage(format!("`{reference}` is the key-encryption key in use")));
            }
            let pointer = pointer(config);
            private(&pointer, reference.as_bytes(), false).map_err(|error| failed(&pointer, error.to_string()))?;
            Ok(Next { kek, place: NextPlace::Named { pointer, reference } })
        }
        (None, Some(path)) => {
            let path = suffixed(&path, "next");
            let kek = Kek::generate().map_err(|error| Failure::failed(error.to_string()))?;
            kek.save_new(&path).map_err(|error| failed(&path, error.to_string()))?;
            Ok(Next { kek, place: NextPlace::Beside(path) })
        }
        (None, None) => {
            Err(Failure::usage("the key-encryption key is in the environment, where nothing can be written")
                .remedy("say where the new one is: --new env:NAME or --new file:PATH"))
        }
    }
}

/// Seals everything with the new key, and then removes the old one from use.
///
/// # Errors
/// Returns a failure when a value does not open or cannot be written. Values already sealed stay so, and both keys are
/// needed until the change is repeated.
pub(crate) async fn finish(
    config: &Config,
    store: &FjallStore,
    old: &Kek,
    next: &Next,
    again: bool,
) -> Result<Changed, Failure> {
    let new = &next.kek;
    let failed = |why: String| Failure::new(Exit::Store, format!("the key-encryption key cannot be changed: {why}"));
    let mut changed = Changed {
        from: old.id(),
        to: new.id(),
        records: 0,
        finished_an_earlier_one: again,
        old_key: None,
        configure: None,
        traces: None,
    };
    if old.id() != new.id() {
        let records = store.range(Key::from("")).await.map_err(|error| failed(error.to_string()))?;
        let mut puts = Vec::new();
        for record in &records {
            if let Some(value) = again_sealed(&records, record, old, new).map_err(failed)? {
                puts.push(Put { key: record.key.clone(), value: Some(Bytes::from(value)) });
            }
        }
        changed.records = puts.len();
        for page in puts.chunks(PAGE) {
            commit(store, page.to_vec()).await.map_err(failed)?;
        }
        commit(store, vec![Put { key: Key::from(KEK_RECORD), value: Some(new.id().into_bytes().into()) }])
            .await
            .map_err(failed)?;
        names(config, old, new)?;
        changed.traces = store.turn_over().await.err().map(|error| error.to_string());
    }
    let io = |error: std::io::Error| failed(error.to_string());
    match &next.place {
        NextPlace::Beside(path) => {
            let present = kek_file(config).ok_or_else(|| failed("it has no file".to_owned()))?;
            changed.old_key = Some(install(&present, path, &old.id()).map_err(io)?);
        }
        // The configuration names the new key already: nothing is left to do.
        NextPlace::Named { pointer, .. } if old.id() == new.id() => fs::remove_file(pointer).map_err(io)?,
        NextPlace::Named { reference, .. } => changed.configure = Some(reference.clone()),
    }
    Ok(changed)
}

/// Returns a record sealed again; `None` if the old key sealed nothing of it.
fn again_sealed(all: &[Record], record: &Record, old: &Kek, new: &Kek) -> Result<Option<Vec<u8>>, String> {
    if !old.sealed_any(&record.value) {
        return Ok(None);
    }
    let name = &record.key.0;
    let wrong = |why: String| format!("the record {name}: {why}");
    if let Some(no) = name.strip_prefix("keys/") {
        let url = issuers::url_of(all, no).ok_or_else(|| wrong("it is of no issuer".to_owned()))?;
        return Ring::reseal(old, new, &url, &record.value).map(Some).map_err(|error| wrong(error.to_string()));
    }
    let sealed =
        setgate_router::reseal(&record.key, &record.value, old, new).map_err(|error| wrong(error.to_string()))?;
    match sealed {
        Some(value) if !old.sealed_any(&value) => Ok(Some(value)),
        _ => Err(wrong("something in it is sealed in a way that this version does not know".to_owned())),
    }
}

async fn commit(store: &FjallStore, change: Vec<Put>) -> Result<(), String> {
    let unit =
        Unit::Configure { change, expect: None, membership: false, drop_through: Vec::new(), notice: Vec::new() };
    store.commit(vec![unit], Durability::Sync).await.map(drop).map_err(|error| error.to_string())
}

/// Seals the store's secret again, which lies outside of the store.
fn names(config: &Config, old: &Kek, new: &Kek) -> Result<(), Failure> {
    let path = names_file(config);
    let secret: [u8; Names::SECRET] = read_names(config, &[old, new])?;
    let sealed = new.seal_secret(NAMES_PLACE, &secret).map_err(|error| Failure::failed(error.to_string()))?;
    private(&path, STANDARD.encode(sealed).as_bytes(), true)
        .map_err(|error| Failure::failed(format!("{} cannot be written: {error}", path.display())))
}

/// Gives the new key the name of the old one, which stays aside, and returns the path of the old one.
fn install(present: &Path, next: &Path, old: &str) -> std::io::Result<PathBuf> {
    let aside = suffixed(present, &format!("old-{old}"));
    match fs::hard_link(present, &aside) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let folder = fs::File::open(present.parent().unwrap_or(Path::new(".")))?;
    folder.sync_all()?;
    fs::rename(next, present)?;
    folder.sync_all()?;
    Ok(aside)
}

fn read(reference: &str) -> Result<Kek, Failure> {
    match reference.strip_prefix("file:") {
        Some(path) => Kek::load(Path::new(path)).map_err(|error| of_kek(path, &error)),
        None if reference.starts_with("env:") => {
            let text = SecretRef::from(reference.to_owned()).load().map_err(|error| refused(&error.to_string()))?;
            Kek::from_text(text.expose()).map_err(|error| refused(&format!("{reference}: {error}")))
        }
        None => Err(Failure::usage("the new key is named as file:PATH or env:NAME, never written on a command line")),
    }
}

fn refused(why: &str) -> Failure {
    Failure::new(Exit::Store, format!("the new key-encryption key: {why}"))
        .remedy("a change to it was begun: what it has sealed does not open without it")
}

fn pointer(config: &Config) -> PathBuf {
    config.secrets.folder.join("kek-next")
}

#[cfg(test)]
mod tests;
