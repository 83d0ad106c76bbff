//! The folder of a store: the paths of its parts, its lock, and the errors of opening it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use crate::Why;

/// The format that this release writes.
pub(crate) const FORMAT: u32 = 1;

/// The paths of a store, and of the token that distinguishes it from its copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorePlace {
    /// The folder of the store.
    pub store: PathBuf,
    /// The file of the owner token, outside the folder: it must not be copied along with it.
    pub owner: PathBuf,
}

/// The reason why a store was not opened, with the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The folder has no store.
    #[error("there is no store in {0}: is the volume mounted? `setgate init` makes a new one")]
    Missing(PathBuf),
    /// The folder is not empty, and a store is created in an empty one only.
    #[error("{0} is not empty: a store is made in an empty folder only")]
    Exists(PathBuf),
    /// The store is in use by another process.
    #[error("the store in {path} is in use by process {pid}")]
    Locked {
        /// The folder.
        path: PathBuf,
        /// The id of the other process, as it recorded it.
        pid: String,
    },
    /// The store is on a network file system.
    #[error("{path} lies on a network file system ({kind}): a store needs a local one")]
    Network {
        /// The folder.
        path: PathBuf,
        /// The kind of file system.
        kind: &'static str,
    },
    /// The store was written by another release.
    #[error(
        "the store has format {found}, this release reads format {FORMAT}: use the release that wrote it, or export and import"
    )]
    Format {
        /// The store's format.
        found: u32,
    },
    /// The secret belongs to another store.
    #[error("the keys given do not belong to the store {id}: restore the keys that were made together with it")]
    Secret {
        /// The store's id.
        id: String,
    },
    /// The store holds less than it has promised.
    #[error(
        "the store is short of {events} accepted events and {commits} commits: it holds up to record {found}, and {promised} were \
         promised. `setgate store check` says what is wrong, `setgate store repair` what can be saved; or restore a backup{}", kept_in(aside.as_deref())
    )]
    Short {
        /// The accepted events that are missing.
        events: u64,
        /// The commits that are missing.
        commits: u64,
        /// The last record found.
        found: u64,
        /// The last record promised.
        promised: u64,
        /// The folder to which the journals were copied before they were opened, after an unclean stop.
        aside: Option<PathBuf>,
    },
    /// The store's content does not read back as it was written.
    #[error(
        "the store is damaged: {0}. `setgate store check` says what is wrong, `setgate store repair` what can be saved; or restore a \
         backup"
    )]
    Damaged(#[source] Why),
    /// The file system has no space for what an opening writes.
    #[error("there is no room on the file system of the store: {0}")]
    Full(#[source] Why),
    /// The disk or the operating system refused.
    #[error("could not {what} {path}: {source}")]
    Io {
        /// The attempted operation.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
}

fn kept_in(aside: Option<&Path>) -> String {
    aside.map_or_else(String::new, |aside| {
        format!("; the journals as they were before the engine opened them are in {}", aside.display())
    })
}

impl OpenError {
    /// Returns a function that adds the operation and the file to an error.
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, path: path.to_path_buf(), source }
    }

    /// Returns whether space was missing: the error passes as soon as there is some.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            Self::Full(_) => true,
            Self::Io { source, .. } => is_full(source),
            _ => false,
        }
    }
}

/// Returns whether an error of the system means that no space is left.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Replaces a file as a whole, durably, readable by its owner only.
pub(crate) fn replace(path: &Path, text: &[u8]) -> Result<(), OpenError> {
    let aside = path.with_extension("new");
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&aside, path)?;
        sync_folder(path)
    };
    write().map_err(OpenError::io("write", path))
}

/// Makes the entry of a file in its folder durable.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

impl StorePlace {
    /// Returns the engine's folder.
    pub(crate) fn engine(&self) -> PathBuf {
        self.store.join("engine")
    }

    /// Returns the watermark file.
    pub(crate) fn watermark(&self) -> PathBuf {
        self.store.join("watermark")
    }

    /// Returns the folder to which journals are copied before they are opened after an unclean stop.
    pub(crate) fn aside(&self) -> PathBuf {
        self.store.join("aside")
    }

    /// Returns the folder in which a repair writes the parts that it puts in place later.
    pub(crate) fn rebuilt(&self) -> PathBuf {
        self.store.join("repaired")
    }

    /// Returns the folder that keeps the parts which a repair replaced.
    fn damaged(&self) -> PathBuf {
        self.store.join("damaged")
    }

    /// Puts the repaired parts in the place of the damaged ones, keeps these, and returns the folder that keeps them.
    /// The engine is replaced before the watermark: the old mark, of which a copy is kept too, promises no more than
    /// what was repaired, so it is valid beside the new engine.
    pub(crate) fn swap(&self) -> io::Result<PathBuf> {
        let mut kept = self.damaged();
        let mut number = 1;
        while kept.exists() {
            number += 1;
            kept = self.store.join(format!("damaged-{number}"));
        }
        fs::create_dir(&kept)?;
        if self.watermark().exists() {
            fs::copy(self.watermark(), kept.join("watermark"))?;
        }
        if self.engine().exists() {
            fs::rename(self.engine(), kept.join("engine"))?;
        }
        self.finish_swap()?;
        Ok(kept)
    }

    /// Finishes an interrupted [`StorePlace::swap`].
    pub(crate) fn finish_swap(&self) -> io::Result<()> {
        let made = self.rebuilt();
        let whole = made.join("engine").exists() && made.join("watermark").exists();
        if self.engine().exists() || !whole {
            let half = self.engine().exists() && !made.join("engine").exists() && made.join("watermark").exists();
            if !half {
                return Ok(());
            }
        } else {
            fs::rename(made.join("engine"), self.engine())?;
        }
        fs::rename(made.join("watermark"), self.watermark())?;
        fs::remove_dir_all(&made)?;
        sync_folder(&self.engine())
    }

    /// Locks the store for this process.
    pub(crate) fn lock(&self) -> Result<Lock, OpenError> {
        let path = self.store.join("lock");
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut file = open.map_err(OpenError::io("open", &path))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            let pid = if pid.trim().is_empty() { "unknown".into() } else { pid.trim().to_owned() };
            return Err(OpenError::Locked { path: self.store.clone(), pid });
        }
        let mut mark = || {
            file.set_len(0)?;
            writeln!(file, "{}", std::process::id())
        };
        // A full disk must not keep the store from being opened: only the name of the holder is missing then.
        let _ = mark();
        Ok(Lock(file))
    }
}

/// The lock of a store, held by this process until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "it is held, not used")] File);

/// Refuses network file systems, where neither locks nor flushes can be trusted.
pub(crate) fn refuse_network(path: &Path) -> Result<(), OpenError> {
    let found = rustix::fs::statfs(path).map_err(|error| OpenError::io("look at", path)(error.into()))?;
    let kind = match found.f_type as u64 & 0xffff_ffff {
        0x6969 => "NFS",
        0xff53_4d42 => "CIFS",
        0xfe53_4d42 => "SMB2",
        0x517b => "SMB",
        0x5346_414f => "AFS",
        0x00c3_6400 => "Ceph",
        0x0102_1997 => "9p",
        _ => return Ok(()),
    };
    Err(OpenError::Network { path: path.to_path_buf(), kind })
}

/// Returns the bytes free for this process on the file system of a folder, and its size in bytes.
pub(crate) fn space(path: &Path) -> io::Result<(u64, u64)> {
    let found = rustix::fs::statvfs(path)?;
    Ok((found.f_bavail.saturating_mul(found.f_frsize), found.f_blocks.saturating_mul(found.f_frsize)))
}
