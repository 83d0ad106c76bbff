//! The way from the command line to the exit code.

use std::{path::PathBuf, process::ExitCode, str::FromStr};

use clap::Parser as _;
use setgate_bench::{BenchError, Figure, Machine, Plan, Scale, Shape, Watch};
use setgate_cli::{Ended, Exit, Failure, Out};
use setgate_jose::Algorithm;

use crate::{args::Args, gateway};

/// The algorithms that are measured unless others are asked for.
const ALGORITHMS: [Algorithm; 3] = [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDSA];

/// Reads the command line, runs what it asks for and returns the exit code.
pub(crate) fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() };
        }
    };
    let out = Out::new(args.json);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            out.error(format!("the runtime cannot be started: {error}"));
            return Exit::Failed.into();
        }
    };
    let ended = runtime.block_on(run(out, args));
    // The far side reads standard input until it ends, which must not keep the process alive.
    runtime.shutdown_background();
    match ended {
        Ok(exit) => exit.into(),
        Err(failure) => {
            out.error(failure.to_string());
            failure.exit.into()
        }
    }
}

/// Measures what was asked for.
async fn run(out: Out, args: Args) -> Ended {
    if let Some(task) = &args.task {
        let done = setgate_bench::task(task).await.map_err(|error| Failure::failed(error.to_string()))?;
        out.raw(done);
        return Ok(Exit::Done);
    }
    if cfg!(debug_assertions) {
        return Err(Failure::usage("a build without optimisation is not worth measuring")
            .remedy("run it with `cargo run --release -p setgate_bench`"));
    }
    let plan = plan(args)?;
    let watcher = Printed(out);
    let report = setgate_bench::run(&plan, &watcher).await.map_err(|error| match error {
        BenchError::Unfit(why) => Failure::usage(why),
        error => Failure::failed(error.to_string()),
    })?;
    out.value(&report);
    let (kept, broken) = report.promises();
    out.note(format!("{kept} promises kept, {broken} not kept, {:.0} s", report.seconds));
    if report.failures.is_empty() {
        return Ok(Exit::Done);
    }
    Err(Failure::failed(format!("no figure of {}", report.failures.join("; "))))
}

fn plan(args: Args) -> Result<Plan, Failure> {
    let usage = |why: String| Failure::usage(why);
    let shapes = args.what.iter().map(|name| Shape::from_str(name).map_err(|error| usage(error.to_string())));
    let shapes = shapes.collect::<Result<Vec<_>, _>>()?;
    let algorithms =
        args.algorithm.iter().map(|name| Algorithm::from_str(name).map_err(|error| usage(error.to_string())));
    let algorithms = algorithms.collect::<Result<Vec<_>, _>>()?;
    let folder = args.folder.unwrap_or_else(|| {
        let target = PathBuf::from("target");
        if target.is_dir() { target.join("bench") } else { PathBuf::from("setgate-bench") }
    });
    let scale = match (args.quick, args.full) {
        (true, _) => Scale::Quick,
        (_, true) => Scale::Full,
        _ => Scale::Normal,
    };
    let own = std::env::current_exe()
        .map_err(|error| Failure::failed(format!("this program is not to be found: {error}")))?;
    Ok(Plan {
        shapes: if shapes.is_empty() { Shape::usual(scale, args.kafka.is_some()) } else { shapes },
        scale,
        algorithms: if algorithms.is_empty() { ALGORITHMS.to_vec() } else { algorithms },
        folder,
        kafka: args.kafka,
        program: gateway::find(args.gateway, &own)?,
        own,
    })
}

/// A watcher that prints each event of a run at once.
struct Printed(Out);

impl Watch for Printed {
    fn machine(&self, machine: &Machine) {
        self.0.line(machine.text());
    }

    fn begin(&self, shape: Shape) {
        self.0.line(format!("\n{shape}"));
    }

    fn step(&self, what: &str) {
        self.0.note(format!("  … {what}"));
    }

    fn figure(&self, figure: &Figure) {
        self.0.line(format!("  {}", figure.text()));
        if !figure.note.is_empty() {
            self.0.line(format!("    {}", figure.note));
        }
    }

    fn failed(&self, shape: Shape, error: &BenchError) {
        self.0.error(format!("{shape}: {error}"));
    }
}
