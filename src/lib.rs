//! setgate: a gateway for Security Event Tokens (RFC 8417), assembled.
//!
//! Configuration in, running services out. The libraries in `crates/` do the work; this is the only place that names a storage
//! backend or a face, and it links every transport.
//!
//! | file | holds |
//! |---|---|
//! | `config.rs`, `config_*.rs` | each room's section, side by side; file, environment, secrets, validation |
//! | `opening.rs` | store and secrets, made together and opened together |
//! | `rekey.rs` | another key-encryption key for everything that is sealed |
//! | `issuers.rs` | issuers with their numbers and keys |
//! | `assemble.rs`, `doors.rs` | the rooms put together; the doors; shutdown in order |
//! | `certificates.rs` | the doors' certificates: read again, and reported before they end |
//! | `sources.rs` | places from which methods collect events, each kept running |
//! | `carriers.rs` | what methods tell of clusters and sources, as metrics and in the log |
//! | `visits.rs`, `visits_*.rs` | receivers that come for their SETs: paths, budgets, tickets |
//! | `serve.rs`, `init.rs`, `check.rs`, `listen.rs`, `demo.rs`, `bench.rs` | one command each |

mod assemble;
mod bench;
mod carriers;
mod certificates;
mod check;
pub mod config;
mod demo;
mod demo_receiver;
mod doors;
mod holder;
mod init;
mod issuers;
mod listen;
mod mend;
mod opening;
mod rekey;
mod serve;
mod sources;
mod visits;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use setgate_cli::{
    Context, DoorAt, Ended, Failure, Holder, Minted,
    args::{BenchArgs, CheckArgs, DemoArgs, InitArgs, ListenArgs, ServeArgs},
};
// The linker drops a transport that nobody names.
use setgate_transports as _;

pub use assemble::Gateway;
pub use doors::Doors;
pub use visits::VisitsConfig;

/// A future that a command is.
type Ending<'a> = futures_util::future::BoxFuture<'a, Ended>;

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    // What this process writes is for its owner alone, and its memory, where keys are, never lands in a file (hardening H50).
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Core, none);
    // Each poll and socket that waits is a descriptor; the usual soft limit of 1024 is for programs that use `select`.
    let mut files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    files.current = files.maximum;
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, files);
    // A huge page for a few small buffers: of ten thousand that wait, each would keep three times what it uses.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    // One provider of cryptography for every TLS connection of the process; set by nobody else.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    setgate_cli::main(&Root)
}

/// What the commands act upon.
struct Root;

impl setgate_cli::Gateway for Root {
    fn init<'a>(&'a self, context: &'a Context, args: InitArgs) -> Ending<'a> {
        Box::pin(init::run(context, args))
    }

    fn serve<'a>(&'a self, context: &'a Context, args: ServeArgs) -> Ending<'a> {
        Box::pin(serve::run(context, args))
    }

    fn demo<'a>(&'a self, context: &'a Context, args: DemoArgs) -> Ending<'a> {
        Box::pin(demo::run(context, args))
    }

    fn listen<'a>(&'a self, context: &'a Context, args: ListenArgs) -> Ending<'a> {
        Box::pin(listen::run(context, args))
    }

    fn check<'a>(&'a self, context: &'a Context, args: CheckArgs) -> Ending<'a> {
        Box::pin(check::run(context, args))
    }

    fn bench<'a>(&'a self, context: &'a Context, args: BenchArgs) -> Ending<'a> {
        Box::pin(bench::run(context, args))
    }

    fn store_check<'a>(&'a self, context: &'a Context, path: Option<PathBuf>) -> Ending<'a> {
        Box::pin(init::store_check(context, path))
    }

    fn store_repair<'a>(&'a self, context: &'a Context, how: setgate_cli::StoreRepair) -> Ending<'a> {
        Box::pin(mend::repair(context, how))
    }

    fn store_export<'a>(&'a self, context: &'a Context, path: Option<PathBuf>, to: Option<PathBuf>) -> Ending<'a> {
        Box::pin(mend::export(context, path, to))
    }

    fn store_adopt<'a>(&'a self, context: &'a Context, yes: bool) -> Ending<'a> {
        Box::pin(init::store_adopt(context, yes))
    }

    fn rotate_kek<'a>(&'a self, context: &'a Context, new: Option<String>, at_next_start: bool) -> Ending<'a> {
        Box::pin(rekey::run(context, new, at_next_start))
    }

    fn door(&self, config: Option<&Path>) -> Result<DoorAt, Failure> {
        // Where `serve --dev` ran without a file, its door is found without one.
        let tried = Path::new("setgate-dev/secrets").is_dir();
        let source = config::find(config, tried)?;
        let config = config::load(source, false, serve::variables())?.config;
        let scheme = if config.listen.operator_tls.certificate.is_some() { "https" } else { "http" };
        let mut address = config.listen.operator;
        if address.ip().is_unspecified() {
            address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        }
        Ok(DoorAt {
            url: format!("{scheme}://{address}"),
            token_file: config.secrets.admin_token(),
            ca: config.listen.operator_tls.certificate.into_iter().collect(),
        })
    }

    fn mint(&self, whose: Holder, random: &dyn setgate_clock::Random) -> Minted {
        let kind = match whose {
            Holder::Producer => setgate_oauth::TokenKind::Producer,
            Holder::Receiver => setgate_oauth::TokenKind::Receiver,
        };
        let minted = setgate_oauth::mint(kind, random);
        Minted { token: minted.token, hash: minted.hash.to_string() }
    }
}
