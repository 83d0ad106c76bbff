//! The metrics page of a gateway at work, compared with `docs/metrics.md`; `cargo xtask test --only metrics` checks it
//! with `promtool`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use serde_json::json;

use crate::boxed::{Gateway, Plan, event};
use crate::http::{self, request};
use crate::sink::{Reply, Sink};

/// The families that have no series here, since they need a broker, a certificate, a full disk or connections beyond a
/// limit.
const ELSEWHERE: &[&str] = &[
    "setgate_broker_",
    "setgate_certificate_expiry_timestamp_seconds",
    "setgate_connections_closed",
    "setgate_connections_refused",
    "setgate_endpoint_",
    "setgate_intake_closed",
    "setgate_intake_closings",
    "setgate_source_records_parked",
];

/// A metric: a family, without the `_total` of its samples.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Family {
    kind: String,
    labels: BTreeSet<String>,
    help: String,
}

type Families = BTreeMap<String, Family>;

fn documented() -> Families {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md")).unwrap();
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `setgate_")?.split('|').map(str::trim);
        let (name, kind, labels) = (cells.next()?.trim_end_matches('`'), cells.next()?, cells.next()?);
        let plain = name.strip_suffix("_total").unwrap_or(name);
        assert_eq!(kind == "counter", plain != name, "{line}");
        let labels = labels.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        let help = cells.next()?.to_owned();
        Some((format!("setgate_{plain}"), Family { kind: kind.to_owned(), labels, help }))
    };
    page.lines().filter_map(row).collect()
}

/// Returns the families of a metrics page.
fn shown(page: &str) -> Families {
    let mut families = Families::new();
    let mut last = String::new();
    for line in page.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            last = name.to_owned();
            families.entry(last.clone()).or_default().kind = kind.to_owned();
        } else if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            families.entry(name.to_owned()).or_default().help = help.to_owned();
        } else if !line.starts_with('#') {
            let labels =
                line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}')).map_or("", |(labels, _)| labels);
            let names = labels.split(',').filter_map(|label| label.split_once('=')).map(|(name, _)| name.to_owned());
            families.get_mut(&last).unwrap().labels.extend(names.filter(|name| name != "le"));
        }
    }
    families
}

/// Returns the page as `promtool` reads it: in the older text format the name of a counter has its `_total` everywhere.
fn for_promtool(page: &str) -> String {
    let counters: BTreeSet<&str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut text = String::new();
    for line in page.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(what @ ("HELP" | "TYPE")), Some(name), Some(rest)) => {
                let total = if counters.contains(name) { "_total" } else { "" };
                writeln!(text, "# {what} {name}{total} {rest}").unwrap();
            }
            (Some("#"), ..) => {}
            _ => writeln!(text, "{line}").unwrap(),
        }
    }
    text
}

/// Adds one line for each metric that has no series here, so that its name and help are checked as well.
fn with_the_others(mut page: String, documented: &Families, shown: &Families) -> String {
    for (name, family) in documented.iter().filter(|(name, _)| !shown.contains_key(*name)) {
        let total = if family.kind == "counter" { "_total" } else { "" };
        let labels: Vec<_> = family.labels.iter().map(|label| format!("{label}=\"x\"")).collect();
        let labels = labels.join(",");
        writeln!(page, "# HELP {name} {}.\n# TYPE {name} {}\n{name}{total}{{{labels}}} 1", family.help, family.kind)
            .unwrap();
    }
    page
}

/// Returns whether a name without a series is registered in the code, as it stands or as a figure of a broker.
fn is_in_the_code(name: &str) -> bool {
    fn sources(folder: &Path, all: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, all);
            } else if path.extension().is_some_and(|end| end == "rs") {
                all.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = String::new();
    ["src", "crates", "transports"].iter().for_each(|folder| sources(&root.join(folder), &mut all));
    let name = name.strip_prefix("setgate_").unwrap();
    let figure = name.strip_prefix("broker_").unwrap_or(name);
    [name, figure].iter().any(|name| all.contains(&format!("\"{name}\"")) || all.contains(&format!("\"{name}_total\"")))
}

fn page(gateway: &Gateway) -> String {
    http::send(gateway.operator, &request("GET", "/metrics", &[], b"")).text()
}

/// Returns a gateway with streams of all methods, after everything has happened to it that can be counted without a
/// broker.
fn at_work() -> (Gateway, [Sink; 4]) {
    let good = Sink::good();
    let refusing = Sink::new(|_, _| {
        Reply::with(400, "content-type: application/json\r\n", r#"{"err":"invalid_request","description":"no"}"#)
    });
    let dead = Sink::new(|_, _| Reply::status(503));
    let batches = Sink::new(|request, _| {
        let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
        let ids: Vec<_> = body["sets"].as_object().unwrap().keys().cloned().collect();
        Reply::with(202, "content-type: application/json\r\n", &json!({ "ack": ids }).to_string())
    });
    let mut gateway = Plan::new()
        .stream("good", &good.url())
        .stream("refusing", &refusing.url())
        .stream_of("", "dead", &dead.url(), "retention = { sets = 2 }")
        .stream_by("batches", &format!("{{ method = \"multipush\", endpoint_url = \"{}\" }}", batches.url()))
        .stream_by("asked", "{ method = \"poll\" }")
        .stream_by("live", "{ method = \"websocket\" }\ngrant = { origins = [\"https://page.example\"] }")
        .prepare();
    let issuer = gateway.issuer("");
    let made = gateway.command(&["receivers", "new", "asking", "--issuer", &issuer, "--all-streams"]);
    let mut file = std::fs::File::options().append(true).open(gateway.config()).unwrap();
    file.write_all(made["toml"].as_str().unwrap().as_bytes()).unwrap();
    // The producer of the tests may put in only their event type.
    let text = std::fs::read_to_string(gateway.config()).unwrap();
    let narrow = format!("events = [\"{}\"]", crate::boxed::TYPE);
    std::fs::write(gateway.config(), text.replacen("events = \"all\"", &narrow, 1)).unwrap();
    gateway.start();
    gateway.accept_all((1..=20).map(|number| event(number, &format!("key {number}"))));
    let bearer = format!("Bearer {}", made["token"].as_str().unwrap());
    let fields = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let ask = request("POST", "/poll/asked", &fields, br#"{"maxEvents":5,"returnImmediately":true}"#);
    assert_eq!(http::send(gateway.world, &ask).status, 200);
    let origin = [fields[0], ("origin", "https://page.example")];
    let ticket = http::send(gateway.world, &request("POST", "/websocket/live/ticket", &origin, b""));
    assert_eq!(ticket.status, 201, "{}", ticket.text());
    // These requests are refused: a producer and a receiver without a token, a ticket that was never issued, another
    // event type.
    assert_eq!(http::send(gateway.world, &request("POST", "/events", &fields[1..], b"{}")).status, 401);
    assert_eq!(http::send(gateway.world, &request("POST", "/poll/asked", &fields[1..], b"{}")).status, 401);
    let offer = "GET /websocket/live HTTP/1.1\r\nhost: 127.0.0.1\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\norigin: https://page.example\r\n\
        sec-websocket-protocol: setgate.v1, ticket.AAAA\r\n\r\n";
    assert_eq!(http::send(gateway.world, offer.as_bytes()).status, 401);
    let mut other = event(99, "jane");
    other["events"] = json!({ "https://event.example/other": {} });
    assert_eq!(gateway.post("application/json", other.to_string().as_bytes()).status, 403);
    (gateway, [good, refusing, dead, batches])
}

#[test]
fn every_metric_is_documented_and_every_documented_one_is_there() {
    let (mut gateway, _sinks) = at_work();
    let documented = documented();
    assert!(documented.len() > 60, "{}", documented.len());
    let missing = |page: &str| -> Vec<String> {
        let shown = shown(page);
        let has_series = |name: &str| page.lines().any(|line| line.starts_with(name));
        let elsewhere = |name: &str| ELSEWHERE.iter().any(|begin| name.starts_with(begin));
        let names = documented.keys().filter(|name| !elsewhere(name));
        names.filter(|name| !shown.contains_key(*name) || !has_series(name)).cloned().collect()
    };
    let mut last = Vec::new();
    gateway.until_or(|gateway| {
        last = missing(&page(gateway));
        if last.is_empty() { Ok(()) } else { Err(format!("without a series: {last:?}")) }
    });
    let page = page(&gateway);
    let shown = shown(&page);
    for (name, family) in &shown {
        let known = documented.get(name).unwrap_or_else(|| panic!("docs/metrics.md does not have {name}"));
        assert_eq!(family.kind, known.kind, "{name}");
        assert!(family.labels.is_subset(&known.labels), "{name}: {:?}", family.labels);
        let sentence = family.help.starts_with(|c: char| c.is_uppercase()) && family.help.ends_with('.');
        assert!(sentence && !family.help.ends_with(".."), "{name}: {}", family.help);
    }
    for name in documented.keys().filter(|name| !shown.contains_key(*name)) {
        assert!(is_in_the_code(name), "docs/metrics.md has {name}, and nothing registers it");
    }
    let all = for_promtool(&with_the_others(page, &documented, &shown));
    std::fs::write(concat!(env!("CARGO_TARGET_TMPDIR"), "/metrics.txt"), all).unwrap();
}
