//! Certificates of the listeners: they are read again when their files change, and reported before they expire.

use std::{
    path::{Path, PathBuf},
    sync::atomic::AtomicU64,
    time::{Duration, SystemTime},
};

use prometheus_client::{metrics::family::Family, metrics::gauge::Gauge, registry::Registry};
use setgate_clock::Runtime;
use setgate_net::ServerCertificate;

/// The interval at which the files are checked.
const EVERY: Duration = Duration::from_secs(30);
/// The days before its expiry from which a certificate is reported (hardening H49).
pub(crate) const DAYS_AHEAD: u64 = 30;
const DAY: u64 = 86_400;

/// The expiry times of the certificates, for alerts.
#[derive(Clone, Default)]
pub(crate) struct Observed(Family<[(&'static str, &'static str); 1], Gauge<u64, AtomicU64>>);

impl Observed {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let observed = Self::default();
        let help = "When the first certificate of a listener's chain ends, in seconds since 1970, by listener";
        registry.register("certificate_expiry_timestamp_seconds", help, observed.0.clone());
        observed
    }
}

/// A certificate with its files.
pub(crate) struct Watched {
    listener_name: &'static str,
    certificate: ServerCertificate,
    chain: PathBuf,
    key: PathBuf,
    seen: Seen,
}

type Seen = [Option<(SystemTime, u64)>; 2];

/// The result of checking the files.
#[derive(Debug, PartialEq, Eq)]
enum Looked {
    Same,
    Fresh,
    /// The files have changed and cannot be used; the certificate in force stays.
    Unfit(String),
}

impl Watched {
    pub(crate) fn new(
        listener_name: &'static str,
        certificate: ServerCertificate,
        chain: PathBuf,
        key: PathBuf,
    ) -> Self {
        let seen = [stamp(&chain), stamp(&key)];
        Self { listener_name, certificate, chain, key, seen }
    }

    fn look(&mut self) -> Looked {
        let now = [stamp(&self.chain), stamp(&self.key)];
        if now == self.seen {
            return Looked::Same;
        }
        match self.certificate.reload() {
            Ok(()) => {
                self.seen = now;
                Looked::Fresh
            }
            // Chain and key may be replaced one after the other: the next check tries again.
            Err(error) => Looked::Unfit(error.to_string()),
        }
    }

    /// Checks the files until the process ends.
    pub(crate) async fn run(mut self, runtime: Runtime, observed: Observed) {
        let mut warned_on = None;
        loop {
            match self.look() {
                Looked::Same => {}
                Looked::Fresh => tracing::info!(listener = self.listener_name, "the certificate was read again"),
                Looked::Unfit(why) => {
                    tracing::warn!(listener = self.listener_name, %why, "the certificate's files changed and cannot be used: the old one stays");
                }
            }
            if let Ok(end) = setgate_net::chain_ends(&self.chain) {
                observed.0.get_or_create(&[("listener", self.listener_name)]).set(end);
                let now = runtime.clock.wall_millis() / 1000;
                let days = days_left(end, now);
                if days < DAYS_AHEAD && warned_on.replace(now / DAY) != Some(now / DAY) {
                    tracing::warn!(
                        listener = self.listener_name,
                        days,
                        "the certificate ends soon: replace its files, which are then read again"
                    );
                }
            }
            runtime.clock.sleep(EVERY).await;
        }
    }
}

/// Returns the whole days until the end; 0 once it is over.
pub(crate) fn days_left(end: u64, now: u64) -> u64 {
    end.saturating_sub(now) / DAY
}

fn stamp(file: &Path) -> Option<(SystemTime, u64)> {
    let about = std::fs::metadata(file).ok()?;
    Some((about.modified().ok()?, about.len()))
}

/// Starts to watch the certificate of a listener, if it has one.
pub(crate) fn watch(
    listener_name: &'static str,
    listener: &setgate_net::Listener,
    files: &crate::config::TlsFiles,
    runtime: &Runtime,
    observed: &Observed,
) {
    if let (Some(certificate), Some(chain), Some(key)) = (listener.certificate(), &files.certificate, &files.key) {
        let watched = Watched::new(listener_name, certificate.clone(), chain.clone(), key.clone());
        runtime.spawn("certificate", watched.run(runtime.clone(), observed.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let key = rcgen::KeyPair::generate().unwrap();
        let chain = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
        let (at, key_at) = (folder.join("chain.pem"), folder.join("key.pem"));
        std::fs::write(&at, chain.pem()).unwrap();
        std::fs::write(&key_at, key.serialize_pem()).unwrap();
        (at, key_at)
    }

    #[test]
    fn changed_files_are_read_again_and_unfit_ones_change_nothing() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let (chain, key) = write(folder.path(), "one.example");
        let certificate = ServerCertificate::from_files(chain.clone(), key.clone()).unwrap();
        let mut watched = Watched::new("public", certificate, chain.clone(), key);
        assert_eq!(watched.look(), Looked::Same);
        write(folder.path(), "a-longer-name.example");
        assert_eq!(watched.look(), Looked::Fresh);
        assert_eq!(watched.look(), Looked::Same);
        std::fs::write(&chain, "half of a file").unwrap();
        assert!(matches!(watched.look(), Looked::Unfit(_)));
        assert!(matches!(watched.look(), Looked::Unfit(_)), "it is tried again");
        write(folder.path(), "one.example");
        assert_eq!(watched.look(), Looked::Fresh);
    }

    #[test]
    fn days_are_counted_to_the_end_and_not_beyond() {
        assert_eq!(days_left(31 * DAY + 5, DAY), 30);
        assert_eq!(days_left(DAY, 2 * DAY), 0);
    }
}
