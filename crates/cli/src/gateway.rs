//! The commands that need the assembled gateway; the root crate implements them.

use std::path::{Path, PathBuf};

use futures_util::future::BoxFuture;

use crate::{
    Context, Ended, Failure,
    args::{CheckArgs, DemoArgs, InitArgs, ListenArgs, ServeArgs},
};

/// The address of the configured gateway's admin listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminAddress {
    /// The listener's URL, without a path.
    pub url: String,
    /// The file with the admin token.
    pub token_file: PathBuf,
    /// The certificate authorities to trust beside the system's.
    pub ca: Vec<PathBuf>,
}

/// The holder of a new token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A producer, which puts events in.
    Producer,
    /// A receiver, which comes for SETs.
    Receiver,
}

/// A new token.
#[derive(Clone, Debug)]
pub struct Minted {
    /// The token that its holder sends. It is shown once.
    pub token: setgate_net::Secret<String>,
    /// The hash that the configuration contains.
    pub hash: String,
}

/// The options of a repair of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreRepair {
    /// The folder for the repaired store; without one it replaces the damaged store.
    pub into: Option<PathBuf>,
    /// Whether the store is written anew although it is not damaged.
    pub anyway: bool,
    /// Whether to go ahead without asking.
    pub yes: bool,
}

/// The gateway that the commands act upon.
pub trait Gateway: Send + Sync {
    /// Runs `setgate init`.
    fn init<'a>(&'a self, context: &'a Context, args: InitArgs) -> BoxFuture<'a, Ended>;
    /// Runs `setgate serve`.
    fn serve<'a>(&'a self, context: &'a Context, args: ServeArgs) -> BoxFuture<'a, Ended>;
    /// Runs `setgate demo`.
    fn demo<'a>(&'a self, context: &'a Context, args: DemoArgs) -> BoxFuture<'a, Ended>;
    /// Runs `setgate listen`.
    fn listen<'a>(&'a self, context: &'a Context, args: ListenArgs) -> BoxFuture<'a, Ended>;
    /// Runs `setgate check`.
    fn check<'a>(&'a self, context: &'a Context, args: CheckArgs) -> BoxFuture<'a, Ended>;
    /// Runs `setgate store check`.
    fn store_check<'a>(&'a self, context: &'a Context, path: Option<PathBuf>) -> BoxFuture<'a, Ended>;
    /// Runs `setgate store repair`.
    fn store_repair<'a>(&'a self, context: &'a Context, how: StoreRepair) -> BoxFuture<'a, Ended>;
    /// Runs `setgate store export`, to a file that does not exist yet, or to standard output.
    fn store_export<'a>(
        &'a self,
        context: &'a Context,
        path: Option<PathBuf>,
        to: Option<PathBuf>,
    ) -> BoxFuture<'a, Ended>;
    /// Runs `setgate store adopt`.
    fn store_adopt<'a>(&'a self, context: &'a Context, yes: bool) -> BoxFuture<'a, Ended>;
    /// Runs `setgate keys rotate-kek`, to the key that `new` names or to a generated one; now, or at the next start.
    fn rotate_kek<'a>(&'a self, context: &'a Context, new: Option<String>, at_next_start: bool)
    -> BoxFuture<'a, Ended>;

    /// Returns the address of the admin listener.
    ///
    /// # Errors
    /// [`Failure`] when the configuration cannot be read.
    fn admin_address(&self, config: Option<&Path>) -> Result<AdminAddress, Failure>;

    /// Creates a token.
    fn mint(&self, whose: Holder, random: &dyn setgate_clock::Random) -> Minted;
}
