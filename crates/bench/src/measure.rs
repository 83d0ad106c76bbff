//! Time, rates, percentiles, memory and CPU time.

use std::{sync::Arc, time::Duration};

use setgate_clock::{Runtime, SystemClock, SystemRandom, TokioTasks};

use crate::BenchError;

/// The time since the start of the measurements, readable from every thread.
#[derive(Clone)]
pub(crate) struct Clock(Arc<SystemClock>);

impl Clock {
    pub(crate) fn new() -> Self {
        Self(Arc::new(SystemClock::new()))
    }

    pub(crate) fn now(&self) -> Duration {
        setgate_clock::Clock::monotonic(&*self.0)
    }

    pub(crate) fn since(&self, when: Duration) -> Duration {
        self.now().saturating_sub(when)
    }

    pub(crate) fn nanos(&self) -> u64 {
        u64::try_from(self.now().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Waits for this time.
    pub(crate) async fn pause(&self, how_long: Duration) {
        setgate_clock::Clock::sleep(&*self.0, how_long).await;
    }

    /// Returns the runtime of the crates under measurement.
    pub(crate) fn runtime(&self) -> Runtime {
        Runtime { clock: self.0.clone(), random: Arc::new(SystemRandom), tasks: Arc::new(TokioTasks) }
    }
}

/// Returns a rate per second.
pub(crate) fn rate(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64().max(1e-9)
}

/// Returns the middle value, which one disturbed round does not move.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Returns the value below which a share of the sorted values lies.
pub(crate) fn percentile(sorted: &[u64], share: f64) -> u64 {
    let at = (sorted.len() as f64 * share) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

/// A sequence of numbers that looks random and is the same in every run (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound.max(1)
    }
}

fn proc_file(pid: u32, name: &str) -> Result<String, BenchError> {
    let path = format!("/proc/{pid}/{name}");
    std::fs::read_to_string(&path).map_err(BenchError::failed(&path))
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.trim_start_matches(':').split_whitespace().next()?.parse().ok())
}

/// Returns the whole resident memory of a process (`VmRSS`), in bytes.
pub(crate) fn resident(pid: u32) -> Result<u64, BenchError> {
    let status = proc_file(pid, "status")?;
    let kib =
        field(&status, "VmRSS").ok_or_else(|| BenchError::Failed("the system tells no resident memory".into()))?;
    Ok(kib * 1024)
}

/// The resident memory of a process by kind: its own, and of files. Shared memory is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resident {
    /// The process's own memory (`RssAnon`), in bytes.
    pub(crate) own: u64,
    /// The memory of files (`RssFile`), in bytes.
    pub(crate) files: u64,
}

impl Resident {
    /// Returns the present resident memory of a process.
    ///
    /// # Errors
    /// Fails if the system does not report it.
    pub(crate) fn of(pid: u32) -> Result<Self, BenchError> {
        let status = proc_file(pid, "status")?;
        let kib = |name| field(&status, name).map(|kib| kib * 1024);
        let missing = || BenchError::Failed("the system tells no resident memory".into());
        Ok(Self { own: kib("RssAnon").ok_or_else(missing)?, files: kib("RssFile").ok_or_else(missing)? })
    }

    /// Returns the sum of both kinds.
    pub(crate) const fn sum(self) -> u64 {
        self.own + self.files
    }
}

/// Returns the memory that the kernel keeps for the buffers of all TCP connections of the machine, in bytes, or `None`
/// if it does not report it.
pub(crate) fn socket_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/net/sockstat").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    let pages: u64 = line.split_whitespace().skip_while(|word| *word != "mem").nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

/// Returns the bytes that a process has written by system calls.
pub(crate) fn written(pid: u32) -> Result<u64, BenchError> {
    let io = proc_file(pid, "io")?;
    field(&io, "wchar").ok_or_else(|| BenchError::Failed("the system tells no written bytes".into()))
}

/// Returns the CPU time of all threads of a process, user and system.
pub(crate) fn cpu_time(pid: u32) -> Result<Duration, BenchError> {
    let stat = proc_file(pid, "stat")?;
    // The name of the program is in parentheses and may have blanks; the times are the 12th and 13th field behind it.
    let behind = stat.rsplit_once(')').map_or("", |(_, behind)| behind);
    let ticks: u64 = behind.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    // Linux counts these times in hundredths of a second, on every machine.
    Ok(Duration::from_millis(ticks * 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values: Vec<u64> = (1..=1000).collect();
        assert_eq!((percentile(&values, 0.5), percentile(&values, 0.99), percentile(&values, 0.999)), (501, 991, 1000));
        assert_eq!(percentile(&[7], 0.999), 7);
        assert_eq!(percentile(&[], 0.5), 0);
    }

    #[test]
    fn one_disturbed_round_does_not_move_the_median() {
        assert!((median(&mut [10.0, 1.0, 11.0]) - 10.0).abs() < f64::EPSILON);
    }

    #[test]
    fn this_process_has_memory_time_and_bytes_written() {
        let pid = std::process::id();
        assert!(resident(pid).unwrap() > 1 << 20);
        assert!(written(pid).is_ok() && cpu_time(pid).is_ok());
        let resident = Resident::of(pid).unwrap();
        assert!(resident.own > 1 << 16 && resident.sum() > 1 << 20);
    }

    #[test]
    fn the_dice_are_spread() {
        let mut dice = Dice::new(1);
        let mut seen = [0u32; 10];
        (0..10_000).for_each(|_| seen[usize::try_from(dice.below(10)).unwrap()] += 1);
        assert!(seen.iter().all(|count| (850..1150).contains(count)), "{seen:?}");
    }
}
