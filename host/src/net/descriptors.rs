//! Owns the limit of files and sockets that this process may have open, and shares it among the
//! ports. Raises the limit as far as allowed. The caller says how many are needed for everything
//! else.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The number used for "no limit"; more than any machine in use has.
const UNLIMITED: u64 = 1 << 20;
/// What containers and distributions usually allow.
const OFTEN_ALLOWED: u64 = 1 << 16;
/// What macOS allows a process whatever its hard limit says.
const ALWAYS_ALLOWED: u64 = 10_240;

/// Longest time that a count stays valid. Counting costs a system call for roughly every thousand
/// descriptors.
const COUNT_AGE_MAX: Duration = Duration::from_millis(500);

/// The limit of this process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Descriptors {
    max: u64,
    counted: Arc<Mutex<Option<(Instant, u64)>>>,
}

impl Descriptors {
    /// Raises this process's limit as far as the hard limit allows. A shell's limit is meant for
    /// programs that use `select`.
    pub fn raise() -> Descriptors {
        let (soft, hard) = limits();
        let (before, max) = (soft.min(UNLIMITED), hard.min(UNLIMITED));
        // Some systems have a limit below the hard one, and show it by refusing a larger value.
        let wanted = [max, OFTEN_ALLOWED, ALWAYS_ALLOWED].into_iter().filter(|wanted| (before..=max).contains(wanted));
        let mut refused = None;
        for wanted in wanted {
            match set_limits(wanted, hard) {
                Ok(()) => break,
                Err(error) => refused = Some(error),
            }
        }
        let max = limits().0.min(UNLIMITED);
        if let Some(error) = refused {
            tracing::warn!(%error, before, max, hard, "the limit of open files and sockets cannot be raised to the hard one");
        }
        Descriptors { max, counted: Arc::default() }
    }

    /// Returns how many descriptors this process may have open at a time.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// Returns how many are open, as of a moment ago; the maximum when none is left to count with.
    pub fn open(&self) -> u64 {
        let mut counted = self.counted.lock();
        match *counted {
            Some((at, count)) if at.elapsed() < COUNT_AGE_MAX => count,
            _ => {
                // One of them is the directory that is being read.
                let count =
                    std::fs::read_dir("/dev/fd").map_or(self.max, |open| (open.count() as u64).saturating_sub(1));
                *counted = Some((Instant::now(), count));
                count
            }
        }
    }
}

/// Returns the soft limit, which applies, and the hard limit, up to which it may be raised. No
/// limit is a very large number.
#[allow(unsafe_code)]
fn limits() -> (u64, u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call writes a structure that this function owns.
    let done = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    assert_eq!(done, 0, "the name and the address are good, and nothing else can fail");
    (limit.rlim_cur, limit.rlim_max)
}

#[allow(unsafe_code)]
fn set_limits(soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the call reads a structure that this function owns.
    let done = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How many connections one port wants, and how many it needs.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// Enough connections to serve the port well.
    pub max: u64,
    /// Fewest connections with which the port is of use.
    pub min: u64,
}

/// Shares what `limit` leaves beyond `reserve` among the ports, in proportion to their wishes.
/// `None` if it is not enough.
pub fn share<const PORTS: usize>(limit: u64, reserve: u64, wishes: [Wish; PORTS]) -> Option<[usize; PORTS]> {
    let min: u64 = wishes.iter().map(|wish| wish.min).sum();
    let above: u64 = wishes.iter().map(|wish| wish.max - wish.min).sum();
    let left = limit.checked_sub(reserve + min)?.min(above);
    Some(wishes.map(|wish| {
        let connections = wish.min + left * (wish.max - wish.min) / above.max(1);
        usize::try_from(connections).expect("no more than its wish")
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WISHES: [Wish; 2] = [Wish { max: 1000, min: 10 }, Wish { max: 120, min: 20 }];

    #[test]
    fn ports_share_what_the_reserve_leaves() {
        let rows = [
            (129, None),
            (130, Some([10, 20])),
            (130 + 109, Some([10 + 99, 20 + 10])),
            (130 + 1090, Some([1000, 120])),
            (1 << 20, Some([1000, 120])),
        ];
        for (limit, expected) in rows {
            assert_eq!(share(limit, 100, WISHES), expected, "{limit}");
        }
    }

    #[test]
    fn what_is_open_is_counted() {
        let descriptors = Descriptors::raise();
        assert!((4..descriptors.max()).contains(&descriptors.open()), "{}", descriptors.open());
        assert_eq!(limits().0, descriptors.max());
    }
}
