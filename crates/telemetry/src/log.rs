//! Setup of the log.

use std::io::IsTerminal;

use serde::Deserialize;
use tracing_subscriber::{
    Layer, Registry,
    filter::{ParseError, Targets},
    fmt,
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

/// The configuration of the log, the table `[log]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// The level: `error`, `warn`, `info`, `debug` or `trace`, or directives such as `info,setgate_router=debug`.
    pub level: String,
    /// The format of log lines.
    pub format: LogFormat,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Auto }
    }
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// The format for people when standard error is a terminal, JSON otherwise.
    #[default]
    Auto,
    /// Lines for people.
    Human,
    /// Lines of JSON, one object each.
    Json,
}

/// The reason why the log cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The level is not valid.
    #[error("`log.level`: {why}: write error, warn, info, debug or trace")]
    Level {
        /// The fault, in words for people.
        why: String,
        /// The error of the filter, if the filter was reached.
        source: Option<ParseError>,
    },
    /// A log is set up already.
    #[error("a log is set up already")]
    Twice,
}

/// Sends the log to standard error, once per process.
///
/// # Errors
/// Returns [`LogError`] when the level is not valid or a log is set up already.
pub fn start_log(config: &LogConfig) -> Result<(), LogError> {
    let terminal = std::io::stderr().is_terminal();
    let human = match config.format {
        LogFormat::Auto => terminal,
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    let filter = filter(&config.level)?;
    let layer: Box<dyn Layer<Registry> + Send + Sync> = if human {
        fmt::layer().with_writer(std::io::stderr).with_ansi(terminal).with_target(false).boxed()
    } else {
        fmt::layer().with_writer(std::io::stderr).json().flatten_event(true).with_current_span(false).boxed()
    };
    tracing_subscriber::registry().with(layer.with_filter(filter)).try_init().map_err(|_| LogError::Twice)
}

fn filter(level: &str) -> Result<Targets, LogError> {
    // Filters on spans and fields (`[span{field}]`) would be read as the name of a module.
    if level.contains(['[', ']']) {
        return Err(LogError::Level { why: format!("`{level}` names more than modules"), source: None });
    }
    // A lone word that is not a level would be read as the name of a module.
    if level.is_empty() || !level.contains(['=', ',']) && level.parse::<tracing::level_filters::LevelFilter>().is_err()
    {
        return Err(LogError::Level { why: format!("`{level}` is no level"), source: None });
    }
    let directives: Vec<_> = level.split(',').map(str::trim).filter(|directive| !directive.is_empty()).collect();
    let wrong = |error| LogError::Level { why: format!("`{level}`: {error}"), source: Some(error) };
    directives.join(",").parse().map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_level_that_is_none() {
        assert!(filter("loud").is_err());
        assert!(filter("info,setgate_router=loud").is_err());
        assert!(filter("").is_err());
        assert!(filter("info,setgate_router[attempt]=debug").is_err());
        assert!(filter("info,setgate_router=debug").is_ok());
        assert!(filter("WARN").is_ok());
    }

    #[test]
    fn a_directive_is_for_its_module_and_what_is_in_it() {
        use tracing::Level;
        for level in ["warn,setgate_router=debug", "setgate_router=debug, warn,"] {
            let filter = filter(level).unwrap();
            assert!(filter.would_enable("setgate_router::settle", &Level::DEBUG), "{level}");
            assert!(!filter.would_enable("setgate_router::settle", &Level::TRACE), "{level}");
            assert!(filter.would_enable("setgate_store", &Level::WARN), "{level}");
            assert!(!filter.would_enable("setgate_store", &Level::INFO), "{level}");
        }
    }
}
