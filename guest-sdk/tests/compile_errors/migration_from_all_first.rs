//! A rule that no version would reach.

use lockstep_guest::{Map, Migrated};

lockstep_guest::state! {
    struct Shop {
        stock: Map<String, u64> = 1,
    }
}

lockstep_guest::migrate!(Shop {
    _ => |_, _| Ok(Migrated::done()),
    "1" => |_, _| Ok(Migrated::done()),
});

fn main() {}
