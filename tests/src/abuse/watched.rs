//! Looks at processes from outside: memory and processor time, from /proc. It also ends an attack
//! that would take the memory of the machine.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use parking_lot::Mutex;

use super::honest::{Phase, Stage};

/// Time between two looks at the memory.
const LOOK: Duration = Duration::from_millis(50);
/// Growth at which an attack is ended, because its verdict is certain and the machine is in danger.
pub(crate) const GROWTH_BYTES_STOP: u64 = 1 << 30;

/// Looks at the memory of some processes until it is dropped.
pub(crate) struct Watched {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    processes: Vec<u32>,
    stage: Arc<Stage>,
    over: AtomicBool,
    stop: AtomicBool,
    /// The largest resident memory of each process, by phase.
    peaks: Mutex<Vec<BTreeMap<Phase, u64>>>,
}

impl Watched {
    /// Starts to look.
    pub(crate) fn start(processes: &[u32], stage: Arc<Stage>) -> Result<Watched> {
        for process in processes {
            resident_bytes(*process).context("the memory of a process is read from /proc, which Linux has")?;
        }
        let shared = Arc::new(Shared {
            processes: processes.to_vec(),
            stage,
            over: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            peaks: Mutex::new(vec![BTreeMap::new(); processes.len()]),
        });
        let thread = std::thread::Builder::new().name("watched".into()).spawn({
            let shared = shared.clone();
            move || shared.look()
        })?;
        Ok(Watched { shared, thread: Some(thread) })
    }

    /// Tells whether a process has grown so much that the attack has to end.
    pub(crate) fn is_dangerous(&self) -> bool {
        self.shared.over.load(Ordering::Relaxed)
    }

    /// Returns by how many bytes each process has grown at its peak, compared with the baseline.
    pub(crate) fn growths(&self) -> Vec<u64> {
        self.shared.peaks.lock().iter().map(growth).collect()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Shared {
    fn look(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            let phase = self.stage.phase();
            for (process, peaks) in self.processes.iter().zip(self.peaks.lock().iter_mut()) {
                // A process that has ended has no memory, and the run notices its end.
                let Ok(bytes) = resident_bytes(*process) else { continue };
                let peak = peaks.entry(phase).or_default();
                *peak = bytes.max(*peak);
                if growth(peaks) > GROWTH_BYTES_STOP {
                    self.over.store(true, Ordering::Relaxed);
                }
            }
            std::thread::sleep(LOOK);
        }
    }
}

fn growth(peaks: &BTreeMap<Phase, u64>) -> u64 {
    let before = peaks.get(&Phase::Baseline).copied();
    let later = [Phase::Attack, Phase::After].into_iter().filter_map(|phase| peaks.get(&phase)).max();
    later.zip(before).map_or(0, |(later, before)| later.saturating_sub(before))
}

fn resident_bytes(process: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS: it has ended")?;
    let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kibibytes << 10)
}

/// Returns the processor time of a process so far, of all its threads together.
pub(crate) fn processor_time(process: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // After the name: the state, then numbers. User and system time are the 12th and 13th of these
    // fields, in hundredths of a second.
    let fields = stat.rsplit_once(')').context("no name in stat")?.1.split_whitespace();
    let hundredths: Vec<u64> = fields.skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    ensure!(hundredths.len() == 2, "no times in stat");
    Ok(Duration::from_millis(hundredths.iter().sum::<u64>() * 10))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_measured_from_the_peak_of_the_baseline() {
        let peaks = |baseline, attack, after| {
            BTreeMap::from([(Phase::Baseline, baseline), (Phase::Attack, attack), (Phase::After, after)])
        };
        assert_eq!(growth(&peaks(10, 30, 20)), 20);
        assert_eq!(growth(&peaks(10, 8, 25)), 15);
        assert_eq!(growth(&peaks(10, 8, 9)), 0);
        assert_eq!(growth(&BTreeMap::new()), 0);
    }

    #[test]
    fn this_process_has_memory_and_uses_time() {
        let own = std::process::id();
        assert!(resident_bytes(own).unwrap() > 1 << 20);
        processor_time(own).unwrap();
    }
}
