//! The cache of sealed tokens of SETs that failed.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use parking_lot::Mutex;
use setgate_set::Jti;

use crate::number::KeyGeneration;

/// Sealed tokens of SETs that failed, so that a repeat is not signed again. The cache is bounded in bytes; after a miss
/// the same payload is signed again.
#[derive(Default)]
pub(crate) struct SealCache(Mutex<CachedTokens>);

#[derive(Default)]
struct CachedTokens {
    tokens: HashMap<Jti, (KeyGeneration, Bytes)>,
    oldest: VecDeque<Jti>,
    bytes: usize,
}

impl SealCache {
    const MOST: usize = 64 << 20;

    /// Keeps a token that was sealed while the keyring had this generation.
    pub(crate) fn keep(&self, jti: Jti, generation: KeyGeneration, token: Bytes) {
        let mut kept = self.0.lock();
        kept.bytes += token.len();
        match kept.tokens.insert(jti, (generation, token)) {
            Some((_, before)) => kept.bytes -= before.len(),
            None => kept.oldest.push_back(jti),
        }
        while kept.bytes > Self::MOST {
            let Some(oldest) = kept.oldest.pop_front() else { break };
            if let Some((_, token)) = kept.tokens.remove(&oldest) {
                kept.bytes -= token.len();
            }
        }
    }

    /// Returns the token, unless a key has come or gone since: a revoked key must not live on here.
    pub(crate) fn find(&self, jti: &Jti, generation: KeyGeneration) -> Option<Bytes> {
        let kept = self.0.lock();
        kept.tokens.get(jti).filter(|(then, _)| *then == generation).map(|(_, token)| token.clone())
    }
}
