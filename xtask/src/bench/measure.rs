//! What processes use, as `/proc` tells it: processor time, bytes written, memory. It reads while a
//! block runs, because the client's connecting and warming up belong to no figure.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

/// Time between two samples.
const SAMPLE_PAUSE: Duration = Duration::from_millis(20);
/// Clock ticks a second in `/proc/<pid>/stat`. Linux has 100 on x86-64 and on 64-bit ARM.
const TICKS_PER_SECOND: f64 = 100.0;
/// Part of the measured time that is left out at either end. The client ends a little after its
/// last call, and the samples do not know when.
const MARGIN: f64 = 0.05;

/// What some processes had used at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sample {
    /// Time since the first sample.
    at: Duration,
    cpu_ticks: u64,
    bytes_written: u64,
}

/// What processes used while the client measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Used {
    /// Length of the time that this is about.
    pub(super) seconds: f64,
    pub(super) cpu_seconds: f64,
    pub(super) bytes_written: u64,
}

/// Memory of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) resident_bytes: u64,
    pub(super) resident_anonymous_bytes: u64,
}

/// Does some work, and reads meanwhile what the processes have used.
pub(super) fn while_sampling<T>(ids: &[u32], work: impl FnOnce() -> Result<T>) -> Result<(T, Vec<Sample>)> {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sampling = scope.spawn(|| samples_until(&is_over, ids));
        let done = work();
        is_over.store(true, Ordering::Relaxed);
        let samples = sampling.join().map_err(|_| anyhow!("the thread that reads /proc panicked"))?;
        // When a server has died, the client's error says more than a missing file.
        Ok((done?, samples?))
    })
}

fn samples_until(is_over: &AtomicBool, ids: &[u32]) -> Result<Vec<Sample>> {
    let began = Instant::now();
    let mut samples = Vec::new();
    loop {
        let is_last = is_over.load(Ordering::Relaxed);
        samples.push(sample(ids, began.elapsed())?);
        if is_last {
            return Ok(samples);
        }
        std::thread::sleep(SAMPLE_PAUSE);
    }
}

fn sample(ids: &[u32], at: Duration) -> Result<Sample> {
    let mut sum = Sample { at, ..Sample::default() };
    for id in ids {
        sum.cpu_ticks += cpu_ticks(&read(*id, "stat")?).with_context(|| format!("/proc/{id}/stat has no times"))?;
        let written = field(&read(*id, "io")?, "write_bytes:");
        sum.bytes_written += written.with_context(|| format!("/proc/{id}/io has no write_bytes"))?;
    }
    Ok(sum)
}

/// Returns how much processor time processes have used so far, in seconds.
pub(super) fn cpu_seconds(ids: &[u32]) -> Result<f64> {
    Ok(sample(ids, Duration::ZERO)?.cpu_ticks as f64 / TICKS_PER_SECOND)
}

/// Returns what processes have made the kernel write so far, in bytes.
pub(super) fn bytes_written(ids: &[u32]) -> Result<u64> {
    Ok(sample(ids, Duration::ZERO)?.bytes_written)
}

/// Returns what was used in the last `seconds` of the samples, without a margin at either end.
pub(super) fn used_in_the_last(samples: &[Sample], seconds: f64) -> Result<Used> {
    let end = samples.last().context("there is no sample")?.at.as_secs_f64();
    let (from, to) = (end - seconds * (1.0 - MARGIN), end - seconds * MARGIN);
    let first = samples.iter().find(|sample| sample.at.as_secs_f64() >= from);
    let last = samples.iter().rfind(|sample| sample.at.as_secs_f64() <= to);
    let (first, last) =
        first.zip(last).filter(|(first, last)| first.at < last.at).context("there are too few samples")?;
    Ok(Used {
        seconds: (last.at - first.at).as_secs_f64(),
        cpu_seconds: last.cpu_ticks.saturating_sub(first.cpu_ticks) as f64 / TICKS_PER_SECOND,
        bytes_written: last.bytes_written.saturating_sub(first.bytes_written),
    })
}

/// Returns the memory of a process.
pub(super) fn memory(id: u32) -> Result<Memory> {
    let status = read(id, "status")?;
    let kibibytes =
        |name| field(&status, name).with_context(|| format!("/proc/{id}/status has no {name} (it needs Linux 4.5)"));
    Ok(Memory { resident_bytes: kibibytes("VmRSS:")? * 1024, resident_anonymous_bytes: kibibytes("RssAnon:")? * 1024 })
}

fn read(id: u32, file: &str) -> Result<String> {
    let path = PathBuf::from(format!("/proc/{id}/{file}"));
    std::fs::read_to_string(&path).with_context(|| format!("reading {}: a server has ended?", path.display()))
}

/// Returns user and system time of `/proc/<pid>/stat`. The name of the program may hold spaces and
/// parentheses, so fields are counted behind its end.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    // State is the third field of the file; utime and stime are the 14th and 15th.
    let user: u64 = fields.nth(11)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// Returns the number behind a name at the begin of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn files_of_proc_are_read() {
        let stat = "26858 (a) b (c) R 26847 26847 22620 0 -1 4194304 101 0 0 0 70 30 5 6 20 0 1 0 256916 3133440";
        assert_eq!(cpu_ticks(stat), Some(100));
        assert_eq!(cpu_ticks("26858 (cat) R 1"), None);
        let io = "rchar: 6976\nwchar: 0\nwrite_bytes: 8192\ncancelled_write_bytes: 4096\n";
        assert_eq!(field(io, "write_bytes:"), Some(8192));
        let status = "Name:\tx\nVmRSS:\t    1688 kB\nRssAnon:\t     112 kB\n";
        assert_eq!((field(status, "VmRSS:"), field(status, "RssShmem:")), (Some(1688), None));
    }

    #[test]
    fn this_process_is_seen_while_it_works() {
        let id = std::process::id();
        let work = || {
            let began = Instant::now();
            let mut count = 0_u64;
            while began.elapsed() < Duration::from_millis(200) {
                count = std::hint::black_box(count + 1);
            }
            Ok(count)
        };
        let (count, samples) = while_sampling(&[id], work).unwrap();
        assert!(count > 0 && samples.len() >= 2, "{samples:?}");
        let (first, last) = (samples.first().unwrap(), samples.last().unwrap());
        assert!(last.cpu_ticks > first.cpu_ticks, "{first:?} to {last:?}");
        let memory = memory(id).unwrap();
        assert!(memory.resident_bytes >= memory.resident_anonymous_bytes && memory.resident_bytes > 0);
    }

    #[test]
    fn an_error_of_the_work_is_told() {
        let failed = while_sampling(&[std::process::id()], || Err::<(), _>(anyhow!("no call was answered")));
        assert_eq!(failed.unwrap_err().to_string(), "no call was answered");
        let gone = while_sampling(&[u32::MAX], || Ok(())).unwrap_err();
        assert!(gone.to_string().contains("a server has ended?"), "{gone}");
    }

    /// The client connected for a second before it measured for two.
    #[test]
    fn only_the_measured_time_counts() {
        let sample = |n: u64| {
            let ticks = if n < 10 { 1000 * n } else { 10_000 + n };
            Sample { at: Duration::from_millis(n * 100), cpu_ticks: ticks, bytes_written: 7 * n }
        };
        let samples: Vec<Sample> = (0..=30).map(sample).collect();
        let used = used_in_the_last(&samples, 2.0).unwrap();
        assert!((used.seconds - 1.8).abs() < 0.21, "{used:?}");
        assert!((used.cpu_seconds / used.seconds - 0.1).abs() < 1e-9, "{used:?}");
        assert!((used.bytes_written as f64 / used.seconds - 70.0).abs() < 1e-9, "{used:?}");
        assert!(used_in_the_last(&samples[..1], 2.0).is_err());
        assert!(used_in_the_last(&[], 2.0).is_err());
    }
}
