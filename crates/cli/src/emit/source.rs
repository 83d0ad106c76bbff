//! The source of the events: a file, a pipe, or a recipe for generated ones.

use std::{
    fs::File,
    io::{BufRead, BufReader, Cursor, Read},
    path::Path,
    sync::Arc,
    time::Duration,
};

use serde::de::{DeserializeSeed, Deserializer as _, SeqAccess, Visitor};
use serde_json::{Value as Json, value::RawValue};
use setgate_clock::Clock;
use setgate_set::{JsonLimits, parse_json};
use tokio::sync::mpsc;

use super::{
    generate::Recipe,
    state::{Run, What},
};
use crate::{Failure, args::EmitArgs};

/// The number of events that are read ahead of the sender.
const AHEAD: usize = 1024;
/// The most bytes of one line.
const LONGEST: usize = 1024 * 1024;

/// An event to send, or the reason why it cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    /// The event's number in the source, counted from 1.
    pub number: u64,
    /// The event as one line of JSON with an id, or the reason why it cannot be sent.
    pub event: Result<String, String>,
}

/// The events of the source, in order, read by a thread of its own.
pub(super) struct EventReader {
    items: mpsc::Receiver<Item>,
}

impl EventReader {
    /// Opens the source after the events that an earlier run completed.
    ///
    /// # Errors
    /// [`Failure`] when the file cannot be opened, or the events cannot be generated.
    pub(super) fn open(args: &EmitArgs, run: &Run) -> Result<Self, Failure> {
        let (to, items) = mpsc::channel(AHEAD);
        let done = run.done;
        match &run.what {
            What::Made { .. } => {
                let recipe = Recipe::new(args, run)?;
                let count = args.count.unwrap_or_default();
                tokio::task::spawn_blocking(move || {
                    for number in done + 1..=count {
                        if to.blocking_send(Item { number, event: Ok(recipe.event(number)) }).is_err() {
                            return;
                        }
                    }
                });
            }
            What::File { .. } | What::Pipe => {
                let input = open(args.file.as_deref())?;
                let prefix = run.prefix.clone();
                tokio::task::spawn_blocking(move || {
                    let mut number = 0;
                    let mut hand_on = |read: Result<&str, String>| {
                        number += 1;
                        if number <= done {
                            return true;
                        }
                        let event = read.and_then(|text| with_id(text, &prefix, number));
                        to.blocking_send(Item { number, event }).is_ok()
                    };
                    read_all(input, &mut hand_on);
                });
            }
        }
        Ok(Self { items })
    }

    /// Returns the next event, or `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Item> {
        self.items.recv().await
    }

    /// Returns the next events that are ready, at most `most`: waits for the first, and then `linger` for further ones.
    pub(super) async fn batch(&mut self, most: usize, linger: Duration, clock: &Arc<dyn Clock>) -> Vec<Item> {
        let mut batch = Vec::new();
        if self.items.recv_many(&mut batch, most).await == 0 {
            return batch;
        }
        let mut enough = clock.sleep(linger);
        while batch.len() < most {
            let room = most - batch.len();
            tokio::select! {
                more = self.items.recv_many(&mut batch, room) => if more == 0 { break },
                () = &mut enough => break,
            }
        }
        batch
    }
}

fn open(file: Option<&Path>) -> Result<Box<dyn BufRead + Send>, Failure> {
    match file {
        Some(path) if path != Path::new("-") => {
            let file = File::open(path)
                .map_err(|error| Failure::usage(format!("{} cannot be read: {error}", path.display())))?;
            Ok(Box::new(BufReader::with_capacity(256 * 1024, file)))
        }
        _ => Ok(Box::new(BufReader::new(std::io::stdin()))),
    }
}

/// Reads an array, one object a line, or objects one after another; `hand_on` returns whether to go on.
fn read_all(mut input: Box<dyn BufRead + Send>, hand_on: &mut dyn FnMut(Result<&str, String>) -> bool) {
    let first = loop {
        let looked = match input.fill_buf() {
            Ok([]) => return,
            Ok(bytes) => bytes
                .iter()
                .position(|byte| !byte.is_ascii_whitespace())
                .map_or(Err(bytes.len()), |at| Ok((at, bytes.get(at).copied().unwrap_or_default()))),
            Err(error) => {
                hand_on(Err(error.to_string()));
                return;
            }
        };
        match looked {
            Ok((blank, byte)) => {
                input.consume(blank);
                break byte;
            }
            Err(blank) => input.consume(blank),
        }
    };
    if first == b'[' { read_array(input, hand_on) } else { read_lines(input, hand_on) }
}

fn read_lines(mut input: Box<dyn BufRead + Send>, hand_on: &mut dyn FnMut(Result<&str, String>) -> bool) {
    let mut line = Vec::new();
    let mut first = true;
    loop {
        line.clear();
        match (&mut input).take(LONGEST as u64 + 1).read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(_) if line.len() > LONGEST => {
                hand_on(Err(format!("the line is longer than {LONGEST} bytes; what follows was not read")));
                return;
            }
            Ok(_) => {}
            Err(error) => {
                hand_on(Err(error.to_string()));
                return;
            }
        }
        let text = line.trim_ascii();
        if text.is_empty() {
            continue;
        }
        if std::mem::take(&mut first)
            && serde_json::from_slice::<serde::de::IgnoredAny>(text).is_err_and(|error| error.is_eof())
        {
            // The first object spans several lines.
            return read_values(Cursor::new(line).chain(input), hand_on);
        }
        let go_on = match std::str::from_utf8(text) {
            Ok(text) => hand_on(Ok(text)),
            Err(_) => hand_on(Err("the line is not UTF-8".to_owned())),
        };
        if !go_on {
            return;
        }
    }
}

fn read_values(input: impl Read, hand_on: &mut dyn FnMut(Result<&str, String>) -> bool) {
    for value in serde_json::Deserializer::from_reader(input).into_iter::<Box<RawValue>>() {
        let go_on = match value {
            Ok(value) => hand_on(Ok(value.get())),
            Err(error) => {
                hand_on(Err(format!("{error}; what follows was not read")));
                false
            }
        };
        if !go_on {
            return;
        }
    }
}

fn read_array(input: impl Read, hand_on: &mut dyn FnMut(Result<&str, String>) -> bool) {
    struct Each<'a>(&'a mut dyn FnMut(Result<&str, String>) -> bool, &'a mut bool);
    impl<'de> Visitor<'de> for Each<'_> {
        type Value = ();
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an array of events")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
            while let Some(value) = seq.next_element::<Box<RawValue>>()? {
                if !(self.0)(Ok(value.get())) {
                    *self.1 = true;
                    return Err(serde::de::Error::custom("stopped"));
                }
            }
            Ok(())
        }
    }
    impl<'de> DeserializeSeed<'de> for Each<'_> {
        type Value = ();
        fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
            from.deserialize_seq(self)
        }
    }
    let mut stopped = false;
    let mut reader = serde_json::Deserializer::from_reader(input);
    let read = (&mut reader).deserialize_seq(Each(hand_on, &mut stopped)).and_then(|()| reader.end());
    if let (Err(error), false) = (read, stopped) {
        hand_on(Err(format!("{error}; what follows was not read")));
    }
}

/// Returns the event as one line of JSON with an id.
///
/// The text is checked as I-JSON here already, so that what is sent means what was read (hardening H30).
fn with_id(text: &str, prefix: &str, number: u64) -> Result<String, String> {
    let mut event = parse_json(text.as_bytes(), &JsonLimits::default()).map_err(|error| error.to_string())?;
    let Json::Object(members) = &mut event else {
        return Err("an event is a JSON object".to_owned());
    };
    members.entry("id").or_insert_with(|| Json::String(format!("{prefix}-{number}")));
    Ok(event.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<Result<String, String>> {
        let mut all = Vec::new();
        read_all(Box::new(Cursor::new(text.to_owned())), &mut |read| {
            all.push(read.map(|text| text.split_whitespace().collect()));
            true
        });
        all
    }

    fn ok(texts: &[&str]) -> Vec<Result<String, String>> {
        texts.iter().map(|text| Ok((*text).to_owned())).collect()
    }

    #[test]
    fn lines_arrays_and_printed_objects_are_all_read() {
        let two = ok(&["{\"a\":1}", "{\"a\":2}"]);
        assert_eq!(read("{\"a\":1}\n\n{\"a\":2}"), two);
        assert_eq!(read(" \n[ {\"a\":1} , {\"a\":2} ]\n"), two);
        assert_eq!(read("{\n  \"a\": 1\n}\n{\n  \"a\": 2\n}\n"), two);
        assert_eq!(read(""), ok(&[]));
        assert_eq!(read("[]"), ok(&[]));
    }

    #[test]
    fn a_bad_line_does_not_hide_the_next() {
        let all = read("{\"a\":1}\n{oops}\n{\"a\":2}\n");
        assert_eq!(all.len(), 3, "{all:?}");
        assert!(with_id("{oops}", "p", 2).is_err());
    }

    #[test]
    fn a_broken_array_says_so_at_its_end() {
        let all = read("[{\"a\":1},{\"a\":");
        assert_eq!(all.first(), Some(&Ok("{\"a\":1}".to_owned())));
        assert!(matches!(all.as_slice(), [_, Err(_)]), "{all:?}");
        let all = read("[{\"a\":1}] extra");
        assert!(matches!(all.as_slice(), [Ok(_), Err(_)]), "{all:?}");
    }

    #[test]
    fn an_id_is_added_only_where_none_is() {
        assert_eq!(with_id("{\"a\":1}", "p", 3).unwrap(), "{\"a\":1,\"id\":\"p-3\"}");
        assert_eq!(with_id("{\"id\":\"x\"}", "p", 3).unwrap(), "{\"id\":\"x\"}");
        assert!(with_id("{\"a\":1,\"a\":2}", "p", 3).is_err(), "duplicate members never pass silently");
        assert!(with_id("[]", "p", 3).is_err());
    }
}
