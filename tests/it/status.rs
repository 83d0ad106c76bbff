//! The status table of the README, compared with the running gateway.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};

use crate::boxed::{Gateway, Plan};
use crate::http::{self, request};

// The registry of delivery methods is filled by the crates that are linked.
use setgate_transports as _;

/// The members of the transmitter's metadata that stand for an endpoint or a scheme (SSF 1.0 §7.1).
const MEMBERS: [&str; 7] = [
    "jwks_uri",
    "configuration_endpoint",
    "status_endpoint",
    "add_subject_endpoint",
    "remove_subject_endpoint",
    "verification_endpoint",
    "authorization_schemes",
];

const BASE: &str = "https://schemas.openid.net/secevent/";

/// The event types of CAEP 1.0.
const CAEP: [&str; 8] = [
    "session-revoked",
    "token-claims-change",
    "credential-change",
    "assurance-level-change",
    "device-compliance-change",
    "session-established",
    "session-presented",
    "risk-level-change",
];

/// The event types of RISC 1.0.
const RISC: [&str; 14] = [
    "account-credential-change-required",
    "account-purged",
    "account-disabled",
    "account-enabled",
    "identifier-changed",
    "identifier-recycled",
    "credential-compromise",
    "opt-in",
    "opt-out-initiated",
    "opt-out-cancelled",
    "opt-out-effective",
    "recovery-activated",
    "recovery-information-changed",
    "sessions-revoked",
];

/// The status of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Today {
    Supported,
    OperatorOnly,
    NotYet,
}

/// A row of the table.
#[derive(Debug)]
struct Row {
    what: String,
    today: Today,
    /// The texts of the row in backticks.
    quoted: Vec<String>,
    text: String,
}

impl Row {
    /// Returns the routes that the row names, as method and path.
    fn routes(&self) -> impl Iterator<Item = (&str, &str)> {
        self.quoted.iter().filter_map(|quoted| quoted.split_once(' ').filter(|(_, path)| path.starts_with('/')))
    }

    fn quotes(&self, text: &str) -> bool {
        self.quoted.iter().any(|quoted| quoted == text)
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Returns the rows of the README's table; headings of groups, which have no standard and no status, are left out.
fn table(page: &str) -> Vec<Row> {
    let section = page.split("\n## What it does today\n").nth(1).expect("the section is there");
    let section = section.split("\n## ").next().unwrap();
    let mut rows = Vec::new();
    for line in section.lines().filter(|line| line.starts_with("| ")).skip(1) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [what, _, today, _] = cells[..] else { panic!("a row has four cells: {line}") };
        if what.starts_with("**") && today.is_empty() {
            continue;
        }
        let today = match today {
            "supported" => Today::Supported,
            "operator only" => Today::OperatorOnly,
            "not yet" => Today::NotYet,
            other => panic!("`{other}` is no status: {line}"),
        };
        let quoted = line.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        rows.push(Row { what: what.to_owned(), today, quoted, text: line.to_owned() });
    }
    assert!(rows.len() > 20, "only {} rows seen", rows.len());
    rows
}

/// Returns a gateway with a stream for each kind of route in the table.
fn gateway() -> Gateway {
    Plan::new()
        .stream_by("poll", "{ method = \"poll\" }")
        .stream_by("websocket", "{ method = \"websocket\" }")
        .stream_by("gone", "{ method = \"poll\" }")
        .start()
}

/// The answers of the running gateway, asked once: no row of the table changes them.
struct Asked {
    metadata: Value,
    public: Value,
    /// The status of the answer for every route of the table, by method and path.
    statuses: BTreeMap<(String, String), u16>,
}

impl Asked {
    fn of(gateway: &Gateway, rows: &[Row]) -> Self {
        let document = |path| http::send(gateway.world, &request("GET", path, &[], b"")).json();
        let routes = rows.iter().flat_map(Row::routes);
        Self {
            metadata: document("/.well-known/ssf-configuration"),
            public: document("/openapi.json"),
            statuses: routes
                .map(|(method, path)| ((method.to_owned(), path.to_owned()), status(gateway, method, path)))
                .collect(),
        }
    }
}

/// Returns the status of the answer to a minimal request.
fn status(gateway: &Gateway, method: &str, path: &str) -> u16 {
    let stream = if path.starts_with("/websocket") { "websocket" } else { "poll" };
    // The stream that is deleted is none that later rows ask for.
    let id = if method == "DELETE" { "gone" } else { "poll" };
    let path = path.replace("{stream}", stream).replace("{id}", id);
    let token = std::fs::read_to_string(gateway.path("secrets").join("admin-token")).unwrap();
    let bearer = format!("Bearer {}", token.trim());
    let is_admin = path.starts_with("/admin/");
    let mut fields = vec![("content-type", "application/json")];
    fields.extend(is_admin.then_some(("authorization", bearer.as_str())));
    let port = if is_admin { gateway.operator } else { gateway.world };
    let body: &[u8] = if method == "POST" { b"{}" } else { b"" };
    http::send(port, &request(method, &path, &fields, body)).status
}

/// Returns the faults of the table; each begins with the row that is wrong, if there is one.
fn faults(rows: &[Row], asked: &Asked) -> Vec<String> {
    let mut faults = Vec::new();
    for member in MEMBERS {
        let named: Vec<&Row> = rows.iter().filter(|row| row.quotes(member)).collect();
        let [row] = named[..] else {
            faults.push(format!("`{member}` stands in {} rows, not in one", named.len()));
            continue;
        };
        let published = !asked.metadata[member].is_null();
        if published != (row.today == Today::Supported) {
            faults.push(format!("{}: {:?}, but published in the metadata: {published}", row.what, row.today));
        }
    }
    let mut named = BTreeSet::new();
    for row in rows {
        for (method, path) in row.routes() {
            let status = asked.statuses[&(method.to_owned(), path.to_owned())];
            let is_served = !matches!(status, 404 | 405);
            if is_served != (row.today != Today::NotYet) {
                faults.push(format!("{}: {:?}, but {method} {path} is answered {status}", row.what, row.today));
            }
            if row.today == Today::Supported && path.starts_with("/admin/") {
                faults.push(format!("{}: what only {path} does is for operators only", row.what));
            }
            named.insert((method.to_ascii_lowercase(), path));
        }
    }
    for (path, operations) in asked.public["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            if path != "/openapi.json" && !named.contains(&(method.clone(), path.as_str())) {
                faults.push(format!("{method} {path} is served to the public and stands in no row"));
            }
        }
    }
    faults.extend(faults_of_methods(rows));
    faults
}

/// Returns the faults of the table about delivery methods: those that are linked have to be in it, and no others.
fn faults_of_methods(rows: &[Row]) -> Vec<String> {
    let linked: BTreeMap<&str, &str> =
        setgate_delivery::methods().unwrap().iter().map(|method| (method.entry.uri, method.entry.name)).collect();
    assert!(linked.len() >= 4, "only {} methods are linked", linked.len());
    let mut faults = Vec::new();
    let mut seen = BTreeSet::new();
    for row in rows {
        for quoted in &row.quoted {
            let is_linked = linked.contains_key(quoted.as_str());
            if quoted.starts_with("urn:") && (!is_linked || row.today != Today::Supported) {
                faults.push(format!("{}: {:?}, but {quoted} is linked: {is_linked}", row.what, row.today));
            }
            if row.today == Today::NotYet && linked.values().any(|name| name == quoted) {
                faults.push(format!("{}: the method `{quoted}` is linked", row.what));
            }
            seen.insert(quoted.as_str());
        }
    }
    faults.extend(linked.keys().filter(|uri| !seen.contains(**uri)).map(|uri| format!("{uri} stands in no row")));
    faults
}

/// Returns whether the gateway accepts an event of this type.
fn takes(gateway: &Gateway, family: &str, name: &str) -> bool {
    let event = json!({
        "sub_id": { "format": "email", "email": "jane@example.com" },
        "events": { format!("{BASE}{family}/event-type/{name}"): {} },
    });
    match gateway.post("application/json", event.to_string().as_bytes()).status {
        202 => true,
        400 | 403 => false,
        other => panic!("{family} {name} is answered {other}"),
    }
}

fn row<'a>(rows: &'a [Row], what: &str) -> &'a Row {
    rows.iter().find(|row| row.what == what).unwrap_or_else(|| panic!("no row is called `{what}`"))
}

#[test]
fn the_table_of_the_front_page_says_what_the_running_gateway_does() {
    let page = read("README.md");
    let rows = table(&page);
    let gateway = gateway();
    let found = faults(&rows, &Asked::of(&gateway, &rows));
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));

    for (family, names) in [("caep", &CAEP[..]), ("risc", &RISC[..])] {
        let row = row(&rows, &family.to_ascii_uppercase());
        assert_eq!(row.today, Today::Supported);
        let says = format!("{} event types", names.len());
        assert!(row.text.contains(&says), "`{says}` is not in: {}", row.text);
        let refused: Vec<_> = names.iter().filter(|name| !takes(&gateway, family, name)).collect();
        assert!(refused.is_empty(), "{family}: {refused:?} are refused");
    }
    for name in ["verification", "stream-updated"] {
        assert!(!takes(&gateway, "ssf", name), "a producer may send {name}");
    }
}

#[test]
fn a_row_that_promises_too_much_or_too_little_or_is_missing_is_found_out() {
    let page = read("README.md");
    let asked = Asked::of(&gateway(), &table(&page));
    let is_public = |path: &str| asked.public["paths"][path].is_object();
    let (mut changed, mut removed) = (0, 0);
    for at in 0..table(&page).len() {
        let mut rows = table(&page);
        let named = rows[at].quoted.iter().any(|one| one.starts_with("urn:") || MEMBERS.contains(&one.as_str()));
        if named || rows[at].routes().next().is_some() {
            changed += 1;
            rows[at].today = if rows[at].today == Today::Supported { Today::NotYet } else { Today::Supported };
            let found = faults(&rows, &asked);
            assert!(found.iter().any(|fault| fault.starts_with(&rows[at].what)), "{:?}: {found:?}", rows[at]);
        }
        if named || rows[at].routes().any(|(_, path)| is_public(path)) {
            removed += 1;
            let row = rows.remove(at);
            assert!(!faults(&rows, &asked).is_empty(), "nobody misses {row:?}");
        }
    }
    assert!(changed > 10 && removed > 10, "{changed} rows changed, {removed} removed");
}

#[test]
fn options_and_algorithms_of_the_table_are_those_of_the_configuration() {
    let config = read("config/setgate.toml");
    let rows = table(&read("README.md"));
    let mut sections = 0;
    for row in &rows {
        for quoted in row.quoted.iter().filter(|quoted| quoted.starts_with("[[")) {
            sections += 1;
            assert!(config.contains(&format!("\n#{quoted}\n")), "{}: the configuration has no {quoted}", row.what);
        }
        for quoted in row.quoted.iter().filter(|quoted| quoted.ends_with("_subjects")) {
            assert!(config.contains(&format!("\n#{quoted} = ")), "{}: no option is called {quoted}", row.what);
        }
    }
    assert!(sections > 4, "only {sections} sections seen");
    let told = config.split("The algorithms that it has keys for: ").nth(1).unwrap().split('.').next().unwrap();
    let told: Vec<&str> = told.split(", ").collect();
    assert_eq!(row(&rows, "signing").quoted, told);
}

#[test]
fn only_the_methods_of_the_table_collect_events() {
    let rows = table(&read("README.md"));
    let says: BTreeSet<String> = rows
        .iter()
        .flat_map(|row| &row.quoted)
        .filter_map(|quoted| Some(quoted.strip_prefix("kind = \"")?.trim_end_matches('"').to_owned()))
        .collect();
    let mut collect = BTreeSet::new();
    for name in setgate_delivery::methods().unwrap().iter().map(|method| method.entry.name) {
        let gateway = Plan::new().prepare();
        let issuer = gateway.issuer("");
        let source = format!(
            "\n[[sources]]\nname = \"it\"\nkind = \"{name}\"\nissuer = \"{issuer}\"\nevents = \"all\"\nsubjects = \"any\"\nfrom = {{}}\n"
        );
        let text = std::fs::read_to_string(gateway.config()).unwrap();
        std::fs::write(gateway.config(), text + &source).unwrap();
        let output = gateway.run(&["check"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success(), "{name}: a source from nowhere is taken: {said}");
        if !said.contains("does not collect") {
            collect.insert(name.to_owned());
        }
    }
    assert_eq!(says, collect);
}

#[test]
fn the_figures_of_the_front_page_are_those_of_the_page_on_performance() {
    let page = read("README.md");
    let section = page.split("\n## How fast\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let figures: Vec<&str> = section.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!(figures.len() > 5, "only {} figures seen", figures.len());
    let all = read("docs/performance.md");
    for figure in figures {
        assert!(all.lines().any(|line| line == figure), "docs/performance.md does not say `{figure}`");
    }
}
