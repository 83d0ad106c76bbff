//! What lies beside the store, read and judged before the store is touched: a start and `setgate check` ask here alike.

use std::{fs, os::unix::fs::PermissionsExt as _};

use setgate_cli::{Exit, Failure};
use setgate_jose::{Kek, KekError};
use setgate_oauth::AdminTokenError;
use setgate_store::Names;

use super::{Found, read_kek, read_names};
use crate::{config::Config, rekey};

/// What there is of a gateway beside its store.
pub(crate) enum Looked {
    /// Nothing: it was never made.
    Nothing,
    /// A part: making it was interrupted.
    Unfinished,
    /// All that a start needs.
    Made(Box<Secrets>),
}

/// What a start needs beside the store.
pub(crate) struct Secrets {
    pub(super) kek: Kek,
    pub(super) next: Option<rekey::Next>,
    pub(super) names: [u8; Names::SECRET],
}

/// Looks at it.
///
/// # Errors
/// What would end a start: a part that is missing, cannot be read, belongs to another store, or is for others to read.
pub(crate) fn look(config: &Config) -> Result<Looked, Failure> {
    let found = Found::look(config)?;
    if config.secrets.folder.join("init-unfinished").exists() {
        return Ok(Looked::Unfinished);
    }
    if !found.any() {
        return Ok(Looked::Nothing);
    }
    if !found.all() {
        return Err(Failure::new(
            Exit::Store,
            format!("{} is there, but {} is missing", found.present().join(", "), found.missing().join(", ")),
        )
        .remedy("they belong together: mount the volume that holds it, or restore it from a backup"));
    }
    let kek = read_kek(config)?;
    let next = rekey::begun(config)?;
    let both: Vec<&Kek> = std::iter::once(&kek).chain(next.as_ref().map(|next| &next.kek)).collect();
    let names = read_names(config, &both)?;
    match setgate_oauth::read_admin_token(&config.secrets.admin_token()) {
        // A start makes it.
        Err(AdminTokenError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
        read => drop(read.map_err(of_admin)?),
    }
    Ok(Looked::Made(Box::new(Secrets { kek, next, names })))
}

/// What a start does not refuse, and should not be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Exposed {
    pub(crate) what: String,
    pub(crate) remedy: String,
}

/// Folders that others may look into: the store holds events in clear, and who may write beside keys can put others in their place.
pub(crate) fn exposed(config: &Config) -> Vec<Exposed> {
    let folders = [("the store", &config.store.path), ("the secrets", &config.secrets.folder)];
    let mode = |path| fs::metadata(path).ok().map(|about| about.permissions().mode() & 0o777);
    let all =
        folders.into_iter().filter_map(|(what, path)| Some((what, path, mode(path).filter(|mode| mode & 0o077 != 0)?)));
    all.map(|(what, path, mode)| Exposed {
        what: format!("the folder of {what} {} has mode {mode:03o}: others may look into it", path.display()),
        remedy: format!("chmod 700 {}", path.display()),
    })
    .collect()
}

/// Why the key-encryption key in this place is not taken.
pub(crate) fn of_kek(place: &str, error: &KekError) -> Failure {
    let failure = Failure::new(Exit::Secrets, format!("{place}: {error}"));
    failure.remedy(match error {
        KekError::Exposed { .. } => {
            format!("chmod 600 {place}; whoever could read it may have: `setgate keys rotate-kek` makes another one")
        }
        KekError::Io(_) => {
            "the user that runs setgate has to be able to read it; `kek` in [secrets] names the place".to_owned()
        }
        _ => "restore the key that was made together with the store; `kek` in [secrets] names the place".to_owned(),
    })
}

/// Why the operator's token is not taken; it says itself what to do.
pub(crate) fn of_admin(error: AdminTokenError) -> Failure {
    Failure::new(Exit::Secrets, error.to_string())
}
