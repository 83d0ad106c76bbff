//! The lookup of a token's holder and expiry.

use std::{collections::HashMap, sync::Arc};

use crate::{Denied, TokenHash, TokenHashSection, TokenKind};

/// The holders of one kind of tokens, found by the hashes of their tokens.
pub(crate) struct Tokens<T> {
    kind: TokenKind,
    by_hash: HashMap<[u8; 32], Known<T>>,
}

struct Known<T> {
    hash: TokenHash,
    until_millis: Option<u64>,
    holder: Arc<T>,
}

impl<T> Tokens<T> {
    /// Creates the lookup for the tokens of these holders.
    pub(crate) fn new<'a>(kind: TokenKind, all: impl Iterator<Item = (&'a Arc<T>, &'a [TokenHashSection])>) -> Self
    where
        T: 'a,
    {
        let mut by_hash = HashMap::new();
        for (holder, tokens) in all {
            for token in tokens {
                let until_millis = token.expires.map(|at| u64::try_from(at.as_millisecond()).unwrap_or_default());
                by_hash.insert(*token.hash.bytes(), Known { hash: token.hash, until_millis, holder: holder.clone() });
            }
        }
        Self { kind, by_hash }
    }

    /// Returns the holder of a token and the token's expiry, in milliseconds of the wall clock.
    ///
    /// # Errors
    /// [`Denied::Invalid`] for a token that is unknown, expired or of another kind, without telling which.
    pub(crate) fn holder(&self, token: &str, now_millis: u64) -> Result<(&Arc<T>, Option<u64>), Denied> {
        if !self.kind.fits(token) {
            return Err(Denied::Invalid);
        }
        let hash = TokenHash::of(token);
        // The lookup's timing reveals at most something about the hash of the caller's own token, never about a stored
        // one.
        let known = self.by_hash.get(hash.bytes()).filter(|known| known.hash == hash).ok_or(Denied::Invalid)?;
        if known.until_millis.is_some_and(|until| now_millis >= until) {
            return Err(Denied::Invalid);
        }
        Ok((&known.holder, known.until_millis))
    }
}
