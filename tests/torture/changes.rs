//! Runs `cargo xtask changes` at small size: a guest is changed, put back and changed again, with
//! kills. That a lost command and a wrong order are seen is shown in `seeing`, by the same judges.

use anyhow::Result;
use lockstep_tests::changes::guest::Guest;
use lockstep_tests::changes::run::{Options, VERIFY_ENTRIES, run};

/// With this seed the leader dies in the rehearsal of the first change, and a follower in the
/// rollback and in the second change.
const SEED: u64 = 20_261_146;

/// A change, its rollback, and the change again.
const LEGS: u64 = 3;

#[test]
fn a_guest_is_changed_and_put_back_under_kills_and_nothing_is_lost() -> Result<()> {
    let _turn = crate::ONE_AT_A_TIME.blocking_lock();
    let options = Options {
        seed: SEED,
        time: None,
        legs: Some(LEGS),
        guests: vec![Guest::Orders],
        clients: 12,
        state_mib: None,
        verify_entries: VERIFY_ENTRIES,
    };
    let summary = run(&options)?;
    println!("{summary}");
    assert_eq!((summary.made, summary.rolled_back), (2, 1), "{summary}");
    let kills: u64 = summary.kills.values().sum();
    assert!(kills >= 1 && summary.counts.writes > 100, "{summary}");
    assert!(summary.verified.entries > 100 && summary.verified.hashes > 1, "{summary}");
    Ok(())
}
