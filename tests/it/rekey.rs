//! The change to another key-encryption key for everything that is sealed at rest (hardening H36), with a kill at every
//! step of it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::boxed::{Gateway, Plan, copy, event};
use crate::sink::Sink;

fn shim(folder: &Path) -> PathBuf {
    let library = folder.join("end.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/end.c");
    let made =
        Command::new("cc").args(["-shared", "-fPIC", "-O1", source, "-ldl", "-o"]).arg(&library).status().unwrap();
    assert!(made.success(), "the shim does not compile");
    library
}

/// Returns a stopped gateway with a signing key and a receiver's credential at rest.
fn stopped(sink: &Sink) -> Gateway {
    let delivery =
        format!("{{ method = \"push\", endpoint_url = \"{}\", authorization_header = \"Bearer canary\" }}", sink.url());
    let mut gateway = Plan::new().stream_by("crm", &delivery).start();
    gateway.accept(&event(0, "a"));
    sink.until_numbers([0]);
    gateway.until_stream("crm", "acknowledged", |view| view["acknowledged"] == 1);
    assert!(gateway.stop().success());
    gateway
}

/// Restores the contents of a folder. The folder itself stays, since a store identifies its own.
fn put_back(gateway: &Gateway, name: &str) {
    let folder = gateway.path(name);
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.unwrap();
    }
    for entry in std::fs::read_dir(gateway.path(&format!("{name}.before"))).unwrap() {
        let entry = entry.unwrap();
        copy(&entry.path(), &folder.join(entry.file_name()));
    }
}

/// Returns the identifier, in base64, of the key that sealed the store's secret; everything that this
/// key sealed contains it.
fn mark(gateway: &Gateway) -> String {
    std::fs::read_to_string(gateway.path("secrets/store-names")).unwrap()[..16].to_owned()
}

/// Returns the files that contain something sealed with the key of a mark.
fn sealed_in(folder: &Path, mark: &str) -> Vec<PathBuf> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let raw = STANDARD.decode(mark).unwrap();
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sealed_in(&path, mark));
            continue;
        }
        let mut bytes = std::fs::read(&path).unwrap();
        // A new journal ends in zeros, which are not searched.
        let zeros = [0u8; 4096];
        while bytes.ends_with(&zeros) {
            bytes.truncate(bytes.len() - zeros.len());
        }
        let has = |mark: &[u8]| bytes.windows(mark.len()).any(|window| window == mark);
        if has(&raw) || has(mark.as_bytes()) {
            found.push(path);
        }
    }
    found
}

/// Checks that the gateway starts and delivers with its credential, and that nothing is sealed with the old key.
fn whole(gateway: &mut Gateway, sink: &Sink, old: &str, number: u64) {
    gateway.start();
    gateway.accept(&event(number, "a"));
    let all = sink.until_numbers([number]);
    assert_eq!(all.last().unwrap().field("authorization"), Some("Bearer canary"));
    assert!(gateway.stop().success());
    assert_ne!(mark(gateway), old, "it is the old key still");
    for folder in ["store", "secrets"] {
        assert_eq!(sealed_in(&gateway.path(folder), old), Vec::<PathBuf>::new(), "sealed with the old key");
    }
    assert!(!gateway.path("secrets/kek.next").exists());
}

#[test]
fn everything_is_sealed_with_a_new_key_and_nothing_with_the_old_one() {
    let sink = Sink::good();
    let mut gateway = stopped(&sink);
    let old = mark(&gateway);
    assert!(!sealed_in(&gateway.path("store"), &old).is_empty(), "nothing is sealed: nothing is tested");
    copy(&gateway.path("secrets"), &gateway.path("secrets.before"));
    let changed = gateway.command(&["keys", "rotate-kek"]);
    assert_eq!(changed["records"], 2, "one ring and one stream: {changed}");
    assert_eq!(changed["finished_an_earlier_one"], false, "{changed}");
    assert!(changed["traces"].is_null(), "{changed}");
    let aside = changed["old_key"].as_str().unwrap();
    std::fs::remove_file(aside).unwrap();
    whole(&mut gateway, &sink, &old, 1);
    // The earlier secrets do not open what is sealed now, and the error names the key that is needed.
    std::fs::rename(gateway.path("secrets"), gateway.path("secrets.after")).unwrap();
    copy(&gateway.path("secrets.before"), &gateway.path("secrets"));
    let output = gateway.run(&["serve"]);
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(7), "{said}");
    for id in ["from", "to"] {
        assert!(said.contains(changed[id].as_str().unwrap()), "{id} is not named: {said}");
    }
}

#[test]
fn a_running_gateway_keeps_the_command_out_and_changes_over_at_its_next_start() {
    let sink = Sink::good();
    let mut gateway = stopped(&sink);
    let old = mark(&gateway);
    gateway.start();
    let output = gateway.run(&["keys", "rotate-kek"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("--at-next-start"), "{said}");
    assert!(!gateway.path("secrets/kek.next").exists(), "it began although it could not go on");
    gateway.command(&["keys", "rotate-kek", "--at-next-start"]);
    gateway.accept(&event(1, "a"));
    assert!(gateway.stop().success());
    assert_eq!(mark(&gateway), old);
    whole(&mut gateway, &sink, &old, 2);
    assert!(gateway.log().contains("a change that was begun is finished"), "{}", gateway.log());
}

#[test]
fn a_key_of_the_operators_own_takes_over_from_one_in_a_file() {
    let sink = Sink::good();
    let mut gateway = stopped(&sink);
    let old = mark(&gateway);
    let own = gateway.path("own.kek");
    std::fs::write(&own, [9u8; 32]).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&own, mode).unwrap();
    let reference = format!("file:{}", own.display());
    let changed = gateway.command(&["keys", "rotate-kek", "--new", &reference]);
    assert_eq!(changed["configure"], reference.as_str(), "{changed}");
    // The gateway still starts with the old configuration, since the new key is named beside it.
    whole(&mut gateway, &sink, &old, 1);
    let text = std::fs::read_to_string(gateway.config()).unwrap();
    std::fs::write(gateway.config(), format!("[secrets]\nkek = \"{reference}\"\n\n{text}")).unwrap();
    whole(&mut gateway, &sink, &old, 2);
    assert!(!gateway.path("secrets/kek-next").exists());
    std::fs::remove_file(gateway.path("secrets/kek")).unwrap();
    whole(&mut gateway, &sink, &old, 3);
}

/// Runs the command under the shim, and returns whether it was killed.
fn changes(gateway: &Gateway, library: &Path, name: &str, value: &str) -> bool {
    let output = crate::boxed::binary()
        .args(["keys", "rotate-kek", "--config"])
        .arg(gateway.config())
        .env("LD_PRELOAD", library)
        .env(name, value)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.code().is_none_or(|code| code == 0), "{}", String::from_utf8_lossy(&output.stderr));
    output.status.code().is_none()
}

/// Returns the calls to kill at, among those that make something durable: every one where keys and sealed values
/// change, and some where the engine works by itself.
fn steps(log: &str) -> Vec<usize> {
    let lines: Vec<&str> = log.lines().collect();
    let at =
        |what: &str| lines.iter().position(|line| line.contains(what)).unwrap_or_else(|| panic!("{what}: {log}")) + 1;
    let (made, names) = (at("kek.next"), at("secrets/store-names.unfinished") + 2);
    let (aside, last) = (at("kek.old-"), lines.len());
    assert!(made < names && names < aside && aside < last, "another order: {log}");
    let mut chosen: Vec<usize> = (made + 1..=names + 1).chain(aside..=aside + 4).collect();
    chosen.extend([1, made / 2, names + (aside - names) / 3, names + (aside - names) * 2 / 3, last]);
    chosen.retain(|step| *step <= last);
    chosen.sort_unstable();
    chosen.dedup();
    chosen
}

#[test]
fn a_kill_at_any_step_is_finished_by_the_next_start_or_by_the_same_command() {
    let sink = Sink::good();
    let mut gateway = stopped(&sink);
    let library = shim(gateway.folder.path());
    for name in ["store", "secrets"] {
        copy(&gateway.path(name), &gateway.path(&format!("{name}.before")));
    }
    let old = mark(&gateway);
    let log = gateway.path("steps");
    assert!(!changes(&gateway, &library, "END_LOG", log.to_str().unwrap()));
    let steps = steps(&std::fs::read_to_string(log).unwrap());
    let mut broke_off = 0;
    for (number, step) in steps.into_iter().enumerate() {
        for name in ["store", "secrets"] {
            put_back(&gateway, name);
        }
        let killed = changes(&gateway, &library, "END_AT", &step.to_string());
        let begun = gateway.path("secrets/kek.next").exists();
        broke_off += u32::from(killed && begun);
        if killed && (number % 2 == 0 || !begun) && mark(&gateway) == old {
            // The command, run again, reports the change that it finished, or does all of it.
            let changed = gateway.command(&["keys", "rotate-kek"]);
            assert_eq!(changed["finished_an_earlier_one"], begun, "killed at {step}: {changed}");
        }
        whole(&mut gateway, &sink, &old, number as u64 + 1);
    }
    assert!(broke_off >= 8, "only {broke_off} kills in between");
}
