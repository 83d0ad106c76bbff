//! The documents say what is.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

/// Sections of the configuration whose numbers are limits.
const SECTIONS: &[&str] = &[
    "listen.limits",
    "intake",
    "visits",
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

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("could not read {}: {error}", path.display()))
}

/// `section.option` and its default, of every number in the sections.
fn options() -> BTreeSet<(String, String)> {
    let config: Table = read("config/setgate.toml").parse().unwrap();
    let mut found = BTreeSet::new();
    for section in SECTIONS {
        let mut table = &config;
        for name in section.split('.') {
            table = table[name].as_table().unwrap();
        }
        for (name, value) in table {
            if let Value::Integer(number) = value {
                found.insert((format!("{section}.{name}"), number.to_string()));
            }
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
fn the_map_of_the_house_shows_every_folder() {
    let readme = read("README.md");
    let map = readme.split("## The map of the house").nth(1).unwrap();
    for folder in ["src", "transports", "tests"] {
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
    let docs = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut pages: Vec<PathBuf> = docs.filter(|path| path.extension().is_some_and(|end| end == "md")).collect();
    pages.extend(["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(|name| root().join(name)));
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
    assert_eq!(told.len(), cli::Exit::ALL.len() + 2);
    for exit in cli::Exit::ALL {
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
            let known = <cli::args::Cli as clap::CommandFactory>::command()
                .get_subcommands()
                .any(|one| one.get_name() == command);
            assert!(known || command == "help", "{} shows `setgate {command}`", page.display());
        }
    }
    assert!(shown > 10, "only {shown} commands seen");
}
