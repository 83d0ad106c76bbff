//! The gateway put together and run.
//!
//! | file | holds |
//! |---|---|
//! | `absent.rs` | what to do about a method that this build does not have |
//! | `assemble.rs` | the libraries put together; shutdown in order |
//! | `listeners.rs` | both listeners: opened, given their routes, served and closed |
//! | `certificates.rs` | their certificates: read again, and reported before they end |
//! | `holder.rs` | who has an address that is taken |
//! | `sources.rs` | places from which methods collect events, each kept running |
//! | `brokers.rs` | what methods tell of clusters and sources, as metrics and in the log |

pub(crate) mod absent;
pub(crate) mod assemble;
mod brokers;
pub(crate) mod certificates;
pub(crate) mod holder;
pub(crate) mod listeners;
pub(crate) mod sources;

pub use assemble::Gateway;
pub(crate) use assemble::Parts;
pub use listeners::Listeners;
