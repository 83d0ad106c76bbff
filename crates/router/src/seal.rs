//! Sealing: makes a signed token for one stream from a record's body, as late as the hand-over.
//!
//! Fast keys sign where SETs are fetched. RSA signs on a pool sized to the cores: one batch of a consumer is at most
//! [`BUDGET`] of work and a consumer has one batch in the pool, so streams share it in turn.

mod cache;

pub(crate) use cache::SealCache;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use setgate_delivery::Form;
use setgate_jose::{Algorithm, JoseError, Keyring, Signer};
use setgate_set::{Jti, Timestamp};
use tokio::sync::oneshot;

/// The most work of one batch, which is what a consumer may put into the pool at once.
pub(crate) const BUDGET: Duration = Duration::from_millis(4);

/// The parts that all SETs of a stream share, made once for each change of its configuration.
#[derive(Debug)]
pub(crate) struct Seal {
    pub(crate) iss_json: String,
    pub(crate) aud_json: String,
    pub(crate) algorithm: Algorithm,
    pub(crate) form: Form,
    pub(crate) keyring: Arc<Keyring>,
}

/// One SET to seal.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) jti: Jti,
    pub(crate) iat: Timestamp,
    pub(crate) body: Bytes,
}

/// The reason why nothing can be sealed.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum SealError {
    #[error("the issuer has no current {0} key: add one with `setgate keys rotate`, or change the stream's algorithm")]
    NoKey(Algorithm),
    #[error("signing failed: {0}")]
    Sign(#[from] JoseError),
    #[error("signing failed: the sealing pool has ended")]
    PoolEnded,
}

/// Returns the approximate time of one signature, by which batches are weighed.
pub(crate) fn cost(algorithm: Algorithm, form: Form) -> Duration {
    match (form, algorithm) {
        (Form::Claims, _) => Duration::from_micros(1),
        (_, Algorithm::Rs256 | Algorithm::Ps256) => Duration::from_micros(280),
        (_, Algorithm::Es256) => Duration::from_micros(20),
        (_, Algorithm::EdDSA) => Duration::from_micros(14),
    }
}

impl Seal {
    /// Returns the number of SETs of this stream that fit into [`BUDGET`], between 8 and 256.
    pub(crate) fn quantum(&self) -> usize {
        let cost = cost(self.algorithm, self.form).as_nanos().max(1);
        usize::try_from(BUDGET.as_nanos() / cost).unwrap_or(usize::MAX).clamp(8, 256)
    }

    /// Returns whether the pool seals, not the caller.
    pub(crate) fn is_slow(&self, pool: &Pool) -> bool {
        pool.threads > 0 && cost(self.algorithm, self.form) >= Duration::from_micros(100)
    }

    fn signer(&self) -> Result<Option<Arc<Signer>>, SealError> {
        match self.form {
            Form::Claims => Ok(None),
            Form::Token => self.keyring.signer(self.algorithm).map(Some).ok_or(SealError::NoKey(self.algorithm)),
        }
    }

    fn one(&self, signer: Option<&Signer>, job: &Job) -> Result<Bytes, SealError> {
        let payload = setgate_set::payload(&self.iss_json, &job.jti, job.iat, &self.aud_json, &job.body);
        match signer {
            None => Ok(payload.into()),
            Some(signer) => Ok(signer.sign(&payload)?.into()),
        }
    }

    fn all(&self, signer: Option<&Signer>, jobs: &[Job]) -> Result<Vec<Bytes>, SealError> {
        jobs.iter().map(|job| self.one(signer, job)).collect()
    }

    /// Seals a batch: on this thread where the key is fast, otherwise on the pool, spread over its threads.
    pub(crate) async fn batch(self: &Arc<Self>, pool: &Pool, jobs: Vec<Job>) -> Result<Vec<Bytes>, SealError> {
        let signer = self.signer()?;
        if !self.is_slow(pool) {
            return self.all(signer.as_deref(), &jobs);
        }
        let share = jobs.len().div_ceil(pool.threads).max(1);
        let mut jobs = jobs.into_iter();
        let mut parts = Vec::with_capacity(pool.threads);
        loop {
            let part: Vec<Job> = jobs.by_ref().take(share).collect();
            if part.is_empty() {
                break;
            }
            let (done, answer) = oneshot::channel();
            let (seal, signer) = (self.clone(), signer.clone());
            pool.put(Box::new(move || {
                // The answer has no receiver any more when the consumer was dropped.
                let _ = done.send(seal.all(signer.as_deref(), &part));
            }));
            parts.push(answer);
        }
        let mut sealed = Vec::new();
        for part in parts {
            sealed.extend(part.await.map_err(|_| SealError::PoolEnded)??);
        }
        Ok(sealed)
    }
}

type Work = Box<dyn FnOnce() + Send>;

/// The threads that sign with RSA.
#[derive(Debug)]
pub(crate) struct Pool {
    shared: Arc<Queue>,
    threads: usize,
}

#[derive(Default)]
struct Queue {
    work: Mutex<(VecDeque<Work>, bool)>,
    came: Condvar,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} jobs", self.work.lock().0.len())
    }
}

impl Pool {
    /// Makes a pool of this many threads; without any, the caller signs.
    pub(crate) fn new(threads: usize) -> Self {
        let shared = Arc::<Queue>::default();
        let started = (0..threads)
            .filter(|at| {
                let queue = shared.clone();
                std::thread::Builder::new().name(format!("setgate-seal-{at}")).spawn(move || queue.work()).is_ok()
            })
            .count();
        Self { shared, threads: started }
    }

    fn put(&self, work: Work) {
        self.shared.work.lock().0.push_back(work);
        self.shared.came.notify_one();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.work.lock().1 = true;
        self.shared.came.notify_all();
    }
}

impl Queue {
    fn work(&self) {
        let mut state = self.work.lock();
        loop {
            if let Some(work) = state.0.pop_front() {
                parking_lot::MutexGuard::unlocked(&mut state, work);
            } else if state.1 {
                return;
            } else {
                self.came.wait(&mut state);
            }
        }
    }
}
