//! A collection with the same tag as an index.

use lockstep_guest::{Counter, Index, Table};

struct ByLength;

impl Index for ByLength {
    type Key = u64;
    type Value = String;
    type By = u64;
    const TAG: u16 = 2;

    fn by(_: &u64, name: &String) -> Vec<u64> {
        vec![name.len() as u64]
    }
}

lockstep_guest::state! {
    struct Names {
        names: Table<u64, String, ByLength> = 1,
        visits: Counter = 2,
    }
}

fn main() {
    let _ = <Names as lockstep_guest::State>::open();
}
