//! The arguments of `setgate emit`.

use std::{path::PathBuf, time::Duration};

use clap::{ArgGroup, Args};
use setgate_clock::duration;

/// `setgate emit`.
#[derive(Clone, Debug, Args)]
#[command(
    group = ArgGroup::new("source").args(["file", "count"]).required(true),
    after_help = "Examples:\n  \
    setgate emit --issuer https://idp.example.com events.ndjson\n  \
    my-exporter | setgate emit --issuer https://idp.example.com -\n  \
    setgate emit --issuer http://127.0.0.1:8080 --count 1000 --rate 100\n  \
    setgate emit --issuer http://127.0.0.1:8080 --count 100000 --state run.json   # interrupt it, start it again\n  \
    setgate emit --count 2 --dry-run                                              # shows the events\n\n\
    Each event is sent with an id, so that sending it again is harmless: the gateway answers for the first one.\n\
    Answers 429 and 503 are waited out as the gateway asks (Retry-After). Refused events are listed, the rest goes on."
)]
pub struct EmitArgs {
    /// A file with JSON events: one a line, or an array, or one object; `-` reads standard input.
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Make so many CAEP events instead of reading any.
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// The issuer to put them in under; they go to URL/events.
    #[arg(long, value_name = "URL", env = "SETGATE_ISSUER", hide_env = true, required_unless_present = "dry_run")]
    pub issuer: Option<String>,
    /// The file with the producer's token; SETGATE_TOKEN holds the token itself.
    #[arg(long, value_name = "FILE", env = "SETGATE_TOKEN_FILE", hide_env = true)]
    pub token_file: Option<PathBuf>,
    /// At most so many events a second.
    #[arg(long, value_name = "PER_SECOND", value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: Option<u64>,
    /// Events in one request.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub batch: u64,
    /// What ids begin with; the rest is the number of the event. The same prefix and number is the same event.
    #[arg(long, value_name = "TEXT")]
    pub id_prefix: Option<String>,
    /// A file that remembers how far it came: started again, the command goes on there.
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// How long to try again while the gateway cannot be reached or is overloaded.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration::parse)]
    pub retry_for: Duration,
    /// Different subjects of made events.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub subjects: u64,
    /// Types of made events, by the last part of their URI, separated by commas [default: all that are made].
    #[arg(long, value_name = "TYPES", value_delimiter = ',')]
    pub events: Vec<String>,
    /// A PEM file with a certificate authority to trust beside the system's.
    #[arg(long, value_name = "FILE")]
    pub ca: Vec<PathBuf>,
    /// Print the events instead of sending them.
    #[arg(long)]
    pub dry_run: bool,
}
