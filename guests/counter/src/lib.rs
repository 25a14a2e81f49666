//! Hello world: a number that every node agrees on.

use lockstep_guest::{Command, Query, Reply};

lockstep_guest::include_proto!();
lockstep_guest::state! { /** The number. */ pub struct Number { sum: lockstep_guest::Counter = 1 } }

impl Counter for Number {
    fn add(&mut self, _: &Command, request: AddRequest) -> Reply<AddResponse> {
        Ok(AddResponse { sum: self.sum.add(request.amount) })
    }
    fn get(&self, _: &Query, _: GetRequest) -> Reply<GetResponse> {
        Ok(GetResponse { sum: self.sum.get() })
    }
}

lockstep_guest::export!(Number: Counter);
