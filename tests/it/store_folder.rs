//! The folder of the store: locked, copied, unmounted, full.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::boxed::{Plan, binary, copy, event};
use crate::sink::{Reply, Sink};

#[test]
fn a_second_gateway_is_kept_out_by_the_lock() {
    let sink = Sink::good();
    let gateway = Plan::new().stream("crm", &sink.url()).start();
    let mut second = binary();
    second.args(["serve", "--config"]).arg(gateway.config()).env("SETGATE__GATEWAY__SHUTDOWN_TIMEOUT", "1s");
    let output = second.output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(9), "{said}");
    let remedy = format!("stop the gateway that has it (process {}", gateway.pid());
    assert!(said.contains("in use by process") && said.contains(&remedy), "{said}");
    gateway.accept(&event(1, "a"));
    sink.until_numbers([1]);
}

#[test]
fn a_copy_delivers_nothing_and_takes_nothing_until_it_is_adopted() {
    let sink = Sink::new(|_, _| Reply::with(503, "retry-after: 1\r\n", ""));
    let mut gateway = Plan::new().stream("crm", &sink.url()).start();
    gateway.accept(&event(1, "a"));
    sink.until("an attempt", |all| !all.is_empty());
    assert!(gateway.stop().success());
    copy(&gateway.path("store"), &gateway.path("copied"));
    // The original continues; the copy is put in its place afterwards.
    gateway.start();
    gateway.accept(&event(2, "a"));
    assert!(gateway.stop().success());
    std::fs::rename(gateway.path("store"), gateway.path("original")).unwrap();
    std::fs::rename(gateway.path("copied"), gateway.path("store")).unwrap();
    let before = sink.arrived().len();
    gateway.spawn();
    let ready = crate::http::request("GET", "/readyz", &[], b"");
    // A copy is never ready, but it answers.
    gateway.until("it answers", |gateway| crate::http::try_send(gateway.operator, &ready).is_some());
    let answer = gateway.post("application/json", event(3, "a").to_string().as_bytes());
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.field("retry-after").is_some());
    let problem: Value = serde_json::from_str(&answer.text()).unwrap();
    assert_eq!(problem["rule"], "store_is_a_copy", "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("setgate store adopt"), "{problem}");
    let ready = crate::http::send(gateway.operator, &crate::http::request("GET", "/readyz", &[], b""));
    assert_eq!(ready.status, 503, "{}", ready.text());
    assert!(ready.text().contains("setgate store adopt"), "{}", ready.text());
    let said = |output: std::process::Output| {
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.code(), text)
    };
    for command in ["streams list", "store health"] {
        let (code, text) = said(gateway.run(&command.split(' ').collect::<Vec<_>>()));
        assert!(code == Some(0) && text.contains("setgate store adopt"), "{command}: {text}");
    }
    assert_eq!(sink.arrived().len(), before, "a copy delivered");
    assert!(gateway.stop().success());
    let (code, text) = said(gateway.run(&["store", "adopt"]));
    assert_eq!(code, Some(2), "nobody was asked, and it was done: {text}");
    for shown in ["1 deliveries waiting", "crm", "issuer http", "current", "--yes"] {
        assert!(text.contains(shown), "{shown} is not shown: {text}");
    }
    let (code, text) = said(gateway.run(&["store", "adopt", "--yes"]));
    assert!(code == Some(0) && text.contains("1 deliveries waiting"), "{text}");
    gateway.start();
    gateway.accept(&event(3, "a"));
    sink.until("delivery goes on", |all| all.len() > before);
}

#[test]
fn a_store_without_its_keys_and_keys_without_their_store_are_refused() {
    for missing in ["store", "secrets"] {
        let mut gateway = Plan::new().start();
        assert!(gateway.stop().success());
        std::fs::rename(gateway.path(missing), gateway.path("away")).unwrap();
        let output = gateway.run(&["serve"]);
        assert!(!output.status.success(), "{missing} is missing and it starts");
        let output = gateway.run(&["serve", "--init"]);
        assert!(!output.status.success(), "{missing} is missing and it makes a new one");
        std::fs::rename(gateway.path("away"), gateway.path(missing)).unwrap();
        gateway.start();
    }
}

#[test]
fn a_disk_that_is_really_full_refuses_loses_nothing_and_recovers_by_itself() {
    let sink = Sink::new(|_, _| Reply::status(202));
    sink.hold();
    let mut gateway = Plan::new()
        .stream("crm", &sink.url())
        .options("[store]\nreserve_bytes = 4194304\nbudget_bytes = 10000000000\nsegment_records = 256\nsegment_bytes = 1048576\n")
        .in_namespace("mkdir -p \"$BOX/store\"\nmount -t tmpfs -o size=${TMPFS:-160m} tmpfs \"$BOX/store\"")
        .start();
    let big = |number: u64| {
        let mut one = event(number, &format!("key-{number}"));
        one["events"][crate::boxed::TYPE]["fill"] = Value::from(fill(number));
        one
    };
    let mut accepted = Vec::new();
    let mut number = 0;
    let mut refusal = None;
    while refusal.is_none() {
        assert!(number < 20_000, "the disk never filled");
        let answer = gateway.post("application/json", big(number).to_string().as_bytes());
        match answer.status {
            202 => accepted.push(number),
            503 => refusal = Some(answer),
            other => panic!("{other}: {}", answer.text()),
        }
        number += 1;
    }
    let refusal = refusal.unwrap();
    assert!(refusal.field("retry-after").is_some(), "{refusal:?}");
    assert!(accepted.len() > 50, "only {} were accepted before the disk was full", accepted.len());
    // The gateway is not ready while the store is opened again, and ready while intake is closed: pollers and
    // acknowledgements make room.
    gateway.until("it is ready although it is full", |gateway| {
        let ready = crate::http::send(gateway.operator, &crate::http::request("GET", "/readyz", &[], b""));
        ready.status == 200
    });
    sink.release();
    sink.until_numbers(accepted.iter().copied());
    gateway.until("intake opens by itself", |gateway| {
        let answer = gateway.try_post("", "application/json", big(number).to_string().as_bytes());
        answer.is_some_and(|answer| answer.status == 202)
    });
    sink.until_numbers([number]);
    let view = gateway.until_stream("crm", "nothing waits", |view| view["waiting"] == 0);
    assert_eq!(view["owed"], view["acknowledged"], "{view}");
    assert!(view["owed"].as_u64().unwrap() > accepted.len() as u64, "{view}");
}

#[test]
fn a_start_on_a_full_disk_delivers_and_takes_events_once_there_is_room() {
    let takes = Arc::new(AtomicBool::new(false));
    let open = takes.clone();
    let sink = Sink::new(move |_, _| Reply::status(if open.load(Ordering::SeqCst) { 202 } else { 503 }));
    // The second start finds the files of the first one, and a process that takes any room that appears.
    let disk = "mkdir -p \"$BOX/store\"\nmount -t tmpfs -o size=160m tmpfs \"$BOX/store\"\n\
        if [ -e \"$BOX/kept\" ]; then\n\
        cp -a \"$BOX/kept/.\" \"$BOX/store/\"; mkdir -p \"$BOX/store/lost+found\"\n\
        cat /dev/zero > \"$BOX/store/lost+found/others\" 2> /dev/null || true\n\
        (while [ -e \"$BOX/kept\" ]; do cat /dev/zero >> \"$BOX/store/lost+found/more\" 2> /dev/null || true; done\n\
        rm -rf \"$BOX/store/lost+found\") &\n\
        fi";
    let mut gateway = Plan::new().stream("crm", &sink.url()).in_namespace(disk).start();
    (1..=5).for_each(|number| drop(gateway.accept(&event(number, &format!("key-{number}")))));
    // The store is left as by a power cut.
    gateway.signal("-STOP");
    let inside = format!("/proc/{}/root{}", gateway.pid(), gateway.path("store").display());
    copy(inside.as_ref(), &gateway.path("kept"));
    gateway.kill();
    takes.store(true, Ordering::SeqCst);
    gateway.start();
    let view = gateway.until_stream("crm", "nothing waits", |view| view["waiting"] == 0);
    assert_eq!(view["acknowledged"], 5, "{view}");
    let refused = gateway.post("application/json", event(6, "a").to_string().as_bytes());
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.text().contains("store.reserve_bytes"), "{}", refused.text());
    std::fs::rename(gateway.path("kept"), gateway.path("enough")).unwrap();
    gateway.until("intake opens by itself", |gateway| {
        let answer = gateway.try_post("", "application/json", event(6, "a").to_string().as_bytes());
        answer.is_some_and(|answer| answer.status == 202)
    });
    sink.until_numbers([6]);
    assert!(gateway.stop().success());
}

/// Returns 64 KiB that do not compress.
fn fill(seed: u64) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..65_536)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            char::from(b'!' + u8::try_from(state % 90).unwrap()).to_string().replace(['"', '\\'], "a")
        })
        .collect()
}
