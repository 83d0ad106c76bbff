//! The machine that is measured: its description for every report, and what makes it unfit.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::Path,
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;

use crate::{
    BenchError,
    measure::{Clock, percentile},
};

/// The file systems that hold nothing durable: a store measured there says nothing (hardening H47).
const UNFIT: [&str; 3] = ["tmpfs", "ramfs", "devtmpfs"];
/// The number of syncs that are timed.
const SYNCS: usize = 100;
/// The longest time for timing them.
const SYNC_TIME: Duration = Duration::from_secs(2);

/// The machine on which a run was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// The model of the processor.
    pub processor: String,
    /// The number of cores that this process may use.
    pub cores: usize,
    /// The bytes of memory.
    pub memory: u64,
    /// The release of the kernel.
    pub kernel: String,
    /// The file system of the folder.
    pub file_system: String,
    /// The median time of appending 4 KiB and `fdatasync`, in microseconds.
    pub sync_p50_us: f64,
    /// The 99th percentile of the same time, in microseconds.
    pub sync_p99_us: f64,
    /// The load of the last minute when the run began; above a tenth of the cores, figures are disturbed.
    pub load: f64,
}

impl Machine {
    /// Examines the machine and times the syncs of `folder`, which is created if it is missing.
    ///
    /// # Errors
    /// [`BenchError::Unfit`] if the folder lies in memory.
    pub(crate) fn look(folder: &Path, clock: &Clock) -> Result<Self, BenchError> {
        let place = folder.display().to_string();
        fs::create_dir_all(folder).map_err(BenchError::failed(&place))?;
        let whole = folder.canonicalize().map_err(BenchError::failed(&place))?;
        let file_system = file_system(&whole).unwrap_or_else(|| "unknown".to_owned());
        if UNFIT.contains(&file_system.as_str()) {
            return Err(BenchError::Unfit(format!(
                "{place} lies on {file_system}: a store in memory says nothing about a store. Give --folder a place on a real disk"
            )));
        }
        let (sync_p50_us, sync_p99_us) = syncs(&whole, clock).map_err(BenchError::failed(&place))?;
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let named = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let kib =
            named(&read("/proc/meminfo"), "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        Ok(Self {
            processor: named(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".to_owned()),
            cores: cores(),
            memory: kib.unwrap_or_default() * 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            file_system,
            sync_p50_us,
            sync_p99_us,
            load: load(),
        })
    }

    /// Returns one line for people.
    #[must_use]
    pub fn text(&self) -> String {
        format!(
            "{}, {} cores, {} MiB, Linux {}, {}, sync p50 {:.0} µs, p99 {:.0} µs, load {:.1}",
            self.processor,
            self.cores,
            self.memory >> 20,
            self.kernel,
            self.file_system,
            self.sync_p50_us,
            self.sync_p99_us,
            self.load
        )
    }
}

/// Returns the load of the last minute.
pub(crate) fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// Returns the number of cores that this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Lets this process, and those it starts, have as many files open as the system permits, and returns that number.
pub(crate) fn open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // The present limit stays in force if this is refused.
    let _ = setrlimit(Resource::Nofile, most);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Returns the type of the file system that a path lies on: that of its longest mount point.
fn file_system(path: &Path) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mut found = (0, None);
    for line in mounts.lines() {
        let mut words = line.split(' ');
        let (Some(_), Some(at), Some(kind)) = (words.next(), words.next(), words.next()) else { continue };
        // A later mount on the same point hides the earlier one.
        if path.starts_with(at) && at.len() >= found.0 {
            found = (at.len(), Some(kind.to_owned()));
        }
    }
    found.1
}

fn syncs(folder: &Path, clock: &Clock) -> std::io::Result<(f64, f64)> {
    let path = folder.join("sync-probe");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).open(&path)?;
    let block = [0x5a; 4096];
    let mut times = Vec::with_capacity(SYNCS);
    let began = clock.now();
    while times.len() < SYNCS && (times.len() < 5 || clock.since(began) < SYNC_TIME) {
        let start = clock.nanos();
        file.write_all(&block)?;
        file.sync_data()?;
        times.push(clock.nanos() - start);
    }
    drop(file);
    fs::remove_file(&path)?;
    times.sort_unstable();
    Ok((percentile(&times, 0.5) as f64 / 1000.0, percentile(&times, 0.99) as f64 / 1000.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_folder_in_memory() {
        let Ok(folder) = tempfile::tempdir_in("/dev/shm") else { return };
        let refused = Machine::look(folder.path(), &Clock::new());
        if file_system(Path::new("/dev/shm")).as_deref() == Some("tmpfs") {
            assert!(matches!(refused, Err(BenchError::Unfit(_))), "{refused:?}");
        }
    }

    #[test]
    fn the_longest_mount_point_decides() {
        assert_eq!(file_system(Path::new("/proc/self")).as_deref(), Some("proc"));
        assert!(file_system(Path::new("/")).is_some());
    }
}
