//! The documents, compared with code and configuration.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

/// Sections of the configuration whose numbers and durations are limits.
const SECTIONS: &[&str] = &[
    "listen.limits",
    "intake",
    "sessions",
    "store",
    "router",
    "net",
    "keys",
    "gateway",
    "methods.push",
    "methods.multipush",
    "methods.poll",
    "methods.websocket",
];

/// The figures that are no options: the page, its text, and the file and name of the constant.
const FIGURES: &[(&str, &str, &str, &str)] = &[
    ("docs/limits.md", "| a subject | 2 KiB |", "crates/set/src/subject.rs", "LONGEST"),
    ("docs/limits.md", "| identifiers in `aliases` | 16 |", "crates/set/src/subject.rs", "MOST_ALIASES"),
    ("docs/limits.md", "| members of a complex subject | 16 |", "crates/set/src/subject.rs", "MOST_MEMBERS"),
    (
        "docs/limits.md",
        "| (fixed) | 4 MiB | bytes of records in hand",
        "transports/kafka/src/receiver/group.rs",
        "BATCH_BYTES",
    ),
    (
        "docs/limits.md",
        "| (fixed) | 128 and 64 KiB | headers",
        "transports/kafka/src/receiver/record.rs",
        "MOST_HEADERS",
    ),
    (
        "docs/limits.md",
        "| (fixed) | 128 and 64 KiB | headers",
        "transports/kafka/src/receiver/record.rs",
        "MOST_HEADER_BYTES",
    ),
    (
        "docs/limits.md",
        "| (fixed) | 256 bytes | the name of an event",
        "transports/kafka/src/receiver/record.rs",
        "LONGEST_ID",
    ),
    ("docs/limits.md", "| (fixed) | 1000 and 16 MiB | parked records", "crates/control/src/sources.rs", "MOST"),
    ("docs/limits.md", "| (fixed) | 1000 and 16 MiB | parked records", "crates/control/src/sources.rs", "MOST_BYTES"),
    (
        "docs/limits.md",
        "| (fixed) | 64 KiB | bytes that are kept of a parked record",
        "crates/control/src/sources.rs",
        "LONGEST",
    ),
    ("docs/limits.md", "A ticket lives 30 seconds", "src/sessions/tickets.rs", "LIFE"),
    ("docs/limits.md", "body, time for it, origin | 2 KiB, 10 s, 512 bytes |", "src/sessions/tickets.rs", "BODY_BYTES"),
    ("docs/limits.md", "body, time for it, origin | 2 KiB, 10 s, 512 bytes |", "src/sessions/tickets.rs", "BODY"),
    (
        "docs/limits.md",
        "body, time for it, origin | 2 KiB, 10 s, 512 bytes |",
        "src/sessions/tickets.rs",
        "ORIGIN_BYTES",
    ),
    ("docs/limits.md", "a request's body arrives | 30 s |", "crates/delivery/src/body.rs", "WITHIN"),
    ("docs/limits.md", "reads the next 24 KiB of a poll's answer | 30 s |", "transports/poll/src/answer.rs", "PIECE"),
    ("docs/limits.md", "reads the next 24 KiB of a poll's answer | 30 s |", "transports/poll/src/answer.rs", "WITHIN"),
    ("docs/polling.md", "| reading an answer | 24 KiB in 30 s", "transports/poll/src/answer.rs", "PIECE"),
    (
        "transports/poll/README.md",
        "| reading the answer | 30 s for each 24 KiB |",
        "transports/poll/src/answer.rs",
        "PIECE",
    ),
    ("docs/limits.md", "Four polls of a stream wait", "transports/poll/src/places.rs", "WAITING"),
    (
        "docs/limits.md",
        "| | 2 s | sockets that hold SETs while the gateway stops |",
        "transports/websocket/src/conversation.rs",
        "GRACE",
    ),
    ("docs/websocket.md", "waits 2 seconds for what you hold", "transports/websocket/src/conversation.rs", "GRACE"),
    (
        "docs/limits.md",
        "may send 1,000 messages that say nothing",
        "transports/websocket/src/conversation.rs",
        "CHATTER",
    ),
    (
        "docs/websocket.md",
        "| 1,000 between two pings of the gateway |",
        "transports/websocket/src/conversation.rs",
        "CHATTER",
    ),
    ("docs/websocket.md", "| one SET | 256 KiB |", "transports/websocket/src/responder.rs", "LARGEST"),
    ("docs/limits.md", "The largest SET that is pushed has 1 MiB", "transports/push/src/wire.rs", "LARGEST"),
    ("docs/limits.md", "The largest SET that is pushed has 1 MiB", "transports/multipush/src/wire.rs", "LARGEST"),
    ("docs/limits.md", "an endpoint's URL 2048 bytes", "crates/delivery/src/endpoint.rs", "LONGEST_URL"),
    ("docs/limits.md", "Of an answer 64 KiB of head are read", "crates/net/src/client.rs", "HEAD"),
    ("docs/limits.md", "of its body 8 KiB (push)", "transports/push/src/wire.rs", "ANSWER"),
    ("transports/push/README.md", "At most 8 KiB of an answer are kept", "transports/push/src/wire.rs", "ANSWER"),
    (
        "transports/push/README.md",
        "visible ASCII, at most 4 KiB",
        "crates/delivery/src/fields.rs",
        "LONGEST_AUTHORIZATION",
    ),
    (
        "transports/multipush/README.md",
        "visible ASCII, at most 4 KiB",
        "crates/delivery/src/fields.rs",
        "LONGEST_AUTHORIZATION",
    ),
    ("docs/limits.md", "Connections end after 5 minutes", "crates/net/src/client.rs", "POOL_AGE"),
    ("docs/limits.md", "error code is kept up to 64 bytes", "crates/set/src/code.rs", "LONGEST"),
    ("docs/limits.md", "A topic has 249 bytes of name", "transports/kafka/src/config/validate.rs", "LONGEST_TOPIC"),
    ("docs/limits.md", "a group 255", "transports/kafka/src/config/validate.rs", "LONGEST_NAME"),
    ("docs/limits.md", "topics of a source: 64", "transports/kafka/src/config/validate.rs", "MOST"),
    ("docs/operating.md", "leave with it, at most 10s |", "crates/stream/src/model.rs", "LINGER_MOST"),
    (
        "transports/multipush/README.md",
        "rarer by doubling up to a minute",
        "transports/multipush/src/sender.rs",
        "SLOWEST_ACK_PROBE",
    ),
    ("transports/multipush/README.md", "from 20 SETs up to the limit", "transports/multipush/src/pace.rs", "FIRST"),
    ("crates/router/README.md", "about 32,768 of all streams", "crates/router/src/subscription.rs", "READY_MOST"),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("could not read {}: {error}", path.display()))
}

/// Returns `section.option` and the default of every number and every duration in the sections.
fn options() -> BTreeSet<(String, String)> {
    let config: Table = read("config/setgate.toml").parse().unwrap();
    let mut found = BTreeSet::new();
    for section in SECTIONS {
        let mut table = &config;
        for name in section.split('.') {
            table = table[name].as_table().unwrap();
        }
        for (name, value) in table {
            let shown = match value {
                Value::Integer(number) => number.to_string(),
                Value::String(text) if setgate_clock::duration::parse(text).is_ok() => text.clone(),
                _ => continue,
            };
            found.insert((format!("{section}.{name}"), shown));
        }
    }
    found
}

#[test]
fn the_page_of_limits_lists_every_limit_with_its_default() {
    let rows: BTreeSet<(String, String)> = read("docs/limits.md")
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
            let name = cells.next()?.trim_matches('`').to_owned();
            name.contains('.').then_some((name, cells.next()?.to_owned()))
        })
        .collect();
    let options = options();
    assert!(options.len() > 40, "only {} options seen", options.len());
    let missing: Vec<_> = options.difference(&rows).collect();
    let stale: Vec<_> = rows.difference(&options).collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "\nnot in docs/limits.md: {missing:?}\nnot in config/setgate.toml: {stale:?}"
    );
}

#[test]
fn the_map_of_the_repository_shows_every_folder() {
    let readme = read("README.md");
    let map = readme.split("## Map of the repository").nth(1).unwrap();
    for folder in ["src", "crates", "transports", "tests"] {
        for entry in std::fs::read_dir(root().join(folder)).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            if entry.file_type().unwrap().is_dir() {
                let shown = map.lines().any(|line| line.trim_start().starts_with(&format!("{name}/")));
                assert!(shown, "{folder}/{name} is not in the map");
            }
        }
    }
}

#[test]
fn every_link_between_the_documents_leads_somewhere() {
    let mut links = 0;
    for page in pages() {
        let folder = page.parent().unwrap().to_owned();
        for link in read(&page).split("](").skip(1) {
            let target = link.split([')', '#', ' ']).next().unwrap();
            if !target.is_empty() && !target.contains("://") {
                links += 1;
                assert!(folder.join(target).exists(), "{} links to {target}", page.display());
            }
        }
    }
    assert!(links > 8, "only {links} links seen");
}

fn pages() -> Vec<PathBuf> {
    let folders = ["docs", "docs/design"].map(|folder| std::fs::read_dir(root().join(folder)).unwrap());
    let docs = folders.into_iter().flatten().map(|entry| entry.unwrap().path());
    let mut pages: Vec<PathBuf> = docs.filter(|path| path.extension().is_some_and(|end| end == "md")).collect();
    pages.extend(["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"].map(|name| root().join(name)));
    pages
}

#[test]
fn the_page_of_exit_codes_is_the_commands_own() {
    let page = read("docs/operating.md");
    let told: Vec<&str> = page
        .lines()
        .skip_while(|line| !line.starts_with("| exit code"))
        .take_while(|line| line.starts_with('|'))
        .collect();
    assert_eq!(told.len(), setgate_cli::Exit::ALL.len() + 2);
    for exit in setgate_cli::Exit::ALL {
        assert!(
            told.iter().any(|row| row.starts_with(&format!("| {} |", exit.code()))),
            "exit code {} is not told",
            exit.code()
        );
    }
}

#[test]
fn every_command_that_the_documents_show_exists() {
    let mut shown = 0;
    for page in pages() {
        for quoted in read(&page).split('`').skip(1).step_by(2) {
            let mut words = quoted.split_whitespace();
            if words.next() != Some("setgate") {
                continue;
            }
            let Some(command) = words.next().filter(|word| word.chars().all(char::is_alphabetic)) else { continue };
            shown += 1;
            let known = <setgate_cli::args::Cli as clap::CommandFactory>::command()
                .get_subcommands()
                .any(|one| one.get_name() == command);
            assert!(known || command == "help", "{} shows `setgate {command}`", page.display());
        }
    }
    assert!(shown > 10, "only {shown} commands seen");
}

/// Returns the value of a constant, read from its file: a product, a shift or a plain number; a duration in seconds.
fn constant(file: &str, name: &str) -> u64 {
    let text = read(file);
    let begins = format!("const {name}: ");
    let found: Vec<_> = text.split(&begins).skip(1).collect();
    let [found] = found[..] else { panic!("{file}: {} constants are called {name}", found.len()) };
    let value = found.split_once('=').unwrap().1.split_once(';').unwrap().0.trim();
    let value = value.strip_prefix("Duration::from_secs(").map_or(value, |value| value.strip_suffix(')').unwrap());
    let number =
        |text: &str| text.trim().replace('_', "").parse::<u64>().unwrap_or_else(|_| panic!("{file}: {name} = {value}"));
    match value.split_once("<<") {
        Some((number_of, by)) => number(number_of) << number(by),
        None => value.split('*').map(number).product(),
    }
}

/// Returns the ways in which the pages write a number.
fn written(value: u64) -> Vec<String> {
    let mut ways = vec![value.to_string()];
    if value >= 1000 {
        ways.push(format!("{},{:03}", value / 1000, value % 1000));
    }
    ways.extend(value.is_multiple_of(1 << 20).then(|| format!("{} MiB", value >> 20)));
    ways.extend(value.is_multiple_of(1 << 10).then(|| format!("{} KiB", value >> 10)));
    ways.extend(value.is_multiple_of(1000).then(|| format!("{}s", value / 1000)));
    ways.extend(value.is_multiple_of(60).then(|| format!("{} minutes", value / 60)));
    ways.extend((value == 60).then(|| "a minute".to_owned()));
    ways.extend((value == 4).then(|| "Four".to_owned()));
    ways
}

#[test]
fn figures_that_are_no_options_are_the_codes_own() {
    let limits = setgate_set::EventLimits::default();
    for says in [
        format!("| event URIs of one event | {} |", limits.types),
        format!("| length of an event URI | {} bytes |", limits.uri),
        format!("| `id`, `txn`, `order_key` | {} bytes |", limits.name),
    ] {
        assert!(read("docs/limits.md").contains(&says), "docs/limits.md does not say `{says}`");
    }
    for (page, says, file, name) in FIGURES {
        let value = constant(file, name);
        // Pages break long lines.
        let text = read(page).replace('\n', " ");
        assert!(text.contains(says), "{page} does not say `{says}`; {name} of {file} is {value}");
        assert!(
            written(value).iter().any(|way| says.contains(way)),
            "{page}: `{says}`, but {name} of {file} is {value}"
        );
    }
}

#[test]
fn the_page_on_architecture_names_files_that_are_there() {
    let page = read("docs/architecture.md");
    let named: Vec<&str> = page.split('`').skip(1).step_by(2).filter(|quoted| quoted.ends_with(".rs")).collect();
    assert!(named.len() > 20, "only {} files seen", named.len());
    for file in named {
        assert!(root().join(file).is_file(), "docs/architecture.md names {file}");
    }
}

/// Returns every word of the program's code.
fn words_of_the_code() -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    let mut folders = vec![root().join("src"), root().join("crates"), root().join("transports")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().map(Result::unwrap) {
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                words.extend(text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').map(str::to_lowercase));
            }
        }
    }
    words
}

#[test]
fn the_glossary_is_short_and_its_words_of_the_code_are_in_the_code() {
    let page = read("docs/glossary.md");
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!((30..=40).contains(&rows.len()), "{} terms", rows.len());
    let code = words_of_the_code();
    let mut terms = BTreeSet::new();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [term, meaning] = cells[..] else { panic!("a row has two cells: {row}") };
        assert!(terms.insert(term), "{term} is there twice");
        assert!(meaning.ends_with('.') && !meaning.contains(". "), "{term}: one sentence, not `{meaning}`");
        if let Some(word) = meaning.split("(in code: `").nth(1).map(|rest| rest.split('`').next().unwrap()) {
            assert!(code.contains(word), "{term}: the code has no `{word}`");
        }
    }
}

/// Returns the numbers such as `H36` in a text: one letter and one or two digits.
fn numbers(text: &str, letter: char) -> BTreeSet<String> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| matches!(word.len(), 2..=3) && word.strip_prefix(letter).is_some_and(is_number))
        .map(str::to_owned)
        .collect()
}

fn is_number(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns all Rust files, Markdown pages and TOML files.
fn texts() -> Vec<PathBuf> {
    let mut folders = vec![root()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap()) {
            let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
            match path.extension().and_then(|kind| kind.to_str()) {
                _ if name.starts_with('.') || name == "target" || name == "node_modules" => {}
                _ if path.is_dir() => folders.push(path),
                Some("rs" | "md" | "toml") => found.push(path),
                _ => {}
            }
        }
    }
    found
}

#[test]
fn every_threat_and_promise_that_is_cited_has_its_row_and_every_row_its_tests() {
    let mut tests = BTreeSet::new();
    let mut cited = BTreeSet::new();
    for path in texts().into_iter().filter(|path| !path.starts_with(root().join("docs/design"))) {
        let text = read(&path);
        for letter in ['H', 'P'] {
            cited.extend(numbers(&text, letter));
        }
        tests.extend(text.split("fn ").skip(1).filter_map(|rest| rest.split('(').next()).map(str::to_owned));
    }
    assert!(cited.contains("H36") && cited.contains("P4"), "nothing was read: {cited:?}");
    let pages = [read("docs/design/hardening.md"), read("docs/design/promises.md")].concat();
    for number in cited {
        assert!(pages.contains(&format!("| {number} |")), "{number} is cited and stands in no table of docs/design");
    }
    let rows: Vec<&str> = pages.lines().filter(|line| line.starts_with("| H")).collect();
    assert!(rows.len() > 20, "{} rows", rows.len());
    for row in rows {
        let shown = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        for test in shown.split(", ") {
            assert!(tests.contains(test.trim_matches('`')), "no test is called {test}: {row}");
        }
    }
}
