//! The context of a command.

use std::path::PathBuf;

use crate::{Failure, Out, args::Global};

/// The context of a command: clock and randomness, the output, and the options that every command has.
#[derive(Clone, Debug)]
pub struct Context {
    /// The clock, the randomness and the tasks.
    pub runtime: setgate_clock::Runtime,
    /// The output.
    pub out: Out,
    /// The configuration file, if one was named.
    pub config: Option<PathBuf>,
    pub(crate) admin_url: Option<String>,
    pub(crate) admin_token_file: Option<PathBuf>,
}

impl Context {
    /// Creates the context of a command line.
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

/// Asks before an action that cannot be undone, unless `--yes` was given.
///
/// # Errors
/// [`Failure`] when the user says no, or there is nobody to ask.
pub(crate) fn confirm(context: &Context, yes: bool, question: &str) -> Result<(), Failure> {
    if yes || context.out.confirm(question) {
        return Ok(());
    }
    Err(Failure::usage("nothing was done").remedy("give --yes to do it without being asked"))
}
