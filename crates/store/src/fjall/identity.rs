//! The identity of a store: read, checked against its owner token, and written anew where it is lost.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use setgate_clock::Runtime;
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    Names,
    fjall::{
        check::{read_mark, survey},
        place::{FORMAT, OpenError, StorePlace, replace, space},
        survey::ReadableCounts,
    },
};

/// The member of the file that holds a checksum over the others. Files of earlier releases have none.
const CHECKSUM: &str = "checksum";

/// The identity of a store, kept in its folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Instance {
    /// The format of everything else in the folder.
    pub(crate) format: u32,
    /// The store's id, which never changes.
    pub(crate) id: String,
    /// The fingerprint of the secret from which its names derive.
    pub(crate) secret: String,
    /// The token, which changes with every opening and is named by the owner token. It is empty where the identity was
    /// written anew, so that no owner token matches it.
    pub(crate) token: String,
    /// The previous token.
    pub(crate) before: String,
    /// The bytes that the store may use.
    pub(crate) budget: u64,
}

/// The result of reading a store's identity.
#[derive(Clone, Debug)]
pub(crate) enum Identity {
    /// The identity can be read.
    Known(Instance),
    /// A store whose identity is missing or cannot be read, with the reason.
    Lost(String),
}

/// The token that determines which store is the original.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Owner {
    store: String,
    token: String,
    /// The inode of the store's folder, which a copy on the same machine does not share.
    folder: u64,
}

pub(crate) fn token(runtime: &Runtime) -> String {
    let mut bytes = [0u8; 16];
    runtime.random.fill(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns a fingerprint of the secret that reveals nothing about it.
pub(crate) fn fingerprint(secret: &[u8; Names::SECRET]) -> String {
    blake3::Hash::from_bytes(blake3::derive_key("setgate store secret fingerprint v1", secret))
        .to_hex()
        .chars()
        .take(32)
        .collect()
}

/// Returns a checksum over all members but itself, in any order.
fn checksum(members: &Map<String, Value>) -> String {
    let mut lines: Vec<String> =
        members.iter().filter(|(name, _)| *name != CHECKSUM).map(|(name, value)| format!("{name}={value}\n")).collect();
    lines.sort_unstable();
    format!("{:016x}", xxh3_64(lines.concat().as_bytes()))
}

impl StorePlace {
    fn instance_file(&self) -> PathBuf {
        self.store.join("instance.json")
    }

    /// Returns whether there is a store.
    pub(crate) fn has_instance(&self) -> bool {
        self.instance_file().exists()
    }

    /// Reads the store's identity. One that cannot be read is [`Identity::Lost`] and not an error: it may be written
    /// anew.
    ///
    /// # Errors
    /// Returns [`OpenError`] where there is no store, it was written by another release, or the disk cannot be read.
    pub(crate) fn identity(&self) -> Result<Identity, OpenError> {
        let path = self.instance_file();
        let lost = |why: &dyn std::fmt::Display| Ok(Identity::Lost(format!("{} {why}", path.display())));
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // The parts prove that there is a store.
                let parts = self.engine().exists() || self.rebuilt().join("engine").exists();
                return if parts { lost(&"is missing") } else { Err(OpenError::Missing(self.store.clone())) };
            }
            Err(error) => return Err(OpenError::io("read", &path)(error)),
        };
        let members: Map<String, Value> = match serde_json::from_slice(&text) {
            Ok(members) => members,
            Err(error) => return lost(&format_args!("does not read: {error}")),
        };
        if members.get(CHECKSUM).is_some_and(|said| *said != checksum(&members)) {
            return lost(&"does not read back as it was written");
        }
        match members.get("format").and_then(Value::as_u64) {
            Some(found) if found == u64::from(FORMAT) => {}
            Some(found) if found > 0 => {
                return Err(OpenError::Format { found: u32::try_from(found).unwrap_or(u32::MAX) });
            }
            _ => return lost(&"does not name its format"),
        }
        match serde_json::from_value(Value::Object(members)) {
            Ok(instance) => Ok(Identity::Known(instance)),
            Err(error) => lost(&format_args!("does not read: {error}")),
        }
    }

    /// Returns whether the folder holds only what an interrupted initialisation left.
    pub(crate) fn is_half_made(&self) -> Result<bool, OpenError> {
        let io = |error| OpenError::io("read", &self.store)(error);
        let parts = ["engine", "watermark", "watermark.new", "instance.new", "lock", "lost+found"];
        for entry in fs::read_dir(&self.store).map_err(io)? {
            if !entry.map_err(io)?.file_name().to_str().is_some_and(|name| parts.contains(&name)) {
                return Ok(false);
            }
        }
        let mark = read_mark(self)?;
        if mark.is_none() && !self.engine().exists() {
            return Ok(true);
        }
        let found = survey(self, Some(&mark.unwrap_or_default()))?.findings;
        Ok(mark.is_none_or(|mark| mark.epoch == 0) && found.is_sound() && found.kept == ReadableCounts::default())
    }

    /// Reads the store's identity and checks its format and secret.
    pub(crate) fn instance(&self, secret: Option<&[u8; Names::SECRET]>) -> Result<Instance, OpenError> {
        match self.identity()? {
            Identity::Lost(why) => Err(OpenError::Damaged(why.into())),
            Identity::Known(instance) if secret.is_some_and(|secret| fingerprint(secret) != instance.secret) => {
                Err(OpenError::Secret { id: instance.id })
            }
            Identity::Known(instance) => Ok(instance),
        }
    }

    /// Writes the store's identity.
    pub(crate) fn write_instance(&self, instance: &Instance) -> Result<(), OpenError> {
        let path = self.instance_file();
        let text = || {
            let Value::Object(mut members) = serde_json::to_value(instance)? else { return Ok(Vec::new()) };
            members.insert(CHECKSUM.into(), checksum(&members).into());
            serde_json::to_vec_pretty(&members)
        };
        let text = text().map_err(|error: serde_json::Error| OpenError::io("write", &path)(error.into()))?;
        replace(&path, &text)
    }

    /// Returns an identity that replaces a lost one. It has no token, so that the store counts as a copy until it is
    /// adopted: it is unknown whether it is the original, since a backup that was put in its place has the same folder.
    pub(crate) fn anew(&self, secret: &[u8; Names::SECRET], runtime: &Runtime) -> Result<Instance, OpenError> {
        let (_, whole) = space(&self.store).map_err(OpenError::io("look at", &self.store))?;
        let owner = self.owner()?.ok().filter(|owner| self.inode().is_ok_and(|folder| folder == owner.folder));
        Ok(Instance {
            format: FORMAT,
            id: owner.map_or_else(|| token(runtime), |owner| owner.store),
            secret: fingerprint(secret),
            token: String::new(),
            before: String::new(),
            budget: whole / 2,
        })
    }

    /// Keeps the file of an unreadable identity, and writes another identity.
    pub(crate) fn replace_instance(&self, instance: &Instance) -> Result<(), OpenError> {
        let (path, kept) = (self.instance_file(), self.store.join("instance.damaged"));
        if path.exists() {
            fs::copy(&path, &kept).map_err(OpenError::io("write", &kept))?;
        }
        self.write_instance(instance)
    }

    fn inode(&self) -> Result<u64, OpenError> {
        Ok(fs::metadata(&self.store).map_err(OpenError::io("look at", &self.store))?.ino())
    }

    /// Writes the owner token: from now on this folder is the original.
    pub(crate) fn write_owner(&self, instance: &Instance) -> Result<(), OpenError> {
        let owner = Owner { store: instance.id.clone(), token: instance.token.clone(), folder: self.inode()? };
        let text = serde_json::to_vec_pretty(&owner).map_err(io::Error::other);
        replace(&self.owner, &text.map_err(OpenError::io("write", &self.owner))?)
    }

    /// Reads the owner token, or returns the reason why there is none.
    fn owner(&self) -> Result<Result<Owner, String>, OpenError> {
        match fs::read(&self.owner) {
            Ok(text) => Ok(serde_json::from_slice(&text)
                .map_err(|_| format!("the owner token {} does not read", self.owner.display()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(Err(format!("there is no owner token {}", self.owner.display())))
            }
            Err(error) => Err(OpenError::io("read", &self.owner)(error)),
        }
    }

    /// Returns the reason why this folder is not the original, or `None` where the owner token names it as such.
    pub(crate) fn check(&self, instance: &Instance) -> Result<Option<String>, OpenError> {
        let owner = match self.owner()? {
            Ok(owner) => owner,
            Err(why) => return Ok(Some(why)),
        };
        Ok(if owner.store != instance.id {
            Some(format!("the owner token names the store {}", owner.store))
        } else if instance.token.is_empty() {
            Some("its identity was written anew by a repair: whether it is the original is not known".into())
        } else if owner.token != instance.token && owner.token != instance.before {
            Some("the original was opened since this copy was made".into())
        } else if owner.folder != self.inode()? {
            Some("the folder is another one than the original's".into())
        } else {
            None
        })
    }

    /// Gives the store a new token, and writes it to the owner file as well.
    pub(crate) fn renew(&self, instance: &mut Instance, runtime: &Runtime) -> Result<(), OpenError> {
        // The token in the owner file stays valid until the file names the new one, however often that is interrupted.
        let named = self.owner()?.ok().map(|owner| owner.token);
        let named = named.filter(|named| !named.is_empty() && *named == instance.before);
        let now = std::mem::replace(&mut instance.token, token(runtime));
        instance.before = named.unwrap_or(now);
        self.write_instance(instance)?;
        self.write_owner(instance)
    }
}
