//! setgate: a gateway for Security Event Tokens (RFC 8417), assembled.
//!
//! The crates in `crates/` do the work. This one reads the configuration and runs the services; it alone names a
//! storage backend or an interface to the world, and it links every transport.
//!
//! | folder | holds |
//! |---|---|
//! | `config/` | each crate's section, side by side; file, environment, secrets, validation |
//! | `state/` | store and secrets: made, opened, sealed with another key; issuers with their keys |
//! | `gateway/` | the crates put together, listeners, certificates, sources; shutdown in order |
//! | `sessions/` | receivers that connect: admission, budget, tickets, expiry |
//! | `commands/` | one file for each command |

mod commands;
pub mod config;
mod gateway;
mod sessions;
mod state;

use std::process::ExitCode;

// The linker drops a transport that nothing refers to.
use setgate_transports as _;

pub use gateway::{Gateway, Listeners};
pub use sessions::SessionsConfig;

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    // Files of this process are for its owner alone, and its memory, which holds keys, is never dumped to a file
    // (hardening H50).
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Core, none);
    // Each poll and socket that waits needs a descriptor; the usual soft limit of 1024 is meant for programs that use
    // `select`.
    let mut files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    files.current = files.maximum;
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, files);
    // A huge page for a few small buffers would let each of ten thousand waiting receivers keep three times what it
    // uses.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    // One provider of cryptography serves every TLS connection of the process; nothing else sets it.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    setgate_cli::main(&commands::Root)
}
