//! Loading: from file and environment to a typed configuration.

use std::path::{Path, PathBuf};

use serde::Deserialize as _;

use super::{
    Config, ConfigError, DEV,
    error::{Place, nearest},
    renamed::Renamed,
    secrets, validate,
};

/// The environment variables that commands read and that name no option.
const COMMANDS: [&str; 8] = [
    "SETGATE_CONFIG",
    "SETGATE_ADMIN_URL",
    "SETGATE_ADMIN_TOKEN",
    "SETGATE_ADMIN_TOKEN_FILE",
    "SETGATE_ISSUER",
    "SETGATE_TOKEN",
    "SETGATE_TOKEN_FILE",
    "SETGATE_LOG",
];
/// The prefix of variables that name an option.
const PREFIX: &str = "SETGATE__";

/// The origin of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// The built-in `config/dev.toml`.
    Dev,
}

/// A configuration that was read and validated, with its origin.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The options in force.
    pub config: Config,
    /// The origin of the configuration.
    pub source: Source,
    /// The file's text as a table, before variables are applied.
    pub file: toml::Table,
    /// The names of the variables that were applied, and the paths that they name.
    pub variables: Vec<(String, Vec<String>)>,
    /// The table of file and variables together.
    pub merged: toml::Table,
}

/// Finds the configuration: the named file, `./setgate.toml` or `/etc/setgate/setgate.toml`; with `dev`, the built-in
/// one where none of these is there.
///
/// # Errors
/// Returns [`ConfigError`] when there is none.
pub fn find(named: Option<&Path>, dev: bool) -> Result<Source, ConfigError> {
    if let Some(path) = named {
        return Ok(Source::File(path.to_owned()));
    }
    let usual = ["setgate.toml", "/etc/setgate/setgate.toml"];
    match usual.iter().map(Path::new).find(|path| path.is_file()) {
        Some(path) => Ok(Source::File(path.to_owned())),
        None if dev => Ok(Source::Dev),
        None => Err(ConfigError::new(
            Place::File(PathBuf::from("setgate.toml"), None),
            "",
            "there is no configuration file",
        )
        .remedy("name one with --config, or write one: `setgate init --print-config > setgate.toml`")),
    }
}

/// Reads the configuration, applies variables, resolves references to secrets and validates the whole.
///
/// # Errors
/// Returns [`ConfigError`] with place, key and remedy.
pub fn load(
    source: Source,
    dev: bool,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded, ConfigError> {
    let text = match &source {
        Source::Dev => DEV.to_owned(),
        Source::File(path) => std::fs::read_to_string(path).map_err(|error| {
            ConfigError::new(Place::File(path.clone(), None), "", format!("the file cannot be read: {error}"))
        })?,
    };
    let base = match &source {
        Source::Dev => PathBuf::new(),
        Source::File(path) => path.parent().map(Path::to_owned).unwrap_or_default(),
    };
    let mut loaded = parse(&text, source, variables)?;
    loaded.config.gateway.dev |= dev;
    secrets::absolute(&mut loaded.config, &base);
    validate::whole(&mut loaded.config, &loaded.source, &text)?;
    Ok(loaded)
}

/// Parses a text and applies variables, without resolving references or validating across sections.
///
/// # Errors
/// Returns [`ConfigError`] with place, key and remedy.
pub fn parse(
    text: &str,
    source: Source,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded, ConfigError> {
    // The text is parsed as a table for old names and for variables, and as a typed value for errors with their lines.
    let file: toml::Table = text.parse().map_err(|error| explain(&error, text, &source))?;
    if let Some(renamed) = Renamed::of_file(&file) {
        return Err(renamed.in_file(&source, text));
    }
    let mut config: Config = toml::from_str(text).map_err(|error| explain(&error, text, &source))?;
    let mut merged = file.clone();
    let mut applied = Vec::new();
    let mut variables: Vec<_> = variables.into_iter().filter(|(name, _)| name.starts_with("SETGATE_")).collect();
    variables.sort();
    for (name, value) in variables {
        if COMMANDS.contains(&name.as_str()) {
            continue;
        }
        let path = path_of(&name)?;
        if let Some(renamed) = Renamed::of_variable(&path, &value) {
            return Err(renamed.in_variable(&name));
        }
        (merged, config) = apply(&merged, &name, &path, &value)?;
        applied.push((name, path));
    }
    Ok(Loaded { config, source, file, variables: applied, merged })
}

/// Returns the path that a variable names: `SETGATE__NET__ALLOW_PORTS` is `net.allow_ports`.
fn path_of(name: &str) -> Result<Vec<String>, ConfigError> {
    let unknown = |remedy: String| {
        ConfigError::new(Place::Variable(name.to_owned()), "", "this variable means nothing to the gateway")
            .remedy(remedy)
    };
    let Some(rest) = name.strip_prefix(PREFIX) else {
        return Err(unknown(
            "options are written SETGATE__SECTION__KEY, with two underscores; unset it if it is not meant".to_owned(),
        ));
    };
    let path: Vec<String> = rest.split("__").map(str::to_ascii_lowercase).collect();
    if path.len() < 2 || path.iter().any(String::is_empty) {
        return Err(unknown(
            "options are written SETGATE__SECTION__KEY, for example SETGATE__LISTEN__PUBLIC".to_owned(),
        ));
    }
    Ok(path)
}

/// Applies the value of a variable, as TOML where it parses and fits, else as text.
fn apply(into: &toml::Table, name: &str, path: &[String], value: &str) -> Result<(toml::Table, Config), ConfigError> {
    let as_toml = format!("v = {value}").parse::<toml::Table>().ok().and_then(|mut table| table.remove("v"));
    let as_text = toml::Value::String(value.to_owned());
    let mut first = None;
    for candidate in as_toml.into_iter().chain(std::iter::once(as_text)) {
        let mut table = into.clone();
        place(&mut table, path, candidate)
            .map_err(|what| ConfigError::new(Place::Variable(name.to_owned()), path.join("."), what))?;
        match Config::deserialize(toml::Value::Table(table.clone())) {
            Ok(config) => return Ok((table, config)),
            Err(error) => first = first.or(Some(error)),
        }
    }
    let what = first.map(|error| error.message().to_owned()).unwrap_or_default();
    let error = ConfigError::new(Place::Variable(name.to_owned()), path.join("."), &*what);
    Err(match suggestion(&what) {
        Some(remedy) => error.remedy(remedy),
        None => error,
    })
}

/// Puts a value at a path, of which a number names an element of a list.
fn place(table: &mut toml::Table, path: &[String], value: toml::Value) -> Result<(), String> {
    let Some((last, above)) = path.split_last() else { return Ok(()) };
    let mut at: &mut toml::Value = match above.split_first() {
        None => {
            table.insert(last.clone(), value);
            return Ok(());
        }
        Some((first, _)) => table.entry(first.clone()).or_insert_with(|| toml::Value::Table(toml::Table::new())),
    };
    for name in above.iter().skip(1) {
        at = step(at, name)?;
    }
    *step(at, last)? = value;
    Ok(())
}

fn step<'a>(at: &'a mut toml::Value, name: &str) -> Result<&'a mut toml::Value, String> {
    match at {
        toml::Value::Table(table) => {
            Ok(table.entry(name.to_owned()).or_insert_with(|| toml::Value::Table(toml::Table::new())))
        }
        toml::Value::Array(list) => {
            let many = list.len();
            let at: usize = name.parse().map_err(|_| format!("`{name}` is no place in a list of {many}"))?;
            list.get_mut(at).ok_or_else(|| format!("there are only {many} elements, counted from 0"))
        }
        _ => Err(format!("there is nothing below, so `{name}` cannot be")),
    }
}

/// Converts an error of the TOML parser into a configuration error.
fn explain(error: &toml::de::Error, text: &str, source: &Source) -> ConfigError {
    let (line, key) = match error.span() {
        Some(span) => locate(text, span.start),
        None => (None, String::new()),
    };
    let place = match source {
        Source::File(path) => Place::File(path.clone(), line),
        Source::Dev => Place::BuiltIn,
    };
    let what = error.message().to_owned();
    match suggestion(&what) {
        Some(remedy) => ConfigError::new(place, key, what).remedy(remedy),
        None => ConfigError::new(place, key, what),
    }
}

/// Returns the line, counted from 1, and the key at an offset of a TOML text.
pub(super) fn locate(text: &str, at: usize) -> (Option<usize>, String) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    let mut section = String::new();
    let mut key = String::new();
    for (number, one) in text.lines().enumerate().take(line) {
        let one = one.trim();
        if let Some(head) = one.strip_prefix('[') {
            section = head.trim_start_matches('[').split(']').next().unwrap_or_default().trim().to_owned();
            key.clear();
        } else if let Some((name, _)) = one.split_once('=')
            && !one.starts_with('#')
            && (number + 1 == line || name.trim().chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c)))
        {
            key = name.trim().to_owned();
        }
    }
    let path = [section, key].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(".");
    (Some(line), path)
}

/// Suggests a name from the text of an error such as `unknown field `x`, expected one of `a`, `b``.
fn suggestion(what: &str) -> Option<String> {
    let mut names = what.split('`').skip(1).step_by(2);
    if !what.starts_with("unknown field") && !what.starts_with("unknown variant") {
        return None;
    }
    let wrong = names.next()?;
    let known: Vec<_> = names.collect();
    Some(match nearest(wrong, known.iter().copied()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => "`setgate init --print-config` prints every option with its meaning".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_text(text: &str, variables: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        parse(text, Source::File("a.toml".into()), variables)
    }

    #[test]
    fn an_unknown_member_is_named_with_file_line_key_and_remedy() {
        let error = parse_text("[gateway]\ndev = true\n\n[net]\nalow_networks = []\n", &[]).unwrap_err();
        assert_eq!(error.place, Place::File("a.toml".into(), Some(5)));
        assert_eq!(error.key, "net.alow_networks");
        assert_eq!(error.remedy.as_deref(), Some("did you mean `allow_networks`?"));
        assert!(error.to_string().starts_with("a.toml, line 5: `net.alow_networks`: unknown field"), "{error}");
    }

    #[test]
    fn an_unknown_section_is_an_error() {
        let error = parse_text("[netz]\n", &[]).unwrap_err();
        assert_eq!(error.remedy.as_deref(), Some("did you mean `net`?"));
        assert!(parse_text("colour = 1", &[]).is_err());
    }

    #[test]
    fn errors_do_not_show_values() {
        let text = "[[producers]]\nname = \"x\"\ntoken_hashes = [\"sgp_canary\"]\nissuers = []\nevents = \"all\"\nsubjects = \"any\"\n";
        let error = parse_text(text, &[]).unwrap_err();
        assert!(!error.to_string().contains("canary"), "{error}");
        assert_eq!(error.key, "producers.token_hashes");
    }

    #[test]
    fn variables_override_the_file() {
        let loaded = parse_text(
            "[net]\nallow_ports = [1]\n[log]\nlevel = \"info\"\n",
            &[
                ("SETGATE__NET__ALLOW_PORTS", "[8000, 8001]"),
                ("SETGATE__LOG__LEVEL", "debug"),
                ("SETGATE__NET__ALLOW_HTTP", "true"),
                ("SETGATE__LISTEN__PUBLIC", "127.0.0.1:9"),
                ("SETGATE_TOKEN", "x"),
                ("HOME", "x"),
            ],
        )
        .unwrap();
        assert_eq!(loaded.config.net.allow_ports, [8000, 8001]);
        assert_eq!(loaded.config.log.level, "debug");
        assert!(loaded.config.net.allow_http);
        assert_eq!(loaded.config.listen.public.port(), 9);
        assert_eq!(loaded.variables.len(), 4);
    }

    #[test]
    fn a_text_that_reads_as_a_number_still_fits_a_text() {
        let loaded = parse_text("", &[("SETGATE__SECRETS__FOLDER", "1234")]).unwrap();
        assert_eq!(loaded.config.secrets.folder, PathBuf::from("1234"));
    }

    #[test]
    fn elements_of_lists_are_reached_by_number() {
        let text = "[[issuers]]\nurl = \"https://a.example\"\n";
        let loaded = parse_text(text, &[("SETGATE__ISSUERS__0__URL", "https://b.example")]).unwrap();
        assert_eq!(loaded.config.issuers.first().map(|issuer| issuer.url.as_str()), Some("https://b.example"));
        let error = parse_text(text, &[("SETGATE__ISSUERS__7__URL", "https://b.example")]).unwrap_err();
        assert_eq!(error.place, Place::Variable("SETGATE__ISSUERS__7__URL".to_owned()));
    }

    #[test]
    fn unknown_variables_are_errors() {
        for name in
            ["SETGATE_LISTEN_PUBLIC", "SETGATE__LISTEN", "SETGATE__LISTEN__WRLD", "SETGATE__NOTHING__X", "SETGATE__"]
        {
            let error = parse_text("", &[(name, "127.0.0.1:1")]).unwrap_err();
            assert_eq!(error.place, Place::Variable(name.to_owned()), "{error}");
            assert!(error.remedy.is_some(), "{name}");
        }
    }
}
