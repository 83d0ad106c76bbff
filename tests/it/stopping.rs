//! Stops and pauses, which must lose nothing.

use std::collections::BTreeMap;

use crate::boxed::{Plan, event};
use crate::sink::{Arrived, Reply, Sink};

/// Checks that no `jti` has two payloads, and that no event has two of them.
fn consistent(all: &[Arrived]) {
    let (mut payloads, mut jtis) = (BTreeMap::new(), BTreeMap::new());
    for one in all {
        let payload = one.body.split(|byte| *byte == b'.').nth(1).unwrap().to_vec();
        assert_eq!(*payloads.entry(one.jti()).or_insert(payload.clone()), payload, "one jti, two payloads");
        assert_eq!(*jtis.entry(one.number()).or_insert(one.jti()), one.jti(), "one event, two jtis");
    }
}

#[test]
fn a_graceful_stop_under_load_loses_nothing() {
    let slow = Sink::new(|_, number| if number % 11 == 10 { Reply::status(500) } else { Reply::status(202) });
    let mut gateway = Plan::new().stream("crm", &slow.url()).start();
    let mut next = 0;
    for _ in 0..3 {
        for _ in 0..5 {
            gateway.accept_all((next..next + 40).map(|number| event(number, &format!("key-{}", number % 9))));
            next += 40;
        }
        let status = gateway.stop();
        assert!(status.success(), "{status}: {}", gateway.log());
        gateway.start();
    }
    let all = slow.until_numbers(0..next);
    consistent(&all);
    let view = gateway.until_stream("crm", "nothing waits", |view| view["waiting"] == 0);
    assert_eq!(view["owed"], next, "{view}");
    assert_eq!(view["acknowledged"], next, "{view}");
}

#[test]
fn a_second_signal_ends_it_at_once_and_still_nothing_is_lost() {
    let sink = Sink::new(|_, _| Reply::status(202));
    sink.hold();
    let mut gateway = Plan::new().stream("crm", &sink.url()).start();
    gateway.accept_all((0..20).map(|number| event(number, &format!("key-{number}"))));
    sink.until("some are under way", |all| !all.is_empty());
    gateway.signal("-TERM");
    let log = "asked to stop";
    gateway.until("the first signal", |gateway| gateway.log().contains(log));
    gateway.signal("-TERM");
    let _ = gateway.ended();
    sink.release();
    gateway.start();
    consistent(&sink.until_numbers(0..20));
    gateway.until_stream("crm", "all acknowledged", |view| view["acknowledged"] == 20);
}

#[test]
fn signals_that_do_not_ask_to_stop_are_answered_in_the_log_and_stop_nothing() {
    let sink = Sink::good();
    let mut gateway = Plan::new().stream("crm", &sink.url()).start();
    for (signal, said) in [
        ("-HUP", "SIGHUP: the configuration cannot be read again yet; the gateway goes on"),
        ("-USR1", "SIGUSR1 means nothing to setgate"),
        ("-USR2", "SIGUSR2 means nothing to setgate"),
        ("-HUP", "SIGHUP"),
    ] {
        gateway.signal(signal);
        gateway.until(said, |gateway| {
            gateway.goes_on();
            gateway.log().contains(said)
        });
    }
    gateway.signal("-PIPE");
    gateway.accept(&event(1, "a"));
    sink.until_numbers([1]);
    gateway.goes_on();
    assert!(gateway.stop().success());
}

#[test]
fn sigquit_ends_it_at_once_with_a_word_and_nothing_is_lost() {
    let sink = Sink::new(|_, _| Reply::status(202));
    sink.hold();
    let mut gateway = Plan::new().stream("crm", &sink.url()).start();
    gateway.accept(&event(1, "a"));
    sink.until("it is under way", |all| !all.is_empty());
    gateway.signal("-QUIT");
    assert!(gateway.ended().success(), "{}", gateway.log());
    assert!(gateway.log().contains("asked to stop at once"), "{}", gateway.log());
    sink.release();
    gateway.start();
    consistent(&sink.until_numbers([1]));
    gateway.until_stream("crm", "acknowledged", |view| view["acknowledged"] == 1);
}

#[test]
fn after_the_answer_to_pause_no_new_hand_over_begins() {
    let sink = Sink::good();
    let canary = Sink::good();
    let one_at_a_time = "grant = { window = 1 }";
    let mut gateway =
        Plan::new().stream_of("", "crm", &sink.url(), one_at_a_time).stream("canary", &canary.url()).start();
    sink.hold();
    gateway.accept_all((0..10).map(|number| event(number, &format!("key-{number}"))));
    sink.until("the first is under way", |all| all.len() == 1);
    let view = gateway.command(&["streams", "pause", "crm", "--reason", "a test"]);
    assert_eq!(view["status"], "paused", "{view}");
    sink.release();
    // The one SET that still arrives says that the stream is paused (SSF 1.0 §8.1.5).
    gateway.until_stream("crm", "the first and the notice are acknowledged", |view| view["acknowledged"] == 2);
    gateway.accept_all((10..20).map(|number| event(number, &format!("key-{number}"))));
    // The other stream gets every event, and by then this one would have been served.
    canary.until_numbers(0..20);
    assert_eq!(sink.events().len(), 1, "a hand-over began after the pause was answered");
    let view = gateway.stream("crm");
    assert_eq!((&view["waiting"], &view["owed"]), (&19.into(), &21.into()), "{view}");
    // The stream stays paused across a restart, and nothing is lost.
    gateway.kill();
    gateway.start();
    assert_eq!(gateway.stream("crm")["status"], "paused");
    gateway.command(&["streams", "resume", "crm"]);
    consistent(&sink.until_numbers(0..20));
    gateway.until_stream("crm", "nothing waits", |view| view["waiting"] == 0 && view["acknowledged"] == view["owed"]);
}

#[test]
fn a_stream_of_one_subject_is_delivered_in_order_whatever_fails() {
    let sink = Sink::new(|_, number| match number % 7 {
        2 => Reply::status(500),
        4 => Reply::Close,
        5 => Reply::with(503, "retry-after: 0\r\n", ""),
        _ => Reply::status(202),
    });
    let mut gateway = Plan::new().stream("crm", &sink.url()).start();
    gateway.accept_all((0..40).map(|number| event(number, "one subject")));
    gateway.until_stream("crm", "nothing waits", |view| view["waiting"] == 0);
    let all = sink.arrived();
    consistent(&all);
    let mut first = Vec::new();
    for number in all.iter().map(Arrived::number) {
        if !first.contains(&number) {
            first.push(number);
        }
    }
    assert_eq!(first, (0..40).collect::<Vec<_>>());
}
