//! A collection without a tag.

use lockstep_guest::Map;

lockstep_guest::state! {
    struct Shop {
        stock: Map<String, u64> = 1,
        orders: Map<u64, String>,
    }
}

fn main() {}
