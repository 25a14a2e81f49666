//! When the calls of a run begin. In a closed loop, each begins when the one before it has ended.
//! In an open loop, the times are fixed before the run, and a call whose time has come while all
//! clients were busy is late: its latency counts from the time at which it should have begun. This
//! file makes no call.

#[cfg(target_os = "linux")]
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::Semaphore;

/// How late the system may wake the pacing thread. The usual 50 us would count as latency.
#[cfg(target_os = "linux")]
const TIMER_SLACK_NS: NonZeroU64 = NonZeroU64::new(1_000).expect("it is not zero");
/// Longest sleep of the pacing thread.
const SLEEP_MAX: Duration = Duration::from_millis(100);

/// The times of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) begin: Instant,
    /// Calls that begin earlier are not recorded.
    pub(super) record_from: Instant,
    pub(super) end: Instant,
}

/// Hands out the beginnings of calls.
pub(super) struct Pace {
    times: Times,
    open: Option<Open>,
    /// Calls that have begun.
    begun: AtomicU64,
}

/// An open loop.
struct Open {
    /// Calls a second.
    rate: f64,
    /// One permit for each call whose time has come. A thread adds them, because the timers of the
    /// runtime are a millisecond late.
    due: Arc<Semaphore>,
}

/// A call that begins now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    /// Number of the call in this run, from 0.
    pub(super) number: u64,
    /// Its latency counts from here.
    pub(super) from: Instant,
}

impl Times {
    pub(super) fn new(begin: Instant, warmup: Duration, length: Duration) -> Times {
        let record_from = begin + warmup;
        Times { begin, record_from, end: record_from + length }
    }
}

impl Pace {
    /// Creates the pace of a run: a closed loop, or an open one with `rate` calls a second.
    pub(super) fn new(times: Times, rate: Option<f64>) -> Pace {
        let open = rate.map(|rate| Open { rate, due: Arc::new(Semaphore::new(0)) });
        Pace { times, open, begun: AtomicU64::new(0) }
    }

    /// Starts the thread that an open loop needs. It ends with the run.
    pub(super) fn start(&self) -> anyhow::Result<()> {
        let Some(open) = &self.open else { return Ok(()) };
        let (times, rate, due) = (self.times, open.rate, open.due.clone());
        std::thread::Builder::new()
            .name("pace".into())
            .spawn(move || add_permits(times, rate, &due))
            .context("cannot start the thread that paces the calls")?;
        Ok(())
    }

    /// Waits until the next call is to begin. `None` when the run is over.
    pub(super) async fn next(&self) -> Option<Turn> {
        let Some(open) = &self.open else {
            let from = Instant::now();
            return (from < self.times.end).then(|| Turn { number: self.begin_one(), from });
        };
        open.due.acquire().await.ok()?.forget();
        let number = self.begin_one();
        Some(Turn { number, from: self.times.begin + offset(number, open.rate) })
    }

    fn begin_one(&self) -> u64 {
        self.begun.fetch_add(1, Ordering::Relaxed)
    }

    /// Returns how many calls have begun.
    pub(super) fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// Returns how many calls should have begun while the run was recorded, and did not: all
    /// clients were busy until its end.
    pub(super) fn missed(&self) -> u64 {
        let Some(open) = &self.open else { return 0 };
        let all = due_before(self.times.end - self.times.begin, open.rate);
        let unrecorded = due_before(self.times.record_from - self.times.begin, open.rate);
        all.saturating_sub(self.begun().max(unrecorded))
    }

    /// Tells whether a call that began at `from` is recorded.
    pub(super) fn is_recorded(&self, from: Instant) -> bool {
        from >= self.times.record_from
    }
}

/// Returns when a call is due, from the beginning of the run.
fn offset(number: u64, rate: f64) -> Duration {
    Duration::try_from_secs_f64(number as f64 / rate).unwrap_or(Duration::MAX)
}

/// Returns how many calls are due before `time`: those with an [`offset`] below it.
fn due_before(time: Duration, rate: f64) -> u64 {
    // The estimate may be off by one, because both divide and round.
    let mut count = (time.as_secs_f64() * rate) as u64;
    while count > 0 && offset(count - 1, rate) >= time {
        count -= 1;
    }
    while offset(count, rate) < time {
        count += 1;
    }
    count
}

fn add_permits(times: Times, rate: f64, due: &Semaphore) {
    // An error is ignored: without it, calls begin a little later, which the latencies show.
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::set_current_timer_slack(Some(TIMER_SLACK_NS));
    let all = due_before(times.end - times.begin, rate);
    let mut added = 0;
    while added < all {
        let passed = times.begin.elapsed();
        let now = due_before(passed, rate).min(all);
        if now > added {
            due.add_permits((now - added) as usize);
            added = now;
        }
        std::thread::sleep(offset(added, rate).saturating_sub(times.begin.elapsed()).min(SLEEP_MAX));
    }
    std::thread::sleep(times.end.saturating_duration_since(Instant::now()));
    // Calls that still wait for a client are missed.
    due.close();
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_due_at_even_distances() {
        assert_eq!(offset(0, 1000.0), Duration::ZERO);
        assert_eq!(offset(250, 1000.0), Duration::from_millis(250));
        for rate in [0.5, 3.0, 1000.0, 7777.7, 1e6] {
            for millis in [0u64, 1, 999, 1000, 12_345] {
                let time = Duration::from_millis(millis);
                let count = due_before(time, rate);
                assert!(offset(count, rate) >= time, "{rate} {millis}: {count} is too few");
                assert!(count == 0 || offset(count - 1, rate) < time, "{rate} {millis}: {count} is too many");
            }
        }
    }

    /// A server that stands still for the whole run, and one client: the first call alone begins.
    #[tokio::test]
    async fn calls_without_a_client_are_missed() {
        let times = Times::new(Instant::now(), Duration::ZERO, Duration::from_millis(200));
        let pace = Pace::new(times, Some(1000.0));
        pace.start().unwrap();
        assert_eq!(pace.next().await.unwrap().number, 0);
        while !pace.open.as_ref().unwrap().due.is_closed() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(pace.next().await.is_none());
        assert_eq!((pace.begun(), pace.missed()), (1, 199));
    }

    /// A client that was busy makes up for it: its next calls are late, and say by how much.
    #[tokio::test]
    async fn latencies_count_from_the_intended_beginning() {
        let begin = Instant::now();
        let pace = Pace::new(Times::new(begin, Duration::from_millis(10), Duration::from_secs(60)), Some(100.0));
        pace.start().unwrap();
        while pace.open.as_ref().unwrap().due.available_permits() < 5 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        for number in 0..5 {
            let turn = pace.next().await.unwrap();
            assert_eq!((turn.number, turn.from), (number, begin + Duration::from_millis(10 * number)));
            assert_eq!(pace.is_recorded(turn.from), number > 0);
        }
        assert!(begin.elapsed() >= Duration::from_millis(40), "no call began early");
    }

    #[tokio::test]
    async fn a_closed_loop_ends_at_its_time() {
        let now = Instant::now();
        let over = Times::new(now - Duration::from_secs(2), Duration::ZERO, Duration::from_secs(1));
        assert!(Pace::new(over, None).next().await.is_none());
        let pace = Pace::new(Times::new(now, Duration::ZERO, Duration::from_secs(600)), None);
        let (first, second) = (pace.next().await.unwrap(), pace.next().await.unwrap());
        assert!(first.number == 0 && second.number == 1 && first.from <= second.from);
        assert_eq!((pace.begun(), pace.missed()), (2, 0));
    }
}
