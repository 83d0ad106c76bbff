//! The first fetch of issuers' metadata and keys, repeated while their transmitters are not up.

use std::time::Duration;

use setgate_clock::{Backoff, Jitter, Runtime};
use setgate_discovery::IssuerUrl;

use crate::{ListenIngest, Report, Trust, TrustError};

/// The pauses between two attempts for an issuer.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(10));
/// The number of failed attempts after which the waiting is reported again.
const REPORT_EVERY: u32 = 10;

/// Fetches the metadata and keys of all issuers concurrently, and repeats what fails for the moment.
///
/// # Errors
/// [`TrustError`] when an issuer's metadata is not acceptable, so that waiting does not help.
pub(crate) async fn learn_all(
    issuers: &[IssuerUrl],
    trust: &Trust,
    ingest: &ListenIngest,
    runtime: &Runtime,
) -> Result<(), TrustError> {
    futures_util::future::try_join_all(issuers.iter().map(|issuer| learn(issuer, trust, ingest, runtime))).await?;
    Ok(())
}

async fn learn(issuer: &IssuerUrl, trust: &Trust, ingest: &ListenIngest, runtime: &Runtime) -> Result<(), TrustError> {
    let mut attempts = 0;
    loop {
        match trust.learn(issuer).await {
            Ok(_) => {
                ingest.tell(&Report::Learned { issuer: issuer.clone() });
                return Ok(());
            }
            Err(error) if error.is_transient() => {
                if attempts % REPORT_EVERY == 0 {
                    ingest.tell(&Report::Waiting { issuer: issuer.clone(), why: error.error.to_string() });
                }
            }
            Err(error) => return Err(error),
        }
        attempts += 1;
        runtime.clock.sleep(PAUSES.wait(attempts, Jitter::None)).await;
    }
}
