//! What the commands need of the assembled gateway: the root implements it.

use std::path::{Path, PathBuf};

use futures_util::future::BoxFuture;

use crate::{
    Context, Ended, Failure,
    args::{CheckArgs, DemoArgs, InitArgs, ListenArgs, ServeArgs},
};

/// Where the admin listener of the configured gateway is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminAddress {
    /// Its URL, without a path.
    pub url: String,
    /// The file with the admin token.
    pub token_file: PathBuf,
    /// Certificate authorities to trust beside the system's.
    pub ca: Vec<PathBuf>,
}

/// Whose token it is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Somebody who puts events in.
    Producer,
    /// Somebody who comes for SETs.
    Receiver,
}

/// A new token.
#[derive(Clone, Debug)]
pub struct Minted {
    /// What its holder sends. It is shown once.
    pub token: setgate_net::Secret<String>,
    /// What the configuration holds.
    pub hash: String,
}

/// How a store is repaired.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreRepair {
    /// Where the repaired store is left; else it takes the place of the damaged one.
    pub into: Option<PathBuf>,
    /// Whether it is written anew although nothing is wrong with it.
    pub anyway: bool,
    /// Whether nobody is asked.
    pub yes: bool,
}

/// The gateway that the commands act upon.
pub trait Gateway: Send + Sync {
    /// `setgate init`.
    fn init<'a>(&'a self, context: &'a Context, args: InitArgs) -> BoxFuture<'a, Ended>;
    /// `setgate serve`.
    fn serve<'a>(&'a self, context: &'a Context, args: ServeArgs) -> BoxFuture<'a, Ended>;
    /// `setgate demo`.
    fn demo<'a>(&'a self, context: &'a Context, args: DemoArgs) -> BoxFuture<'a, Ended>;
    /// `setgate listen`.
    fn listen<'a>(&'a self, context: &'a Context, args: ListenArgs) -> BoxFuture<'a, Ended>;
    /// `setgate check`.
    fn check<'a>(&'a self, context: &'a Context, args: CheckArgs) -> BoxFuture<'a, Ended>;
    /// `setgate store check`.
    fn store_check<'a>(&'a self, context: &'a Context, path: Option<PathBuf>) -> BoxFuture<'a, Ended>;
    /// `setgate store repair`.
    fn store_repair<'a>(&'a self, context: &'a Context, how: StoreRepair) -> BoxFuture<'a, Ended>;
    /// `setgate store export`: to a file that is not there yet, or to standard output.
    fn store_export<'a>(
        &'a self,
        context: &'a Context,
        path: Option<PathBuf>,
        to: Option<PathBuf>,
    ) -> BoxFuture<'a, Ended>;
    /// `setgate store adopt`.
    fn store_adopt<'a>(&'a self, context: &'a Context, yes: bool) -> BoxFuture<'a, Ended>;
    /// `setgate keys rotate-kek`: to the key that `new` names, or to one that is made; now, or at the next start.
    fn rotate_kek<'a>(&'a self, context: &'a Context, new: Option<String>, at_next_start: bool)
    -> BoxFuture<'a, Ended>;

    /// Where the admin listener is.
    ///
    /// # Errors
    /// When the configuration cannot be read.
    fn admin_address(&self, config: Option<&Path>) -> Result<AdminAddress, Failure>;

    /// A new token.
    fn mint(&self, whose: Holder, random: &dyn setgate_clock::Random) -> Minted;
}
