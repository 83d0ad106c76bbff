//! The key that decides which events are kept in order.

/// A keyed hash that names the subject of an event for the purpose of order (`P4`).
///
/// Two events with the same key reach a receiver in the order in which they were accepted. The key is computed once, at
/// intake, and stored in the ledger; without the store's secret it cannot be reversed by guessing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct OrderKey(u64);

impl OrderKey {
    /// Returns the key of the text that names the subject ([`crate::Event::order_text`]), under the store's secret.
    #[must_use]
    pub fn of(secret: &[u8; 32], text: &str) -> Self {
        let hash = blake3::keyed_hash(secret, text.as_bytes());
        let mut first = [0u8; 8];
        first.iter_mut().zip(hash.as_bytes()).for_each(|(to, from)| *to = *from);
        Self(u64::from_be_bytes(first))
    }

    /// Creates a key from its stored value.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Returns the value for storage.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }
}
