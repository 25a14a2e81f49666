//! A write to the state during an iteration over it.

use lockstep_guest::Map;

lockstep_guest::state! {
    struct Shop {
        stock: Map<String, u64> = 1,
    }
}

impl Shop {
    fn expire(&mut self) {
        for (name, left) in self.stock.iter() {
            if left == 0 {
                self.stock.remove(&name);
            }
        }
    }
}

fn main() {}
