//! The configuration that a command names.

use setgate_cli::{Context, Failure};

use crate::config::{self, Loaded};

/// Reads the configuration that a command names.
///
/// # Errors
/// When it cannot be read or is not valid.
pub(crate) fn load(context: &Context, dev: bool) -> Result<Loaded, Failure> {
    let source = config::find(context.config.as_deref(), dev)?;
    Ok(config::load(source, dev, variables())?)
}

/// The environment, as far as it is text.
pub(crate) fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}
