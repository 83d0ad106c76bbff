#![doc = include_str!("../README.md")]

mod backlog;
mod bare;
mod batches;
mod broadcast;
#[cfg(feature = "kafka")]
mod broker;
mod child;
#[cfg(feature = "kafka")]
mod consuming;
mod crowd;
mod crowds;
mod end_to_end;
mod event;
mod fan_out;
mod frame;
mod idle;
mod intake;
mod isolation;
#[cfg(feature = "kafka")]
mod kafka;
mod latency;
mod link;
mod load;
mod machine;
mod measure;
mod plan;
mod poll;
#[cfg(feature = "kafka")]
mod producing;
mod proxy;
mod quiet;
mod report;
mod responder;
mod routing;
mod signing;
mod sink;
mod talk;
mod verify;
mod waiting;

pub use machine::Machine;
pub use plan::{Plan, Scale, Shape, UnknownShape};
pub use report::{Figure, Limit, Promise, Report, Watch};

use crate::measure::Clock;

/// The text of the error when the figures of Kafka are wanted without a broker.
pub(crate) const NO_BROKER: &str = "the figures of Kafka need a broker: name one with `--kafka HOST:PORT`, or let `cargo xtask bench-kafka` bring one up";

/// The reason why a measurement gives no figure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// The output does not match the input, so no figure of this shape may be believed.
    #[error("{0}")]
    Miscounted(String),
    /// The folder is no place to measure a store in, or something that the plan needs is not there.
    #[error("{0}")]
    Unfit(String),
    /// A step of the measurement failed.
    #[error("{0}")]
    Failed(String),
}

impl BenchError {
    pub(crate) fn failed(what: &str) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.to_owned();
        move |error| Self::Failed(format!("{what}: {error}"))
    }
}

/// Measures what the plan names, one shape after another, and passes each figure to `watch` as soon as its counts are
/// correct.
///
/// # Errors
/// [`BenchError`] when nothing can be measured here at all; what fails in one shape is in the report.
pub async fn run(plan: &Plan, watch: &dyn Watch) -> Result<Report, BenchError> {
    plan.check()?;
    let clock = Clock::new();
    let machine = Machine::look(&plan.folder, &clock)?;
    watch.machine(&machine);
    let bench = Bench { plan, clock, watch };
    let mut report = Report::new(machine);
    for shape in &plan.shapes {
        watch.begin(*shape);
        let measured = match shape {
            Shape::Signing => signing::measure(&bench),
            Shape::EndToEnd => end_to_end::measure(&bench).await,
            Shape::Intake => intake::measure(&bench).await,
            Shape::Routing => routing::measure(&bench).await,
            Shape::Waiting => waiting::measure(&bench).await,
            Shape::Isolation => isolation::measure(&bench).await,
            Shape::Backlog => backlog::measure(&bench).await,
            Shape::Latency => latency::measure(&bench).await,
            Shape::Poll => poll::measure(&bench).await,
            Shape::Batches => batches::measure(&bench).await,
            Shape::FanOut => fan_out::measure(&bench).await,
            Shape::Idle => idle::measure(&bench).await,
            #[cfg(feature = "kafka")]
            Shape::Kafka => kafka::measure(&bench).await,
            #[cfg(feature = "kafka")]
            Shape::KafkaSource => consuming::measure(&bench).await,
            #[cfg(not(feature = "kafka"))]
            Shape::Kafka | Shape::KafkaSource => Err(BenchError::Unfit(plan::NO_KAFKA.to_owned())),
        };
        match measured {
            Ok(figures) => {
                figures.iter().for_each(|figure| watch.figure(figure));
                report.figures.extend(figures);
            }
            Err(error) => {
                watch.failed(*shape, &error);
                report.failures.push(format!("{}: {error}", shape.name()));
            }
        }
    }
    report.seconds = bench.clock.now().as_secs_f64();
    Ok(report)
}

/// Runs the far side of a measurement, in a process of its own, and returns what it prints.
///
/// # Errors
/// [`BenchError`] when there is no such task or it fails.
pub async fn task(task: &str) -> Result<String, BenchError> {
    match responder::task(task).await {
        Some(done) => done,
        None => waiting::task(task).await,
    }
}

/// The values that every measurement is given.
pub(crate) struct Bench<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) clock: Clock,
    pub(crate) watch: &'a dyn Watch,
}
