//! The place of the gateway that is measured.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use setgate_cli::Failure;

/// Returns the named program, or `setgate` beside this one. If cargo runs this program, the gateway is built first, so
/// that a measurement of an older build does not pass for one of the present source.
///
/// # Errors
/// Fails if the gateway cannot be built, or is not there.
pub(crate) fn find(named: Option<PathBuf>, own: &Path) -> Result<PathBuf, Failure> {
    let program = match named {
        Some(named) => named,
        None => {
            let beside = own.with_file_name("setgate");
            if let (Some(cargo), Some(manifest)) = (env::var_os("CARGO"), env::var_os("CARGO_MANIFEST_DIR")) {
                build(&cargo, Path::new(&manifest), &beside)?;
            }
            beside
        }
    };
    if program.is_file() {
        return Ok(program);
    }
    Err(Failure::usage(format!("there is no gateway to measure: {} is no file", program.display()))
        .remedy("build it with `cargo build --release`, or name one with --gateway"))
}

/// Builds the gateway with the same Kafka as this program, into the folder of this program.
fn build(cargo: &OsStr, manifest: &Path, program: &Path) -> Result<(), Failure> {
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "--locked", "--package", "setgate", "--bin", "setgate"]).args(features());
    if let Some(target) = program.parent().and_then(Path::parent) {
        command.arg("--target-dir").arg(target);
    }
    let failed = |why: String| Failure::failed(format!("the gateway cannot be built: {why}"));
    let status = command.current_dir(manifest).stdin(Stdio::null()).status();
    match status.map_err(|error| failed(error.to_string()))? {
        status if status.success() => Ok(()),
        status => Err(failed(format!("cargo ended with {status}"))),
    }
}

/// Returns the arguments that select the gateway's features for cargo.
const fn features() -> &'static [&'static str] {
    if cfg!(feature = "vendored") {
        &[]
    } else if cfg!(feature = "kafka") {
        &["--no-default-features", "--features", "mimalloc,kafka-system-openssl"]
    } else {
        &["--no-default-features", "--features", "mimalloc"]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_that_is_not_there_is_said_so() {
        let refused = find(Some("/nowhere/setgate".into()), Path::new("/nowhere/setgate_bench")).unwrap_err();
        assert!(refused.to_string().contains("/nowhere/setgate is no file"), "{refused}");
        assert!(refused.to_string().contains("cargo build --release"), "{refused}");
    }

    #[test]
    fn a_gateway_that_is_named_is_taken_as_it_is() {
        let own = env::current_exe().unwrap();
        assert_eq!(find(Some(own.clone()), Path::new("/nowhere/setgate_bench")).unwrap(), own);
    }
}
