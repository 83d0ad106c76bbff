//! When certificates end.

use std::path::Path;

use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{NetError, tls};

/// When the first certificate of a chain in a PEM file ends, in seconds since 1970.
///
/// # Errors
/// [`NetError::Tls`] when the file cannot be read, or holds no certificate that can be understood.
pub fn chain_ends(file: &Path) -> Result<u64, NetError> {
    let what = file.display().to_string();
    let mut ends = u64::MAX;
    for certificate in tls::certificates(&what, &tls::read(file)?)? {
        let (_, parsed) = X509Certificate::from_der(&certificate).map_err(|error| NetError::tls(&*what, error))?;
        ends = ends.min(u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or_default());
    }
    Ok(ends)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(year: i32) -> String {
        let mut params = rcgen::CertificateParams::new(vec!["idp.example".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 2);
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
    }

    #[test]
    fn the_first_end_of_a_chain_counts() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), certificate(2031) + &certificate(2030)).unwrap();
        // 2030-01-02T00:00:00Z
        assert_eq!(chain_ends(file.path()).unwrap(), 1_893_542_400);
    }

    #[test]
    fn what_is_no_chain_is_said_so() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "nothing").unwrap();
        assert!(chain_ends(file.path()).unwrap_err().to_string().contains("there is no certificate"));
        assert!(chain_ends(Path::new("/nowhere/at/all")).is_err());
    }
}
