//! The operator's token, and the guard of the admin listener (hardening H6).

use std::{
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use http::HeaderMap;
use setgate_net::Secret;

use crate::{Denied, TokenHash, TokenKind, bearer::credential, mint};

/// The reason why the operator's token could not be created or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminTokenError {
    /// The file cannot be created or read.
    #[error("the admin token file {path}: {source}")]
    Io {
        /// The path of the file.
        path: PathBuf,
        /// The underlying error.
        source: io::Error,
    },
    /// The file may be read or written by others than its owner.
    #[error(
        "the admin token file {0} may be read or written by others: `chmod 600` it, or remove it and a new one is made"
    )]
    Open(PathBuf),
    /// The file does not hold an admin token.
    #[error("the admin token file {0} holds no admin token: remove it, and a new one is made at the next start")]
    NoToken(PathBuf),
}

/// Reads the operator's token, or creates it at the first start.
///
/// # Errors
/// [`AdminTokenError`], which names the file and the remedy.
pub fn admin_token(path: &Path, random: &dyn setgate_clock::Random) -> Result<Secret<String>, AdminTokenError> {
    match read_admin_token(path) {
        Err(AdminTokenError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            create_admin_token(path, random)
        }
        read => read,
    }
}

/// Creates the operator's token in a new file that only its owner may read.
///
/// # Errors
/// [`AdminTokenError::Io`] when the file exists already or cannot be created.
pub fn create_admin_token(path: &Path, random: &dyn setgate_clock::Random) -> Result<Secret<String>, AdminTokenError> {
    let fault = |source| AdminTokenError::Io { path: path.to_owned(), source };
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path).map_err(fault)?;
    let token = mint(TokenKind::Admin, random).token;
    file.write_all(token.expose().as_bytes()).and_then(|()| file.write_all(b"\n")).map_err(fault)?;
    file.sync_all().map_err(fault)?;
    Ok(token)
}

/// Reads the operator's token.
///
/// # Errors
/// [`AdminTokenError`], also when others may read the file.
pub fn read_admin_token(path: &Path) -> Result<Secret<String>, AdminTokenError> {
    let fault = |source| AdminTokenError::Io { path: path.to_owned(), source };
    let mut file = std::fs::File::open(path).map_err(fault)?;
    let about = file.metadata().map_err(fault)?;
    #[cfg(unix)]
    if std::os::unix::fs::PermissionsExt::mode(&about.permissions()) & 0o077 != 0 {
        return Err(AdminTokenError::Open(path.to_owned()));
    }
    if about.len() > 1024 {
        return Err(AdminTokenError::NoToken(path.to_owned()));
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(fault)?;
    text.truncate(text.trim_end().len());
    let token = Secret::new(text);
    if TokenKind::Admin.fits(token.expose()) { Ok(token) } else { Err(AdminTokenError::NoToken(path.to_owned())) }
}

/// The guard of the admin listener, which admits the operator only.
#[derive(Debug)]
pub struct AdminGuard {
    hash: TokenHash,
}

impl AdminGuard {
    /// Creates the guard for this token.
    #[must_use]
    pub fn new(token: &Secret<String>) -> Self {
        Self { hash: TokenHash::of(token.expose()) }
    }

    /// Checks that this request head carries the operator's token.
    ///
    /// # Errors
    /// [`Denied`], which answers as RFC 6750 §3 says.
    pub fn admit(&self, headers: &HeaderMap, query: Option<&str>) -> Result<(), Denied> {
        let token = credential(headers, query)?;
        if TokenKind::Admin.fits(token) && TokenHash::of(token) == self.hash { Ok(()) } else { Err(Denied::Invalid) }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use http::{HeaderValue, header::AUTHORIZATION};
    use setgate_clock::manual::SeededRandom;

    use super::*;

    fn bearer(token: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}")).unwrap())])
    }

    #[test]
    fn is_made_once_and_readable_by_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin-token");
        let random = SeededRandom::new(1);
        let first = admin_token(&path, &*random).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(admin_token(&path, &*random).unwrap(), first);
        assert!(matches!(create_admin_token(&path, &*random), Err(AdminTokenError::Io { .. })), "never overwrites");
        assert_eq!(read_admin_token(&path).unwrap(), first);
    }

    #[test]
    fn refuses_a_file_that_others_may_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin-token");
        admin_token(&path, &*SeededRandom::new(1)).unwrap();
        for mode in [0o640, 0o604, 0o660] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(read_admin_token(&path), Err(AdminTokenError::Open(_))), "{mode:o}");
        }
    }

    #[test]
    fn refuses_a_file_with_something_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin-token");
        for text in ["", "password\n", &format!("sgp_{}", "A".repeat(43)), &"sga_".repeat(1000)] {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            assert!(matches!(admin_token(&path, &*SeededRandom::new(1)), Err(AdminTokenError::NoToken(_))), "{text}");
        }
    }

    #[test]
    fn admits_the_operator_only() {
        let random = SeededRandom::new(2);
        let token = mint(TokenKind::Admin, &*random).token;
        let guard = AdminGuard::new(&token);
        assert_eq!(guard.admit(&bearer(token.expose()), None), Ok(()));
        let other = mint(TokenKind::Admin, &*random).token;
        let producer = token.expose().replace("sga_", "sgp_");
        for wrong in [other.expose(), producer.as_str(), "a"] {
            assert_eq!(guard.admit(&bearer(wrong), None), Err(Denied::Invalid), "{wrong}");
        }
        assert_eq!(guard.admit(&HeaderMap::new(), None), Err(Denied::Missing));
        let query = format!("access_token={}", token.expose());
        assert!(matches!(guard.admit(&HeaderMap::new(), Some(&query)), Err(Denied::Malformed(_))));
    }
}
