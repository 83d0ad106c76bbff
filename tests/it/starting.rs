//! Faults that keep a gateway from starting: `check` and `serve` report the same, end with the same code, and name the
//! remedy.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output, Stdio};

use crate::boxed::{Gateway, Plan, binary, event};
use crate::http;
use crate::sink::{Reply, Sink};

/// A fault: its name, the exit code, the texts of the report, and a function that causes it. The value that this
/// returns is kept while the commands run.
type Fault = (&'static str, i32, &'static [&'static str], fn(&Gateway) -> Option<TcpListener>);

fn mode(gateway: &Gateway, name: &str, mode: u32) {
    std::fs::set_permissions(gateway.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Replaces the contents of a file that only its owner may read.
fn write(gateway: &Gateway, name: &str, text: &str) {
    std::fs::write(gateway.path(name), text).unwrap();
    mode(gateway, name, 0o600);
}

fn gone(gateway: &Gateway, name: &str) {
    std::fs::rename(gateway.path(name), gateway.path("away")).unwrap();
}

fn configure(gateway: &Gateway, from: &str, to: &str) {
    let text = std::fs::read_to_string(gateway.config()).unwrap();
    assert!(text.contains(from), "{from}");
    std::fs::write(gateway.config(), text.replacen(from, to, 1)).unwrap();
}

/// Appends sections to the configuration.
fn append(gateway: &Gateway, sections: &str) {
    let text = std::fs::read_to_string(gateway.config()).unwrap();
    std::fs::write(gateway.config(), format!("{text}\n{sections}\n")).unwrap();
}

/// Configures a certificate for the public listener, with its own key or with that of another one.
fn certificates(gateway: &Gateway, own_key: bool) {
    let [one, other] = ["a", "b"].map(|name| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap());
    std::fs::write(gateway.path("world.pem"), one.cert.pem()).unwrap();
    let key = if own_key { one.signing_key.serialize_pem() } else { other.signing_key.serialize_pem() };
    write(gateway, "world.key", &key);
    append(gateway, "[listen.public_tls]\ncertificate = \"world.pem\"\nkey = \"world.key\"");
}

const FAULTS: &[Fault] = &[
    ("a key for others to read", 8, &["mode 644", "chmod 600", "rotate-kek"], |gateway| {
        mode(gateway, "secrets/kek", 0o644);
        None
    }),
    ("a key that is none", 8, &["32 bytes", "[secrets]"], |gateway| {
        write(gateway, "secrets/kek", "garbage");
        None
    }),
    ("a key that is not there", 7, &["kek is missing", "mount the volume"], |gateway| {
        gone(gateway, "secrets/kek");
        None
    }),
    ("another key", 7, &["but", "was given", "restore the key"], |gateway| {
        write(gateway, "secrets/kek", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
        None
    }),
    ("the operator's token for others to read", 8, &["read or written by others", "chmod 600"], |gateway| {
        mode(gateway, "secrets/admin-token", 0o640);
        None
    }),
    ("an operator's token that is none", 8, &["holds no admin token", "remove it"], |gateway| {
        write(gateway, "secrets/admin-token", "garbage");
        None
    }),
    ("no store", 7, &["is missing", "mount the volume"], |gateway| {
        gone(gateway, "store");
        None
    }),
    ("no secret of the store", 7, &["store-names is missing", "mount the volume"], |gateway| {
        gone(gateway, "secrets/store-names");
        None
    }),
    ("a secret of the store that is none", 7, &["store-names cannot be opened", "restore it"], |gateway| {
        write(gateway, "secrets/store-names", "garbage");
        None
    }),
    ("a gateway that was made in part", 7, &["was not finished", "setgate init"], |gateway| {
        write(gateway, "secrets/init-unfinished", "");
        None
    }),
    ("an address that is taken", 10, &["listen.public", "process", "stop it, or write another address"], |gateway| {
        Some(TcpListener::bind(("127.0.0.1", gateway.world)).unwrap())
    }),
    ("the operators' address taken", 10, &["listen.admin", "process"], |gateway| {
        Some(TcpListener::bind(("127.0.0.1", gateway.operator)).unwrap())
    }),
    ("an address of another machine", 10, &["listen.public", "an address of this machine"], |gateway| {
        configure(
            gateway,
            &format!("public = \"127.0.0.1:{}\"", gateway.world),
            "public = \"192.0.2.1:8080\"\ntls = \"terminated-by-proxy\"",
        );
        None
    }),
    ("a certificate that is not there", 8, &["listen.public", "nothing.pem"], |gateway| {
        append(gateway, "[listen.public_tls]\ncertificate = \"nothing.pem\"\nkey = \"nothing.key\"");
        None
    }),
    (
        "a certificate with another's key",
        8,
        &["listen.public", "[listen.public_tls]", "the key that belongs to it"],
        |gateway| {
            certificates(gateway, false);
            None
        },
    ),
    ("a method that is not linked", 2, &["[methods.pigeon]", "push"], |gateway| {
        append(gateway, "[methods.pigeon]\nloft = 1");
        None
    }),
    ("a stream with an unknown method", 2, &["pigeon", "push"], |gateway| {
        configure(gateway, "method = \"push\"", "method = \"pigeon\"");
        None
    }),
    ("a file of authorities that is not there", 2, &["nothing.pem"], |gateway| {
        append(gateway, "[net]\nca_files = [\"nothing.pem\"]");
        None
    }),
    ("an option that does not exist", 2, &["listen.wrold"], |gateway| {
        configure(gateway, "[listen]\n", "[listen]\nwrold = 1\n");
        None
    }),
];

/// Runs a command that is ended after 60 s, with the exit code 124.
fn bounded(gateway: &Gateway, word: &str) -> Output {
    let mut command = Command::new("timeout");
    command.args(["60", env!("CARGO_BIN_EXE_setgate"), word, "--config"]).arg(gateway.config());
    command.env("NO_COLOR", "1").stdin(Stdio::null()).output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn check_and_serve_validate_alike_and_say_what_to_do() {
    let mut wrong = Vec::new();
    for (name, code, says, fault) in FAULTS {
        let gateway = Plan::new().strict().stream("crm", "https://crm.example/set").prepare();
        assert!(gateway.run(&["init"]).status.success());
        let held = fault(&gateway);
        for command in ["check", "serve"] {
            let output = bounded(&gateway, command);
            if output.status.code() != Some(*code) {
                wrong.push(format!(
                    "{name}: `{command}` ends with {:?}, not {code}: {}",
                    output.status.code(),
                    said(&output)
                ));
            }
            let said = said(&output);
            if let Some(missing) = says.iter().find(|says| !said.contains(**says)) {
                wrong.push(format!("{name}: `{command}` does not say `{missing}`: {said}"));
            }
        }
        drop(held);
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn check_is_content_before_the_first_start_after_it_and_while_the_gateway_runs() {
    let mut gateway = Plan::new().stream("crm", &Sink::good().url()).prepare();
    for state in ["not made yet", "made and running", "stopped"] {
        if state == "made and running" {
            gateway.start();
        }
        let output = bounded(&gateway, "check");
        assert_eq!(output.status.code(), Some(0), "{state}: {}", said(&output));
        if state == "made and running" {
            assert!(said(&output).contains(&format!("process {} (", gateway.pid())), "{}", said(&output));
            assert!(gateway.stop().success());
        }
    }
}

#[test]
fn folders_that_others_may_look_into_are_named_and_stop_nothing() {
    let mut gateway = Plan::new().stream("crm", &Sink::good().url()).prepare();
    assert!(gateway.run(&["init"]).status.success());
    mode(&gateway, "store", 0o755);
    let output = bounded(&gateway, "check");
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("mode 755") && said(&output).contains("chmod 700"), "{}", said(&output));
    gateway.start();
    assert!(gateway.log().contains("mode 755"), "{}", gateway.log());
}

#[test]
fn a_start_waits_while_the_last_process_drains() {
    let sink = Sink::new(|_, _| Reply::status(202));
    sink.hold();
    let mut gateway = Plan::new().stream("crm", &sink.url()).start();
    gateway.accept(&event(1, "a"));
    sink.until("one is under way", |all| !all.is_empty());
    mode(&gateway, "store", 0o755);
    gateway.signal("-TERM");
    let log = std::fs::File::create(gateway.path("next.log")).unwrap();
    let mut next = binary();
    next.args(["serve", "--config"]).arg(gateway.config()).stdin(Stdio::null());
    let mut next = next.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    let text = |gateway: &Gateway| std::fs::read_to_string(gateway.path("next.log")).unwrap();
    let says = format!("in use by process {}: waiting for its end", gateway.pid());
    gateway.until("it waits", |gateway| {
        assert_eq!(next.try_wait().unwrap().and_then(|status| status.code()), None, "{}", text(gateway));
        text(gateway).contains(&says)
    });
    sink.release();
    assert!(gateway.ended().success(), "{}", gateway.log());
    let ready = http::request("GET", "/readyz", &[], b"");
    gateway.until("the next one is ready", |gateway| {
        http::try_send(gateway.operator, &ready).is_some_and(|answer| answer.status == 200)
    });
    next.kill().unwrap();
    next.wait().unwrap();
    // The warning comes once, however often the store was tried.
    assert_eq!(text(&gateway).matches("mode 755").count(), 1, "{}", text(&gateway));
}

/// Checks that a first start that was killed at any moment is continued, and never touches a finished store.
#[test]
fn an_interrupted_init_goes_on() {
    // The engine is made first, then the watermark, then the instance.
    for gone in [&["instance.json", "watermark"][..], &["instance.json", "watermark", "engine/version"]] {
        let mut gateway = Plan::new().stream("crm", &Sink::good().url()).prepare();
        assert!(gateway.run(&["init"]).status.success());
        for name in gone {
            std::fs::remove_file(gateway.path("store").join(name)).unwrap();
        }
        write(&gateway, "secrets/init-unfinished", "");
        let again = gateway.run(&["init"]);
        assert!(again.status.success(), "{gone:?}: {}", said(&again));
        gateway.start();
        gateway.accept(&event(1, "a"));
        gateway.kill();
        // A store that holds an event is not made again.
        std::fs::remove_file(gateway.path("store").join("instance.json")).unwrap();
        write(&gateway, "secrets/init-unfinished", "");
        assert_eq!(gateway.run(&["init"]).status.code(), Some(7));
        assert!(gateway.path("store/engine/version").exists());
    }
}
