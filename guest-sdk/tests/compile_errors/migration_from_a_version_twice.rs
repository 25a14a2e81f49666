//! Two rules for one version.

use lockstep_guest::{Map, Migrated};

lockstep_guest::state! {
    struct Shop {
        stock: Map<String, u64> = 1,
    }
}

lockstep_guest::migrate!(Shop {
    "1" | "2" => |_, _| Ok(Migrated::done()),
    "1" => |_, _| Ok(Migrated::done()),
});

fn main() {}
