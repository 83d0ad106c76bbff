//! The wall clock, set back and far ahead, under a running gateway and between two runs.

use std::path::PathBuf;
use std::process::Command;

use crate::boxed::{Gateway, Plan, event};
use crate::http;
use crate::sink::{Arrived, Reply, Sink};

const DAY: i64 = 24 * 3600;

/// Compiles the shim between the program and the system's clock into a folder.
fn shim(folder: &std::path::Path) -> PathBuf {
    let library = folder.join("wall.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/wall.c");
    let made =
        Command::new("cc").args(["-shared", "-fPIC", "-O1", source, "-ldl", "-o"]).arg(&library).status().unwrap();
    assert!(made.success(), "the shim does not compile");
    library
}

/// Returns a gateway whose wall clock is off by the number of seconds in `Gateway::path("offset")`.
fn gateway(sink: &Sink, options: &str) -> Gateway {
    let mut gateway = Plan::new().stream("crm", &sink.url()).options(options).prepare();
    set(&gateway, 0);
    let library = shim(gateway.folder.path());
    let offset = gateway.path("offset");
    gateway.environment = vec![("LD_PRELOAD".into(), library.into()), ("WALL_OFFSET".into(), offset.into())];
    gateway.start();
    gateway
}

fn set(gateway: &Gateway, seconds: i64) {
    // The file is written beside and renamed: the program never sees an empty one.
    std::fs::write(gateway.path("offset.new"), seconds.to_string()).unwrap();
    std::fs::rename(gateway.path("offset.new"), gateway.path("offset")).unwrap();
}

/// Returns the answer of `/readyz`.
fn ready(gateway: &Gateway) -> String {
    http::send(gateway.operator, &http::request("GET", "/readyz", &[], b"")).text()
}

/// Returns the `iat` of the first arrival of each event.
fn firsts(all: &[Arrived], numbers: impl Iterator<Item = u64>) -> Vec<u64> {
    numbers.map(|number| iat(all.iter().find(|one| one.number() == number).unwrap())).collect()
}

fn iat(one: &Arrived) -> u64 {
    one.claims()["iat"].as_u64().unwrap()
}

#[test]
fn a_clock_that_is_set_back_changes_neither_order_nor_payload_and_iat_never_falls() {
    let sink =
        Sink::new(
            |one, number| {
                if one.claims()["jti"].is_string() && number == 1 { Reply::status(500) } else { Reply::status(202) }
            },
        );
    let mut gateway = gateway(&sink, "");
    gateway.accept(&event(0, "a"));
    sink.until_numbers([0]);
    set(&gateway, -DAY);
    gateway.accept(&event(1, "a"));
    gateway.accept(&event(2, "a"));
    sink.until_numbers(0..=2);
    gateway.until_stream("crm", "all acknowledged", |view| view["acknowledged"] == 3);
    gateway.kill();
    set(&gateway, -2 * DAY);
    gateway.start();
    gateway.accept(&event(3, "a"));
    let all = sink.until_numbers(0..=3);
    // Acknowledgements are written lazily: after a kill, any number of the last SETs may be handed over again, in
    // order.
    let numbers: Vec<u64> = all.iter().map(Arrived::number).collect();
    let (before, after) = numbers.split_at(4);
    assert_eq!(before, [0, 1, 1, 2], "the second is sent twice, and everything in order");
    assert!((0..=3).any(|first| after.iter().copied().eq(first..=3)), "out of order after the kill: {after:?}");
    for one in &all {
        let first = all.iter().find(|other| other.number() == one.number()).unwrap();
        assert_eq!((first.jti(), first.claims()), (one.jti(), one.claims()), "a repeat differs");
    }
    let firsts = firsts(&all, 0..=3);
    assert!(firsts.is_sorted(), "iat falls: {firsts:?}");
}

#[test]
fn a_clock_that_is_set_far_ahead_destroys_nothing_that_waits_and_forgets_no_id() {
    let sink = Sink::new(|_, _| Reply::status(202));
    sink.hold();
    let mut gateway = gateway(&sink, "[methods.push]\ntimeout = \"1s\"\n");
    let first = gateway.accept(&event(0, "a"));
    gateway.accept(&event(1, "b"));
    sink.until("an attempt", |all| !all.is_empty());
    set(&gateway, 3650 * DAY);
    // Several rounds of retention pass, one every second: none may believe that ten years have passed.
    let before = sink.arrived().len();
    sink.until("further attempts", |all| all.len() >= before + 6);
    let view = gateway.stream("crm");
    assert_eq!((&view["waiting"], &view["dropped"]), (&2.into(), &0.into()), "{view}");
    assert_eq!(gateway.accept(&event(0, "a"))["txn"], first["txn"], "an id was forgotten");
    gateway.accept(&event(2, "c"));
    assert!(ready(&gateway).contains("warning: the wall clock is 3153"), "{}", ready(&gateway));
    // The same holds after a restart with the wrong clock.
    gateway.kill();
    gateway.start();
    let before = sink.arrived().len();
    sink.until("further attempts", |all| all.len() >= before + 4);
    let view = gateway.stream("crm");
    assert_eq!((&view["waiting"], &view["dropped"]), (&3.into(), &0.into()), "{view}");
    assert_eq!(gateway.accept(&event(0, "a"))["txn"], first["txn"], "an id was forgotten over a restart");
    gateway.accept(&event(3, "d"));
    // The clock is set right, and everything arrives.
    set(&gateway, 0);
    sink.release();
    gateway.until_stream("crm", "all acknowledged", |view| view["acknowledged"] == 4);
    assert_eq!(ready(&gateway), "ready\n");
    gateway.accept(&event(4, "a"));
    let all = sink.until_numbers(0..=4);
    let iats = firsts(&all, 0..=4);
    assert!(iats.is_sorted() && iats[4] - iats[0] < 3600, "an event of the wrong clock fixes times: {iats:?}");
}

#[test]
fn a_clock_that_leaps_is_believed_when_it_lasts_and_when_an_operator_says_so() {
    let sink = Sink::good();
    let store = "[store]\nreserve_bytes = 16777216\nclock_steady = \"8s\"\n";
    let mut gateway = gateway(&sink, store);
    gateway.accept(&event(0, "a"));
    set(&gateway, DAY);
    gateway.accept(&event(1, "a"));
    let listed = gateway.command(&["streams", "list"]);
    assert!(listed["warnings"][0].as_str().unwrap().contains("confirm-clock"), "{listed}");
    assert!(gateway.log().contains("the wall clock jumped and is not believed"), "{}", gateway.log());
    gateway.until("the clock is believed", |gateway| gateway.command(&["store", "health"])["clock_suspect"] == false);
    gateway.accept(&event(2, "a"));
    set(&gateway, 0);
    gateway.accept(&event(3, "a"));
    let health = gateway.command(&["store", "health"]);
    assert_eq!(health["clock_suspect"], true, "{health}");
    let asked = gateway.run(&["store", "confirm-clock"]);
    assert_eq!(asked.status.code(), Some(2), "nobody answered: {}", String::from_utf8_lossy(&asked.stderr));
    let confirmed = gateway.command(&["store", "confirm-clock", "--yes"]);
    assert!((DAY - 60..DAY + 60).contains(&confirmed["went_back_seconds"].as_i64().unwrap()), "{confirmed}");
    assert!(gateway.log().contains("an operator confirmed the wall clock"), "{}", gateway.log());
    gateway.accept(&event(4, "a"));
    // The operator's confirmation is durable.
    gateway.kill();
    gateway.start();
    gateway.accept(&event(5, "a"));
    let iats = firsts(&sink.until_numbers(0..=5), 0..=5);
    let days: Vec<u64> = iats.iter().map(|iat| (iat + 1800 - iats[0]) / 3600).collect();
    assert_eq!(days, [0, 0, 24, 24, 0, 0], "hours after the first: {iats:?}");
    let confirmed = gateway.command(&["store", "confirm-clock"]);
    assert_eq!(confirmed["offset_seconds"], 0, "{confirmed}");
}
