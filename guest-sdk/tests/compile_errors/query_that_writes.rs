//! A query gets `&self`, so it cannot write.

use lockstep_guest::Counter;

lockstep_guest::state! {
    struct Shop {
        visits: Counter = 1,
    }
}

impl Shop {
    fn look(&self) -> u64 {
        self.visits.add(1)
    }
}

fn main() {}
