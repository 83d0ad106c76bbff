//! Counts of what becomes of deliveries, kept in one place: taken from what the store shows, and shown all at once.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
};

use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};
use setgate_set::{ErrorCode, Receipt};
use setgate_store::{Ending, Fact, Origin, Rule, StreamNo, Witness};

/// Counts deliveries of all streams, deleted ones included. Clones share the counts.
///
/// Owed = acknowledged + parked + dropped + waiting holds at every reading: all five are of one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts(Arc<Mutex<Counted>>);

/// A method's name and one more label.
type Two = (&'static str, &'static str);

#[derive(Debug, Default)]
struct Counted {
    /// The methods that serve the streams; a stream that none serves counts as `none`.
    methods: HashMap<StreamNo, &'static str>,
    owed: BTreeMap<&'static str, u64>,
    acknowledged: BTreeMap<Two, u64>,
    parked: BTreeMap<Two, u64>,
    dropped: BTreeMap<Two, u64>,
    waiting: u64,
}

impl Counts {
    /// Sets the method that serves a stream from now on.
    pub(crate) fn served_by(&self, stream: StreamNo, method: &'static str) {
        self.0.lock().methods.insert(stream, method);
    }

    /// Removes a stream that is deleted and owed nothing.
    pub(crate) fn forget(&self, stream: StreamNo) {
        self.0.lock().methods.remove(&stream);
    }
}

impl Witness for Counts {
    fn saw(&self, facts: &[Fact], waiting: u64) {
        let counted = &mut *self.0.lock();
        counted.waiting = waiting;
        for fact in facts {
            match fact {
                Fact::Owed(origin, count) => *counted.owed.entry(origin_name(*origin)).or_default() += count,
                Fact::Ended(stream, ending, count) => {
                    let method = counted.methods.get(stream).copied().unwrap_or("none");
                    let (by, label) = match ending {
                        Ending::Acknowledged(Receipt::Receiver) => (&mut counted.acknowledged, "receiver"),
                        Ending::Acknowledged(Receipt::Broker) => (&mut counted.acknowledged, "broker"),
                        Ending::Parked(code) => (&mut counted.parked, code_label(code)),
                        Ending::Dropped(rule) => (&mut counted.dropped, rule_name(*rule)),
                    };
                    *by.entry((method, label)).or_default() += count;
                }
            }
        }
    }
}

impl Collector for Counts {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let counted = self.0.lock();
        let help = "Deliveries that were owed, by origin: an event counts once for each stream that wants it.";
        let mut owed = encoder.encode_descriptor("deliveries_owed", help, None, MetricType::Counter)?;
        for (origin, count) in &counted.owed {
            ConstCounter::new(*count).encode(owed.encode_family(&[("origin", *origin)])?)?;
        }
        let families = [
            (
                "deliveries_acknowledged",
                "Deliveries that were acknowledged, by method and who answered.",
                "receipt",
                &counted.acknowledged,
            ),
            ("deliveries_parked", "Deliveries that were parked, by method and code.", "code", &counted.parked),
            ("deliveries_dropped", "Deliveries that were dropped, by method and rule.", "rule", &counted.dropped),
        ];
        for (name, help, second, all) in families {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for ((method, label), count) in all {
                ConstCounter::new(*count).encode(family.encode_family(&[("method", *method), (second, *label)])?)?;
            }
        }
        let help = "Deliveries that are owed and not settled.";
        let waiting = encoder.encode_descriptor("deliveries_waiting", help, None, MetricType::Gauge)?;
        ConstGauge::new(i64::try_from(counted.waiting).unwrap_or(i64::MAX)).encode(waiting)
    }
}

fn origin_name(origin: Origin) -> &'static str {
    match origin {
        Origin::Event => "event",
        Origin::Control => "control",
        Origin::Reissue => "reissue",
        Origin::Before => "before",
    }
}

pub(crate) fn rule_name(rule: Rule) -> &'static str {
    match rule {
        Rule::Disabled => "disabled",
        Rule::Deleted => "deleted",
        Rule::SubjectRemoved => "subject_removed",
        Rule::EventNotWanted => "event_not_wanted",
        Rule::TooOld => "too_old",
        Rule::TooMany => "too_many",
        Rule::TooLarge => "too_large",
        Rule::Lost => "lost",
    }
}

/// Returns the label of a code. Only known codes label metrics, so that a receiver cannot create series.
fn code_label(code: &ErrorCode) -> &'static str {
    match code {
        ErrorCode::InvalidRequest => "invalid_request",
        ErrorCode::InvalidKey => "invalid_key",
        ErrorCode::InvalidIssuer => "invalid_issuer",
        ErrorCode::InvalidAudience => "invalid_audience",
        ErrorCode::AuthenticationFailed => "authentication_failed",
        ErrorCode::AccessDenied => "access_denied",
        ErrorCode::InvalidState => "invalid_state",
        ErrorCode::TooLarge => "too_large",
        ErrorCode::Poison => "poison",
        _ => "other",
    }
}
