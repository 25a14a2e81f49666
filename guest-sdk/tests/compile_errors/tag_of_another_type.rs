//! A tag whose rows have another type than the record says.

use lockstep_guest::Map;

lockstep_guest::state! {
    struct Shop {
        stock: Map<String, u64> = 1,
    }
}

lockstep_guest::state_section!(Shop, Some("1 Map<String, String>"));

fn main() {}
