//! Tests when heavy commands rest.

use super::*;

#[test]
fn beside_light_commands_heavy_ones_rest_for_twice_as_long_as_they_took() {
    const TOOK: Duration = Duration::from_millis(30);
    let mut world = World::default();
    world.teach("heavy", LARGE);
    world.teach("light", SMALL);
    world.add("heavy", 4);
    for took in [TOOK, 2 * REST_MAX] {
        let rest = (2 * took).min(REST_MAX);
        world.add("light", 1);
        let mut packed = [world.pack(), world.pack()];
        packed.sort_by_key(|packed| packed.is_heavy);
        world.end(&packed[0], SMALL);
        world.passed += took;
        world.end(&packed[1], LARGE);
        assert!(!world.has_next());
        assert_eq!(world.turns.rest_until(), Some(world.now() + rest));
        world.add("light", 1);
        assert!(!world.pack().is_heavy, "light ones do not rest");
        world.passed += rest;
    }
    let packed = world.pack();
    assert!(packed.is_heavy && world.turns.rest_until().is_none(), "none may go after the rest");
    world.passed += SHARED_FOR;
    world.end(&packed, LARGE);
    assert!(world.pack().is_heavy, "nobody has light ones any more");
}

#[test]
fn among_heavy_commands_alone_there_is_no_rest() {
    let mut world = World::default();
    for name in ["a", "b"] {
        world.teach(name, LARGE);
    }
    world.passed += SHARED_FOR;
    for name in ["a", "b"].repeat(2) {
        world.add(name, 1);
    }
    let (first, second) = (world.pack(), world.pack());
    assert!(first.is_heavy && second.is_heavy && !world.has_next());
    world.passed += REST_MAX;
    world.end(&first, LARGE);
    assert!(world.has_next());
}
