//! The watermark: what the store has promised, kept beside the engine. An engine that opens with less is refused.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
    time::Duration,
};

use setgate_set::Timestamp;

use crate::{
    codec::{In, Out},
    sanity::{Beat, StrayedBeat},
};

/// The distance of the two slots, chosen so that they never share a page.
const SLOT: u64 = 4096;

/// A mark of what was durable when it was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The number of the mark; the slot with the higher number is valid.
    pub(crate) number: u64,
    /// The opening that wrote it.
    pub(crate) epoch: u64,
    pub(crate) boot: u64,
    /// The last commit.
    pub(crate) commit: u64,
    /// The last position.
    pub(crate) last: u64,
    /// The checksum over all heads up to the last position.
    pub(crate) chain: u32,
    /// The version of the control-plane records.
    pub(crate) version: u64,
    /// The believed time.
    pub(crate) heartbeat: Timestamp,
    /// The evidence for the believed time. It follows the rest, with a checksum of its own: marks of earlier versions
    /// have none.
    pub(crate) beat: Option<Beat>,
    /// True when the store was closed in order after the mark.
    pub(crate) clean: bool,
}

impl Mark {
    fn write(&self) -> Vec<u8> {
        let mut out = Out::new(96);
        let numbers = [self.number, self.epoch, self.boot, self.commit, self.last, u64::from(self.chain), self.version];
        for number in numbers.into_iter().chain([self.heartbeat.as_millis(), u64::from(self.clean)]) {
            out.fixed(number);
        }
        let mut written = out.sealed();
        if let Some(beat) = &self.beat {
            written.extend(write_beat(beat, self.number));
        }
        written
    }

    /// The length of a mark as written: version, nine numbers, checksum.
    const LENGTH: usize = 1 + 9 * 8 + 4;

    fn read(value: &[u8]) -> Option<Self> {
        let (value, rest) = value.split_at_checked(Self::LENGTH)?;
        let mut from = In::sealed(value)?;
        let number = from.fixed()?;
        Some(Self {
            number,
            epoch: from.fixed()?,
            boot: from.fixed()?,
            commit: from.fixed()?,
            last: from.fixed()?,
            chain: u32::try_from(from.fixed()?).ok()?,
            version: from.fixed()?,
            heartbeat: Timestamp::from_millis(from.fixed()?),
            clean: from.fixed()? == 1,
            beat: read_beat(rest, number),
        })
    }
}

/// The length of a beat as written: version, ten numbers, checksum.
const BEAT: usize = 1 + 10 * 8 + 4;

fn write_beat(beat: &Beat, mark: u64) -> Vec<u8> {
    let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let mut out = Out::new(BEAT);
    let (boot, up) = beat.uptime.unwrap_or_default();
    let strayed = beat.strayed.unwrap_or_default();
    // The bits say which of the optional values are present.
    let present = [beat.uptime.is_some(), beat.strayed.is_some(), strayed.last.is_some()];
    out.fixed(present.iter().rev().fold(0, |bits, bit| bits << 1 | u64::from(*bit)));
    out.fixed(millis(beat.ran));
    let [high, low] = [(boot >> 64) as u64, boot as u64];
    for number in [high, low, millis(up), strayed.wall.as_millis(), millis(strayed.steady)] {
        out.fixed(number);
    }
    out.fixed(strayed.began.as_millis());
    out.fixed(strayed.last.unwrap_or_default());
    out.fixed(mark);
    out.sealed()
}

/// Reads the evidence that follows the mark of this number; that of an earlier mark is ignored.
fn read_beat(value: &[u8], mark: u64) -> Option<Beat> {
    let mut from = In::sealed(value.get(..BEAT)?)?;
    let present = from.fixed()?;
    let ran = Duration::from_millis(from.fixed()?);
    let boot = u128::from(from.fixed()?) << 64 | u128::from(from.fixed()?);
    let up = Duration::from_millis(from.fixed()?);
    let strayed = StrayedBeat {
        wall: Timestamp::from_millis(from.fixed()?),
        steady: Duration::from_millis(from.fixed()?),
        began: Timestamp::from_millis(from.fixed()?),
        last: Some(from.fixed()?).filter(|_| present & 4 != 0),
    };
    if from.fixed()? != mark {
        return None;
    }
    Some(Beat { ran, uptime: (present & 1 != 0).then_some((boot, up)), strayed: (present & 2 != 0).then_some(strayed) })
}

/// The watermark file: two checksummed slots, written in turn.
#[derive(Debug)]
pub(crate) struct Watermark {
    file: File,
    number: u64,
    synced: Duration,
}

impl Watermark {
    /// Creates the file, durably.
    pub(crate) fn create(path: &Path, mark: Mark) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).read(true).create_new(true).open(path)?;
        file.set_len(2 * SLOT)?;
        let mut watermark = Self { file, number: 0, synced: Duration::ZERO };
        watermark.write(mark)?;
        watermark.write(mark)?;
        watermark.file.sync_all()?;
        Ok(watermark)
    }

    /// Reads the newest mark without changing the file.
    pub(crate) fn read(path: &Path) -> io::Result<Option<Mark>> {
        File::open(path).and_then(|file| newest(&file))
    }

    /// Opens the file and reads the newest mark, which is `None` where neither slot can be read.
    pub(crate) fn open(path: &Path) -> io::Result<(Self, Option<Mark>)> {
        let file = OpenOptions::new().write(true).read(true).open(path)?;
        let mark = newest(&file)?;
        let number = mark.map_or(0, |mark| mark.number);
        Ok((Self { file, number, synced: Duration::ZERO }, mark))
    }

    /// Opens the file for a test, so that it accepts no write.
    #[cfg(test)]
    pub(crate) fn unwritable(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::open(path)?, number: 0, synced: Duration::ZERO })
    }

    /// Writes the next mark, without waiting for the disk.
    pub(crate) fn write(&mut self, mark: Mark) -> io::Result<()> {
        self.number += 1;
        let mark = Mark { number: self.number, ..mark };
        self.file.write_all_at(&mark.write(), (self.number & 1) * SLOT)
    }

    /// Makes the marks durable, at most once a second.
    pub(crate) fn sync_sometimes(&mut self, now: Duration) -> io::Result<()> {
        if now < self.synced + Duration::from_secs(1) {
            return Ok(());
        }
        self.synced = now;
        self.file.sync_data()
    }

    /// Makes the marks durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// Returns the mark of the newer slot. A slot that the disk does not return is no damaged one: it may be the newer.
fn newest(file: &File) -> io::Result<Option<Mark>> {
    let slot = |offset: u64| {
        let mut bytes = [0u8; Mark::LENGTH + BEAT];
        match file.read_exact_at(&mut bytes, offset) {
            Ok(()) => Ok(Mark::read(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    };
    Ok(slot(0)?.into_iter().chain(slot(SLOT)?).max_by_key(|mark| mark.number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_readable_slot_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("watermark");
        let mut file = Watermark::create(&path, Mark { commit: 1, ..Mark::default() }).unwrap();
        file.write(Mark { commit: 2, ..Mark::default() }).unwrap();
        file.write(Mark { commit: 3, ..Mark::default() }).unwrap();
        let (mut file, mark) = Watermark::open(&path).unwrap();
        assert_eq!(mark.unwrap().commit, 3);
        let newest = (mark.unwrap().number & 1) * SLOT;
        file.file.write_all_at(&[0xff; 8], newest + 30).unwrap();
        assert_eq!(Watermark::open(&path).unwrap().1.unwrap().commit, 2);
        file.file.write_all_at(&[0xff; 8], SLOT - newest + 30).unwrap();
        assert_eq!(Watermark::open(&path).unwrap().1, None);
        file.write(Mark { commit: 4, ..Mark::default() }).unwrap();
        assert_eq!(Watermark::open(&path).unwrap().1.unwrap().commit, 4);
    }

    #[test]
    fn an_error_of_the_disk_is_no_slot_that_does_not_read() {
        let folder = tempfile::tempdir().unwrap();
        // A folder opens as a file does, and returns an error to whoever reads it.
        let error = Watermark::read(folder.path()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::IsADirectory);
    }

    #[test]
    fn the_evidence_for_the_time_comes_back_and_a_mark_without_any_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("watermark");
        let strayed = StrayedBeat {
            wall: Timestamp::from_millis(77),
            steady: Duration::from_secs(8),
            began: Timestamp::from_millis(3),
            last: Some(5),
        };
        let beat = Beat {
            ran: Duration::from_millis(1234),
            uptime: Some((u128::MAX - 7, Duration::from_millis(99))),
            strayed: Some(strayed),
        };
        let beats = [
            None,
            Some(beat),
            Some(Beat::default()),
            Some(Beat { strayed: Some(StrayedBeat { last: None, ..strayed }), ..beat }),
        ];
        let mut file = Watermark::create(&path, Mark::default()).unwrap();
        for (commit, beat) in beats.into_iter().enumerate() {
            file.write(Mark { commit: commit as u64, beat, ..Mark::default() }).unwrap();
            let mark = Watermark::open(&path).unwrap().1.unwrap();
            assert_eq!((mark.commit, mark.beat), (commit as u64, beat));
        }
        // The slots are written in turn: a mark without evidence must not find that of the mark before the last.
        file.write(Mark::default()).unwrap();
        file.write(Mark { commit: 9, beat: None, ..Mark::default() }).unwrap();
        let mark = Watermark::open(&path).unwrap().1.unwrap();
        assert_eq!((mark.commit, mark.beat), (9, None));
    }
}
