#![doc = include_str!("../README.md")]

mod algorithm;
mod error;
mod jwk;
mod jwks;
mod kek;
mod key;
mod keyring;
mod pem;
mod ring;
mod sealed;
mod signer;
mod verify;

pub use algorithm::{Algorithm, AllowedAlgorithms, UnknownAlgorithm};
pub use error::JoseError;
pub use jwks::{IgnoredKey, Jwks, JwksError};
pub use kek::{Kek, KekError, SealError};
pub use key::{Key, RsaBits};
pub use keyring::Keyring;
pub use ring::{KeyInfo, KeyState, Moment, Published, Ring, Rotation};
pub use signer::Signer;
pub use verify::{Header, Token, Verified, VerifyError, verify};
