//! An export of a service that the state does not implement.

use lockstep_guest::dispatch::Method;
use lockstep_guest::Counter;

trait Visits: lockstep_guest::State {
    const LOCKSTEP_METHODS: &'static [Method<Self>];
}

lockstep_guest::state! {
    struct Shop {
        visits: Counter = 1,
    }
}

lockstep_guest::export!(Shop: Visits);

fn main() {}
