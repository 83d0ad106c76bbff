//! What the histories of one thread share.

use std::sync::Arc;

use setgate_jose::{Algorithm, Kek, Keyring, Moment, Ring, Rotation, RsaBits};

use crate::declared::ISSUERS;

/// Keys, threads and a folder.
pub(crate) struct Kit {
    pub(crate) keyrings: Vec<Arc<Keyring>>,
    pub(crate) kek: Arc<Kek>,
    /// The threads on which the store reads.
    pub(crate) blocking: tokio::runtime::Runtime,
    pub(crate) folder: std::path::PathBuf,
    pub(crate) old_way: bool,
}

impl Kit {
    /// Makes keys, and finds a folder for the stores, in memory where there is such a file system. The stores give up
    /// segments as in older versions where `old_way`.
    ///
    /// # Errors
    /// Returns the error as a text for people.
    pub(crate) fn new(old_way: bool) -> Result<Self, String> {
        let now = Moment::default();
        let ring = || Ring::new(now).generate(Algorithm::EdDSA, RsaBits::default(), now, &Rotation::default(), false);
        let keyring = |_: &&str| ring().map(|ring| Arc::new(Keyring::new(ring))).map_err(|error| error.to_string());
        let keyrings = ISSUERS.iter().map(keyring).collect::<Result<_, _>>()?;
        let kek = Arc::new(Kek::generate().map_err(|error| error.to_string())?);
        let blocking = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(2)
            .build()
            .map_err(|error| error.to_string())?;
        let memory = std::path::Path::new("/dev/shm");
        let folder = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        Ok(Self { keyrings, kek, blocking, folder, old_way })
    }
}
