//! A fault as its file in `tests/planted/` describes it, and what such a file must keep to.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// The folder of the files, below the root of the workspace.
pub(crate) const FOLDER: &str = "tests/planted";

/// The commands that can be demanded to fail in place of a test.
const PARTS: [&str; 3] = ["simulation", "power-cuts", "crash"];

/// A fault that is put into the code, and what must notice it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fault {
    /// The name of the file, without its ending.
    #[serde(skip)]
    pub(crate) name: String,
    /// The fault in one sentence.
    pub(crate) fault: String,
    /// The promise that the fault breaks, `P1` to `P8`, or the threat that it lets in, as in `H36`.
    pub(crate) promise: String,
    /// The changes that make the fault.
    pub(crate) change: Vec<Change>,
    /// The tests, each of which must fail.
    #[serde(default)]
    pub(crate) caught_by: Vec<Test>,
    /// The command that must fail.
    pub(crate) part: Option<Part>,
}

/// A text that is put in place of another one.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Change {
    /// The path below the root of the workspace.
    pub(crate) file: String,
    /// The text as it stands there, exactly once.
    pub(crate) was: String,
    /// The text that takes its place.
    pub(crate) becomes: String,
}

/// A test by its name.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(deny_unknown_fields)]
pub(crate) struct Test {
    pub(crate) package: String,
    /// `lib`, or the name of an integration test.
    pub(crate) target: String,
    /// The full path of the test, as `cargo test -- --list` prints it.
    pub(crate) test: String,
    /// Whether the fault may show in a test that does not end.
    #[serde(default)]
    pub(crate) may_hang: bool,
}

/// A command of `cargo xtask`, with its options.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Part {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) options: Vec<String>,
}

impl Test {
    /// Returns package, target and path as one text.
    pub(crate) fn shown(&self) -> String {
        let package = self.package.strip_prefix("setgate_").unwrap_or(&self.package);
        if self.target == "lib" {
            format!("{package} {}", self.test)
        } else {
            format!("{package}/{} {}", self.target, self.test)
        }
    }
}

impl Part {
    /// Returns the command as it is typed.
    pub(crate) fn shown(&self) -> String {
        ["cargo xtask", &self.name]
            .into_iter()
            .chain(self.options.iter().map(String::as_str))
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// Reads all faults below `root`, by name.
///
/// # Errors
/// Returns an error when a file does not read, or when it names what is not there.
pub(crate) fn read_all(root: &Path) -> Result<Vec<Fault>> {
    let folder = root.join(FOLDER);
    let mut paths = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("could not read {FOLDER}"))? {
        paths.push(entry?.path());
    }
    paths.sort();
    let sources = Sources::read(root)?;
    let mut all = Vec::new();
    for path in paths {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let Some(stem) = name.strip_suffix(".toml") else { bail!("{FOLDER}/{name} is no description of a fault") };
        let read = || -> Result<Fault> {
            let fault = Fault { name: stem.to_owned(), ..toml::from_str(&fs::read_to_string(&path)?)? };
            fault.check(root, &sources)?;
            Ok(fault)
        };
        all.push(read().with_context(|| format!("{FOLDER}/{name}"))?);
    }
    Ok(all)
}

impl Fault {
    /// Checks that every text stands where it is changed, exactly once, and that every test exists.
    fn check(&self, root: &Path, sources: &Sources) -> Result<()> {
        let row = format!("\n| {} |", self.promise);
        if !["promises", "hardening"].iter().any(|page| {
            fs::read_to_string(root.join(format!("docs/design/{page}.md"))).is_ok_and(|text| text.contains(&row))
        }) {
            bail!("`promise` is the number of a promise or a threat of docs/design, not `{}`", self.promise);
        }
        if !self.fault.ends_with('.') || self.fault.contains('\n') {
            bail!("`fault` is one sentence that ends with a full stop");
        }
        for change in &self.change {
            let text = fs::read_to_string(root.join(&change.file)).with_context(|| change.file.clone())?;
            change.put(&text)?;
        }
        match &self.part {
            Some(part) if !PARTS.contains(&part.name.as_str()) => bail!("`part` is one of {}", PARTS.join(", ")),
            Some(_) if !self.caught_by.is_empty() => bail!("`part` and `caught_by` exclude each other"),
            None if self.caught_by.is_empty() => bail!("nothing is named that must notice the fault"),
            _ if self.change.is_empty() => bail!("nothing is changed"),
            _ => {}
        }
        self.caught_by.iter().try_for_each(|test| sources.find(test))
    }
}

impl Change {
    /// Returns the text of the file with the fault in it.
    ///
    /// # Errors
    /// Returns an error when the text that is changed does not stand there exactly once.
    pub(crate) fn put(&self, text: &str) -> Result<String> {
        match text.matches(&self.was).count() {
            _ if self.was == self.becomes || self.was.trim().is_empty() => bail!("{}: nothing is changed", self.file),
            1 => Ok(text.replacen(&self.was, &self.becomes, 1)),
            0 => bail!("{}: `was` is not found: the code has changed, so the fault must be written anew", self.file),
            count => bail!("{}: `was` is found {count} times: take more of the text", self.file),
        }
    }
}

/// The folders of the packages, to look tests up.
struct Sources(Vec<(String, PathBuf)>);

impl Sources {
    fn read(root: &Path) -> Result<Self> {
        let mut all = vec![("setgate".to_owned(), root.to_owned()), ("xtask".to_owned(), root.join("xtask"))];
        for group in ["crates", "transports"] {
            for entry in fs::read_dir(root.join(group))? {
                let path = entry?.path();
                if path.join("Cargo.toml").is_file()
                    && let Some(name) = path.file_name()
                {
                    all.push((format!("setgate_{}", name.to_string_lossy()), path));
                }
            }
        }
        Ok(Self(all))
    }

    /// Looks a test up in the sources. Where a macro makes it, its name stands in some file of the package.
    fn find(&self, test: &Test) -> Result<()> {
        let Some((_, folder)) = self.0.iter().find(|(name, _)| *name == test.package) else {
            bail!("there is no package {}", test.package);
        };
        let mut modules: Vec<&str> = test.test.split("::").collect();
        let name = modules.pop().unwrap_or_default();
        let (first, below) = if test.target == "lib" {
            (folder.join("src/lib.rs"), folder.join("src"))
        } else {
            let single = folder.join("tests").join(format!("{}.rs", test.target));
            let below = folder.join("tests").join(&test.target);
            (if single.is_file() { single } else { below.join("main.rs") }, below)
        };
        let (mut file, mut folder_of) = (first, below.clone());
        let mut inline = Vec::new();
        for module in &modules {
            let beside = folder_of.join(format!("{module}.rs"));
            folder_of = folder_of.join(module);
            if beside.is_file() {
                file = beside;
                inline.clear();
            } else {
                inline.push(*module);
            }
        }
        let text = fs::read_to_string(&file).with_context(|| format!("could not look up {}", test.test))?;
        if let Some(module) = inline.iter().find(|module| !text.contains(&format!("mod {module} "))) {
            bail!("{}: there is no module `{module}`", test.test);
        }
        let head = format!("fn {name}(");
        let mut texts = vec![text];
        texts.extend(rust_files(&below)?.iter().filter_map(|path| fs::read_to_string(path).ok()));
        if !texts.iter().any(|text| text.contains(&head)) {
            bail!("there is no test {} in {}", test.test, test.package);
        }
        Ok(())
    }
}

fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                found.push(path);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::root;

    fn change(was: &str, becomes: &str) -> Change {
        Change { file: "a.rs".to_owned(), was: was.to_owned(), becomes: becomes.to_owned() }
    }

    #[test]
    fn every_fault_can_be_planted_and_every_test_is_there() {
        let faults = read_all(&root()).unwrap();
        assert!(faults.len() >= 10, "only {} faults", faults.len());
    }

    #[test]
    fn a_text_is_changed_where_it_stands_exactly_once() {
        assert_eq!(change("b", "x").put("abc").unwrap(), "axc");
        for (was, becomes, text) in [("b", "x", "ac"), ("b", "x", "abcb"), ("b", "b", "abc"), (" ", "x", "a c")] {
            assert!(change(was, becomes).put(text).is_err(), "{was} {becomes} {text}");
        }
    }

    #[test]
    fn a_test_that_is_not_there_is_missed() {
        let sources = Sources::read(&root()).unwrap();
        let test = |package: &str, target: &str, test: &str| Test {
            package: package.to_owned(),
            target: target.to_owned(),
            test: test.to_owned(),
            may_hang: false,
        };
        for found in [
            test("setgate_store", "lib", "tests::faults::three_openings_in_vain_end_the_process"),
            test("setgate_store", "lib", "tests::embedded::the_tail_has_no_hole"),
            test("setgate", "it", "sums::metrics_and_streams_add_up_and_agree_whatever_becomes_of_deliveries"),
        ] {
            sources.find(&found).unwrap();
        }
        for missed in [
            test("setgate_store", "lib", "tests::faults::three_openings_in_vain_end_nothing"),
            test("setgate_store", "lib", "tests::nowhere::three_openings_in_vain_end_the_process"),
            test("setgate_stores", "lib", "tests::faults::three_openings_in_vain_end_the_process"),
            test("setgate_store", "its", "tests::faults::three_openings_in_vain_end_the_process"),
        ] {
            assert!(sources.find(&missed).is_err(), "{missed:?}");
        }
    }
}
