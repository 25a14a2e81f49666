//! A tag above the largest one.

use lockstep_guest::Map;

lockstep_guest::state! {
    struct Shop {
        stock: Map<String, u64> = 16384,
    }
}

fn main() {
    let _ = <Shop as lockstep_guest::State>::open();
}
