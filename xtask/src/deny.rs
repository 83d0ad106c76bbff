//! The dependency guard: licences, sources, forbidden crates and duplicates, by the rules of `.deny.toml`.
//!
//! `cargo deny` reads the same file and also knows advisories; it runs beside this guard where it is installed.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use toml::{Table, Value};

use crate::licence;
use crate::process::{cargo, exists, finish, output, root, say};

/// A package of the tree, as `cargo tree` prints it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Package {
    name: String,
    version: String,
    licence: String,
    /// The source; empty for the default registry.
    source: String,
}

struct Rules {
    allowed: Vec<String>,
    /// The forbidden crates, each with the crates that may depend on it nevertheless.
    forbidden: Vec<(String, Vec<String>)>,
    /// The crates that may be there twice, with the start of a version rather than `name@version`.
    skipped: Vec<(String, String)>,
}

/// Checks the dependency tree of all features.
///
/// # Errors
/// Returns an error that lists everything that breaks a rule.
pub(crate) fn check() -> Result<()> {
    let text = std::fs::read_to_string(root().join(".deny.toml")).context("could not read .deny.toml")?;
    let rules = rules(&text)?;
    let tree = output(
        cargo()
            .args(["tree", "--workspace", "--all-features", "--edges", "normal,build,dev", "--prefix"])
            .args(["none", "--format", "{p}\t{l}"]),
    )?;
    let packages = packages(&tree)?;
    if packages.len() < 50 {
        bail!("only {} packages seen: the guard looks at the wrong tree", packages.len());
    }
    let mut holders = BTreeMap::new();
    for (name, wrappers) in &rules.forbidden {
        if !wrappers.is_empty() && packages.iter().any(|package| package.name == *name) {
            holders.insert(name.clone(), holders_of(name)?);
        }
    }
    let faults = find_faults(&packages, &holders, &rules);
    for fault in &faults {
        say(&format!("  {fault}"));
    }
    if !faults.is_empty() {
        bail!("{} faults in the dependency tree", faults.len());
    }
    say(&format!("  {} packages: licences, sources, forbidden crates and duplicates are in order", packages.len()));
    if exists("cargo", &["deny", "--version"]) {
        finish(cargo().args(["deny", "--all-features", "check"]))?;
    } else {
        say("  NOT RUN: advisories. `cargo deny` is not installed here; the other rules of .deny.toml were checked.");
    }
    Ok(())
}

/// Returns the packages that depend on any version of a package.
fn holders_of(name: &str) -> Result<BTreeSet<String>> {
    let tree = output(
        cargo()
            .args(["tree", "--workspace", "--all-features", "--edges", "normal,build,dev", "--prefix", "depth"])
            .args(["--depth", "1", "--format", " {p}", "--invert", name]),
    )?;
    let holder = |line: &str| line.strip_prefix("1 ")?.split(' ').next().map(str::to_owned);
    let holders: BTreeSet<_> = tree.lines().filter_map(holder).collect();
    if holders.is_empty() {
        bail!("nobody is said to depend on {name}: cargo tree printed `{tree}`");
    }
    Ok(holders)
}

fn find_faults(
    packages: &BTreeSet<Package>,
    holders: &BTreeMap<String, BTreeSet<String>>,
    rules: &Rules,
) -> Vec<String> {
    let mut faults = Vec::new();
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in packages {
        let Package { name, version, licence, source } = package;
        if let Some((_, wrappers)) = rules.forbidden.iter().find(|(forbidden, _)| forbidden == name) {
            if wrappers.is_empty() {
                faults.push(format!("{name} {version} is forbidden by .deny.toml"));
            }
            for holder in holders.get(name).into_iter().flatten().filter(|holder| !wrappers.contains(holder)) {
                faults.push(format!(
                    "{holder} depends on {name}, which .deny.toml allows to {} alone",
                    wrappers.join(", ")
                ));
            }
        }
        match licence::permits(licence, &rules.allowed) {
            Ok(true) => {}
            Ok(false) => faults.push(format!("{name} {version} has the licence `{licence}`, which is not allowed")),
            Err(error) => faults.push(format!("{name} {version}: {error}")),
        }
        if source.starts_with("http") || source.starts_with("git") || source.starts_with("registry") {
            faults.push(format!("{name} {version} comes from {source}"));
        }
        let skipped = rules.skipped.iter().any(|(skip, at)| skip == name && at_version(version, at));
        if !skipped {
            versions.entry(name).or_default().push(version);
        }
    }
    for (name, several) in versions.into_iter().filter(|(_, versions)| versions.len() > 1) {
        faults.push(format!("{name} is there {} times: {}", several.len(), several.join(", ")));
    }
    for (name, at) in &rules.skipped {
        if !packages.iter().any(|package| package.name == *name && at_version(&package.version, at)) {
            faults.push(format!("{name}@{at} is skipped in .deny.toml and not in the tree: remove the line"));
        }
    }
    faults
}

/// Returns whether a version is covered: `0.22` covers `0.22.1`, but not `0.220.1`.
fn at_version(version: &str, at: &str) -> bool {
    version.strip_prefix(at).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn packages(tree: &str) -> Result<BTreeSet<Package>> {
    let mut all = BTreeSet::new();
    for line in tree.lines().filter(|line| !line.trim().is_empty()) {
        let (package, licence) = line.split_once('\t').with_context(|| format!("cargo tree printed `{line}`"))?;
        let mut words = package.split(' ');
        let (Some(name), Some(version)) = (words.next(), words.next()) else { bail!("cargo tree printed `{line}`") };
        let rest: Vec<&str> = words.filter(|word| !matches!(*word, "(*)" | "(proc-macro)")).collect();
        all.insert(Package {
            name: name.to_owned(),
            version: version.trim_start_matches('v').to_owned(),
            licence: licence.trim_end_matches("(*)").trim().to_owned(),
            source: rest.join(" ").trim_matches(['(', ')']).to_owned(),
        });
    }
    Ok(all)
}

fn rules(text: &str) -> Result<Rules> {
    let table: Table = text.parse().context("could not read .deny.toml")?;
    let list = |section: &str, name: &str| -> Result<Vec<Value>> {
        let list = table.get(section).and_then(|section| section.get(name)).and_then(Value::as_array);
        list.cloned().with_context(|| format!(".deny.toml has no list {section}.{name}"))
    };
    let names = |values: Vec<Value>| -> Result<Vec<String>> {
        let name = |value: &Value| value.as_str().or_else(|| value.get("crate")?.as_str()).map(str::to_owned);
        values.iter().map(|value| name(value).with_context(|| format!("`{value}` names nothing"))).collect()
    };
    let skipped = names(list("bans", "skip")?)?;
    Ok(Rules {
        allowed: names(list("licenses", "allow")?)?,
        forbidden: list("bans", "deny")?
            .into_iter()
            .map(|one| {
                let wrappers = one.get("wrappers").and_then(Value::as_array).cloned().unwrap_or_default();
                Ok((names(vec![one])?.remove(0), names(wrappers)?))
            })
            .collect::<Result<_>>()?,
        skipped: skipped
            .iter()
            .map(|both| both.split_once('@').map(|(name, at)| (name.to_owned(), at.to_owned())))
            .map(|both| both.context("a skipped crate is written name@version"))
            .collect::<Result<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = r#"
        [licenses]
        allow = ["MIT"]
        [bans]
        deny = [{ crate = "ring" }, { crate = "tls-sys", wrappers = ["kafka-sys"] }]
        skip = [{ crate = "old@1.2", reason = "held by another" }]
    "#;

    fn faults(tree: &str) -> Vec<String> {
        held(tree, &[])
    }

    fn held(tree: &str, holders: &[&str]) -> Vec<String> {
        let holders = holders.iter().map(|holder| (*holder).to_owned()).collect();
        let holders = BTreeMap::from([("tls-sys".to_owned(), holders)]);
        find_faults(&packages(tree).unwrap(), &holders, &rules(RULES).unwrap())
    }

    #[test]
    fn finds_a_crate_that_another_may_have_alone() {
        let tree = "old v1.2.9\tMIT\ntls-sys v0.9.0\tMIT";
        assert_eq!(held(tree, &["kafka-sys"]), Vec::<String>::new());
        assert!(held(tree, &["kafka-sys", "x"]).iter().any(|fault| fault.contains("x depends on tls-sys")));
    }

    #[test]
    fn passes_a_tree_in_order() {
        assert_eq!(
            faults("old v1.2.9\tMIT\nold v2.0.0\tMIT\nnew v1.0.0 (proc-macro)\tMIT (*)\n"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn finds_a_forbidden_crate() {
        assert!(
            faults("old v1.2.9\tMIT\nring v0.17.0\tMIT").iter().any(|fault| fault.contains("ring 0.17.0 is forbidden"))
        );
    }

    #[test]
    fn finds_a_licence_that_is_not_allowed() {
        assert!(faults("old v1.2.9\tMIT\na v1.0.0\tGPL-3.0").iter().any(|fault| fault.contains("GPL-3.0")));
        assert!(faults("old v1.2.9\tMIT\na v1.0.0\t").iter().any(|fault| fault.contains("a licence is missing")));
    }

    #[test]
    fn finds_two_versions_of_one_crate() {
        assert!(
            faults("old v1.2.9\tMIT\na v1.0.0\tMIT\na v2.0.0\tMIT")
                .iter()
                .any(|fault| fault.contains("a is there 2 times"))
        );
    }

    #[test]
    fn finds_a_foreign_source() {
        let tree = "old v1.2.9\tMIT\na v1.0.0 (https://git.example/a#1)\tMIT";
        assert!(faults(tree).iter().any(|fault| fault.contains("comes from https://git.example")));
    }

    #[test]
    fn finds_a_skip_that_skips_nothing() {
        assert!(faults("a v1.0.0\tMIT").iter().any(|fault| fault.contains("remove the line")));
    }
}
