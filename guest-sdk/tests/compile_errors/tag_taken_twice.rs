//! Two collections with the same tag.

use lockstep_guest::Map;

lockstep_guest::state! {
    struct Shop {
        stock: Map<String, u64> = 1,
        orders: Map<String, u64> = 1,
    }
}

fn main() {
    let _ = <Shop as lockstep_guest::State>::open();
}
