//! Private keys in PEM (RFC 7468).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use crate::JoseError;

/// The most bytes of a PEM text.
const LONGEST: usize = 64 * 1024;

/// The encoding of a private key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// `PRIVATE KEY` (RFC 5208).
    Pkcs8,
    /// `RSA PRIVATE KEY` (RFC 8017 appendix A.1.2).
    Pkcs1,
    /// `EC PRIVATE KEY` (RFC 5915).
    Sec1,
}

/// Finds the only private key in `text`; blocks of other kinds (certificates, `EC PARAMETERS`, public keys) are
/// skipped.
pub(crate) fn private_key(text: &str) -> Result<(Layout, Zeroizing<Vec<u8>>), JoseError> {
    if text.len() > LONGEST {
        return Err(JoseError::Pem("longer than 64 KiB"));
    }
    let mut found = None;
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("-----BEGIN ") {
        let (label, after) = after.split_once("-----").ok_or(JoseError::Pem("a BEGIN line does not end"))?;
        let end = Zeroizing::new(format!("-----END {label}-----"));
        let (body, after) = after.split_once(end.as_str()).ok_or(JoseError::Pem("a block does not end"))?;
        rest = after;
        let layout = match label {
            "PRIVATE KEY" => Layout::Pkcs8,
            "RSA PRIVATE KEY" => Layout::Pkcs1,
            "EC PRIVATE KEY" => Layout::Sec1,
            "ENCRYPTED PRIVATE KEY" => return Err(JoseError::Pem("it is encrypted: decrypt it first (openssl pkey)")),
            "OPENSSH PRIVATE KEY" => return Err(JoseError::Pem("it is in OpenSSH's own format: convert it to PKCS#8")),
            _ => continue,
        };
        if body.contains("Proc-Type:") {
            return Err(JoseError::Pem("it is encrypted: decrypt it first (openssl pkey)"));
        }
        let mut packed = Zeroizing::new(Vec::with_capacity(body.len()));
        packed.extend(body.bytes().filter(|byte| !byte.is_ascii_whitespace()));
        let mut der = Zeroizing::new(vec![0; packed.len()]);
        let length = STANDARD
            .decode_slice(packed.as_slice(), der.as_mut_slice())
            .map_err(|_| JoseError::Pem("the body is not base64"))?;
        der.truncate(length);
        if found.replace((layout, der)).is_some() {
            return Err(JoseError::Pem("it holds several private keys"));
        }
    }
    found.ok_or(JoseError::Pem("it holds no private key"))
}

/// Encodes `der` in PEM.
#[cfg(test)]
pub(crate) fn write(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let lines: Vec<_> = body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_private_key_among_other_blocks() {
        let text = format!("{}{}", write("EC PARAMETERS", b"named"), write("EC PRIVATE KEY", b"secret"));
        assert_eq!(
            private_key(&text).map(|(layout, der)| (layout, der.to_vec())),
            Ok((Layout::Sec1, b"secret".to_vec()))
        );
    }

    #[test]
    fn refuses_what_is_not_one_clear_private_key() {
        let one = write("PRIVATE KEY", b"secret");
        let encrypted =
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END RSA PRIVATE KEY-----";
        for text in [
            "",
            "AAAA",
            "-----BEGIN PRIVATE KEY",
            "-----BEGIN PRIVATE KEY-----\nAAAA",
            "-----BEGIN PRIVATE KEY-----\n*\n-----END PRIVATE KEY-----",
            &write("CERTIFICATE", b"public"),
            &write("ENCRYPTED PRIVATE KEY", b"secret"),
            &write("OPENSSH PRIVATE KEY", b"secret"),
            encrypted,
            &format!("{one}{one}"),
            &format!("{one}{}", " ".repeat(LONGEST)),
        ] {
            assert!(
                matches!(private_key(text), Err(JoseError::Pem(_))),
                "{}",
                text.chars().take(80).collect::<String>()
            );
        }
    }
}
