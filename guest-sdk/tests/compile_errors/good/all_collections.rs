//! Uses everything that the failing cases use, without a mistake.

use std::cmp::Reverse;

use lockstep_guest::{Counter, Index, Map, Set, State, Table, Value};

struct ByLength;

impl Index for ByLength {
    type Key = u64;
    type Value = String;
    type By = u64;
    const TAG: u16 = 6;

    fn by(_: &u64, name: &String) -> Vec<u64> {
        vec![name.len() as u64]
    }
}

lockstep_guest::state! {
    #[derive(Debug)]
    pub struct Everything {
        map: Map<(String, u64), Option<Vec<u8>>> = 1,
        set: Set<(Reverse<i64>, char)> = 2,
        value: Value<String> = 3,
        counter: Counter = 4,
        table: Table<u64, String, ByLength> = 16383,
    }
}

fn main() {
    let state = Everything::open();
    let _ = state.table.by(ByLength);
    println!("{state:?}");
}
