//! The state of a run, from which it can be resumed.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::answer::Tally;
use crate::{Context, Failure, args::EmitArgs};

/// A run: its source and its progress.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Run {
    /// The prefix of the ids.
    pub prefix: String,
    /// The time of generated events, in seconds since 1970-01-01T00:00:00Z.
    pub time: Option<u64>,
    /// The source of the events.
    pub what: What,
    /// The number of the last event up to which every event is answered.
    pub done: u64,
    /// The number of events accepted.
    pub accepted: u64,
    /// The number of events that had been accepted before.
    pub repeated: u64,
    /// The number of events refused.
    pub refused: u64,
}

/// The source of a run's events, as the state identifies it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum What {
    /// Generated events.
    Made {
        /// The number of different subjects.
        subjects: u64,
        /// The types that were asked for; all if empty.
        events: Vec<String>,
    },
    /// A file with particular contents.
    File {
        /// The first 16 hexadecimal digits of the BLAKE3 hash of the contents.
        hash: String,
    },
    /// A source that cannot be read twice.
    #[default]
    Pipe,
}

/// A run and the state file, if it has one.
#[derive(Debug)]
pub(super) struct State {
    pub run: Run,
    pub file: Option<PathBuf>,
}

impl State {
    /// Resumes the run in the state file, or begins a new one.
    ///
    /// # Errors
    /// [`Failure`] when the state belongs to another run or cannot be read or written, or the id prefix is too long or
    /// empty.
    pub(super) fn open(args: &EmitArgs, context: &Context) -> Result<Self, Failure> {
        let what = match args.count {
            Some(_) => What::Made { subjects: args.subjects, events: args.events.clone() },
            None => name(args.file.as_ref())?,
        };
        if let Some(file) = &args.state
            && file.exists()
        {
            let run = read(file)?;
            let other = args.id_prefix.as_ref().is_some_and(|prefix| *prefix != run.prefix);
            if run.what != what || other {
                return Err(Failure::usage(format!("{} remembers another run", file.display()))
                    .remedy("name another file with --state, or delete this one"));
            }
            return Ok(Self { run, file: args.state.clone() });
        }
        let prefix = match (&args.id_prefix, &what) {
            (Some(prefix), _) => prefix.clone(),
            (None, What::File { hash }) => hash.clone(),
            (None, _) => fresh(context),
        };
        if prefix.is_empty() || prefix.len() > 200 {
            return Err(Failure::usage("an id prefix has 1 to 200 bytes"));
        }
        let time = time_of(&prefix);
        let state = Self { run: Run { prefix, time, what, ..Run::default() }, file: args.state.clone() };
        state.write()?;
        Ok(state)
    }

    /// Records that every event up to `number` is answered.
    ///
    /// # Errors
    /// [`Failure`] when the state file cannot be written.
    pub(super) fn advance(&mut self, number: u64, tally: Tally) -> Result<(), Failure> {
        self.run.done = number;
        self.run.accepted += tally.accepted;
        self.run.repeated += tally.repeated;
        self.run.refused += tally.refused;
        self.write()
    }

    fn write(&self) -> Result<(), Failure> {
        let Some(file) = &self.file else { return Ok(()) };
        let failed =
            |error: std::io::Error| Failure::failed(format!("the state {} cannot be written: {error}", file.display()));
        let text = serde_json::to_string_pretty(&self.run).unwrap_or_default();
        // The file is written under another name and renamed, so that an interruption leaves either the old state or
        // the new one.
        let beside = file.with_extension("new");
        std::fs::write(&beside, text).and_then(|()| std::fs::rename(&beside, file)).map_err(failed)
    }
}

/// Identifies a source for the state: the same contents are the same source.
///
/// # Errors
/// [`Failure`] when the file cannot be read.
fn name(file: Option<&PathBuf>) -> Result<What, Failure> {
    let Some(path) = file.filter(|path| path.as_path() != Path::new("-")) else {
        return Ok(What::Pipe);
    };
    let unreadable = |error: std::io::Error| Failure::usage(format!("{} cannot be read: {error}", path.display()));
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Ok(What::Pipe);
    }
    let mut hasher = blake3::Hasher::new();
    std::io::copy(&mut File::open(path).map_err(unreadable)?, &mut hasher).map_err(unreadable)?;
    let hash = hasher.finalize().to_hex();
    Ok(What::File { hash: hash.get(..16).unwrap_or_default().to_owned() })
}

fn read(file: &Path) -> Result<Run, Failure> {
    let wrong = |why: String| Failure::usage(format!("the state {} cannot be used: {why}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))
}

/// Creates a prefix that no other run has. It contains the time, so that generated events are the same when the run is
/// resumed.
fn fresh(context: &Context) -> String {
    let mut bytes = [0u8; 6];
    context.runtime.random.fill(&mut bytes);
    let random: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("emit-{}-{random}", context.runtime.clock.wall_millis() / 1000)
}

/// Returns the time in a prefix. Generated events have no time when the prefix has none.
fn time_of(prefix: &str) -> Option<u64> {
    let mut parts = prefix.strip_prefix("emit-")?.split('-');
    parts.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_goes_on_where_it_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let line =
            format!("emit --issuer https://a.example --count 9 --state {}", folder.path().join("run.json").display());
        let args = super::super::tests::args(&line);
        let context = super::super::tests::context();
        let mut first = State::open(&args, &context).unwrap();
        assert_eq!(first.run.time, Some(1_700_000_000));
        first.advance(5, Tally { accepted: 4, repeated: 0, refused: 1 }).unwrap();
        let second = State::open(&args, &context).unwrap();
        assert_eq!(second.run, first.run);

        let other = super::super::tests::args(&format!("{line} --subjects 3"));
        assert_eq!(State::open(&other, &context).unwrap_err().exit, crate::Exit::Usage);
    }

    #[test]
    fn the_same_file_has_the_same_ids() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("a"), folder.path().join("b"));
        std::fs::write(&one, "{}").unwrap();
        std::fs::write(&other, "{}\n").unwrap();
        let prefix = |path: &Path| {
            let args = super::super::tests::args(&format!("emit --issuer https://a.example {}", path.display()));
            State::open(&args, &super::super::tests::context()).unwrap().run.prefix
        };
        assert_eq!(prefix(&one), prefix(&one));
        assert_ne!(prefix(&one), prefix(&other));
    }
}
