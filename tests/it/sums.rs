//! Metrics and streams, which must agree about deliveries, whatever becomes of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use serde_json::Value;

use crate::boxed::{Gateway, Plan, event};
use crate::http::{self, request};
use crate::sink::{Reply, Sink};

/// The counts of deliveries: how many were owed, and their states.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    owed: u64,
    acknowledged: u64,
    parked: u64,
    dropped: u64,
    waiting: u64,
}

impl Sums {
    fn assert_add_up(&self, of: &str) {
        assert_eq!(self.owed, self.acknowledged + self.parked + self.dropped + self.waiting, "{of}: {self:?}");
    }

    fn plus(self, other: Self) -> Self {
        Self {
            owed: self.owed + other.owed,
            acknowledged: self.acknowledged + other.acknowledged,
            parked: self.parked + other.parked,
            dropped: self.dropped + other.dropped,
            waiting: self.waiting + other.waiting,
        }
    }

    /// Returns the counts since `before`, as a process counts that begins with the waiting deliveries.
    fn since(self, before: Self) -> Self {
        Self {
            owed: self.owed - before.owed + before.waiting,
            acknowledged: self.acknowledged - before.acknowledged,
            parked: self.parked - before.parked,
            dropped: self.dropped - before.dropped,
            waiting: self.waiting,
        }
    }

    /// Returns the counts after the stream was deleted.
    fn deleted(self) -> Self {
        Self { dropped: self.dropped + self.waiting, waiting: 0, ..self }
    }

    fn of_view(view: &Value) -> Self {
        let figure = |name: &str| view[name].as_u64().unwrap_or_else(|| panic!("{name} of {view}"));
        let sums = Self {
            owed: figure("owed"),
            acknowledged: figure("acknowledged"),
            parked: figure("parked_total"),
            dropped: figure("dropped"),
            waiting: figure("waiting"),
        };
        sums.assert_add_up("a stream");
        sums
    }
}

/// Returns the sums of a metrics page, and each of its lines about deliveries.
fn metrics(gateway: &Gateway) -> (Sums, BTreeMap<String, u64>) {
    let page = http::send(gateway.operator, &request("GET", "/metrics", &[], b"")).text();
    let line = |line: &str| {
        let (name, value) = line.strip_prefix("setgate_deliveries_")?.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse::<f64>().unwrap() as u64))
    };
    let lines: BTreeMap<String, u64> = page.lines().filter_map(line).collect();
    let sum = |of: &str| {
        let is = |name: &str| name.split('{').next() == Some(of);
        lines.iter().filter(|(name, _)| is(name)).map(|(_, value)| value).sum()
    };
    let sums = Sums {
        owed: sum("owed_total"),
        acknowledged: sum("acknowledged_total"),
        parked: sum("parked_total"),
        dropped: sum("dropped_total"),
        waiting: sum("waiting"),
    };
    sums.assert_add_up("metrics");
    (sums, lines)
}

/// Returns the counts of all streams, together with those that were deleted.
fn streams(gateway: &Gateway, deleted: Sums) -> Sums {
    let views = gateway.command(&["streams", "list"]);
    views["streams"].as_array().unwrap().iter().map(Sums::of_view).fold(deleted, Sums::plus)
}

/// Waits until metrics and streams have the same counts, and `so` holds for them.
fn until_both_say(gateway: &mut Gateway, deleted: Sums, before: Sums, what: &str, so: impl Fn(&Sums) -> bool) -> Sums {
    let mut last = (Sums::default(), Sums::default());
    gateway.until(what, |gateway| {
        let (counted, _) = metrics(gateway);
        last = (counted, streams(gateway, deleted).since(before));
        last.0 == last.1 && so(&last.0)
    });
    last.0
}

#[test]
fn metrics_and_streams_add_up_and_agree_whatever_becomes_of_deliveries() {
    let good = Sink::good();
    // The sink refuses each third event when it comes first, and accepts it when it is issued again.
    let refused = Mutex::new(BTreeSet::new());
    let fussy = Sink::new(move |set, _| {
        let no = r#"{"err":"invalid_request","description":"not today"}"#;
        if set.number() % 3 == 0 && set.number() < 100 && refused.lock().unwrap().insert(set.number()) {
            Reply::with(400, "content-type: application/json\r\n", no)
        } else {
            Reply::status(202)
        }
    });
    let dead = Sink::new(|_, _| Reply::status(503));
    let mut gateway = Plan::new()
        .stream("good", &good.url())
        .stream("fussy", &fussy.url())
        .stream_of("", "dead", &dead.url(), "retention = { sets = 5 }")
        .stream("gone", &dead.url())
        .options(
            "[router]\nbackoff_initial = \"50ms\"\nbackoff_max = \"1s\"\nretention_interval = \"1s\"\npause_after_parked = 1000\n",
        )
        .start();
    let (nothing, none) = (Sums::default(), Sums::default());
    gateway.accept_all((1..=30).map(|number| event(number, &format!("key {number}"))));
    // The streams have 30 deliveries each; 25 of the dead one exceed its retention.
    until_both_say(&mut gateway, nothing, none, "all is settled that can be", |sums| {
        (sums.owed, sums.acknowledged, sums.parked, sums.dropped, sums.waiting) == (120, 50, 10, 25, 35)
    });

    // Two SETs are issued again, and one is dropped for good: it was parked, and stays counted as such.
    let parked = gateway.command(&["parked", "list", "--stream", "fussy"]);
    let jti = |index: usize| parked["parked"][index]["jti"].as_str().unwrap().to_owned();
    let output = gateway.run(&["parked", "reissue", &jti(0), &jti(1)]);
    assert!(output.status.success(), "{output:?}");
    let output = gateway.run(&["parked", "drop", &jti(2), "--yes"]);
    assert!(output.status.success(), "{output:?}");
    until_both_say(&mut gateway, nothing, none, "two were owed once more", |sums| {
        (sums.owed, sums.acknowledged, sums.parked, sums.waiting) == (122, 52, 10, 35)
    });
    let (_, lines) = metrics(&gateway);
    assert_eq!(lines.get("owed_total{origin=\"reissue\"}"), Some(&2), "{lines:?}");

    // A stream is deleted with its waiting deliveries.
    let gone = Sums::of_view(&gateway.stream("gone")).deleted();
    assert!(gateway.run(&["streams", "delete", "gone", "--yes"]).status.success());
    until_both_say(&mut gateway, gone, none, "a stream is gone", |sums| sums.waiting == 5 && sums.dropped == 55);

    // The process is killed; the next one counts from the waiting deliveries.
    let before = streams(&gateway, Sums::default());
    let declared = std::fs::read_to_string(gateway.config()).unwrap();
    let (kept, _) = declared.split_once("\n[[streams]]\nid = \"gone\"").unwrap();
    std::fs::write(gateway.config(), kept).unwrap();
    gateway.kill();
    gateway.start();
    let sums = until_both_say(&mut gateway, nothing, before, "it begins with what waits", |sums| sums.waiting == 5);
    assert_eq!(sums, Sums { owed: 5, waiting: 5, ..Sums::default() });
    gateway.accept_all((101..=110).map(|number| event(number, &format!("key {number}"))));
    until_both_say(&mut gateway, nothing, before, "the next are counted", |sums| {
        (sums.owed, sums.acknowledged, sums.dropped, sums.waiting) == (35, 20, 10, 5)
    });
    assert!(gateway.stop().success());
}
