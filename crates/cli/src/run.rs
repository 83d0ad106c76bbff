//! The entry point of the command line, from the arguments to the exit code.

use std::process::ExitCode;

use clap::Parser as _;

use crate::{
    Context, Ended, Exit, Gateway, StoreRepair,
    args::{Cli, Command, KeysCommand, StoreCommand},
    emit, keys, out, parked, producers, receivers, sources, store_commands, streams,
};

/// Parses the command line, runs the command, and returns its exit code.
pub fn main(gateway: &dyn Gateway) -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() };
        }
    };
    out::choose(cli.global.color);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            crate::Out::new(false).error(format!("the runtime cannot be started: {error}"));
            return Exit::Failed.into();
        }
    };
    let out = crate::Out::new(cli.global.json);
    let ended = runtime.block_on(async {
        let context = Context::new(setgate_clock::system(), &cli.global);
        run(gateway, &context, cli.command).await
    });
    // Blocking work that is no longer needed (a reader of standard input) must not keep the process alive.
    runtime.shutdown_background();
    match ended {
        Ok(exit) => exit.into(),
        Err(failure) => {
            if out.is_json() {
                out.value(&serde_json::json!({
                    "error": failure.message, "remedy": failure.remedy, "exit": failure.exit.code(),
                }));
            }
            out.error(failure.to_string());
            failure.exit.into()
        }
    }
}

async fn run(gateway: &dyn Gateway, context: &Context, command: Command) -> Ended {
    match command {
        Command::Init(args) => gateway.init(context, args).await,
        Command::Serve(args) => gateway.serve(context, args).await,
        Command::Demo(args) => gateway.demo(context, args).await,
        Command::Listen(args) => gateway.listen(context, args).await,
        Command::Check(args) => gateway.check(context, args).await,
        Command::Bench(args) => Err(args.elsewhere()),
        Command::Emit(args) => emit::run(context, args).await,
        Command::Streams(command) => streams::run(gateway, context, command).await,
        Command::Parked(command) => parked::run(gateway, context, command).await,
        Command::Keys(KeysCommand::RotateKek(args)) => gateway.rotate_kek(context, args.new, args.at_next_start).await,
        Command::Keys(command) => keys::run(gateway, context, command).await,
        Command::Producers(command) => producers::run(gateway, context, command).await,
        Command::Sources(command) => sources::run(gateway, context, command).await,
        Command::Receivers(command) => receivers::run(gateway, context, command).await,
        Command::Store(StoreCommand::Check { path }) => gateway.store_check(context, path).await,
        Command::Store(StoreCommand::Repair { into, anyway, yes }) => {
            gateway.store_repair(context, StoreRepair { into, anyway, yes }).await
        }
        Command::Store(StoreCommand::Export { path, to }) => gateway.store_export(context, path, to).await,
        Command::Store(StoreCommand::Adopt { yes }) => gateway.store_adopt(context, yes).await,
        Command::Store(StoreCommand::Health) => store_commands::health(gateway, context).await,
        Command::Store(StoreCommand::ConfirmClock { yes }) => {
            store_commands::confirm_clock(gateway, context, yes).await
        }
    }
}
