//! A float as a key: floats have no total order.

use lockstep_guest::{Map, Set};

lockstep_guest::state! {
    struct Shop {
        by_price: Map<f64, String> = 1,
        prices: Set<f32> = 2,
    }
}

fn main() {}
