//! What every command is given.

use std::path::PathBuf;

use crate::{Failure, Out, args::Global};

/// What every command is given: clock and randomness, where to print, and the options of every command.
#[derive(Clone, Debug)]
pub struct Context {
    /// Clock, randomness, tasks.
    pub runtime: setgate_clock::Runtime,
    /// Where to print.
    pub out: Out,
    /// The configuration file that was named.
    pub config: Option<PathBuf>,
    pub(crate) admin_url: Option<String>,
    pub(crate) admin_token_file: Option<PathBuf>,
}

impl Context {
    /// The context of a command line.
    #[must_use]
    pub fn new(runtime: setgate_clock::Runtime, global: &Global) -> Self {
        Self {
            runtime,
            out: Out::new(global.json),
            config: global.config.clone(),
            admin_url: global.admin_url.clone(),
            admin_token_file: global.admin_token_file.clone(),
        }
    }
}

/// Asks before something that cannot be undone, unless `--yes` was given.
///
/// # Errors
/// When there is nobody to ask.
pub(crate) fn confirm(context: &Context, yes: bool, question: &str) -> Result<(), Failure> {
    if yes || context.out.confirm(question) {
        return Ok(());
    }
    Err(Failure::usage("nothing was done").remedy("give --yes to do it without being asked"))
}
