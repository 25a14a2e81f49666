//! Finds the greatest size that a file of this process may have (`ulimit -f`), and derives the size
//! at which the store ends its files. Never raises the limit: the operator set it on purpose.

const MIB: u64 = 1 << 20;
/// A limit below this is reached sooner or later. This has room for RocksDB's largest files, and
/// for the largest batch in one of them.
const AMPLE_BYTES: u64 = 256 * MIB;
/// A file is ended when it has reached this fraction of the limit, so that one more large write
/// still fits.
const PART: u64 = 4;

/// Returns the limit, if there is one.
pub(super) fn bytes() -> Option<u64> {
    let mut found = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    #[allow(unsafe_code, reason = "the standard library has no word for it")]
    // SAFETY: the pointer is to a whole structure that outlives the call.
    let done = unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut found) };
    (done == 0 && found.rlim_cur != libc::RLIM_INFINITY).then_some(found.rlim_cur)
}

/// Returns the size at which to end a file that is otherwise ended at `bytes`.
pub(super) fn within(bytes: u64) -> u64 {
    part(self::bytes(), bytes)
}

/// Returns a warning for the operator if the limit is too low.
pub(super) fn complaint() -> Option<String> {
    let limit = bytes().filter(|&limit| limit < AMPLE_BYTES)?;
    Some(format!(
        "files of this process may not grow beyond {} KiB (`ulimit -f`, LimitFSIZE=): the node keeps its files small and stops should one \
         meet the limit all the same; {} MiB are enough",
        limit / 1024,
        AMPLE_BYTES / MIB
    ))
}

fn part(limit: Option<u64>, bytes: u64) -> u64 {
    limit.map_or(bytes, |limit| bytes.min(limit / PART))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_stay_well_below_the_limit() {
        assert_eq!(part(None, 32 * MIB), 32 * MIB);
        assert_eq!(part(Some(AMPLE_BYTES), 32 * MIB), 32 * MIB);
        assert_eq!(part(Some(16 * MIB), 32 * MIB), 4 * MIB);
    }
}
