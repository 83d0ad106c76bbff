//! The command line: commands, options and their help.

mod emit;
mod operate;
mod run;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

pub use emit::EmitArgs;
pub use operate::{
    KeysCommand, OnSets, ParkedCommand, ParkedList, ProducersCommand, ReceiversCommand, RotateKekArgs, SourcesCommand,
    StoreCommand, StreamsCommand,
};
pub use run::{BenchArgs, CheckArgs, DemoArgs, InitArgs, ListenArgs, ServeArgs};

/// The command line.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "setgate",
    version,
    about = "A gateway for Security Event Tokens (RFC 8417): events in, signed SETs out, nothing lost.",
    after_help = "A first look, on this machine alone:   setgate demo\n\
                  Every command explains itself:         setgate help COMMAND",
    after_long_help = crate::Exit::table(),
    disable_help_subcommand = false,
    max_term_width = 110
)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Global {
    /// The configuration file [default: ./setgate.toml, else /etc/setgate/setgate.toml].
    #[arg(long, short, global = true, value_name = "FILE", env = "SETGATE_CONFIG", hide_env = true)]
    pub config: Option<PathBuf>,
    /// Print JSON for machines instead of text for people.
    #[arg(long, global = true)]
    pub json: bool,
    /// Colours: on a terminal, always or never.
    #[arg(long, global = true, value_name = "WHEN", default_value_t, hide_default_value = true, value_enum)]
    pub color: Color,
    /// The admin listener of the running gateway [default: from the configuration].
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "SETGATE_ADMIN_URL",
        hide_env = true,
        help_heading = "Admin listener"
    )]
    pub admin_url: Option<String>,
    /// What `--admin-url` was called before.
    #[arg(long, global = true, hide = true, value_parser = |_: &str| Err::<String, _>("it is now --admin-url"))]
    pub door: Option<String>,
    /// The file with the admin token [default: from the configuration]; SETGATE_ADMIN_TOKEN holds the token itself.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "SETGATE_ADMIN_TOKEN_FILE",
        hide_env = true,
        help_heading = "Admin listener"
    )]
    pub admin_token_file: Option<PathBuf>,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Create the store, the signing keys, the key-encryption key and the admin token.
    Init(InitArgs),
    /// Run the gateway until it is told to stop.
    Serve(ServeArgs),
    /// Watch real events travel through a gateway on this machine: nothing to configure.
    Demo(DemoArgs),
    /// Be a receiver: take SETs, verify and print them, and misbehave if told to.
    Listen(ListenArgs),
    /// Put events in, from a file, a pipe or thin air.
    Emit(EmitArgs),
    /// Validate the configuration without starting, and print the limits in force.
    Check(CheckArgs),
    /// Streams: who gets what, how far behind they are, and why nothing can come.
    #[command(subcommand)]
    Streams(StreamsCommand),
    /// SETs that were refused or given up.
    #[command(subcommand)]
    Parked(ParkedCommand),
    /// Signing keys.
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Those who may put events in.
    #[command(subcommand)]
    Producers(ProducersCommand),
    /// Places from which events are collected.
    #[command(subcommand)]
    Sources(SourcesCommand),
    /// Those who may come for SETs.
    #[command(subcommand)]
    Receivers(ReceiversCommand),
    /// The store on the disk.
    #[command(subcommand)]
    Store(StoreCommand),
    /// Says where the measurements are: this program does not carry them.
    #[command(hide = true)]
    Bench(BenchArgs),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn a_kid_that_begins_with_a_hyphen_is_no_option() {
        for typed in [["-Dq2pddZ_-WvJgy6BE537Nvr5", "--yes"], ["--yes", "-Dq2pddZ_-WvJgy6BE537Nvr5"]] {
            let words = ["setgate", "keys", "revoke"].into_iter().chain(typed);
            let parsed = format!("{:?}", Cli::try_parse_from(words).unwrap().command);
            assert!(parsed.contains(r#"kid: "-Dq2pddZ_-WvJgy6BE537Nvr5""#) && parsed.contains("yes: true"), "{parsed}");
        }
    }

    #[test]
    fn the_definitions_agree_with_themselves() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_help_with_an_example() {
        fn walk(command: &clap::Command, path: &str) {
            for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help" && !sub.is_hide_set()) {
                let path = format!("{path} {}", sub.get_name());
                assert!(sub.get_about().is_some(), "{path} says nothing about itself");
                if sub.has_subcommands() {
                    walk(sub, &path);
                } else {
                    let after = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
                    assert!(after.contains(path.trim()), "{path} shows no example of itself:\n{after}");
                }
                for arg in sub.get_arguments() {
                    assert!(arg.get_help().is_some(), "{path} {} has no help", arg.get_id());
                }
            }
        }
        walk(&Cli::command(), "setgate");
    }

    #[test]
    fn global_options_may_stand_behind_the_command() {
        let cli = Cli::try_parse_from(["setgate", "streams", "list", "--json", "--config", "a.toml"]).unwrap();
        assert!(cli.global.json);
        assert_eq!(cli.global.config, Some("a.toml".into()));
    }

    #[test]
    fn bench_says_what_to_run_instead() {
        for (typed, command) in [
            (&["setgate", "bench"][..], "`cargo run --release -p setgate_bench`"),
            (&["setgate", "bench", "--help"], "`cargo run --release -p setgate_bench -- --help`"),
            (
                &["setgate", "bench", "end-to-end", "--algorithm", "ES256", "--json"],
                "`cargo run --release -p setgate_bench -- end-to-end --algorithm ES256 --json`",
            ),
        ] {
            let Command::Bench(args) = Cli::try_parse_from(typed).unwrap().command else { panic!("{typed:?}") };
            let told = args.elsewhere().to_string();
            assert!(told.contains(command), "{told}");
        }
    }

    #[test]
    fn an_old_flag_and_a_time_without_a_unit_are_refused_with_what_to_write() {
        let refused = |words: &[&str]| Cli::try_parse_from(words).unwrap_err().to_string();
        assert!(
            refused(&["setgate", "streams", "list", "--door", "http://127.0.0.1:1"]).contains("it is now --admin-url")
        );
        assert!(refused(&["setgate", "demo", "--within", "30"]).contains("write \"30s\" for seconds"));
    }

    #[test]
    fn the_help_is_as_reviewed() {
        fn walk(command: &mut clap::Command, path: &str, all: &mut String) {
            let help = command.render_long_help().to_string();
            let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
            all.push_str(&format!("===== {path}\n{}\n\n", lines.join("\n")));
            for sub in command.get_subcommands_mut().filter(|sub| sub.get_name() != "help" && !sub.is_hide_set()) {
                let path = format!("{path} {}", sub.get_name());
                walk(sub, &path, all);
            }
        }
        let mut command = Cli::command().term_width(100);
        command.build();
        let mut all = String::new();
        walk(&mut command, "setgate", &mut all);
        insta::assert_snapshot!("help", all);
    }
}
