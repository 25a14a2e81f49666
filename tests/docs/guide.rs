//! Executes the guide for authors as it stands: it makes a project, tests, builds and checks it,
//! and deploys it on three nodes. This happens outside of the checkout and with cargo's own target
//! directory, as an author has them.

use super::*;

#[test]
fn the_guide_makes_a_machine_and_deploys_it() -> Result<()> {
    let _turn = ONE_AT_A_TIME.lock().unwrap();
    let place = Path::new("/tmp/lockstep-guide");
    ensure!(!place.exists(), "{} is left over from somebody: remove it", place.display());
    let script = blocks("docs/guide.md").concat();
    // An author has no target directory of ours. Nodes and files are removed also when a command
    // fails.
    let clean = "trap 'kill $(jobs -p) 2>/dev/null || true; cd /; rm -rf /tmp/lockstep-guide' EXIT";
    let text = succeeded(&run(&format!("{clean}\nunset CARGO_TARGET_DIR CARGO_BUILD_TARGET_DIR\n{script}"))?)?;
    // Once natively, and once in the component.
    assert_eq!(text.matches("test a_lock_has_one_holder_until_its_lease_runs_out ... ok").count(), 2, "{text}");
    let upgraded = text.matches("test locks_of_version_1_stay_held_and_are_found_by_owner ... ok").count();
    assert_eq!(upgraded, 2, "{text}");
    for expected in [
        "test followers_see_the_lease_end ... ok",
        "is a guest that nodes take",
        "with queries in one instance: the same",
        "with all commands in one entry: the same",
        r#""token":"1""#,
        "db is held by ann",
        "test pages_hold_every_book_once ... ok",
        "test a_book_that_is_there_comes_with_the_refusal ... ok",
        "library.Desk/Add",
        "1 leases: Map<String, locks.Lease>",
        "state.lock is written; the state differed",
        "tag 3: is new, Set<(String, String)>",
        "The guest SDK",
    ] {
        assert!(text.contains(expected), "{expected} is not in:\n{text}");
    }
    assert!(!text.contains("warning: the script"), "every book is a new one:\n{text}");
    assert!(!place.exists(), "the guide leaves its files behind");
    Ok(())
}
