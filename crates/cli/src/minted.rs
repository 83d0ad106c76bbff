//! The parts that `producers new` and `receivers new` share.

use std::path::Path;

use serde_json::json;

use crate::{Context, Failure, Minted, token};

/// Checks that the configuration will accept the name.
///
/// # Errors
/// [`Failure`] when it will not.
pub(crate) fn check_name(name: &str) -> Result<(), Failure> {
    let fits = (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    if fits { Ok(()) } else { Err(Failure::usage("a name has 1 to 64 characters of A-Z a-z 0-9 - . _")) }
}

/// Writes the token to the file, or shows it once, and prints the section for the configuration.
///
/// # Errors
/// [`Failure`] when the token file exists or cannot be written.
pub(crate) fn hand_over(
    context: &Context,
    name: &str,
    minted: &Minted,
    token_file: Option<&Path>,
    section: String,
) -> Result<(), Failure> {
    if let Some(file) = token_file {
        token::write(file, &minted.token)?;
    }
    if context.out.is_json() {
        let token = token_file.is_none().then(|| minted.token.expose().clone());
        context.out.value(&json!({"name": name, "hash": minted.hash, "token": token, "toml": section}));
        return Ok(());
    }
    match token_file {
        Some(file) => context.out.note(format!("The token is in {}.", file.display())),
        None => {
            context.out.note("The token, shown once and kept nowhere:\n");
            // The token goes to standard error, so that `>> setgate.toml` receives the section alone.
            context.out.note(format!("  {}\n", minted.token.expose()));
        }
    }
    context.out.note("For the configuration:\n");
    context.out.raw(section);
    Ok(())
}

/// Returns the first lines of a section of the configuration.
pub(crate) fn section(list_of: &str, name: &str, hash: &str, issuers: &[String]) -> String {
    let text = |text: &str| toml::Value::String(text.to_owned());
    format!("[[{list_of}]]\nname = {}\ntoken_hashes = [{}]\nissuers = {}\n", text(name), text(hash), list(issuers))
}

/// Formats a list as TOML.
pub(crate) fn list(all: &[String]) -> String {
    toml::Value::Array(all.iter().map(|one| toml::Value::String(one.clone())).collect()).to_string()
}
