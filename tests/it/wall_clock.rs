//! The wall clock set back and far ahead, under a running gateway and between two runs.

use std::path::PathBuf;
use std::process::Command;

use crate::boxed::{Gateway, Plan, event};
use crate::sink::{Arrived, Reply, Sink};

const DAY: i64 = 24 * 3600;

/// The shim between the program and the system's clock, compiled once for each test.
fn shim(folder: &std::path::Path) -> PathBuf {
    let library = folder.join("wall.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/wall.c");
    let made =
        Command::new("cc").args(["-shared", "-fPIC", "-O1", source, "-ldl", "-o"]).arg(&library).status().unwrap();
    assert!(made.success(), "the shim does not compile");
    library
}

/// A gateway whose wall clock is `Gateway::path("offset")` seconds from the real one.
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
    // Written beside and renamed: the program never sees an empty file.
    std::fs::write(gateway.path("offset.new"), seconds.to_string()).unwrap();
    std::fs::rename(gateway.path("offset.new"), gateway.path("offset")).unwrap();
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
    // Acknowledgements are written lazily: after a kill any number of the last ones may be handed over again, in order.
    let numbers: Vec<u64> = all.iter().map(Arrived::number).collect();
    let (before, after) = numbers.split_at(4);
    assert_eq!(before, [0, 1, 1, 2], "the second is sent twice, and everything in order");
    assert!((0..=3).any(|first| after.iter().copied().eq(first..=3)), "out of order after the kill: {after:?}");
    for one in &all {
        let first = all.iter().find(|other| other.number() == one.number()).unwrap();
        assert_eq!((first.jti(), first.claims()), (one.jti(), one.claims()), "a repeat differs");
    }
    let firsts: Vec<u64> = (0..=3).map(|number| iat(all.iter().find(|one| one.number() == number).unwrap())).collect();
    assert!(firsts.is_sorted(), "iat falls: {firsts:?}");
}

#[test]
fn a_clock_that_is_set_far_ahead_destroys_nothing_that_waits_and_forgets_no_id() {
    let sink = Sink::new(|_, _| Reply::status(202));
    sink.hold();
    let mut gateway = gateway(&sink, "[methods.push]\ntimeout_seconds = 1\n");
    let first = gateway.accept(&event(0, "a"));
    gateway.accept(&event(1, "b"));
    sink.until("an attempt", |all| !all.is_empty());
    set(&gateway, 3650 * DAY);
    // Several rounds of retention, which looks every second: none may take ten years for real.
    let before = sink.arrived().len();
    sink.until("further attempts", |all| all.len() >= before + 6);
    let view = gateway.stream("crm");
    assert_eq!((&view["waiting"], &view["dropped"]), (&2.into(), &0.into()), "{view}");
    assert_eq!(gateway.accept(&event(0, "a"))["txn"], first["txn"], "an id was forgotten");
    // The same over a restart with the wrong clock.
    gateway.kill();
    gateway.start();
    let before = sink.arrived().len();
    sink.until("further attempts", |all| all.len() >= before + 4);
    let view = gateway.stream("crm");
    assert_eq!((&view["waiting"], &view["dropped"]), (&2.into(), &0.into()), "{view}");
    assert_eq!(gateway.accept(&event(0, "a"))["txn"], first["txn"], "an id was forgotten over a restart");
    // The clock is put right, and everything arrives.
    set(&gateway, 0);
    sink.release();
    gateway.until_stream("crm", "all acknowledged", |view| view["acknowledged"] == 2);
    gateway.accept(&event(2, "a"));
    sink.until_numbers(0..=2);
}
