//! The gateway: its assembly and its parts.
//!
//! | file | holds |
//! |---|---|
//! | `absent.rs` | advice on a method that this build does not have |
//! | `assemble.rs` | the crates put together; shutdown in order |
//! | `listeners.rs` | both listeners: opened, given their routes, served and closed |
//! | `certificates.rs` | their certificates: read again, and reported before they expire |
//! | `holder.rs` | the process that has an address |
//! | `sources.rs` | places from which methods collect events, each kept running |
//! | `brokers.rs` | the state of clusters and sources, as metrics and in the log |

pub(crate) mod absent;
pub(crate) mod assemble;
mod brokers;
pub(crate) mod certificates;
pub(crate) mod holder;
pub(crate) mod listeners;
pub(crate) mod sources;
mod tasks;

pub use assemble::Gateway;
pub(crate) use assemble::Parts;
pub use listeners::Listeners;
