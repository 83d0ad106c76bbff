//! The URL of an issuer, and the paths and URLs derived from it.

use std::{fmt, sync::Arc};

use url::{Host, Url};

/// The URL of an issuer, byte for byte as it was written: it is compared with `iss` and `issuer` exactly (SSF 1.0
/// §7.2.4).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IssuerUrl {
    text: Arc<str>,
    /// The path without its final slash: empty, or `/` and unreserved characters.
    path: Arc<str>,
    origin: Arc<str>,
}

/// The reason why a text cannot be an issuer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` cannot be an issuer: {why}")]
pub struct IssuerUrlError {
    /// The first 80 characters of the text, without control characters.
    pub text: String,
    /// The reason, with the remedy.
    pub why: &'static str,
}

/// The most bytes of a URL.
const LONGEST: usize = 512;

impl IssuerUrl {
    /// Parses the URL of an issuer: `https`, or `http` for a caller that allows it ([`IssuerUrl::is_https`]).
    ///
    /// It has no query and no fragment (SSF 1.0 §7.1), is written in its normal form, and its path has unreserved
    /// characters only, so that no proxy can mistake one issuer for another (hardening H52).
    ///
    /// # Errors
    /// [`IssuerUrlError`], which says what to change.
    pub fn parse(text: &str) -> Result<Self, IssuerUrlError> {
        let wrong = |why| IssuerUrlError { text: text.chars().filter(|c| !c.is_control()).take(80).collect(), why };
        if text.len() > LONGEST {
            return Err(wrong("it is longer than 512 bytes"));
        }
        let url = Url::parse(text).map_err(|_| wrong("it is no URL"))?;
        if !matches!(url.scheme(), "https" | "http") {
            return Err(wrong("its scheme must be https"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("it must not hold a user name"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("it must have neither query nor fragment"));
        }
        // The parser has changed a URL that was not in normal form: upper case, default ports, dot segments, escapes.
        if url.as_str() != text && url.as_str().strip_suffix('/') != Some(text) {
            return Err(wrong("write it in its normal form: lower-case host, no default port, no dot segments"));
        }
        let path = url.path().strip_suffix('/').unwrap_or(url.path());
        if !is_plain_path(url.path()) || !path.bytes().all(|byte| byte == b'/' || is_unreserved(byte)) {
            return Err(wrong("its path must consist of non-empty segments of A-Z a-z 0-9 - . _ ~"));
        }
        if path == "/.well-known" || path.starts_with("/.well-known/") {
            return Err(wrong("its path must not lie below /.well-known"));
        }
        let origin = url.origin().ascii_serialization();
        Ok(Self { text: text.into(), path: path.into(), origin: origin.into() })
    }

    /// Returns the URL as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the path without a final slash; empty for an issuer at the root.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns scheme, host and port.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Returns whether the URL is `https`, as SSF 1.0 §7.1 demands. `http` is for one machine.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.text.starts_with("https:")
    }

    /// Returns whether the host is a loopback address, or `localhost`.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        Url::parse(&self.text).is_ok_and(|url| match url.host() {
            Some(Host::Ipv4(ip)) => ip.is_loopback(),
            Some(Host::Ipv6(ip)) => ip.is_loopback(),
            Some(Host::Domain(name)) => name == "localhost",
            None => false,
        })
    }

    /// Returns the path of the metadata: the well-known path, followed by the issuer's path (SSF 1.0 §7.2.1).
    #[must_use]
    pub fn metadata_path(&self) -> String {
        format!("{WELL_KNOWN}{}", self.path)
    }

    /// Returns the URL of the metadata.
    #[must_use]
    pub fn metadata_url(&self) -> String {
        format!("{}{}", self.origin, self.metadata_path())
    }

    /// Returns the path of the key set: `jwks.json` below the issuer.
    #[must_use]
    pub fn jwks_path(&self) -> String {
        format!("{}/jwks.json", self.path)
    }

    /// Returns the URL of the key set.
    #[must_use]
    pub fn jwks_url(&self) -> String {
        format!("{}{}", self.origin, self.jwks_path())
    }
}

/// The path that metadata is served at, before the issuer's path.
pub(crate) const WELL_KNOWN: &str = "/.well-known/ssf-configuration";

impl fmt::Display for IssuerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for IssuerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IssuerUrl({})", self.text)
    }
}

/// Returns whether every proxy and server reads this request path the same way (hardening H52).
///
/// Such a path has no escaped separators or dots, no dot segments, no empty segments but a last one, and no backslash.
/// A request for any other path deserves 400.
#[must_use]
pub fn is_plain_path(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else { return false };
    let lower = path.to_ascii_lowercase();
    let escaped = ["%2f", "%5c", "%2e", "%25", "%00"].iter().any(|escape| lower.contains(escape));
    let odd = path.bytes().any(|byte| byte == b'\\' || byte.is_ascii_control());
    let mut segments = rest.split('/').rev();
    let last = segments.next().unwrap_or_default();
    let dots = |segment: &str| matches!(segment, "." | "..");
    !escaped && !odd && !dots(last) && segments.all(|segment| !segment.is_empty() && !dots(segment))
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_stands_between_host_and_path() {
        // SSF 1.0, 7.2.1: the final slash is removed before.
        let cases = [
            ("https://tr.example.com", "https://tr.example.com/.well-known/ssf-configuration"),
            ("https://tr.example.com/", "https://tr.example.com/.well-known/ssf-configuration"),
            ("https://tr.example.com/issuer1", "https://tr.example.com/.well-known/ssf-configuration/issuer1"),
            ("https://tr.example.com/issuer1/", "https://tr.example.com/.well-known/ssf-configuration/issuer1"),
            ("https://tr.example.com:8443/a/b", "https://tr.example.com:8443/.well-known/ssf-configuration/a/b"),
            ("http://127.0.0.1:8080/x", "http://127.0.0.1:8080/.well-known/ssf-configuration/x"),
        ];
        for (issuer, metadata) in cases {
            let issuer = IssuerUrl::parse(issuer).unwrap();
            assert_eq!(issuer.metadata_url(), metadata);
        }
        assert_eq!(IssuerUrl::parse("https://h.example/a/").unwrap().jwks_url(), "https://h.example/a/jwks.json");
        assert_eq!(IssuerUrl::parse("https://h.example").unwrap().jwks_url(), "https://h.example/jwks.json");
    }

    #[test]
    fn keeps_the_text_byte_for_byte() {
        for text in ["https://tr.example.com", "https://tr.example.com/", "https://tr.example.com/a/"] {
            assert_eq!(IssuerUrl::parse(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn refuses_what_two_servers_may_read_differently() {
        for text in [
            "",
            "tr.example.com",
            "ftp://tr.example.com",
            "https://",
            "https://user@tr.example.com",
            "https://:pw@tr.example.com",
            "https://tr.example.com?x",
            "https://tr.example.com/a?",
            "https://tr.example.com/#x",
            "https://TR.example.com",
            "HTTPS://tr.example.com",
            "https://tr.example.com:443",
            "https://tr.example.com/a/../b",
            "https://tr.example.com/a/./b",
            "https://tr.example.com/a%2Fb",
            "https://tr.example.com/a%2e",
            "https://tr.example.com//a",
            "https://tr.example.com/a//b",
            "https://tr.example.com/a//",
            "https://tr.example.com/a b",
            "https://tr.example.com/ä",
            "https://tr.example.com/{a}",
            "https://tr.example.com/.well-known/ssf-configuration",
            "https://tr.example.com/a;b",
            "https://tr.example.com\\a",
            " https://tr.example.com",
            &format!("https://tr.example.com/{}", "a".repeat(600)),
        ] {
            assert!(IssuerUrl::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn knows_loopback_from_the_rest() {
        for (text, loopback) in [
            ("http://127.0.0.1:1", true),
            ("http://[::1]:1", true),
            ("http://localhost:1", true),
            ("https://localhost.example.com", false),
            ("http://10.0.0.1", false),
        ] {
            assert_eq!(IssuerUrl::parse(text).unwrap().is_loopback(), loopback, "{text}");
        }
    }

    #[test]
    fn plain_paths_mean_the_same_to_everybody() {
        for path in ["/", "/a", "/a/", "/a.b/c~d", "/a/b%20c", "/.well-known/x"] {
            assert!(is_plain_path(path), "{path}");
        }
        for path in [
            "",
            "a",
            "//",
            "//a",
            "/a//b",
            "/a/../b",
            "/a/..",
            "/./a",
            "/a/.",
            "/a%2fb",
            "/a%2Fb",
            "/a%5Cb",
            "/a\\b",
            "/%2e%2e/a",
            "/%252f",
            "/a%00",
        ] {
            assert!(!is_plain_path(path), "{path}");
        }
    }
}
