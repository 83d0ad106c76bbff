//! The command line of the program.

use std::path::PathBuf;

use clap::Parser;

/// The command line.
#[derive(Clone, Debug, Default, Parser)]
#[command(
    name = "setgate_bench",
    version,
    about = "Measure this machine, always beside a limit taken in the same run.",
    max_term_width = 110,
    after_help = "Examples:\n  \
    cargo run --release -p setgate_bench                            # all but fan-out and idle, in about two minutes\n  \
    cargo run --release -p setgate_bench -- end-to-end --algorithm ES256\n  \
    cargo run --release -p setgate_bench -- fan-out idle            # 10,000 subscribers, 10,000 long polls\n  \
    cargo run --release -p setgate_bench -- kafka --kafka 127.0.0.1:9092   # beside bare loops over the same broker\n  \
    cargo run --release -p setgate_bench -- --folder /var/lib/setgate-bench --json\n\n\
    WHAT is signing, end-to-end, latency, intake, routing, waiting, isolation, backlog, poll, batches, fan-out, idle, kafka or\n\
    kafka-source; fan-out and idle need minutes and 11,000 open files, and run when they are named and with --full; those of\n\
    Kafka need a broker, and run where --kafka names one. Each figure stands beside its limit, taken in the same run. A figure whose\n\
    counts are not right is not printed, and the command fails; a promise that is not kept is printed as such, and the command does\n\
    not fail: docs/performance.md says what is promised, and how it is measured."
)]
pub(crate) struct Args {
    /// What to measure [default: everything but fan-out and idle].
    #[arg(value_name = "WHAT")]
    pub(crate) what: Vec<String>,
    /// Only whether it works: rough figures, in seconds.
    #[arg(long, conflicts_with = "full")]
    pub(crate) quick: bool,
    /// The full shapes: longer runs, a backlog of a million. Takes about a quarter of an hour.
    #[arg(long)]
    pub(crate) full: bool,
    /// Where to put the stores that are measured; a real disk, never tmpfs [default: target, else the current folder].
    #[arg(long, value_name = "FOLDER")]
    pub(crate) folder: Option<PathBuf>,
    /// The program that is measured [default: `setgate` beside this program; run by cargo, it is built first].
    #[arg(long, value_name = "FILE")]
    pub(crate) gateway: Option<PathBuf>,
    /// The broker of the Kafka figures, without TLS; topics of new names are made there, and deleted.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) kafka: Option<String>,
    /// Signature algorithms of the figures with signatures [default: RS256,ES256,EdDSA].
    #[arg(long, value_name = "ALG", value_delimiter = ',')]
    pub(crate) algorithm: Vec<String>,
    /// Print JSON for machines instead of text for people.
    #[arg(long)]
    pub(crate) json: bool,
    /// The far side of a measurement, in a process of its own.
    #[arg(long, value_name = "TASK", hide = true)]
    pub(crate) task: Option<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use setgate_bench::Shape;

    use super::*;

    #[test]
    fn the_definitions_agree_with_themselves() {
        Args::command().debug_assert();
    }

    #[test]
    fn the_help_names_everything_that_is_measured() {
        let help = Args::command().get_after_help().map(ToString::to_string).unwrap_or_default();
        for shape in Shape::ALL {
            assert!(help.contains(shape.name()), "{shape} is not in the help");
        }
    }
}
