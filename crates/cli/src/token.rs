//! The reading and writing of token files.

use std::{
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use setgate_net::Secret;

use crate::{Exit, Failure, Out};

/// Reads a token file, and warns when others can read it.
///
/// # Errors
/// [`Failure`] when the file is missing, empty, longer than 4096 bytes, or not text.
pub fn read(out: Out, path: &Path) -> Result<Secret<String>, Failure> {
    let refused =
        |why: String| Failure::new(Exit::Refused, format!("the token file {} cannot be read: {why}", path.display()));
    let about = std::fs::metadata(path).map_err(|error| refused(error.to_string()))?;
    if about.permissions().mode() & 0o077 != 0 {
        out.warn(format!("others can read the token file {}: chmod 600 {0}", path.display()));
    }
    if about.len() > 4096 {
        return Err(refused("it is too large for a token".to_owned()));
    }
    let text = Secret::new(std::fs::read_to_string(path).map_err(|error| refused(error.to_string()))?);
    let token = Secret::new(text.expose().trim().to_owned());
    if token.expose().is_empty() { Err(refused("it is empty".to_owned())) } else { Ok(token) }
}

/// Writes a token to a new file that only its owner can read.
///
/// # Errors
/// [`Failure`] when the file exists or cannot be written.
pub(crate) fn write(path: &Path, token: &Secret<String>) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::failed(format!("the token file {} cannot be written: {error}", path.display()))
    };
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    writeln!(file, "{}", token.expose()).and_then(|()| file.sync_all()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_file_is_private_and_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let token = Secret::new("sgp_abc".to_owned());
        write(&path, &token).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(write(&path, &token).is_err());
        assert_eq!(read(Out::new(false), &path).unwrap(), token);
    }

    #[test]
    fn an_empty_token_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "\n").unwrap();
        assert_eq!(read(Out::new(false), &path).unwrap_err().exit, Exit::Refused);
    }
}
