//! Whether the disk has room for a run, before anything is started. The figures are generous: a run
//! that fills a disk costs more than one that is refused. It writes nothing.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Large;
use super::rows::ROW_BYTES;

/// Most nodes that have data at a time.
const NODES: u64 = 6;
/// Room of a node without a state: what its log reserves, and its ballast.
const NODE_BYTES: u64 = 256 << 20;
/// Room of a state in terms of its rows, on all nodes together. A node has it in the log, in the
/// state, and twice while that is compacted or checkpointed; the lines that are imported come on
/// top.
const STATE_FACTOR: u64 = 14;
/// Room of an entry in the logs of four nodes. It has a batch of puts.
const ENTRY_BYTES: u64 = 4 * (8 << 10);

/// Refuses a run for which the disk under `directory` has no room.
pub(super) fn check(directory: &Path, asked: &Large<'_>) -> Result<()> {
    let (free, needed) = (free_bytes(directory)?, needed_bytes(asked));
    println!(
        "{} GB are free in {}, and up to {} GB are needed",
        gigabytes(free),
        directory.display(),
        gigabytes(needed)
    );
    ensure!(
        free >= needed,
        "{} has too little room: set TMPDIR to a directory on a larger disk, or ask for less (--gib, --keys, --entries)",
        directory.display()
    );
    Ok(())
}

fn needed_bytes(asked: &Large<'_>) -> u64 {
    let rows = asked.state_bytes.max(asked.keys.saturating_mul(ROW_BYTES));
    let states = rows.saturating_mul(STATE_FACTOR);
    states.saturating_add(asked.entries.saturating_mul(ENTRY_BYTES)).saturating_add(NODES * NODE_BYTES)
}

fn gigabytes(bytes: u64) -> u64 {
    bytes.div_ceil(1_000_000_000)
}

/// Returns what the file system of a directory has free for this user.
fn free_bytes(directory: &Path) -> Result<u64> {
    let output = Command::new("df").arg("-Pk").arg(directory).output().context("df does not start")?;
    let text = String::from_utf8_lossy(&output.stdout);
    available(&text).with_context(|| format!("df does not say what is free in {}: {text}", directory.display()))
}

/// Returns the fourth column of the last line of `df -Pk`, in bytes.
fn available(text: &str) -> Option<u64> {
    let kibibytes: u64 = text.lines().last()?.split_whitespace().nth(3)?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_df_is_read() {
        let text = "Filesystem     1024-blocks     Used Available Capacity Mounted on\n\
                    /dev/vda         264212084 16089472  79411792      17% /\n";
        assert_eq!(available(text), Some(79_411_792 * 1024));
        assert_eq!(available("Filesystem     1024-blocks     Used Available Capacity Mounted on\n"), None);
        assert_eq!(available(""), None);
        assert!(free_bytes(&std::env::temp_dir()).unwrap() > 0);
    }

    #[test]
    fn the_larger_state_needs_the_room() {
        let gigabytes_of =
            |state_bytes, keys| gigabytes(needed_bytes(&Large { state_bytes, keys, ..Large::default() }));
        assert_eq!(gigabytes_of(1 << 30, 10_000_000), 43);
        assert_eq!(gigabytes_of(4 << 30, 10_000), 66);
        assert_eq!(needed_bytes(&Large { keys: u64::MAX, ..Large::default() }), u64::MAX);
        let small = Large { state_bytes: 10 << 20, keys: 20_000, entries: 1_000, ..Large::default() };
        assert!(gigabytes(needed_bytes(&small)) <= 2);
    }

    #[test]
    fn too_little_room_is_refused_with_what_to_do() {
        let refused = check(&std::env::temp_dir(), &Large { keys: u64::MAX, ..Large::default() }).unwrap_err();
        assert!(refused.to_string().contains("set TMPDIR"), "{refused}");
    }
}
