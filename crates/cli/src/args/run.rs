//! The arguments of the commands that need the assembled gateway.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;
use setgate_clock::duration;

/// `setgate init`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:\n  \
    setgate init --config setgate.toml\n  \
    setgate init --print-config > setgate.toml      # every option at its default, explained")]
pub struct InitArgs {
    /// Print the configuration with every option at its default, and do nothing else.
    #[arg(long)]
    pub print_config: bool,
}

/// `setgate serve`.
#[derive(Clone, Debug, Default, Args)]
#[command(after_help = "Examples:\n  \
    setgate serve --config /etc/setgate/setgate.toml\n  \
    setgate serve --config setgate.toml --init       # creates store and keys at the first start\n  \
    setgate serve --dev                              # without a file: everything in ./setgate-dev, for a first try\n\n\
    SIGTERM or SIGINT stops it without losing anything in flight; a second one stops it at once.\n\
    With store or keys missing it refuses to start: an unmounted volume must not look like a first start.")]
pub struct ServeArgs {
    /// Create store, keys and token if none of them is there.
    #[arg(long)]
    pub init: bool,
    /// For a first try: listen on loopback only, allow http issuers and receivers on loopback.
    #[arg(long)]
    pub dev: bool,
    /// Start although more than a tenth of the streams, or an issuer, is declared no more.
    #[arg(long)]
    pub force: bool,
}

/// `setgate demo`.
#[derive(Clone, Debug, Default, Args)]
#[command(after_help = "Examples:\n  \
    setgate demo\n  \
    setgate demo --keep            # leaves the gateway running and says how to reach it\n  \
    setgate demo --json | jq .\n\n\
    A gateway with an embedded store in a temporary folder, on free loopback ports; two receivers, one of which\n\
    fails at first; the example events of CAEP 1.0 and RISC 1.0. Ends when every SET is acknowledged.")]
pub struct DemoArgs {
    /// Leave the gateway and the receivers running until Ctrl-C.
    #[arg(long)]
    pub keep: bool,
    /// Give up after so long.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration::parse)]
    pub within: Duration,
}

/// `setgate listen`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:\n  \
    setgate listen --issuer https://idp.example.com --audience https://app.example.com\n  \
    setgate listen --issuer http://127.0.0.1:8080 --at 127.0.0.1:9090 --json\n  \
    setgate listen --issuer http://127.0.0.1:8080 --fail 503:20% --delay 200ms\n  \
    setgate listen --issuer http://127.0.0.1:8080 --refuse invalid_audience:5%\n  \
    setgate listen --issuer http://127.0.0.1:8080 --method poll --stream crm --token-file crm.token\n  \
    setgate listen --issuer http://127.0.0.1:8080 --method websocket --stream crm --token-file crm.token\n\n\
    `push` and `multipush` wait for the transmitter, at --at. `poll`, `websocket` and `pushpull` ask it, with a token that\n\
    `setgate receivers new` made: the way for receivers that nobody can reach.\n\n\
    Each SET is verified against the issuer's published keys (RFC 8417, SSF 1.0) before it is acknowledged and printed.")]
pub struct ListenArgs {
    /// The transmitter whose SETs are taken; may be given several times.
    #[arg(long, value_name = "URL", required = true)]
    pub issuer: Vec<String>,
    /// Where to listen; for methods that wait.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9090")]
    pub at: SocketAddr,
    /// The `aud` that SETs must have; may be given several times [default: any].
    #[arg(long, value_name = "AUD")]
    pub audience: Vec<String>,
    /// How SETs come in: push, multipush, poll, websocket or pushpull.
    #[arg(long, value_name = "METHOD", default_value = "push")]
    pub method: String,
    /// The stream to ask for, at `{issuer}/{method}/{stream}`; for methods that ask.
    #[arg(long, value_name = "ID", help_heading = "Methods that ask")]
    pub stream: Option<String>,
    /// Where to ask, instead of --stream.
    #[arg(long, value_name = "URL", conflicts_with = "stream", help_heading = "Methods that ask")]
    pub endpoint: Option<String>,
    /// A file with the receiver's bearer token.
    #[arg(long, value_name = "FILE", help_heading = "Methods that ask")]
    pub token_file: Option<PathBuf>,
    /// The `Authorization` header that the transmitter must send, as `file:PATH`, `env:NAME` or itself.
    #[arg(long, value_name = "VALUE")]
    pub authorization: Option<String>,
    /// Stop after so many SETs.
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// Answer a share of the requests with a status, for example 503:20%; may be given several times.
    #[arg(long, value_name = "STATUS[:SHARE]", help_heading = "Misbehave")]
    pub fail: Vec<String>,
    /// Wait before each answer, for example 200ms.
    #[arg(long, value_name = "TIME", help_heading = "Misbehave")]
    pub delay: Option<String>,
    /// Refuse a share of the SETs with an error code, for example invalid_audience:10%; may be given several times.
    #[arg(long, value_name = "CODE[:SHARE]", help_heading = "Misbehave")]
    pub refuse: Vec<String>,
    /// A PEM file with a certificate authority to trust beside the system's.
    #[arg(long, value_name = "FILE")]
    pub ca: Vec<PathBuf>,
}

/// `setgate check`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:\n  \
    setgate check --config setgate.toml\n  \
    setgate check --config setgate.toml --connect    # looks at receivers too\n  \
    setgate check --json | jq .options")]
pub struct CheckArgs {
    /// Look whether receivers and brokers can be reached.
    #[arg(long)]
    pub connect: bool,
}

/// `setgate bench`, with whatever stands behind it.
#[derive(Clone, Debug, Default, Args)]
#[command(disable_help_flag = true)]
pub struct BenchArgs {
    /// What would be measured.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub rest: Vec<String>,
}

impl BenchArgs {
    /// Returns the failure that names the command to run instead.
    pub(crate) fn elsewhere(&self) -> crate::Failure {
        let mut command = String::from("cargo run --release -p setgate_bench --");
        for word in self.rest.iter() {
            command.push(' ');
            command.push_str(&setgate_telemetry::clean(word, 200));
        }
        crate::Failure::usage("the measurements are a program of their own")
            .remedy(format!("run `{}` in the source", command.trim_end_matches(" --")))
    }
}
