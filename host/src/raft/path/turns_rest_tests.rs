//! Tests when heavy commands rest.

use super::*;

/// A world with one client of each kind, each with commands, and an entry of each under way.
fn both_under_way() -> (World, Packed) {
    let mut world = World::default();
    world.teach("heavy", LARGE);
    world.teach("light", SMALL);
    world.add("heavy", 4);
    world.add("light", 1);
    let mut packed = [world.pack(), world.pack()];
    packed.sort_by_key(|packed| packed.is_heavy);
    let [light, heavy] = packed;
    world.end(&light, SMALL);
    (world, heavy)
}

#[test]
fn beside_light_commands_heavy_ones_rest_for_three_times_as_long_as_they_took() {
    for (took, rest) in [(30, 90), (2_000, 1_000)] {
        let (mut world, heavy) = both_under_way();
        world.took = Duration::from_millis(took);
        // Whatever else the entry waited for does not count.
        world.passed += Duration::from_millis(500);
        world.end(&heavy, LARGE);
        let until = world.now() + Duration::from_millis(rest);
        assert!(!world.has_next() && world.turns.rest_until() == Some(until));
        world.add("light", 1);
        assert!(!world.pack().is_heavy, "light ones do not rest");
        world.passed += Duration::from_millis(rest);
        let packed = world.pack();
        assert!(packed.is_heavy && world.turns.rest_until().is_none(), "none may go after the rest");
    }
}

#[test]
fn a_rest_ends_with_its_reason() {
    let (mut world, heavy) = both_under_way();
    world.took = REST_MAX;
    world.passed += SHARED_FOR;
    world.add("heavy", 1);
    world.end(&heavy, LARGE);
    assert!(world.pack().is_heavy, "nobody has light ones any more");
    let (mut world, heavy) = both_under_way();
    world.took = REST_MAX;
    world.end(&heavy, LARGE);
    world.turns.retain(|_| true);
    assert!(world.pack().is_heavy, "another term begins without it");
}

#[test]
fn a_rest_is_not_cut_short_by_an_entry_that_was_never_run() {
    let mut world = World::default();
    for name in ["a", "b"] {
        world.teach(name, LARGE);
    }
    world.passed += SHARED_FOR;
    for name in ["a", "b"].repeat(2) {
        world.add(name, 1);
    }
    let (first, second) = (world.pack(), world.pack());
    assert!(first.is_heavy && second.is_heavy && !world.has_next(), "two may be under way");
    world.teach("light", SMALL);
    world.took = Duration::from_millis(30);
    world.end(&first, LARGE);
    let until = world.now() + 3 * world.took;
    world.took = Duration::ZERO;
    world.end(&second, LARGE);
    assert_eq!(world.turns.rest_until(), Some(until));
}

#[test]
fn entries_of_heavy_commands_are_smaller_beside_light_ones() {
    const FUEL: u64 = 3_000_000;
    let spent = Spent { fuel: FUEL, ..Spent::default() };
    let mut world = World::default();
    for name in ["a", "b", "c", "d", "e"] {
        world.teach(name, spent);
    }
    world.passed += SHARED_FOR;
    for name in ["a", "b", "c", "d", "e"] {
        world.add(name, 1);
    }
    let alone = world.pack();
    assert!(alone.is_heavy && alone.commands.len() > 4, "{}", alone.commands.len());
    world.end(&alone, spent);
    world.teach("light", SMALL);
    for name in ["a", "b", "c", "d", "e"] {
        world.add(name, 1);
    }
    let beside = world.pack();
    assert!(beside.is_heavy && beside.commands.len() as u64 <= costs::HEAVY_ENTRY_BESIDE_LIGHT_MAX / FUEL);
}
