//! The files beside the store, read and checked before the store is touched, by a start and by `setgate check`.

use std::{fs, os::unix::fs::PermissionsExt as _};

use setgate_cli::{Exit, Failure};
use setgate_jose::Kek;
use setgate_oauth::AdminTokenError;
use setgate_store::Names;

use super::{
    rekey,
    secrets::{kek_file, names_file, of_admin, read_kek, read_names, where_it_is},
};
use crate::config::Config;

/// The state of the files beside the store.
pub(crate) enum Looked {
    /// The gateway was never made: none of the files is there.
    Nothing,
    /// Making the gateway was interrupted: some of the files are there.
    Unfinished,
    /// The files are there, with the secrets that a start needs.
    Made(Box<Secrets>),
}

/// The secrets that a start needs beside the store.
pub(crate) struct Secrets {
    pub(super) kek: Kek,
    pub(super) next: Option<rekey::Next>,
    pub(super) names: [u8; Names::SECRET],
}

/// Looks at the files beside the store.
///
/// # Errors
/// Returns the failure that would end a start: a part is missing, cannot be read, belongs to another store, or is
/// readable by others.
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
        // A start makes the token.
        Err(AdminTokenError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
        read => drop(read.map_err(of_admin)?),
    }
    Ok(Looked::Made(Box::new(Secrets { kek, next, names })))
}

/// Reads the secret of a store that does not identify it: `belongs`, the store's record of its key-encryption key, has
/// to name one of the present keys.
///
/// # Errors
/// Returns a failure when key or secret cannot be read, or belong to another store.
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

/// A weakness that a start does not refuse.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Exposed {
    pub(crate) what: String,
    pub(crate) remedy: String,
}

/// Returns folders that others may look into: the store holds events in the clear, and whoever can write beside keys
/// can replace them.
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

/// The presence of the parts that belong together.
pub(super) struct Found {
    pub(super) store: bool,
    kek: bool,
    names: bool,
    config: [String; 3],
    kek_is_file: bool,
}

impl Found {
    /// Looks for the parts.
    ///
    /// # Errors
    /// Returns a failure when the folder of the store cannot be read.
    pub(super) fn look(config: &Config) -> Result<Self, Failure> {
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

    pub(super) fn any(&self) -> bool {
        self.store || self.names || (self.kek && self.kek_is_file)
    }

    fn all(&self) -> bool {
        self.store && self.names && self.kek
    }

    pub(super) fn present(&self) -> Vec<&str> {
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
