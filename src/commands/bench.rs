//! `setgate bench`: measures this machine, always beside a limit of the same run.

use std::{path::PathBuf, str::FromStr};

use setgate_bench::{BenchError, Figure, Machine, Plan, Scale, Shape, Watch};
use setgate_cli::{Context, Ended, Exit, Failure, Out, args::BenchArgs};
use setgate_jose::Algorithm;

/// The algorithms that are measured unless others are asked for.
const ALGORITHMS: [Algorithm; 3] = [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDSA];

/// Measures what was asked for.
pub(crate) async fn run(context: &Context, args: BenchArgs) -> Ended {
    if let Some(task) = &args.task {
        let done = setgate_bench::task(task).await.map_err(|error| Failure::failed(error.to_string()))?;
        context.out.raw(done);
        return Ok(Exit::Done);
    }
    if cfg!(debug_assertions) {
        return Err(Failure::usage("a build without optimisation is not worth measuring")
            .remedy("build with `cargo build --release`"));
    }
    let plan = plan(args)?;
    let watcher = Printed(context.out);
    let report = setgate_bench::run(&plan, &watcher).await.map_err(|error| match error {
        BenchError::Unfit(why) => Failure::usage(why),
        error => Failure::failed(error.to_string()),
    })?;
    context.out.value(&report);
    let (kept, broken) = report.promises();
    context.out.note(format!("{kept} promises kept, {broken} not kept, {:.0} s", report.seconds));
    if report.failures.is_empty() {
        return Ok(Exit::Done);
    }
    Err(Failure::failed(format!("no figure of {}", report.failures.join("; "))))
}

fn plan(args: BenchArgs) -> Result<Plan, Failure> {
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
    Ok(Plan {
        shapes: if shapes.is_empty() { Shape::usual(scale, args.kafka.is_some()) } else { shapes },
        scale,
        algorithms: if algorithms.is_empty() { ALGORITHMS.to_vec() } else { algorithms },
        folder,
        kafka: args.kafka,
        program: std::env::current_exe()
            .map_err(|error| Failure::failed(format!("this program is not to be found: {error}")))?,
    })
}

/// Prints as it comes.
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
