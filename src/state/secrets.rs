//! The secrets beside the store: the key-encryption key, and the secret from which the store derives its names, as
//! files or in the environment.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use setgate_cli::{Exit, Failure};
use setgate_jose::{Kek, KekError};
use setgate_oauth::AdminTokenError;
use setgate_store::Names;

use crate::config::Config;

/// The record in which the store names its key-encryption key.
pub(crate) const KEK_RECORD: &str = "gateway/kek";
/// The place for which the store's secret is sealed.
pub(crate) const NAMES_PLACE: &str = "gateway/store-names";

/// Returns the file of the store's secret.
pub(crate) fn names_file(config: &Config) -> PathBuf {
    config.secrets.folder.join("store-names")
}

/// Returns the file of the key-encryption key; `None` if it is in the environment.
pub(crate) fn kek_file(config: &Config) -> Option<PathBuf> {
    match config.secrets.kek.as_str() {
        "" => Some(config.secrets.folder.join("kek")),
        reference => reference.strip_prefix("file:").map(PathBuf::from),
    }
}

/// Creates the key-encryption key.
///
/// # Errors
/// Returns an error of the kind `AlreadyExists` when the key is there already or is in the environment.
pub(super) fn make_kek(config: &Config) -> Result<Kek, KekError> {
    match kek_file(config) {
        Some(path) => {
            let kek = Kek::generate()?;
            kek.save_new(&path)?;
            Ok(kek)
        }
        None => Err(std::io::Error::from(std::io::ErrorKind::AlreadyExists).into()),
    }
}

/// Reads the key-encryption key that the configuration names.
pub(crate) fn read_kek(config: &Config) -> Result<Kek, Failure> {
    let refused =
        |why: String| Failure::new(Exit::Secrets, why).remedy("`kek` in [secrets] of the configuration names it");
    match kek_file(config) {
        Some(path) => Kek::load(&path).map_err(|error| of_kek(&path.display().to_string(), &error)),
        None => {
            let text = setgate_net::SecretRef::from(config.secrets.kek.clone())
                .load()
                .map_err(|error| refused(error.to_string()))?;
            Kek::from_text(text.expose()).map_err(|error| of_kek(&config.secrets.kek, &error))
        }
    }
}

/// Reads the store's secret, opened with whichever of these keys sealed it.
pub(crate) fn read_names(config: &Config, keks: &[&Kek]) -> Result<[u8; Names::SECRET], Failure> {
    let path = names_file(config);
    let refused = |why: String, remedy: String| {
        Failure::new(Exit::Store, format!("the store's secret {} cannot be opened: {why}", path.display()))
            .remedy(remedy)
    };
    let together = || "restore it together with the key-encryption key that sealed it".to_owned();
    let text = fs::read_to_string(&path).map_err(|error| refused(error.to_string(), together()))?;
    let sealed = STANDARD.decode(text.trim()).map_err(|_| refused("it is no base64".to_owned(), together()))?;
    let needs = Kek::id_of(&sealed).unwrap_or_default();
    let kek = keks.iter().find(|kek| kek.id() == needs).or(keks.first());
    let kek = kek.ok_or_else(|| refused("there is no key-encryption key".to_owned(), together()))?;
    let plain = kek.open_secret(NAMES_PLACE, &sealed).map_err(|error| {
        let remedy = if matches!(error, setgate_jose::SealError::WrongKek { .. }) {
            where_it_is(config, &needs)
        } else {
            together()
        };
        refused(error.to_string(), remedy)
    })?;
    plain.as_slice().try_into().map_err(|_| refused("it has the wrong length".to_owned(), together()))
}

/// Returns the remedy where another key-encryption key is needed.
pub(super) fn where_it_is(config: &Config, id: &str) -> String {
    match aside(config, id) {
        Some(path) => format!(
            "{} is that key: an older backup needs it in the place of the present one, with the secrets of the same day",
            path.display()
        ),
        None => "restore the key that was made together with it".to_owned(),
    }
}

/// Writes a file with mode 0600, durably and atomically: an interruption leaves the old file or none.
pub(crate) fn private(path: &Path, text: &[u8], again: bool) -> std::io::Result<()> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".unfinished");
    let unfinished = PathBuf::from(unfinished);
    // A leftover of an interruption may be a link to the file in force: it is removed, never written to.
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    file.write_all(text)?;
    file.sync_all()?;
    if again {
        fs::rename(&unfinished, path)?;
    } else {
        // Unlike a rename, a link does not replace an existing file.
        fs::hard_link(&unfinished, path)?;
        fs::remove_file(&unfinished)?;
    }
    fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// Returns the path of an older key that was put aside, if it is there.
pub(crate) fn aside(config: &Config, id: &str) -> Option<PathBuf> {
    kek_file(config).map(|path| suffixed(&path, &format!("old-{id}"))).filter(|path| path.exists())
}

/// Returns a path with a further ending.
pub(super) fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

/// Describes why the key-encryption key at this place is refused, with the remedy.
pub(crate) fn of_kek(place: &str, error: &KekError) -> Failure {
    let failure = Failure::new(Exit::Secrets, format!("{place}: {error}"));
    failure.remedy(match error {
        KekError::Exposed { .. } => {
            format!("chmod 600 {place}; whoever could read it may have: `setgate keys rotate-kek` makes another one")
        }
        KekError::Io(_) => {
            "the user that runs setgate has to be able to read it; `kek` in [secrets] names the place".to_owned()
        }
        _ => "restore the key that was made together with the store; `kek` in [secrets] names the place".to_owned(),
    })
}

/// Describes why the operator's token is refused; the error itself names the remedy.
pub(crate) fn of_admin(error: AdminTokenError) -> Failure {
    Failure::new(Exit::Secrets, error.to_string())
}
