//! Trust and identity of outgoing connections, and the key that keeps their pools apart.

use std::{
    fmt,
    hash::{Hash, Hasher},
    path::Path,
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    client::ResolvesClientCert,
    crypto::{CryptoProvider, aws_lc_rs},
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use setgate_telemetry::chain;

use crate::{GuardPolicy, NetError, OutboundConfig};

/// The key of a connection pool (hardening H20): two requests share a connection only if all of it is equal.
///
/// Scheme, host and port are the rest of the key; HTTP/2 connections are never used for another host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TlsPolicy {
    /// The issuer on whose behalf the request is sent.
    pub issuer: Arc<str>,
    /// The client certificate to present.
    pub identity: Option<ClientIdentity>,
    /// Certificate authorities beside the system's and those of `[net]`.
    pub extra_roots: Option<Roots>,
    /// The targets that the guard allows beyond those of `[net]`.
    pub guard: GuardPolicy,
}

/// A client certificate with its key.
#[derive(Clone)]
pub struct ClientIdentity(Arc<CertifiedKey>);

impl ClientIdentity {
    /// Reads a certificate chain and its key.
    ///
    /// # Errors
    /// [`NetError::Tls`] when either is not PEM or the key does not belong to the certificate.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, NetError> {
        certified_key("client certificate", chain, key).map(|key| Self(Arc::new(key)))
    }
}

// The key belongs to the leaf certificate, so equal chains are equal identities.
impl PartialEq for ClientIdentity {
    fn eq(&self, other: &Self) -> bool {
        self.0.cert == other.0.cert
    }
}

impl Eq for ClientIdentity {}

impl Hash for ClientIdentity {
    fn hash<H: Hasher>(&self, to: &mut H) {
        self.0.cert.iter().for_each(|certificate| certificate.as_ref().hash(to));
    }
}

impl fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientIdentity(..)")
    }
}

/// A set of certificate authorities.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Roots(Arc<[CertificateDer<'static>]>);

impl Roots {
    /// Reads one or more certificates.
    ///
    /// # Errors
    /// [`NetError::Tls`] when the text is not PEM, holds no certificate, or holds one that cannot be an authority.
    pub fn from_pem(pem: &[u8]) -> Result<Self, NetError> {
        let roots = certificates("certificate authorities", pem)?;
        let mut store = RootCertStore::empty();
        for root in &roots {
            store.add(root.clone()).map_err(|error| NetError::tls("certificate authorities", error))?;
        }
        Ok(Self(roots.into()))
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Roots({})", self.0.len())
    }
}

/// Reads the authorities that all requests trust: the system's and those of `[net]`.
pub(crate) fn base_roots(config: &OutboundConfig) -> Result<RootCertStore, NetError> {
    let mut store = RootCertStore::empty();
    if config.system_roots {
        let found = rustls_native_certs::load_native_certs();
        if let Some(error) = found.errors.first() {
            tracing::warn!(error = chain(error), "some of the system's certificate authorities cannot be read");
        }
        let (taken, _) = store.add_parsable_certificates(found.certs);
        if taken == 0 && config.ca_files.is_empty() {
            tracing::warn!("no certificate authority is trusted: `https` works only with `ca_files`");
        }
    }
    for path in &config.ca_files {
        for root in certificates(&format!("`ca_files`: {}", path.display()), &read(path)?)? {
            store.add(root).map_err(|error| NetError::tls(path.display().to_string(), error))?;
        }
    }
    Ok(store)
}

/// Creates the TLS configuration of a pool: TLS 1.2 and 1.3, HTTP/2 by ALPN (RFC 8935 §3; BCP 195).
pub(crate) fn client_config(base: &RootCertStore, policy: &TlsPolicy) -> Result<ClientConfig, NetError> {
    let mut roots = base.clone();
    if let Some(extra) = &policy.extra_roots {
        roots.add_parsable_certificates(extra.0.iter().cloned());
    }
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| NetError::tls("TLS", error))?
        .with_root_certificates(roots);
    let mut config = match &policy.identity {
        Some(identity) => {
            let resolver: Arc<dyn ResolvesClientCert> = Arc::new(SingleCertAndKey::from(identity.0.clone()));
            builder.with_client_cert_resolver(resolver)
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    CryptoProvider::get_default().cloned().unwrap_or_else(|| Arc::new(aws_lc_rs::default_provider()))
}

pub(crate) fn certified_key(what: &str, chain: &[u8], key: &[u8]) -> Result<CertifiedKey, NetError> {
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| NetError::tls(format!("key of the {what}"), error))?;
    CertifiedKey::from_der(certificates(what, chain)?, key, &provider()).map_err(|error| NetError::tls(what, error))
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, NetError> {
    std::fs::read(path).map_err(|error| NetError::tls(path.display().to_string(), error))
}

pub(crate) fn certificates(what: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, NetError> {
    let all: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| NetError::tls(what, error))?;
    if all.is_empty() {
        return Err(NetError::tls(what, "there is no certificate in it"));
    }
    Ok(all)
}
