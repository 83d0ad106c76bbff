//! What "same subject" means for order.

/// A keyed hash that names the subject of an event for the purpose of order (`P4`).
///
/// Two events with the same key reach a receiver in the order in which they were accepted.
/// It is computed once, at intake, and kept in the ledger; without the store's key it cannot be reversed by guessing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct OrderKey(u64);

impl OrderKey {
    /// The key of the text that names the subject ([`crate::Event::order_text`]), under the store's secret.
    #[must_use]
    pub fn of(secret: &[u8; 32], text: &str) -> Self {
        let hash = blake3::keyed_hash(secret, text.as_bytes());
        let mut first = [0u8; 8];
        first.iter_mut().zip(hash.as_bytes()).for_each(|(to, from)| *to = *from);
        Self(u64::from_be_bytes(first))
    }

    /// The key with this value; for reading it back.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Returns the value, for writing it down.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }
}
