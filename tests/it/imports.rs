//! The rules of the workspace: the imports of each crate, the layout of crates, the parts of a transport.
//!
//! A change of [`IMPORTS`] is a design decision: it has a commit of its own, with the reason in its body.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use toml::Table;

/// The libraries, from the ground up, with exactly the crates of the workspace that each imports, tests included.
const IMPORTS: &[(&str, &[&str])] = &[
    ("set", &[]),
    ("jose", &[]),
    ("clock", &[]),
    ("telemetry", &[]),
    ("stream", &["set"]),
    ("net", &["clock", "telemetry"]),
    ("delivery", &["set", "clock", "telemetry", "net"]),
    ("store", &["set", "clock"]),
    ("oauth", &["clock", "net", "store"]),
    ("discovery", &["jose", "clock", "net"]),
    ("router", &["set", "jose", "clock", "telemetry", "stream", "delivery", "store"]),
    ("control", &["set", "jose", "clock", "telemetry", "net", "store", "oauth", "router"]),
    ("receiver", &["set", "jose", "clock", "telemetry", "net", "delivery", "discovery"]),
    ("cli", &["set", "clock", "telemetry", "net"]),
    // The measurements are a program of their own, which no crate imports.
    ("bench", &["set", "jose", "clock", "stream", "net", "delivery", "store", "router", "cli"]),
];

/// The crates of the workspace that a transport imports.
const TRANSPORTS_IMPORT: &[&str] = &["delivery"];

/// The files that may have more than 600 lines without their tests, each with the reason.
const LONG_FILES: &[(&str, &str)] =
    &[("crates/store/src/contract.rs", "the contract of all engines, mostly documentation, read in one go")];

/// The sections of every crate's README.
const SECTIONS: &[&str] = &["What it is", "What it promises", "Map of files", "Not here"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("could not read {}: {error}", path.display()))
}

fn manifest(folder: &Path) -> Table {
    let path = folder.join("Cargo.toml");
    read(&path).parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn folders(of: &Path) -> BTreeSet<String> {
    std::fs::read_dir(of)
        .unwrap_or_else(|error| panic!("could not read {}: {error}", of.display()))
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect()
}

fn crate_names() -> BTreeSet<String> {
    folders(&root().join("crates"))
}

fn transports() -> BTreeSet<String> {
    folders(&root().join("transports"))
}

/// Returns folders and names of all libraries: crates, then transports.
fn libraries() -> Vec<(PathBuf, String)> {
    let crate_names = crate_names().into_iter().map(|name| (root().join("crates").join(&name), name));
    crate_names.chain(transports().into_iter().map(|name| (root().join("transports").join(&name), name))).collect()
}

/// Returns every Rust file below a folder.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            if entry.file_name() != "target" {
                found.extend(rust_files(&path));
            }
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Returns the workspace's own crates in all dependency tables of a manifest, without `setgate_`.
fn workspace_imports(manifest: &Table) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut tables: Vec<&Table> = Vec::new();
    let kinds = ["dependencies", "dev-dependencies", "build-dependencies"];
    tables.extend(kinds.iter().filter_map(|kind| manifest.get(*kind)?.as_table()));
    for target in manifest.get("target").and_then(|targets| targets.as_table()).into_iter().flatten() {
        tables.extend(kinds.iter().filter_map(|kind| target.1.get(*kind)?.as_table()));
    }
    for (name, how) in tables.into_iter().flatten() {
        let package = how.get("package").and_then(|package| package.as_str());
        if let Some(package) = package.filter(|package| package.starts_with("setgate")) {
            found.insert(format!("{name} (a new name of {package})"));
        } else if let Some(own) = name.strip_prefix("setgate") {
            found.insert(own.strip_prefix('_').unwrap_or(name).to_owned());
        }
    }
    found
}

fn none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn the_import_table_says_what_the_manifests_say() {
    let mut faults = Vec::new();
    let mut edges = 0;
    let mut compare = |folder: PathBuf, table: &[&str]| {
        let imports = workspace_imports(&manifest(&folder));
        let table: BTreeSet<String> = table.iter().map(|name| (*name).to_owned()).collect();
        edges += imports.len();
        faults.extend(imports.difference(&table).map(|name| format!("{} may not import {name}", folder.display())));
        let unused = table.difference(&imports);
        faults.extend(unused.map(|name| format!("{} may import {name} and does not: take it out", folder.display())));
    };
    for krate in crate_names() {
        let row = IMPORTS.iter().find(|(name, _)| *name == krate);
        let (_, table) = row.unwrap_or_else(|| panic!("crates/{krate} is not in the import table"));
        compare(root().join("crates").join(&krate), table);
    }
    for transport in transports() {
        compare(root().join("transports").join(&transport), TRANSPORTS_IMPORT);
    }
    none(&faults);
    assert!(edges > 20, "only {edges} imports seen: the test looks at the wrong manifests");
    let gone: Vec<_> = IMPORTS.iter().map(|(name, _)| name).filter(|name| !crate_names().contains(**name)).collect();
    assert!(gone.is_empty(), "in the import table without a folder: {gone:?}");
}

#[test]
fn the_table_points_down_only() {
    // Crates are removed in turns, each once all of its imports are removed: a cycle would remain.
    let mut order: Vec<&str> = IMPORTS.iter().map(|(name, _)| *name).collect();
    let mut placed: BTreeSet<&str> = BTreeSet::new();
    while !order.is_empty() {
        let (ready, rest): (Vec<&str>, Vec<&str>) = order.iter().partition(|name| {
            let (_, imports) = IMPORTS.iter().find(|(krate, _)| krate == *name).unwrap();
            imports.iter().all(|import| placed.contains(import))
        });
        assert!(!ready.is_empty(), "these crates import each other in a circle: {rest:?}");
        placed.extend(ready);
        order = rest;
    }
}

#[test]
fn every_library_is_named_after_its_folder_and_laid_out_as_cargo_expects() {
    let shared = manifest(&root())["workspace"]["dependencies"].as_table().unwrap().clone();
    let mut faults = Vec::new();
    for (folder, name) in libraries() {
        let manifest = manifest(&folder);
        let package = manifest["package"].as_table().unwrap();
        let mut demand = |met: bool, what: &str| {
            if !met {
                faults.push(format!("{}: {what}", folder.display()));
            }
        };
        demand(
            package["name"].as_str() == Some(&format!("setgate_{name}")),
            "the package is not named setgate_<folder>",
        );
        demand(manifest.get("lib").is_none(), "the code lies in src/lib.rs, as cargo expects it");
        let lints = manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(|on| on.as_bool());
        demand(lints == Some(true), "the shared lints are not inherited");
        let front = read(&folder.join("src/lib.rs"));
        demand(front.contains("include_str!(\"../README.md\")"), "README.md is not the rustdoc page");
        demand(!folder.join("build.rs").exists(), "there is a build script");
        if folder.starts_with(root().join("crates")) {
            let path = shared.get(&format!("setgate_{name}")).and_then(|how| how.get("path")?.as_str());
            demand(path == Some(&format!("crates/{name}")), "the root manifest does not share it under its name");
        }
        let anyhow = manifest.get("dependencies").and_then(|all| all.get("anyhow")).is_some();
        demand(!anyhow, "a library has errors of its own: anyhow is for xtask alone");
    }
    none(&faults);
}

#[test]
fn every_member_of_the_workspace_is_there_and_every_crate_is_a_member() {
    let root_manifest = manifest(&root());
    let members = root_manifest["workspace"]["members"].as_array().unwrap();
    let members: BTreeSet<String> = members.iter().map(|member| member.as_str().unwrap().to_owned()).collect();
    let wanted = ["crates/*", "transports", "transports/*", "xtask", "tests/chaos"].map(str::to_owned);
    assert_eq!(members, BTreeSet::from(wanted));
    for (folder, _) in libraries() {
        assert!(folder.join("Cargo.toml").exists(), "{} is no crate", folder.display());
    }
}

#[test]
fn every_crate_has_a_front_page_with_its_sections() {
    let mut faults = Vec::new();
    for (folder, _) in libraries() {
        let Ok(page) = std::fs::read_to_string(folder.join("README.md")) else {
            faults.push(format!("{} has no README.md", folder.display()));
            continue;
        };
        for section in SECTIONS {
            if !page.lines().any(|line| line.starts_with('#') && line.trim_start_matches('#').trim() == *section) {
                faults.push(format!("{}/README.md has no section `{section}`", folder.display()));
            }
        }
        if !page.contains("[DECISIONS.md](DECISIONS.md)") || !folder.join("DECISIONS.md").exists() {
            faults.push(format!("{0}/README.md does not lead to {0}/DECISIONS.md", folder.display()));
        }
    }
    none(&faults);
}

/// What the tables of a front page name in their first column: files and folders, with `{a,b}` written out.
fn map_of(page: &str) -> Vec<String> {
    let cells = page.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
    let spans = cells.flat_map(|cell| cell.split(['`', ' ']).map(str::to_owned).collect::<Vec<_>>());
    let each =
        |span: String| match span.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?))) {
            Some((before, (names, after))) => names.split(',').map(|name| format!("{before}{name}{after}")).collect(),
            None => vec![span],
        };
    spans.flat_map(each).filter(|span| span.ends_with(".rs") || span.ends_with('/')).collect()
}

#[test]
fn every_source_file_is_on_the_map_of_its_crate() {
    let mut faults = Vec::new();
    let mut seen = 0;
    for (folder, _) in libraries() {
        let map = map_of(&read(&folder.join("README.md")));
        let code = folder.join("src");
        for file in rust_files(&code) {
            let at = format!("/{}", file.strip_prefix(&code).unwrap().to_str().unwrap());
            let named = |name: &String| {
                if name.ends_with('/') { at.contains(&format!("/{name}")) } else { at.ends_with(&format!("/{name}")) }
            };
            if !(at == "/lib.rs" || at == "/main.rs" || at.contains("/tests") || map.iter().any(named)) {
                faults.push(format!("{}/README.md has no `{}` on its map", folder.display(), &at[1..]));
            }
            seen += 1;
        }
    }
    none(&faults);
    assert!(seen > 200, "only {seen} files seen: the test looks at the wrong folders");
}

#[test]
fn modules_are_files_beside_their_folders() {
    let mut faults = Vec::new();
    for folder in ["src", "crates", "transports", "tests", "xtask"] {
        for file in rust_files(&root().join(folder)) {
            if file.ends_with("mod.rs") {
                faults.push(format!("{}: a module is `thing.rs` beside `thing/`", file.display()));
            }
        }
    }
    none(&faults);
}

#[test]
fn every_transport_has_its_lines_and_registers_itself() {
    let manifest = manifest(&root().join("transports"));
    let dependencies = manifest["dependencies"].as_table().unwrap();
    let front = read(&root().join("transports/lib.rs"));
    let mut faults = Vec::new();
    for name in transports() {
        let crate_name = format!("setgate_{name}");
        let how = dependencies.get(&crate_name);
        if how.and_then(|how| how.get("path")).and_then(|path| path.as_str()) != Some(&name) {
            faults.push(format!("transports/Cargo.toml has no line for {name}"));
        }
        let lines: Vec<&str> = front.lines().map(str::trim).collect();
        let Some(at) = lines.iter().position(|line| *line == format!("pub use {crate_name} as {name};")) else {
            faults.push(format!(
                "transports/lib.rs has no `pub use {crate_name} as {name};`: the linker drops it silently"
            ));
            continue;
        };
        // A method that a build can leave out has a feature of its name.
        let optional = how.and_then(|how| how.get("optional")).and_then(|is| is.as_bool());
        let gated = at > 0 && lines[at - 1] == format!("#[cfg(feature = \"{name}\")]");
        if optional.unwrap_or_default() != gated {
            faults.push(format!(
                "{name} is optional in transports/Cargo.toml or has a `cfg` in transports/lib.rs, not both"
            ));
        }
        let code = read(&root().join("transports").join(&name).join("src/lib.rs"));
        if !code.lines().any(|line| line.trim_start().starts_with("setgate_delivery::register!(")) {
            faults.push(format!("transports/{name}/src/lib.rs has no `setgate_delivery::register!`"));
        }
        for file in ["config.rs", "wire.rs"] {
            if !root().join("transports").join(&name).join("src").join(file).exists() {
                faults.push(format!("transports/{name} has no src/{file}"));
            }
        }
    }
    for name in dependencies.keys().filter(|name| !transports().contains(name.trim_start_matches("setgate_"))) {
        faults.push(format!("transports/Cargo.toml names {name}, which has no folder"));
    }
    none(&faults);
}

#[test]
fn no_file_is_longer_than_six_hundred_lines_beside_its_tests() {
    let mut faults = Vec::new();
    let mut seen = 0;
    for folder in ["src", "crates", "transports", "xtask"] {
        for file in rust_files(&root().join(folder)) {
            seen += 1;
            let at = file.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
            let tests = at.contains("/tests/") && !at.starts_with("tests/")
                || at.ends_with("/tests.rs")
                || at.contains("testkit");
            let text = read(&file);
            let lines = text.lines().take_while(|line| line.trim() != "#[cfg(test)]").count();
            if lines > 600 && !tests && LONG_FILES.iter().all(|(long, _)| *long != at) {
                faults.push(format!("{at} has {lines} lines beside its tests"));
            }
        }
    }
    for (long, _) in LONG_FILES {
        if !root().join(long).exists() {
            faults.push(format!("{long} is excused and does not exist"));
        }
    }
    none(&faults);
    assert!(seen > 40, "only {seen} files seen: the test looks at the wrong folder");
}

#[test]
fn names_that_say_nothing_are_not_used() {
    let empty = ["utils", "util", "common", "helpers", "misc", "manager", "types", "prelude"];
    let mut faults = Vec::new();
    for folder in ["src", "crates", "transports", "tests", "xtask"] {
        for file in rust_files(&root().join(folder)) {
            let stem = file.file_stem().unwrap().to_str().unwrap();
            if empty.contains(&stem) {
                faults.push(format!("{} says nothing", file.display()));
            }
        }
    }
    none(&faults);
}

#[test]
fn every_exception_from_a_lint_has_a_reason() {
    let mut faults = Vec::new();
    for folder in ["src", "crates", "transports", "tests", "xtask"] {
        for file in rust_files(&root().join(folder)) {
            let text = read(&file);
            if text.contains(&["#[al", "low("].concat()) || text.contains(&["#![al", "low("].concat()) {
                faults.push(format!("{}: an exception is `expect` with a reason", file.display()));
            }
        }
    }
    none(&faults);
}
