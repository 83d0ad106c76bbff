//! A store that was damaged while no gateway ran: refused with a reason, examined, repaired, and delivered from.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::boxed::{Gateway, Plan, copy, event};
use crate::sink::{Reply, Sink};

/// The events that the receiver has acknowledged, and those that wait for it.
const ACKNOWLEDGED: std::ops::RangeInclusive<u64> = 1..=20;
const WAITING: std::ops::RangeInclusive<u64> = 21..=60;

/// A gateway that was stopped, with its receiver and copies of its folders.
struct Stopped {
    sink: Sink,
    gateway: Gateway,
    takes: Arc<AtomicBool>,
}

impl Stopped {
    fn new() -> Self {
        let takes = Arc::new(AtomicBool::new(true));
        let open = takes.clone();
        let sink = Sink::new(move |_, _| Reply::status(if open.load(Ordering::SeqCst) { 202 } else { 503 }));
        let mut gateway = Plan::new().stream("crm", &sink.url()).start();
        // Each event is a commit of its own.
        ACKNOWLEDGED.for_each(|number| drop(gateway.accept(&event(number, "a"))));
        gateway.until_stream("crm", "all acknowledged", |view| view["waiting"] == 0);
        takes.store(false, Ordering::SeqCst);
        WAITING.for_each(|number| drop(gateway.accept(&event(number, &format!("key-{number}")))));
        assert!(gateway.stop().success());
        for folder in ["store", "secrets"] {
            copy(&gateway.path(folder), &gateway.path(&format!("{folder}.whole")));
        }
        Self { sink, gateway, takes }
    }

    /// Restores store and secrets in the same folders, and damages them.
    fn damage(&self, how: fn(&Path)) {
        for folder in ["store", "secrets"] {
            let (to, from) = (self.gateway.path(folder), self.gateway.path(&format!("{folder}.whole")));
            let script = "find \"$1\" -mindepth 1 -delete && cp -a \"$0\"/. \"$1\"/";
            assert!(Command::new("sh").arg("-c").arg(script).arg(from).arg(to).status().unwrap().success());
        }
        how(&self.gateway.path("store"));
    }

    fn says(&self, words: &[&str]) -> (Option<i32>, String) {
        said(&self.gateway.run(words))
    }

    /// Starts the gateway with a receiver that accepts everything, and returns the `jti`s that arrive before nothing
    /// waits, by event number.
    fn delivers(&mut self) -> BTreeMap<u64, BTreeSet<String>> {
        self.takes.store(true, Ordering::SeqCst);
        let before = self.sink.events().len();
        self.gateway.start();
        let view = self.gateway.until_stream("crm", "nothing waits", |view| view["waiting"] == 0);
        let ended = ["acknowledged", "parked", "dropped"].map(|name| view[name].as_u64().unwrap_or_default());
        assert_eq!(view["owed"].as_u64().unwrap(), ended.iter().sum::<u64>(), "{view}");
        assert!(self.gateway.stop().success());
        let mut arrived: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
        for one in &self.sink.events()[before..] {
            arrived.entry(one.number()).or_default().insert(one.jti());
        }
        arrived
    }

    /// Returns the `jti` that each event had before the damage, as far as it was sent.
    fn known(&self) -> BTreeMap<u64, String> {
        self.sink.events().iter().map(|one| (one.number(), one.jti())).collect()
    }
}

fn said(output: &Output) -> (Option<i32>, String) {
    (
        output.status.code(),
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)),
    )
}

/// Returns all files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { all.extend(files(&path)) } else { all.push(path) }
    }
    all
}

/// Damages one byte of event 30 in every file that contains it.
fn a_byte_of_the_log(store: &Path) {
    let (needle, mut hits) = (b"\"number\":30}", 0);
    for path in files(&store.join("engine")) {
        let mut bytes = fs::read(&path).unwrap();
        let places: Vec<usize> =
            bytes.windows(needle.len()).enumerate().filter(|(_, w)| w == needle).map(|(at, _)| at).collect();
        places.iter().for_each(|at| bytes[*at] ^= 0x20);
        hits += places.len();
        if !places.is_empty() {
            fs::write(&path, bytes).unwrap();
        }
    }
    assert!(hits > 0, "event 30 is not found");
}

fn a_small_file(store: &Path) {
    fs::remove_file(store.join("engine/version")).unwrap();
}

fn the_watermark(store: &Path) {
    fs::remove_file(store.join("watermark")).unwrap();
}

fn identity_gone(store: &Path) {
    fs::remove_file(store.join("instance.json")).unwrap();
}

fn identity_damaged(store: &Path) {
    let text = fs::read_to_string(store.join("instance.json")).unwrap();
    // The change is one digit of the fingerprint of the store's secret.
    let at = text.find("\"secret\": \"").unwrap() + 12;
    let digit = if text.as_bytes()[at] == b'0' { "1" } else { "0" };
    fs::write(store.join("instance.json"), format!("{}{digit}{}", &text[..at], &text[at + 1..])).unwrap();
}

/// A damage: its name, how it is done, what `check` says about it, the event that is lost by it, and whether the store
/// is a copy afterwards.
type Damage = (&'static str, fn(&Path), &'static str, Option<u64>, bool);

const DAMAGES: [Damage; 5] = [
    ("a byte of the log", a_byte_of_the_log, "does not read from byte", Some(30), false),
    ("a small file", a_small_file, "the file that names the engine's format", None, false),
    ("the watermark", the_watermark, "what was promised is not known", None, false),
    ("no identity", identity_gone, "instance.json is missing", None, true),
    ("a damaged identity", identity_damaged, "instance.json does not read back", None, true),
];

#[test]
fn a_damaged_store_is_refused_told_repaired_and_delivered_from() {
    let mut stopped = Stopped::new();
    let known = stopped.known();
    for (name, how, why, lost, copied) in DAMAGES {
        stopped.damage(how);
        for command in [&["serve"][..], &["store", "check"]] {
            let (code, text) = stopped.says(command);
            assert_eq!(code, Some(7), "{name}: {command:?}: {text}");
            assert!(text.contains("setgate store repair"), "{name}: {command:?}: {text}");
        }
        let (_, text) = stopped.says(&["store", "check"]);
        assert!(text.contains(why), "{name}: {text}");

        // An unrepaired store is exported as far as it can be read.
        let exported = stopped.gateway.run(&["store", "export"]);
        let (code, text) = said(&exported);
        let lines: Vec<Value> =
            String::from_utf8_lossy(&exported.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let events = lines.iter().filter(|line| line["type"] == "event" && line["kind"] == "intake");
        let all = ACKNOWLEDGED.count() + WAITING.count() - usize::from(lost.is_some());
        assert_eq!(events.filter(|line| !line["body"].is_null()).count(), all, "{name}: {text}");
        let whole = lines.last().unwrap()["complete"] == true;
        assert_eq!(code, Some(if whole { 0 } else { 6 }), "{name}: {text}");
        assert!(lost.is_none() || !whole, "{name}: {text}");

        // The repair does nothing before it has reported the damage and was confirmed.
        let (code, text) = stopped.says(&["store", "repair"]);
        assert!(code == Some(2) && text.contains("--yes"), "{name}: {text}");
        let given_up = if lost.is_some() { "given up: 1 events" } else { "given up: nothing" };
        assert!(text.contains(given_up), "{name}: {text}");
        assert_eq!(text.contains("counts as a copy until `setgate store adopt`"), copied, "{name}: {text}");

        let told = stopped.gateway.command(&["store", "repair", "--yes"]);
        let findings = &told["findings"];
        assert_eq!(told["needed"], true, "{name}: {told}");
        assert_eq!(findings["given_up"]["event_count"], u64::from(lost.is_some()), "{name}: {told}");
        assert_eq!(findings["identity"].is_string(), copied, "{name}: {told}");
        assert_eq!(told["repaired"]["copy"].is_string(), copied, "{name}: {told}");
        let (code, text) = stopped.says(&["store", "check"]);
        assert!(code == Some(0) && text.contains("it is sound"), "{name}: {text}");
        let (_, text) = stopped.says(&["store", "repair"]);
        assert!(text.contains("nothing is wrong with it"), "{name}: {text}");
        if copied {
            let adopted = stopped.gateway.command(&["store", "adopt", "--yes"]);
            assert!(adopted["adopted"].is_string(), "{name}: {adopted}");
        }
        let arrived = stopped.delivers();
        for number in WAITING {
            assert_eq!(arrived.contains_key(&number), lost != Some(number), "{name}: event {number}");
        }
        for (number, jtis) in &arrived {
            assert_eq!(jtis.len(), 1, "{name}: event {number} went out under {jtis:?}");
            // SETs that may have been settled are made again, too.
            assert!(known.get(number).is_none_or(|before| jtis.contains(before)), "{name}: event {number}");
        }
        let again = findings["again"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum::<u64>();
        let repeated = arrived.keys().filter(|number| ACKNOWLEDGED.contains(number)).count() as u64;
        assert!(repeated <= again, "{name}: {repeated} were made again, {again} told");
    }
}

#[test]
fn a_repaired_copy_takes_the_place_of_the_store_once_it_is_adopted() {
    let mut stopped = Stopped::new();
    stopped.damage(a_byte_of_the_log);
    let into = stopped.gateway.path("repaired");
    let (code, text) = stopped.says(&["store", "repair", "--yes", "--into", into.to_str().unwrap()]);
    assert!(code == Some(0) && text.contains("setgate store adopt"), "{text}");
    let (code, _) = stopped.says(&["store", "check"]);
    assert_eq!(code, Some(7), "the damaged store is as it was");
    fs::rename(stopped.gateway.path("store"), stopped.gateway.path("damaged")).unwrap();
    fs::rename(&into, stopped.gateway.path("store")).unwrap();
    stopped.gateway.command(&["store", "adopt", "--yes"]);
    let arrived = stopped.delivers();
    assert!(WAITING.filter(|number| *number != 30).all(|number| arrived.contains_key(&number)), "{arrived:?}");
}

#[test]
fn an_identity_is_not_written_anew_with_the_keys_of_another_store() {
    let stopped = Stopped::new();
    stopped.damage(identity_gone);
    let other = Plan::new().prepare();
    assert!(other.run(&["init"]).status.success());
    for name in ["kek", "store-names"] {
        fs::copy(other.path("secrets").join(name), stopped.gateway.path("secrets").join(name)).unwrap();
    }
    let (code, text) = stopped.says(&["store", "repair", "--yes"]);
    assert_eq!(code, Some(7), "{text}");
    assert!(text.contains("belongs to the key-encryption key") && text.contains("restore the key"), "{text}");
    assert!(!stopped.gateway.path("store").join("instance.json").exists());
}
