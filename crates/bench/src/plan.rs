//! The plan of a run: the shapes that are measured, and how much of each.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use setgate_jose::Algorithm;

use crate::{BenchError, NO_BROKER};

/// A group of figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Signing with a held key beside the bare library.
    Signing,
    /// The way from the producer's request to the settled SET, beside the bare loop.
    EndToEnd,
    /// Intake alone.
    Intake,
    /// Deciding, and one event for many streams.
    Routing,
    /// A million waiting deliveries.
    Waiting,
    /// Dead endpoints beside healthy ones.
    Isolation,
    /// A stream that drains a backlog.
    Backlog,
    /// The time from the answer 202 to the receiver.
    Latency,
    /// Polls of a backlog, beside a bare responder.
    Poll,
    /// Several SETs per request over a slow connection, beside one per request.
    Batches,
    /// A single event for thousands of WebSocket subscribers.
    FanOut,
    /// Thousands of receivers that wait.
    Idle,
    /// Events into topics, beside bare loops over the same broker.
    Kafka,
    /// Events from a topic into the ledger, beside a loop that consumes and appends.
    KafkaSource,
}

impl Shape {
    /// The list of all shapes, in the order in which they are measured.
    pub const ALL: [Self; 14] = [
        Self::Signing,
        Self::EndToEnd,
        Self::Latency,
        Self::Intake,
        Self::Routing,
        Self::Waiting,
        Self::Isolation,
        Self::Backlog,
        Self::Poll,
        Self::Batches,
        Self::FanOut,
        Self::Idle,
        Self::Kafka,
        Self::KafkaSource,
    ];

    /// Returns whether the shape needs a broker.
    #[must_use]
    pub const fn needs_a_broker(self) -> bool {
        matches!(self, Self::Kafka | Self::KafkaSource)
    }

    /// Returns the shapes that are measured when none is named: at normal scale without those that need minutes and
    /// thousands of connections, and with Kafka if a broker is named.
    #[must_use]
    pub fn usual(scale: Scale, broker: bool) -> Vec<Self> {
        let long = |shape: &Self| matches!(shape, Self::FanOut | Self::Idle);
        let usual = |shape: &Self| match shape {
            shape if shape.needs_a_broker() => broker,
            shape => scale != Scale::Normal || !long(shape),
        };
        Self::ALL.into_iter().filter(usual).collect()
    }

    /// Returns the name of the shape on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Signing => "signing",
            Self::EndToEnd => "end-to-end",
            Self::Intake => "intake",
            Self::Routing => "routing",
            Self::Waiting => "waiting",
            Self::Isolation => "isolation",
            Self::Backlog => "backlog",
            Self::Latency => "latency",
            Self::Poll => "poll",
            Self::Batches => "batches",
            Self::FanOut => "fan-out",
            Self::Idle => "idle",
            Self::Kafka => "kafka",
            Self::KafkaSource => "kafka-source",
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The error of a text that names no shape.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "nothing called `{0}` is measured; there are: signing, end-to-end, latency, intake, routing, waiting, isolation, backlog, poll, batches, fan-out, idle, kafka, kafka-source"
)]
pub struct UnknownShape(String);

impl FromStr for Shape {
    type Err = UnknownShape;

    fn from_str(text: &str) -> Result<Self, UnknownShape> {
        Self::ALL.into_iter().find(|shape| shape.name() == text).ok_or_else(|| UnknownShape(text.to_owned()))
    }
}

/// The duration of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scale {
    /// A run of seconds, to see whether everything works. Its figures are rough.
    Quick,
    /// A run of under two minutes for everything.
    #[default]
    Normal,
    /// A run for as long as the full shapes take.
    Full,
}

impl Scale {
    pub(crate) fn of<T>(self, quick: T, normal: T, full: T) -> T {
        match self {
            Self::Quick => quick,
            Self::Normal => normal,
            Self::Full => full,
        }
    }

    /// Returns the duration of one loop that is bounded by time.
    pub(crate) fn loop_time(self) -> Duration {
        Duration::from_millis(self.of(250, 1000, 4000))
    }
}

/// The plan of a run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The groups of figures.
    pub shapes: Vec<Shape>,
    /// The scale.
    pub scale: Scale,
    /// The signature algorithms of the figures with signatures.
    pub algorithms: Vec<Algorithm>,
    /// The folder under which stores are created, on a real disk.
    pub folder: PathBuf,
    /// The gateway program that is measured, called with `serve`, `producers new` and the like.
    pub program: PathBuf,
    /// The program of the measurements itself, which has the far side of some of them.
    pub own: PathBuf,
    /// The broker of the Kafka figures, `HOST:PORT`, without TLS.
    pub kafka: Option<String>,
}

/// The text of the error when the figures of Kafka are wanted of a program without Kafka.
pub(crate) const NO_KAFKA: &str =
    "this program was built without Kafka: leave `--no-default-features` out when you build it";

impl Plan {
    /// Checks that everything is named that the shapes need.
    ///
    /// # Errors
    /// [`BenchError::Unfit`] names what is missing.
    pub(crate) fn check(&self) -> Result<(), BenchError> {
        if !self.shapes.iter().any(|shape| shape.needs_a_broker()) {
            return Ok(());
        }
        if !cfg!(feature = "kafka") {
            return Err(BenchError::Unfit(NO_KAFKA.to_owned()));
        }
        if self.kafka.is_none() {
            return Err(BenchError::Unfit(NO_BROKER.to_owned()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_is_found_by_its_name() {
        for shape in Shape::ALL {
            assert_eq!(shape.name().parse(), Ok(shape));
            assert!(UnknownShape(String::new()).to_string().contains(shape.name()));
        }
        assert!("everything".parse::<Shape>().is_err());
    }

    #[test]
    fn kafka_is_measured_only_where_a_broker_is_named() {
        assert!(!Shape::usual(Scale::Full, false).contains(&Shape::Kafka));
        assert!(Shape::usual(Scale::Normal, true).contains(&Shape::Kafka));
        let plan = |shape, kafka: Option<&str>| Plan {
            shapes: vec![shape],
            scale: Scale::Quick,
            algorithms: Vec::new(),
            folder: PathBuf::new(),
            program: PathBuf::new(),
            own: PathBuf::new(),
            kafka: kafka.map(str::to_owned),
        };
        assert!(plan(Shape::Signing, None).check().is_ok());
        let refused = plan(Shape::Kafka, None).check().unwrap_err().to_string();
        let (way, place) = if cfg!(feature = "kafka") { ("--kafka", true) } else { ("without Kafka", false) };
        assert!(refused.contains(way), "{refused}");
        assert_eq!(plan(Shape::Kafka, Some("127.0.0.1:9092")).check().is_ok(), place);
    }
}
