//! Loading of the configuration that a command names.

use setgate_cli::{Context, Failure};

use crate::config::{self, Loaded};

/// Loads the configuration that a command names.
///
/// # Errors
/// Returns a failure when the configuration cannot be read or is not valid.
pub(crate) fn load(context: &Context, dev: bool) -> Result<Loaded, Failure> {
    let source = config::find(context.config.as_deref(), dev)?;
    Ok(config::load(source, dev, variables())?)
}

/// Returns the environment variables whose names and values are UTF-8.
pub(crate) fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}
