//! The key-encryption key, and the values that are sealed with it (hardening H36).

use std::{
    fmt,
    fs::OpenOptions,
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use zeroize::Zeroizing;

/// The key-encryption key: 256 bits that seal private keys and credentials at rest, wiped on drop and never shown.
pub struct Kek {
    key: Zeroizing<[u8; Self::LENGTH]>,
    aead: RandomizedNonceKey,
    id: KekId,
}

/// The key-check value, which names a key without revealing anything of it.
type KekId = [u8; 8];

/// The reason why a key-encryption key is not available.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KekError {
    /// The file cannot be read or written.
    #[error("could not use the key-encryption key file: {0}")]
    Io(#[from] io::Error),
    /// The file is accessible to others than its owner.
    #[error("the key-encryption key file has mode {mode:03o}: only its owner may read it (chmod 600)")]
    Exposed {
        /// The file's permission bits.
        mode: u32,
    },
    /// The path is not a regular file.
    #[error("the key-encryption key is not a regular file")]
    NotAFile,
    /// The value is not 256 bits.
    #[error("the key-encryption key is not 32 bytes, raw or in base64")]
    Malformed,
    /// The cryptographic library failed.
    #[error("could not make a key-encryption key")]
    Crypto,
}

/// The reason why opening or sealing a value fails.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The value was sealed with another key.
    #[error("sealed with key-encryption key {needs}, but {given} was given")]
    WrongKek {
        /// The check value of the key that sealed it.
        needs: String,
        /// The check value of the key that was given.
        given: String,
    },
    /// The value was changed, or belongs to another place.
    #[error("the sealed value was changed, or does not belong here")]
    Tampered,
    /// The value is not in a known format.
    #[error("not a sealed value of a known version")]
    Malformed,
    /// The cryptographic library failed.
    #[error("could not seal")]
    Crypto,
}

/// The mark at the beginning of a sealed value, with its version.
const MAGIC: [u8; 4] = *b"sgs1";
const NONCE: usize = 12;
const TAG: usize = 16;

impl Kek {
    /// The length in bytes.
    pub const LENGTH: usize = 32;

    /// Generates a key.
    ///
    /// # Errors
    /// [`KekError::Crypto`] when the system gives no randomness.
    pub fn generate() -> Result<Self, KekError> {
        let mut key = Zeroizing::new([0; Self::LENGTH]);
        aws_lc_rs::rand::fill(key.as_mut_slice()).map_err(|_| KekError::Crypto)?;
        Self::new(key)
    }

    /// Reads the key from a text in base64, as an environment variable holds it.
    ///
    /// # Errors
    /// [`KekError::Malformed`] when it is not 32 bytes in base64.
    pub fn from_text(text: &str) -> Result<Self, KekError> {
        Self::decode(text.as_bytes())
    }

    /// Reads the key from a file: 32 bytes, raw or in base64.
    ///
    /// # Errors
    /// [`KekError::Exposed`] when group or world have any permission on it; the others when it cannot be read or is not
    /// a key.
    pub fn load(path: &Path) -> Result<Self, KekError> {
        let file = std::fs::File::open(path)?;
        // The open file is checked and not the path, so that nobody can swap the file in between.
        let about = file.metadata()?;
        if !about.is_file() {
            return Err(KekError::NotAFile);
        }
        if about.mode() & 0o077 != 0 {
            return Err(KekError::Exposed { mode: about.mode() & 0o777 });
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(1024));
        file.take(1024).read_to_end(&mut bytes)?;
        if bytes.len() == Self::LENGTH {
            let mut key = Zeroizing::new([0; Self::LENGTH]);
            key.copy_from_slice(&bytes);
            return Self::new(key);
        }
        Self::decode(&bytes)
    }

    /// Writes the key to a new file that only its owner may read (mode 0600), durably and atomically: an interruption
    /// leaves no part of a key under that name.
    ///
    /// # Errors
    /// [`KekError::Io`]; an existing file is never overwritten.
    pub fn save_new(&self, path: &Path) -> Result<(), KekError> {
        let text = Zeroizing::new(STANDARD.encode(self.key.as_slice()));
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(".unfinished");
        let unfinished = PathBuf::from(unfinished);
        if path.try_exists()? {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists).into());
        }
        // A file left by an interruption may be another name of a key in force: it is removed, never written into.
        match std::fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        // A link, unlike a rename, fails when the file exists.
        std::fs::hard_link(&unfinished, path)?;
        std::fs::remove_file(&unfinished)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::File::open(folder)?.sync_all()?;
        Ok(())
    }

    fn decode(text: &[u8]) -> Result<Self, KekError> {
        let mut key = Zeroizing::new([0; Self::LENGTH]);
        let text = text.trim_ascii();
        for engine in [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
            let mut room = Zeroizing::new([0; Self::LENGTH + 2]);
            if engine.decode_slice(text, room.as_mut_slice()) == Ok(Self::LENGTH) {
                key.copy_from_slice(room.get(..Self::LENGTH).ok_or(KekError::Malformed)?);
                return Self::new(key);
            }
        }
        Err(KekError::Malformed)
    }

    fn new(key: Zeroizing<[u8; Self::LENGTH]>) -> Result<Self, KekError> {
        let aead = RandomizedNonceKey::new(&AES_256_GCM, key.as_slice()).map_err(|_| KekError::Crypto)?;
        let check = blake3::derive_key("setgate 2026-11 key-encryption key check value", key.as_slice());
        let id = check.first_chunk().copied().unwrap_or_default();
        Ok(Self { key, aead, id })
    }

    /// Returns the key's check value, for people; it names the key without revealing anything of it.
    #[must_use]
    pub fn id(&self) -> String {
        hex(self.id)
    }

    /// Returns the check value of the key that sealed `sealed`; `None` when that is not a sealed value.
    #[must_use]
    pub fn id_of(sealed: &[u8]) -> Option<String> {
        split(sealed).ok().map(|(id, ..)| hex(id))
    }

    /// Returns whether `bytes` contain a value sealed with this key, raw or in base64. Only marks are compared; nothing
    /// is opened.
    #[must_use]
    pub fn sealed_any(&self, bytes: &[u8]) -> bool {
        let mark = [MAGIC.as_slice(), &self.id].concat();
        // Twelve bytes are sixteen characters of base64, which later bytes do not change.
        let text = STANDARD.encode(&mark);
        [mark.as_slice(), text.as_bytes()].iter().any(|mark| bytes.windows(mark.len()).any(|window| window == *mark))
    }

    /// Seals with `next` a credential that this key sealed for one place.
    ///
    /// # Errors
    /// Those of [`Kek::open_secret`] and [`Kek::seal_secret`].
    pub fn reseal_secret(&self, next: &Self, place: &str, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        next.seal_secret(place, &self.open_secret(place, sealed)?)
    }

    /// Seals a credential for one place: a text that names stream or client, and field.
    ///
    /// # Errors
    /// [`SealError::Crypto`] when the cryptographic library fails.
    pub fn seal_secret(&self, place: &str, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        self.seal(&["secret", place], plain)
    }

    /// Opens what [`Kek::seal_secret`] sealed for the same place.
    ///
    /// # Errors
    /// [`SealError::WrongKek`], [`SealError::Tampered`] (also when it was sealed for another place) or
    /// [`SealError::Malformed`].
    pub fn open_secret(&self, place: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        self.open(&["secret", place], sealed)
    }

    pub(crate) fn seal(&self, place: &[&str], plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut body = Zeroizing::new(plain.to_vec());
        let (nonce, tag) = self
            .aead
            .seal_in_place_separate_tag(Aad::from(associated(&self.id, place)), body.as_mut_slice())
            .map_err(|_| SealError::Crypto)?;
        let nonce: &[u8; NONCE] = nonce.as_ref();
        Ok([MAGIC.as_slice(), &self.id, nonce, body.as_slice(), tag.as_ref()].concat())
    }

    pub(crate) fn open(&self, place: &[&str], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let (id, nonce, body) = split(sealed)?;
        if id != self.id {
            return Err(SealError::WrongKek { needs: hex(id), given: self.id() });
        }
        let mut body = Zeroizing::new(body.to_vec());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let length = self
            .aead
            .open_in_place(nonce, Aad::from(associated(&self.id, place)), body.as_mut_slice())
            .map_err(|_| SealError::Tampered)?
            .len();
        body.truncate(length);
        Ok(body)
    }
}

impl fmt::Debug for Kek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kek({})", self.id())
    }
}

fn hex(id: KekId) -> String {
    format!("{:016x}", u64::from_be_bytes(id))
}

fn split(sealed: &[u8]) -> Result<(KekId, [u8; NONCE], &[u8]), SealError> {
    let rest = sealed.strip_prefix(MAGIC.as_slice()).ok_or(SealError::Malformed)?;
    let (id, rest) = rest.split_first_chunk().ok_or(SealError::Malformed)?;
    let (nonce, body) = rest.split_first_chunk().ok_or(SealError::Malformed)?;
    if body.len() < TAG {
        return Err(SealError::Malformed);
    }
    Ok((*id, *nonce, body))
}

/// Returns the data that the ciphertext is bound to: version, key, and each part of the place with its length, so that
/// no two places give the same.
fn associated(id: &KekId, place: &[&str]) -> Vec<u8> {
    let mut out = [MAGIC.as_slice(), id].concat();
    for part in place {
        out.extend_from_slice(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        out.extend_from_slice(part.as_bytes());
    }
    out
}

#[cfg(test)]
mod tests;
