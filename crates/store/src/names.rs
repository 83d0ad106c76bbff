//! The secrets that name and hash the items of a store: `jti`, order keys, idempotency keys.

use aes::{
    Aes128,
    cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit},
};
use setgate_set::{Jti, OrderKey};

use crate::{Boot, IssuerNo, Position, ProducerNo, StreamNo};

/// The names and keyed hashes of one store.
///
/// A `jti` is one block under a store-wide key: position (56 bits), stream number (32), boot nonce (40). It is opaque,
/// bijective and needs no index: an acknowledgement is resolved to (position, stream) after a restart and on any node.
pub struct Names {
    version: u8,
    jti: Aes128,
    order: [u8; 32],
    once: [u8; 32],
}

/// The delivery that a `jti` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// The record.
    pub at: Position,
    /// The stream.
    pub stream: StreamNo,
    /// The opening that accepted the record. It must equal the head's, else the `jti` is unknown.
    pub boot: Boot,
}

impl Names {
    /// The length of the secret in bytes.
    pub const SECRET: usize = 32;

    /// Creates the names of the store that has this secret. `version` is the first character of each `jti`.
    #[must_use]
    pub fn new(version: u8, secret: &[u8; Self::SECRET]) -> Self {
        let derive = |what: &str| blake3::derive_key(what, secret);
        let jti = derive("setgate store jti v1");
        let mut key = [0u8; 16];
        key.iter_mut().zip(jti).for_each(|(to, from)| *to = from);
        Self {
            version,
            jti: Aes128::new(&key.into()),
            order: derive("setgate store order key v1"),
            once: derive("setgate store idempotency v1"),
        }
    }

    /// Returns the `jti` of a record for a stream.
    #[must_use]
    pub fn jti(&self, at: Position, stream: StreamNo, boot: Boot) -> Jti {
        let position = (u64::from(at.part) << 48) | (at.seq & 0xffff_ffff_ffff);
        let plain = (u128::from(position) << 72) | (u128::from(stream.0) << 40) | u128::from(boot.0 & 0xff_ffff_ffff);
        let mut block = plain.to_be_bytes().into();
        self.jti.encrypt_block(&mut block);
        Jti::from_block(self.version, block.into())
    }

    /// Returns the delivery that a `jti` names, or `None` where it was made under another key version.
    ///
    /// The caller compares the boot with the head's.
    #[must_use]
    pub fn read(&self, jti: &Jti) -> Option<Named> {
        let (version, block) = jti.block();
        if version != self.version {
            return None;
        }
        let mut block = block.into();
        self.jti.decrypt_block(&mut block);
        let plain = u128::from_be_bytes(block.into());
        let position = u64::try_from(plain >> 72).ok()?;
        Some(Named {
            at: Position { part: u8::try_from(position >> 48).ok()?, seq: position & 0xffff_ffff_ffff },
            stream: StreamNo(u32::try_from((plain >> 40) & 0xffff_ffff).ok()?),
            boot: Boot(u64::try_from(plain & 0xff_ffff_ffff).ok()?),
        })
    }

    /// Returns the order key of a text ([`setgate_set::Event::order_text`]).
    #[must_use]
    pub fn order(&self, text: &str) -> OrderKey {
        OrderKey::of(&self.order, text)
    }

    /// Returns the idempotency key of issuer, producer and `id`.
    #[must_use]
    pub fn once(&self, issuer: IssuerNo, producer: ProducerNo, id: &str) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_keyed(&self.once);
        hasher.update(&issuer.0.to_be_bytes()).update(&producer.0.to_be_bytes()).update(id.as_bytes());
        let mut key = [0u8; 16];
        hasher.finalize_xof().fill(&mut key);
        key
    }

    /// Returns a keyed hash of any text, for logs and traces that must not show it.
    #[must_use]
    pub fn veil(&self, text: &str) -> [u8; 8] {
        OrderKey::of(&self.once, text).bits().to_be_bytes()
    }
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Names(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jti_names_its_position_stream_and_boot() {
        let names = Names::new(b'a', &[7; 32]);
        let named = Named {
            at: Position { part: 3, seq: 0xffff_ffff_fffe },
            stream: StreamNo(u32::MAX),
            boot: Boot(0xff_ffff_ffff),
        };
        let jti = names.jti(named.at, named.stream, named.boot);
        assert_eq!(names.read(&jti), Some(named));
        assert_eq!(Names::new(b'b', &[7; 32]).read(&jti), None);
        assert_ne!(Names::new(b'a', &[8; 32]).read(&jti), Some(named));
    }
}
