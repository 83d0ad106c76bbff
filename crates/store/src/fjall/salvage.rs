//! The salvage of a store's rows from tables and journals, past what is damaged, without the engine and without
//! changing anything.

pub(crate) mod tree;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    io,
    path::{Path, PathBuf},
};

use lsm_tree::Slice;

use crate::{
    codec::{read_body, read_chunk, read_delta, read_head},
    fjall::{
        bucket::{self, number_of},
        engine::{read_row, seq_of},
        journal::{self, batches},
        replay::{COUNTERS, Fold, KEYS},
        salvage::tree::{Lens, Row, Tree},
        seal,
        segment::Segment,
        spare::EMPTIED,
        turnover::FILLER,
    },
};

/// The role of a keyspace, which is the kind of its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum KeyspaceRole {
    Meta,
    Control,
    Cursor,
    Delta,
    Parked,
    ParkedBodies,
    Held,
    Heads(u64),
    Bodies(u64),
    Once(u64),
    /// The keyspace holds nothing that the store keeps, or its role is unknown.
    Other,
}

impl KeyspaceRole {
    /// Returns whether the keyspace exists for the whole life of a store.
    pub(crate) fn is_fixed(self) -> bool {
        !matches!(self, Self::Heads(_) | Self::Bodies(_) | Self::Once(_) | Self::Other)
    }

    pub(crate) fn named(name: &str) -> Self {
        let numbered = |prefix: &str| name.strip_prefix(prefix).and_then(|number| number.parse().ok());
        match name {
            "meta" => Self::Meta,
            "control" => Self::Control,
            "cursor" => Self::Cursor,
            "delta" => Self::Delta,
            "parked" => Self::Parked,
            "parked-bodies" => Self::ParkedBodies,
            "held" => Self::Held,
            FILLER => Self::Other,
            _ => None
                .or_else(|| numbered("heads-").map(Self::Heads))
                .or_else(|| numbered("bodies-").map(Self::Bodies))
                .or_else(|| numbered("once-").map(Self::Once))
                .unwrap_or(Self::Other),
        }
    }

    /// Guesses the role of a keyspace whose name is lost from one of its rows: each row says what it is and where it
    /// belongs.
    fn guessed(number: u64, row: &Row) -> Option<Self> {
        let (key, value) = (&*row.key, row.value.as_deref()?);
        let seq = |skip: usize| key.get(skip..).and_then(seq_of);
        match key {
            [b'c', ..] if key.len() == 5 => Some(Self::Cursor),
            [b'o', ..] if key.len() == 9 && read_chunk(value).is_some() => Some(Self::Cursor),
            [0 | 1, ..] if key.len() == 9 => {
                let seq = seq(1)?;
                (read_head(seq, value).is_ok() || read_body(seq, value).is_ok()).then_some(Self::Held)
            }
            [b'/', ..] => Some(Self::Control),
            _ if key.starts_with(b"segment/") => Some(Self::Meta),
            _ if [Fold::KEY, COUNTERS, KEYS].iter().any(|name| name.as_bytes() == key) => Some(Self::Meta),
            _ if key.len() == 8 => {
                let seq = seq(0)?;
                if read_head(seq, value).is_ok() {
                    Some(Self::Heads(number))
                } else if read_body(seq, value).is_ok() {
                    Some(Self::Bodies(number))
                } else {
                    read_delta(seq, value).is_ok().then_some(Self::Delta)
                }
            }
            _ if key.len() == 12 => {
                if read_row(value).is_ok() {
                    Some(Self::Parked)
                } else {
                    read_body(seq(4)?, value).is_ok().then_some(Self::ParkedBodies)
                }
            }
            _ => None,
        }
    }
}

impl std::fmt::Display for KeyspaceRole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Meta => f.write_str("the counters and the table of segments"),
            Self::Control => f.write_str("the control-plane records"),
            Self::Cursor => f.write_str("the cursors"),
            Self::Delta => f.write_str("the settlements since the cursors were written down"),
            Self::Parked | Self::ParkedBodies => f.write_str("the parked SETs"),
            Self::Held => f.write_str("the records kept of condensed segments"),
            Self::Heads(number) => write!(f, "the heads of segment {number}"),
            Self::Bodies(number) => write!(f, "the bodies of segment {number}"),
            Self::Once(number) => write!(f, "the idempotency keys of bucket {number}"),
            Self::Other => f.write_str("an unknown keyspace"),
        }
    }
}

/// The rows that the journals have for a keyspace: by key, the newest value and its sequence number.
type Recent = BTreeMap<Vec<u8>, (u64, Option<Slice>)>;

struct Keyspace {
    role: KeyspaceRole,
    tree: Tree,
    recent: Recent,
}

/// The rows of a store.
pub(crate) struct Salvage {
    keyspaces: Vec<Keyspace>,
    /// The parts of the journals, or of the list of keyspaces, that cannot be read.
    pub(crate) unread: Vec<String>,
    /// The sequence number after which batches of the journals are lost, if any are.
    pub(crate) lost_after: Option<u64>,
    /// True when names of keyspaces are lost; their roles are then guessed.
    pub(crate) nameless: bool,
    /// The keyspaces whose name is known and whose folder is missing.
    pub(crate) gone: BTreeSet<KeyspaceRole>,
}

/// Reads the names of keyspaces from tree 0. The first table in its list wins here, as for the engine: the sequence
/// numbers of this tree restart at an opening and do not say which row is newer.
pub(crate) fn names(tree: &Tree) -> BTreeMap<u64, String> {
    let mut found: BTreeMap<u64, Option<String>> = BTreeMap::new();
    for row in tree.sources().into_iter().flatten() {
        let Some(number) = row.key.strip_prefix(b"n").and_then(seq_of) else { continue };
        let name = row.value.as_deref().and_then(|name| std::str::from_utf8(name).ok()).map(str::to_owned);
        found.entry(number).or_insert(name);
    }
    found.into_iter().filter_map(|(number, name)| Some((number, name?))).collect()
}

impl Salvage {
    /// Reads the engine's folder. Journals that were copied aside before an opening take precedence over those that the
    /// engine may have cut.
    ///
    /// # Errors
    /// Returns the error of the disk where the folder cannot be read.
    pub(crate) fn look(engine: &Path, aside: &Path) -> io::Result<Self> {
        let lens = Lens::new();
        let mut unread = Vec::new();
        let (trees, odd) = if engine.join("keyspaces").exists() { seal::trees(engine)? } else { Default::default() };
        unread.extend(odd);
        let mut paths: BTreeMap<u64, PathBuf> = trees.into_iter().collect();
        let list = match paths.remove(&0) {
            Some(path) => Tree::look(0, &path, &lens)?,
            None => Tree::missing(0),
        };
        let names = names(&list);
        let nameless = list.is_troubled();
        unread.extend(list.unread.iter().map(|why| format!("the engine's list of its keyspaces: {why}")));
        if list.bad.get() > 0 {
            unread.push(format!("the engine's list of its keyspaces: {} blocks do not read", list.bad.get()));
        }
        let (mut keyspaces, mut gone) = (Vec::new(), BTreeSet::new());
        for (number, path) in &paths {
            // A keyspace without a name was given up, unless names are lost.
            if names.contains_key(number) || nameless {
                keyspaces.push(Keyspace {
                    role: names.get(number).map_or(KeyspaceRole::Other, |name| KeyspaceRole::named(name)),
                    tree: Tree::look(*number, path, &lens)?,
                    recent: BTreeMap::new(),
                });
            }
        }
        for (number, name) in names.iter().filter(|(number, _)| !paths.contains_key(number)) {
            let role = KeyspaceRole::named(name);
            gone.insert(role);
            // The engine may still have the name of a keyspace that was given up; the table of segments says which ones
            // must exist.
            let tree = if role.is_fixed() { Tree::missing(*number) } else { Tree::empty(*number) };
            keyspaces.push(Keyspace { role, tree, recent: BTreeMap::new() });
        }
        let mut salvage = Self { keyspaces, unread, lost_after: None, nameless, gone };
        salvage.read_journals(engine, aside)?;
        if nameless {
            for keyspace in salvage.keyspaces.iter_mut().filter(|keyspace| keyspace.role == KeyspaceRole::Other) {
                let number = keyspace.tree.number;
                let guess = keyspace.rows().take(64).find_map(|row| KeyspaceRole::guessed(number, &row));
                keyspace.role = guess.unwrap_or(KeyspaceRole::Other);
            }
        }
        salvage.find_owners();
        Ok(salvage)
    }

    /// Assigns keyspaces to the segment or bucket that has them now: the number in their name is that of the first that
    /// had them.
    fn find_owners(&mut self) {
        let mut owners = BTreeMap::new();
        for row in self.rows(|role| role == KeyspaceRole::Meta) {
            let Some(value) = row.value else { continue };
            if let Some(segment) = row.key.starts_with(b"segment/").then(|| Segment::read(&value)).flatten() {
                if !segment.condensed {
                    owners.insert(KeyspaceRole::Heads(segment.slot), KeyspaceRole::Heads(segment.id));
                    owners.insert(KeyspaceRole::Bodies(segment.slot), KeyspaceRole::Bodies(segment.id));
                }
            } else if let Some(number) = number_of(&row.key)
                && let Some((_, slot)) = bucket::read_row(number, &value)
            {
                owners.insert(KeyspaceRole::Once(slot), KeyspaceRole::Once(number));
            }
        }
        let owner = |role: KeyspaceRole| owners.get(&role).copied().unwrap_or(role);
        for keyspace in &mut self.keyspaces {
            keyspace.role = owner(keyspace.role);
        }
        self.gone = self.gone.iter().map(|role| owner(*role)).collect();
    }

    fn read_journals(&mut self, engine: &Path, aside: &Path) -> io::Result<()> {
        let mut files: BTreeMap<u64, Vec<PathBuf>> = BTreeMap::new();
        for folder in [aside, engine] {
            for (number, path) in journal::journals(folder)? {
                files.entry(number).or_default().push(path);
            }
        }
        let kept: BTreeMap<u64, Option<u64>> = self
            .keyspaces
            .iter()
            // The rows of an unreadable table may still be in a journal.
            .map(|keyspace| {
                (keyspace.tree.number, keyspace.tree.written_out().filter(|_| !keyspace.tree.is_troubled()))
            })
            .collect();
        let mut found: BTreeMap<u64, Recent> = BTreeMap::new();
        let (mut torn, mut latest) = (None, 0);
        for (number, paths) in files {
            let mut seen = BTreeSet::new();
            for (which, path) in paths.iter().enumerate() {
                let bytes = batches::read(path)?;
                let mut fresh = 0u64;
                let (holes, reached) = batches::walk(&bytes, |batch| {
                    // The copy and the original begin alike.
                    if !seen.insert(batch.at) {
                        return;
                    }
                    fresh += 1;
                    latest = latest.max(batch.seqno);
                    for item in batch.items {
                        let Some(written_out) = kept.get(&item.keyspace) else { continue };
                        if written_out.is_some_and(|seqno| batch.seqno <= seqno) {
                            continue;
                        }
                        let rows = found.entry(item.keyspace).or_default();
                        let newest = rows.get(item.key).is_none_or(|(seqno, _)| *seqno <= batch.seqno);
                        if newest {
                            rows.insert(item.key.to_vec(), (batch.seqno, item.value.map(Slice::from)));
                        }
                    }
                });
                if which > 0 {
                    continue;
                }
                if let Some((torn, after)) = torn.filter(|_| fresh > 0) {
                    self.unread.push(format!("journal {torn} does not read to its end"));
                    self.lose(after);
                }
                for hole in holes {
                    self.unread
                        .push(format!("journal {number} does not read from byte {} to byte {}", hole.from, hole.to));
                    self.lose(hole.after);
                }
                torn = (reached < bytes.len()).then_some((number, latest));
            }
        }
        for keyspace in &mut self.keyspaces {
            keyspace.recent = found.remove(&keyspace.tree.number).unwrap_or_default();
        }
        Ok(())
    }

    fn lose(&mut self, after: u64) {
        self.lost_after = Some(self.lost_after.map_or(after, |before| before.min(after)));
    }

    /// Returns the newest rows of some keyspaces, in the order of their keys.
    pub(crate) fn rows(&self, pick: impl Fn(KeyspaceRole) -> bool) -> Merge<'_> {
        Merge::of(self.keyspaces.iter().filter(|keyspace| pick(keyspace.role)).flat_map(Keyspace::sources).collect())
    }

    /// Returns whether a keyspace was emptied to be used again.
    pub(crate) fn is_emptied(&self, role: KeyspaceRole) -> bool {
        self.keyspaces.iter().any(|keyspace| keyspace.role == role && keyspace.emptied().is_some())
    }

    /// Returns the bodies that outlived their segments, in the order of their positions.
    pub(crate) fn held_bodies(&self) -> impl Iterator<Item = (u64, Slice)> {
        self.rows(|role| role == KeyspaceRole::Held).filter_map(|row| match &*row.key {
            [1, at @ ..] => Some((seq_of(at)?, row.value?)),
            _ => None,
        })
    }

    /// Returns the roles of the keyspaces that exist.
    pub(crate) fn roles(&self) -> BTreeSet<KeyspaceRole> {
        self.keyspaces.iter().map(|keyspace| keyspace.role).collect()
    }

    /// Returns the engine's numbers of some keyspaces.
    #[cfg(test)]
    pub(crate) fn numbers(&self, pick: impl Fn(KeyspaceRole) -> bool) -> Vec<u64> {
        let picked = self.keyspaces.iter().filter(|keyspace| pick(keyspace.role));
        picked.map(|keyspace| keyspace.tree.number).collect()
    }

    /// Returns whether some part of these keyspaces could not be read so far.
    pub(crate) fn is_troubled(&self, pick: impl Fn(KeyspaceRole) -> bool) -> bool {
        self.keyspaces.iter().any(|keyspace| pick(keyspace.role) && keyspace.tree.is_troubled())
    }

    /// Returns descriptions of what could not be read so far.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = self.unread.clone();
        for Keyspace { role, tree, .. } in &self.keyspaces {
            problems.extend(tree.unread.iter().map(|why| format!("{role} (keyspace {}): {why}", tree.number)));
            if tree.bad.get() > 0 {
                problems.push(format!("{role} (keyspace {}): some blocks do not read", tree.number));
            }
        }
        problems
    }
}

impl Keyspace {
    /// Returns every source of the keyspace's rows. Rows from before it was emptied may remain in journals and in
    /// tables that no list names any more: they belong to a segment or bucket that was given up, and are left out.
    fn sources(&self) -> Vec<Box<dyn Iterator<Item = Row> + '_>> {
        let emptied = self.emptied().unwrap_or_default();
        let mut sources = self.every_source();
        for source in &mut sources {
            let rows = std::mem::replace(source, Box::new(std::iter::empty()));
            *source = Box::new(rows.filter(move |row| row.seqno >= emptied));
        }
        sources
    }

    /// Returns the sequence number of the row that says that the keyspace was emptied, if it has one.
    fn emptied(&self) -> Option<u64> {
        let first = |mut rows: Box<dyn Iterator<Item = Row> + '_>| rows.next();
        let firsts = self.every_source().into_iter().filter_map(first);
        firsts.filter(|row| *row.key == EMPTIED).map(|row| row.seqno).max()
    }

    fn every_source(&self) -> Vec<Box<dyn Iterator<Item = Row> + '_>> {
        let recent = self.recent.iter().map(|(key, (seqno, value))| Row {
            key: Slice::from(&key[..]),
            seqno: *seqno,
            value: value.clone(),
        });
        let mut all = self.tree.sources();
        all.push(Box::new(recent));
        all
    }

    fn rows(&self) -> Merge<'_> {
        Merge::of(self.sources())
    }
}

/// A merge of the rows of many sources: each key once, with its newest value. Removed keys, and the row of emptied
/// keyspaces, are left out.
pub(crate) struct Merge<'a> {
    sources: Vec<Box<dyn Iterator<Item = Row> + 'a>>,
    heap: BinaryHeap<(Reverse<Vec<u8>>, u64, usize)>,
    waiting: Vec<Option<Row>>,
    last: Option<Slice>,
}

impl<'a> Merge<'a> {
    fn of(sources: Vec<Box<dyn Iterator<Item = Row> + 'a>>) -> Self {
        let mut merge = Self { heap: BinaryHeap::new(), waiting: vec![None; sources.len()], last: None, sources };
        (0..merge.sources.len()).for_each(|index| merge.pull(index));
        merge
    }

    fn pull(&mut self, index: usize) {
        let row = self.sources.get_mut(index).and_then(Iterator::next);
        if let Some(row) = &row {
            self.heap.push((Reverse(row.key.to_vec()), row.seqno, index));
        }
        if let Some(place) = self.waiting.get_mut(index) {
            *place = row;
        }
    }
}

impl Iterator for Merge<'_> {
    type Item = Row;

    fn next(&mut self) -> Option<Row> {
        loop {
            let (_, _, index) = self.heap.pop()?;
            let row = self.waiting.get_mut(index).and_then(Option::take);
            self.pull(index);
            let Some(row) = row else { continue };
            // The newest row of a key comes first.
            if self.last.as_ref().is_some_and(|last| *last == row.key) {
                continue;
            }
            self.last = Some(row.key.clone());
            if row.value.is_some() && *row.key != EMPTIED {
                return Some(row);
            }
        }
    }
}
