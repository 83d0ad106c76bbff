//! The state of a gateway: the store and the secrets beside it, made together and opened together, each naming the
//! other (hardening H36).
//!
//! | file | holds |
//! |---|---|
//! | `init.rs` | making all of it |
//! | `open.rs` | opening all of it |
//! | `look.rs` | the files beside the store, read before the store is touched |
//! | `secrets.rs` | the key-encryption key and the store's secret |
//! | `store.rs` | the place of the store, and its errors |
//! | `issuers.rs` | issuers with their numbers and keys |
//! | `rekey.rs` | another key-encryption key for everything that is sealed |

mod init;
pub(crate) mod issuers;
mod look;
mod open;
pub(crate) mod rekey;
mod secrets;
mod store;

pub(crate) use init::init;
pub(crate) use look::{Looked, exposed, look, secret_of};
pub(crate) use open::{OpenState, not_made, open};
pub(crate) use secrets::{KEK_RECORD, private, read_kek, read_names};
pub(crate) use store::{misfit, of_store, place};

#[cfg(test)]
mod tests;
