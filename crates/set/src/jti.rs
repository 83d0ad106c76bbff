//! The identity of a SET.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

/// The `jti` of a SET: one character for the version of the key, then 22 characters of base64url for one 128-bit block.
///
/// The block is opaque here. The store mints and reads it, since it names a position, a stream and a boot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Jti {
    text: [u8; Self::LENGTH],
}

/// The text is not the `jti` of a SET of this gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a jti of this gateway: 23 characters of base64url are expected")]
pub struct JtiError;

impl Jti {
    /// The length in characters.
    pub const LENGTH: usize = 23;

    /// Creates the `jti` of a block under the key version `version`, an ASCII letter or digit.
    #[must_use]
    pub fn from_block(version: u8, block: [u8; 16]) -> Self {
        let mut text = [b'A'; Self::LENGTH];
        let (first, rest) = text.split_at_mut(1);
        first.fill(version);
        let written = URL_SAFE_NO_PAD.encode_slice(block, rest);
        debug_assert_eq!(written, Ok(22));
        Self { text }
    }

    /// Returns the key version and the block.
    #[must_use]
    pub fn block(&self) -> (u8, [u8; 16]) {
        let mut block = [0u8; 16];
        let (first, rest) = self.text.split_at(1);
        let _ = URL_SAFE_NO_PAD.decode_slice(rest, &mut block);
        (first.first().copied().unwrap_or(b'A'), block)
    }

    /// Returns the text of the claim.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text).unwrap_or_default()
    }
}

impl FromStr for Jti {
    type Err = JtiError;

    fn from_str(text: &str) -> Result<Self, JtiError> {
        let bytes = text.as_bytes();
        let (Some((version, rest)), true) = (bytes.split_first(), bytes.len() == Self::LENGTH) else {
            return Err(JtiError);
        };
        let mut block = [0u8; 16];
        if !version.is_ascii_alphanumeric() || URL_SAFE_NO_PAD.decode_slice(rest, &mut block) != Ok(16) {
            return Err(JtiError);
        }
        Ok(Self::from_block(*version, block))
    }
}

impl fmt::Display for Jti {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Jti {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Jti({self})")
    }
}

impl serde::Serialize for Jti {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

impl<'de> serde::Deserialize<'de> for Jti {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_what_it_wrote() {
        let jti = Jti::from_block(b'a', *b"0123456789abcdef");
        assert_eq!(jti.as_str().len(), Jti::LENGTH);
        assert_eq!(jti.as_str().parse(), Ok(jti));
        assert_eq!(jti.block(), (b'a', *b"0123456789abcdef"));
    }

    #[test]
    fn refuses_foreign_texts() {
        for text in ["", "a", "24c63fb56e5a2d77a6b512616ca9fa24", "a+aaaaaaaaaaaaaaaaaaaaa", "äaaaaaaaaaaaaaaaaaaaaa"]
        {
            assert_eq!(text.parse::<Jti>(), Err(JtiError), "{text}");
        }
    }
}
