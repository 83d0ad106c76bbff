//! The expiry of certificates.

use std::path::Path;

use crate::{NetError, tls};

/// Returns the earliest expiry of the certificates in a PEM file, in seconds since 1970.
///
/// # Errors
/// [`NetError::Tls`] when the file cannot be read, or holds no certificate that can be parsed.
pub fn chain_ends(file: &Path) -> Result<u64, NetError> {
    let what = file.display().to_string();
    let mut ends = u64::MAX;
    for certificate in tls::certificates(&what, &tls::read(file)?)? {
        let end = not_after(&certificate).ok_or_else(|| NetError::tls(&*what, "its end cannot be read"))?;
        ends = ends.min(end);
    }
    Ok(ends)
}

/// Reads `notAfter` of a certificate in DER, in seconds since 1970; earlier times are 0.
///
/// RFC 5280 §4.1: `Certificate` begins with `TBSCertificate`, and that with version (optional), serial number,
/// signature algorithm, issuer and validity. Later fields are not read: the certificate is verified where it is used.
fn not_after(certificate: &[u8]) -> Option<u64> {
    const SEQUENCE: u8 = 0x30;
    const VERSION: u8 = 0xa0;
    let mut outer = Der(certificate).inside(SEQUENCE)?;
    let mut tbs = outer.inside(SEQUENCE)?;
    let (tag, _) = tbs.next()?;
    if tag == VERSION {
        tbs.next()?;
    }
    let _signature_algorithm = tbs.next()?;
    let _issuer = tbs.next()?;
    let mut validity = tbs.inside(SEQUENCE)?;
    let _not_before = validity.next()?;
    let (tag, time) = validity.next()?;
    seconds(tag, time)
}

/// The unread rest of a value in DER.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// Reads the next value, with its tag.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, first], rest) = self.0.split_first_chunk()?;
        // X.690, 8.1.3: up to 127 the octet itself is the length; above, its low bits count the octets of the length
        // that follow.
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (octets, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (octets.iter().fold(0, |length, octet| length << 8 | usize::from(*octet)), rest)
            }
            _ => return None,
        };
        let (value, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, value))
    }

    /// Enters the next value, which must have the tag `wanted`.
    fn inside(&mut self, wanted: u8) -> Option<Self> {
        self.next().filter(|(tag, _)| *tag == wanted).map(|(_, value)| Self(value))
    }
}

/// Reads a time in the forms of RFC 5280 §4.1.2.5: `YYMMDDHHMMSSZ` (`UTCTime`) or `YYYYMMDDHHMMSSZ`
/// (`GeneralizedTime`).
fn seconds(tag: u8, time: &[u8]) -> Option<u64> {
    const UTC_TIME: u8 = 0x17;
    const GENERALIZED_TIME: u8 = 0x18;
    let digits = str::from_utf8(time).ok()?.strip_suffix('Z')?;
    if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = digits.split_at_checked(2)?;
            let year: i64 = year.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = digits.split_at_checked(4)?;
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    let parts: Vec<i64> =
        rest.as_bytes().chunks(2).map(|two| str::from_utf8(two).ok()?.parse().ok()).collect::<Option<_>>()?;
    let [month @ 1..=12, day @ 1..=31, hour @ 0..=23, minute @ 0..=59, second @ 0..=60] = *parts.as_slice() else {
        return None;
    };
    if rest.len() != 10 {
        return None;
    }
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    Some(u64::try_from(seconds).unwrap_or_default())
}

/// Returns the days from 1 January 1970 to a date of the Gregorian calendar. A year is counted from March, so that the
/// leap day comes last.
const fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month > 2 { year } else { year - 1 };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(year: i32, month: u8, day: u8) -> rcgen::Certificate {
        let mut params = rcgen::CertificateParams::new(vec!["idp.example".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, month, day);
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap()
    }

    #[test]
    fn the_first_end_of_a_chain_counts() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), certificate(2031, 1, 2).pem() + &certificate(2030, 1, 2).pem()).unwrap();
        // 2030-01-02T00:00:00Z
        assert_eq!(chain_ends(file.path()).unwrap(), 1_893_542_400);
    }

    #[test]
    fn the_end_is_read_in_every_form_of_time() {
        // RFC 5280 §4.1.2.5: up to 2049 UTCTime, from 2050 GeneralizedTime; 9999-12-31 stands for no end.
        for (year, month, day) in
            [(1950, 1, 1), (1999, 12, 31), (2000, 2, 29), (2049, 12, 31), (2050, 1, 1), (2100, 3, 1), (9999, 12, 31)]
        {
            let wanted = rcgen::date_time_ymd(year, month, day).unix_timestamp();
            let read = not_after(certificate(year, month, day).der());
            assert_eq!(read, Some(u64::try_from(wanted).unwrap_or_default()), "{year}-{month}-{day}");
        }
        assert_eq!(seconds(0x17, b"380119031407Z"), Some(2_147_483_647));
        assert_eq!(seconds(0x18, b"20380119031408Z"), Some(2_147_483_648));
    }

    #[test]
    fn a_time_that_is_none_is_not_read() {
        for time in [
            &b"380119031407"[..],
            b"3801190314Z",
            b"38011903140Z",
            b"381319031407Z",
            b"380119241407Z",
            b"Z",
            b"",
            b"+80119031407Z",
        ] {
            assert_eq!(seconds(0x17, time), None, "{}", String::from_utf8_lossy(time));
        }
        assert_eq!(seconds(0x04, b"380119031407Z"), None);
    }

    #[test]
    fn no_part_of_a_certificate_is_taken_for_the_whole() {
        let whole = certificate(2030, 1, 2);
        let whole = whole.der();
        for length in 0..whole.len() {
            assert_eq!(not_after(&whole[..length]), None, "of {length} bytes");
        }
    }

    #[test]
    fn what_is_no_chain_is_said_so() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "nothing").unwrap();
        assert!(chain_ends(file.path()).unwrap_err().to_string().contains("there is no certificate"));
        std::fs::write(file.path(), "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n").unwrap();
        assert!(chain_ends(file.path()).unwrap_err().to_string().contains("its end cannot be read"));
        assert!(chain_ends(Path::new("/nowhere/at/all")).is_err());
    }
}
