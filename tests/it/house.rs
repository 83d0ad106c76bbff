//! The rules of the house as code: who may import whom, how rooms are laid out, what a transport consists of.
//!
//! Changing [`MAY_IMPORT`] is a design decision: own commit, reason in the body.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use toml::Table;

/// The rooms, from the ground up, with what each may import of the house.
///
/// Above the ground every room may import [`GROUND_FOR_ALL`] as well.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("set", &[]),
    ("jose", &[]),
    ("clock", &[]),
    ("telemetry", &[]),
    ("stream", &["set"]),
    ("net", &[]),
    ("delivery", &["set", "net"]),
    ("store", &["set", "stream"]),
    ("oauth", &["jose", "net", "store", "discovery"]),
    ("discovery", &["jose", "net"]),
    ("router", &["set", "jose", "stream", "store", "delivery"]),
    ("control", &["set", "jose", "stream", "store", "net", "router", "oauth", "discovery"]),
    ("receiver", &["set", "jose", "stream", "delivery", "net", "discovery", "store"]),
    ("cli", &["set", "jose", "net", "store", "receiver"]),
];

/// Rooms that import nothing of the house but what [`MAY_IMPORT`] says.
const GROUND: &[&str] = &["set", "jose", "clock", "telemetry", "stream"];

/// What every room above the ground may import.
const GROUND_FOR_ALL: &[&str] = &["clock", "telemetry"];

/// What the measurements may import of the house. Only the root imports them.
const BENCHES_MAY_IMPORT: &[&str] =
    &["set", "jose", "stream", "clock", "telemetry", "net", "delivery", "store", "router", "discovery"];

/// What a transport may import of the house.
const TRANSPORTS_MAY_IMPORT: &[&str] = &["delivery"];

/// Where `anyhow` may be used.
const MAY_USE_ANYHOW: &[&str] = &["cli"];

/// Files that may have more than 600 lines beside their tests, each with its reason.
const LONG_FILES: &[(&str, &str)] =
    &[("src/store/contract.rs", "the contract of all engines, mostly documentation, read in one go")];

/// The sections that every room's front page has.
const SECTIONS: &[&str] = &["What it is", "What it promises", "Map of files", "Not here", "Decisions"];

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

fn rooms() -> BTreeSet<String> {
    folders(&root().join("src"))
}

fn transports() -> BTreeSet<String> {
    folders(&root().join("transports"))
}

/// Every Rust file below a folder.
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

/// Names of the house's own packages (`setgate-x`) in all dependency tables of a manifest, by the name they are used under.
fn house_imports(manifest: &Table, house: &BTreeMap<String, String>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut tables: Vec<&Table> = Vec::new();
    let kinds = ["dependencies", "dev-dependencies", "build-dependencies"];
    tables.extend(kinds.iter().filter_map(|kind| manifest.get(*kind)?.as_table()));
    for target in manifest.get("target").and_then(|targets| targets.as_table()).into_iter().flatten() {
        tables.extend(kinds.iter().filter_map(|kind| target.1.get(*kind)?.as_table()));
    }
    for (name, how) in tables.into_iter().flatten() {
        let package = how.get("package").and_then(|package| package.as_str());
        if house.contains_key(name) {
            found.insert(name.clone());
        } else if let Some(package) = package.filter(|package| package.starts_with("setgate")) {
            found.insert(format!("{name} (a new name of {package})"));
        } else if name.starts_with("setgate") {
            found.insert(name.clone());
        }
    }
    found
}

/// Folder name -> package name, as the root manifest declares them.
fn house() -> BTreeMap<String, String> {
    let root = manifest(&root());
    let shared = root["workspace"]["dependencies"].as_table().unwrap();
    shared
        .iter()
        .filter_map(|(name, how)| Some((name.clone(), how.get("package")?.as_str()?.to_owned())))
        .filter(|(_, package)| package.starts_with("setgate"))
        .collect()
}

fn none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn every_room_imports_only_what_the_table_allows() {
    let house = house();
    let mut faults = Vec::new();
    let mut edges = 0;
    for room in rooms() {
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == room) else {
            faults.push(format!("src/{room} is not in the import table"));
            continue;
        };
        for import in house_imports(&manifest(&root().join("src").join(&room)), &house) {
            edges += 1;
            let common = !GROUND.contains(&room.as_str()) && GROUND_FOR_ALL.contains(&import.as_str());
            if !allowed.contains(&import.as_str()) && !common {
                faults.push(format!("{room} may not import {import}"));
            }
        }
    }
    for transport in transports() {
        for import in house_imports(&manifest(&root().join("transports").join(&transport)), &house) {
            edges += 1;
            if !TRANSPORTS_MAY_IMPORT.contains(&import.as_str()) {
                faults.push(format!("transports/{transport} may not import {import}"));
            }
        }
    }
    for import in house_imports(&manifest(&root().join("benches")), &house) {
        edges += 1;
        if !BENCHES_MAY_IMPORT.contains(&import.as_str()) {
            faults.push(format!("benches may not import {import}"));
        }
    }
    none(&faults);
    assert!(edges > 20, "only {edges} imports seen: the test looks at the wrong manifests");
}

#[test]
fn the_table_points_down_only() {
    // Rooms are taken out in turns, each once all that it imports is out: a circle would remain.
    let mut order: Vec<&str> = MAY_IMPORT.iter().map(|(name, _)| *name).collect();
    let mut placed: BTreeSet<&str> = BTreeSet::new();
    while !order.is_empty() {
        let (ready, rest): (Vec<&str>, Vec<&str>) = order.iter().partition(|name| {
            let (_, imports) = MAY_IMPORT.iter().find(|(room, _)| room == *name).unwrap();
            imports.iter().all(|import| placed.contains(import))
        });
        assert!(!ready.is_empty(), "these rooms import each other in a circle: {rest:?}");
        placed.extend(ready);
        order = rest;
    }
}

#[test]
fn every_room_is_a_crate_named_after_its_folder() {
    let house = house();
    let mut faults = Vec::new();
    let places = rooms().into_iter().map(|room| (root().join("src").join(&room), room));
    let places = places.chain(transports().into_iter().map(|name| (root().join("transports").join(&name), name)));
    for (folder, name) in places {
        let manifest = manifest(&folder);
        let package = manifest["package"].as_table().unwrap();
        let mut demand = |met: bool, what: &str| {
            if !met {
                faults.push(format!("{}: {what}", folder.display()));
            }
        };
        demand(
            package["name"].as_str() == Some(&format!("setgate-{name}")),
            "the package is not named setgate-<folder>",
        );
        demand(package.get("build").and_then(|build| build.as_bool()) == Some(false), "`build = false` is missing");
        let lib = manifest.get("lib").and_then(|lib| lib.get("path")).and_then(|path| path.as_str());
        demand(lib == Some("lib.rs"), "the code does not lie directly in the folder");
        let lints = manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(|on| on.as_bool());
        demand(lints == Some(true), "the shared lints are not inherited");
        let front = read(&folder.join("lib.rs"));
        demand(front.contains("include_str!(\"README.md\")"), "README.md is not the rustdoc page");
        demand(!folder.join("build.rs").exists(), "there is a build script");
        if folder.starts_with(root().join("src")) {
            demand(
                house.get(&name) == Some(&format!("setgate-{name}")),
                "the root manifest does not rename it to its folder",
            );
        }
        let anyhow = manifest.get("dependencies").and_then(|all| all.get("anyhow")).is_some();
        demand(!anyhow || MAY_USE_ANYHOW.contains(&name.as_str()), "anyhow is for main.rs and cli alone");
    }
    none(&faults);
}

#[test]
fn every_member_of_the_workspace_is_there_and_every_crate_is_a_member() {
    let root_manifest = manifest(&root());
    let members = root_manifest["workspace"]["members"].as_array().unwrap();
    let members: BTreeSet<String> = members.iter().map(|member| member.as_str().unwrap().to_owned()).collect();
    let mut wanted: BTreeSet<String> = rooms().into_iter().map(|room| format!("src/{room}")).collect();
    wanted.extend(transports().into_iter().map(|name| format!("transports/{name}")));
    wanted.extend(["transports".to_owned(), "tests/servers".to_owned(), "benches".to_owned()]);
    assert_eq!(members, wanted);
}

#[test]
fn every_room_has_a_front_page_with_its_sections() {
    let mut faults = Vec::new();
    let places = rooms().into_iter().map(|room| root().join("src").join(room));
    for folder in places.chain(transports().into_iter().map(|name| root().join("transports").join(name))) {
        let Ok(page) = std::fs::read_to_string(folder.join("README.md")) else {
            faults.push(format!("{} has no README.md", folder.display()));
            continue;
        };
        for section in SECTIONS {
            if !page.lines().any(|line| line.starts_with('#') && line.trim_start_matches('#').trim() == *section) {
                faults.push(format!("{}/README.md has no section `{section}`", folder.display()));
            }
        }
        for file in rust_files(&folder).into_iter().filter(|file| file.parent() == Some(&folder)) {
            let name = file.file_name().unwrap().to_str().unwrap();
            if !matches!(name, "lib.rs" | "tests.rs") && !page.contains(name.trim_end_matches(".rs")) {
                faults.push(format!("{}/README.md does not mention {name}", folder.display()));
            }
        }
    }
    none(&faults);
}

#[test]
fn no_module_has_the_name_of_a_room_or_of_a_build_script() {
    let mut taken = rooms();
    taken.insert("build".to_owned());
    let mut faults = Vec::new();
    // A transport's other end is its `receiver.rs`; it imports no room of that name, so nothing is shadowed.
    for (folder, may) in [("src", &[] as &[&str]), ("transports", &["receiver"])] {
        for file in rust_files(&root().join(folder)) {
            let at = file.strip_prefix(root()).unwrap();
            let stem = file.file_stem().unwrap().to_str().unwrap();
            let deep = at.components().count() > 2;
            if taken.contains(stem) && !may.contains(&stem) {
                faults.push(format!("{} has the name of a room", at.display()));
            }
            if deep && at.ends_with("mod.rs") {
                faults.push(format!("{}: a module is `thing.rs` beside `thing/`", at.display()));
            }
            for line in read(&file).lines() {
                let Some(name) = module_of(line) else { continue };
                if taken.contains(name) && !may.contains(&name) {
                    faults.push(format!("{}: `{}` has the name of a room", at.display(), line.trim()));
                }
            }
        }
    }
    none(&faults);
}

/// The name in `mod name;`, `pub mod name {` and the like.
fn module_of(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let line = line.strip_prefix("pub(crate) ").or_else(|| line.strip_prefix("pub ")).unwrap_or(line);
    let name = line.strip_prefix("mod ")?;
    Some(name.trim_end_matches([';', '{', ' ', '}']).trim())
}

#[test]
fn every_transport_has_its_lines_and_registers_itself() {
    let manifest = manifest(&root().join("transports"));
    let dependencies = manifest["dependencies"].as_table().unwrap();
    let front = read(&root().join("transports/lib.rs"));
    let mut faults = Vec::new();
    for name in transports() {
        if dependencies.get(&name).and_then(|how| how.get("path")).and_then(|path| path.as_str()) != Some(&name) {
            faults.push(format!("transports/Cargo.toml has no line for {name}"));
        }
        let lines: Vec<&str> = front.lines().map(str::trim).collect();
        let Some(at) = lines.iter().position(|line| *line == format!("pub use {name};")) else {
            faults.push(format!("transports/lib.rs has no `pub use {name};`: the linker drops it silently"));
            continue;
        };
        // A method that can be left out of the build is left out by a feature of its name.
        let optional = dependencies.get(&name).and_then(|how| how.get("optional")).and_then(|is| is.as_bool());
        let gated = at > 0 && lines[at - 1] == format!("#[cfg(feature = \"{name}\")]");
        if optional.unwrap_or_default() != gated {
            faults.push(format!(
                "{name} is optional in transports/Cargo.toml or has a `cfg` in transports/lib.rs, not both"
            ));
        }
        let code = read(&root().join("transports").join(&name).join("lib.rs"));
        if !code.lines().any(|line| line.trim_start().starts_with("delivery::register!(")) {
            faults.push(format!("transports/{name}/lib.rs has no `delivery::register!`"));
        }
        for file in ["config.rs", "wire.rs"] {
            if !root().join("transports").join(&name).join(file).exists() {
                faults.push(format!("transports/{name} has no {file}"));
            }
        }
    }
    for name in dependencies.keys().filter(|name| !transports().contains(*name)) {
        faults.push(format!("transports/Cargo.toml names {name}, which has no folder"));
    }
    none(&faults);
}

#[test]
fn no_file_is_longer_than_six_hundred_lines_beside_its_tests() {
    let mut faults = Vec::new();
    let mut seen = 0;
    for folder in ["src", "transports", "tests/servers", "benches"] {
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
    for folder in ["src", "transports", "tests", "benches"] {
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
    for folder in ["src", "transports", "tests", "benches"] {
        for file in rust_files(&root().join(folder)) {
            let text = read(&file);
            if text.contains(&["#[al", "low("].concat()) || text.contains(&["#![al", "low("].concat()) {
                faults.push(format!("{}: an exception is `expect` with a reason", file.display()));
            }
        }
    }
    none(&faults);
}
