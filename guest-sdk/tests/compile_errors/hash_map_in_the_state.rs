//! A hash map as a field of the state: its order differs between nodes.

use std::collections::HashMap;

lockstep_guest::state! {
    struct Shop {
        stock: HashMap<String, u64> = 1,
    }
}

fn main() {}
