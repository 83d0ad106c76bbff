//! A reader of one tree of the engine that works from its tables, without the engine, as far as they can be read.

use std::{
    cell::{Cell, RefCell},
    fmt::Display,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use lsm_tree::{
    Cache, Checksum, CompressionType, DescriptorTable, InternalValue, Slice, Table, ValueType, table::Scanner,
};

use crate::{
    StoreError, Why,
    fjall::{
        guard::guarded,
        seal::{Listed, Seal, seal},
    },
};

/// A version of a key.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) key: Slice,
    pub(crate) seqno: u64,
    /// The value, or `None` where the key was removed.
    pub(crate) value: Option<Slice>,
}

/// The caches through which tables are read.
#[derive(Clone)]
pub(crate) struct Lens {
    cache: Arc<Cache>,
    files: Arc<DescriptorTable>,
}

impl Lens {
    pub(crate) fn new() -> Self {
        Self { cache: Arc::new(Cache::with_capacity_bytes(4 * 1024 * 1024)), files: Arc::new(DescriptorTable::new(64)) }
    }
}

struct TableFile {
    id: u64,
    path: PathBuf,
    seqno: u64,
    /// The open table, or `None` where it does not open: then its blocks are read one after the other, as far as
    /// possible.
    table: Option<Table>,
}

/// A tree of the engine.
pub(crate) struct Tree {
    pub(crate) number: u64,
    tables: Vec<TableFile>,
    /// The parts of the tree that cannot be read, in words.
    pub(crate) unread: Vec<String>,
    /// The number of blocks that could not be read so far.
    pub(crate) bad: Cell<u64>,
    /// The reason why the first of them could not.
    why: RefCell<Option<String>>,
}

impl Tree {
    /// Creates a tree whose folder is missing.
    pub(crate) fn missing(number: u64) -> Self {
        let unread = vec!["its folder is missing".into()];
        Self { number, tables: Vec::new(), unread, bad: Cell::new(0), why: RefCell::default() }
    }

    /// Creates a tree without tables, such as one that was deleted; journals may have rows of it.
    pub(crate) fn empty(number: u64) -> Self {
        Self { number, tables: Vec::new(), unread: Vec::new(), bad: Cell::new(0), why: RefCell::default() }
    }

    /// Opens the tables of a tree.
    ///
    /// # Errors
    /// Returns the error of the disk where the folder cannot be read.
    pub(crate) fn look(number: u64, path: &Path, lens: &Lens) -> io::Result<Self> {
        let mut unread = Vec::new();
        let listed = match seal(path)? {
            Seal::Whole(tables) => tables,
            Seal::Unborn => Vec::new(),
            Seal::Broken(why) => {
                unread.push(why);
                every_table(&path.join("tables"))?
            }
        };
        let mut tables = Vec::new();
        for Listed { id, seqno } in listed {
            let at = path.join("tables").join(id.to_string());
            let table = guarded(|| open_table(&at, seqno, number, lens));
            match table {
                Ok(table) => tables.push(TableFile { id, path: at, seqno, table: Some(table) }),
                Err(error) => {
                    unread.push(format!("table {id} does not open ({error})"));
                    if at.exists() {
                        tables.push(TableFile { id, path: at, seqno, table: None });
                    }
                }
            }
        }
        Ok(Self { number, tables, unread, bad: Cell::new(0), why: RefCell::default() })
    }

    /// Returns whether some part of the tree could not be read so far.
    pub(crate) fn is_troubled(&self) -> bool {
        !self.unread.is_empty() || self.bad.get() > 0
    }

    /// Returns the reason why some part could not be read, as far as it is known.
    pub(crate) fn first_trouble(&self) -> String {
        let why = self.unread.first().cloned().or_else(|| self.why.borrow().clone());
        why.unwrap_or_else(|| "a block does not read back as it was written".into())
    }

    fn is_bad(&self, why: impl Display) {
        self.bad.set(self.bad.get() + 1);
        self.why.borrow_mut().get_or_insert_with(|| why.to_string());
    }

    /// Returns the highest sequence number in the tables.
    pub(crate) fn written_out(&self) -> Option<u64> {
        self.tables.iter().filter_map(|file| Some(file.table.as_ref()?.get_highest_seqno())).max()
    }

    /// Returns the rows of each table, in order.
    pub(crate) fn sources(&self) -> Vec<Box<dyn Iterator<Item = Row> + '_>> {
        self.tables.iter().map(|file| self.rows(file)).collect()
    }

    fn rows(&self, file: &TableFile) -> Box<dyn Iterator<Item = Row> + '_> {
        match &file.table {
            Some(table) => {
                // An unreadable block is skipped; an unreadable index would be requested forever.
                let most = table.metadata.data_block_count + 1;
                Box::new(Cautious { rows: Some(table.iter()), tree: self, errors_left: most })
            }
            None => match Scanner::new(&file.path, usize::MAX, CompressionType::None, file.seqno) {
                // After the last block of rows the scanner meets other data, which marks the end.
                Ok(rows) => Box::new(Cautious { rows: Some(rows), tree: self, errors_left: 1 }),
                Err(_) => {
                    tracing::debug!(table = file.id, "the first block does not read");
                    Box::new(std::iter::empty())
                }
            },
        }
    }
}

fn open_table(path: &Path, seqno: u64, tree: u64, lens: &Lens) -> Result<Table, StoreError> {
    crate::fjall::seal::ends_well(path)
        .map_err(|error| StoreError::Corrupt(Why::of(error)))?
        .map_err(|why| StoreError::Corrupt(format!("it {why}").into()))?;
    let open = |pinned: bool| {
        let (cache, files) = (lens.cache.clone(), Some(lens.files.clone()));
        Table::recover(path.to_path_buf(), Checksum::from_raw(0), seqno, tree, cache, files, pinned, pinned)
            .map_err(|error| StoreError::Corrupt(Why::of(error)))
    };
    // Filters are used only for single rows, which are not read here; the engine would meet a damaged one later.
    open(true)?;
    open(false)
}

/// Returns all tables in a folder, for a tree whose list of valid tables cannot be read. The newest version of a key is
/// right in most cases.
fn every_table(folder: &Path) -> io::Result<Vec<Listed>> {
    let mut all = Vec::new();
    if folder.exists() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let id = entry.file_name().to_str().and_then(|name| name.parse().ok());
            all.extend(id.filter(|_| entry.path().is_file()).map(|id| Listed { id, seqno: 0 }));
        }
    }
    // The newest table comes first, as in a list.
    all.sort_unstable_by_key(|table: &Listed| std::cmp::Reverse(table.id));
    Ok(all)
}

/// An iterator that skips and counts unreadable rows.
struct Cautious<'a, I> {
    rows: Option<I>,
    tree: &'a Tree,
    errors_left: u64,
}

impl<I: Iterator<Item = lsm_tree::Result<InternalValue>>> Iterator for Cautious<'_, I> {
    type Item = Row;

    fn next(&mut self) -> Option<Row> {
        loop {
            let rows = self.rows.as_mut()?;
            match guarded(|| Ok(rows.next())) {
                Ok(None) => return None,
                Ok(Some(Ok(row))) => {
                    let value = (row.key.value_type == ValueType::Value).then_some(row.value);
                    return Some(Row { key: row.key.user_key, seqno: row.key.seqno, value });
                }
                Ok(Some(Err(error))) => {
                    self.tree.is_bad(error);
                    self.errors_left -= 1;
                    if self.errors_left == 0 {
                        self.rows = None;
                    }
                }
                Err(error) => {
                    self.tree.is_bad(error);
                    self.rows = None;
                }
            }
        }
    }
}
