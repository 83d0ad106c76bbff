//! The actions behind the command line, one file for each command.
//!
//! | file | command |
//! |---|---|
//! | `init.rs` | `init`, `store check`, `store adopt` |
//! | `repair.rs` | `store repair`, `store export` |
//! | `rekey.rs` | `keys rotate-kek` |
//! | `serve.rs`, `check.rs`, `listen.rs`, `demo.rs` | the command of that name |
//! | `configuration.rs`, `signals.rs` | shared parts |

mod check;
mod configuration;
mod demo;
mod init;
pub(crate) mod listen;
mod rekey;
mod repair;
mod serve;
mod signals;

use std::path::{Path, PathBuf};

use setgate_cli::{
    AdminAddress, Context, Ended, Failure, Holder, Minted,
    args::{CheckArgs, DemoArgs, InitArgs, ListenArgs, ServeArgs},
};

use crate::config;

/// The future of a running command.
type Ending<'a> = futures_util::future::BoxFuture<'a, Ended>;

/// The implementation of the commands of `setgate_cli`.
pub(crate) struct Root;

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

    fn store_check<'a>(&'a self, context: &'a Context, path: Option<PathBuf>) -> Ending<'a> {
        Box::pin(init::store_check(context, path))
    }

    fn store_repair<'a>(&'a self, context: &'a Context, how: setgate_cli::StoreRepair) -> Ending<'a> {
        Box::pin(repair::repair(context, how))
    }

    fn store_export<'a>(&'a self, context: &'a Context, path: Option<PathBuf>, to: Option<PathBuf>) -> Ending<'a> {
        Box::pin(repair::export(context, path, to))
    }

    fn store_adopt<'a>(&'a self, context: &'a Context, yes: bool) -> Ending<'a> {
        Box::pin(init::store_adopt(context, yes))
    }

    fn rotate_kek<'a>(&'a self, context: &'a Context, new: Option<String>, at_next_start: bool) -> Ending<'a> {
        Box::pin(rekey::run(context, new, at_next_start))
    }

    fn admin_address(&self, config: Option<&Path>) -> Result<AdminAddress, Failure> {
        // `serve --dev` without a file leaves this folder; the built-in configuration then names its listener.
        let tried = Path::new("setgate-dev/secrets").is_dir();
        let source = config::find(config, tried)?;
        let config = config::load(source, false, configuration::variables())?.config;
        let scheme = if config.listen.admin_tls.certificate.is_some() { "https" } else { "http" };
        let mut address = config.listen.admin;
        if address.ip().is_unspecified() {
            address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        }
        Ok(AdminAddress {
            url: format!("{scheme}://{address}"),
            token_file: config.secrets.admin_token(),
            ca: config.listen.admin_tls.certificate.into_iter().collect(),
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
