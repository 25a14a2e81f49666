//! A hash map as the value of a collection.

use std::collections::HashMap;

use lockstep_guest::{Map, Value};

lockstep_guest::state! {
    struct Shop {
        stock: Value<HashMap<String, u64>> = 1,
        orders: Map<u64, HashMap<String, u64>> = 2,
    }
}

fn main() {}
