//! {{name}}: counts, each under a name. The collections of the state keep what outlives a call.
//! Memory may be gone before the next call.

use lockstep_guest::{Command, Map, Query, Reply, Status};

lockstep_guest::include_proto!();
lockstep_guest::version!(env!("CARGO_PKG_VERSION"));

lockstep_guest::state! {
    /// The state. Tags are like field numbers: never reused for something else.
    pub struct {{Service}}State {
        counts: Map<String, u64> = 1,
    }
}

impl {{Service}} for {{Service}}State {
    fn add(&mut self, _: &Command, request: AddRequest) -> Reply<AddReply> {
        if request.name.is_empty() {
            return Err(Status::invalid_argument("name is empty: say what to count"));
        }
        let before = self.counts.get(&request.name).unwrap_or_default();
        let count = before
            .checked_add(request.amount)
            .ok_or_else(|| Status::out_of_range("the count would overflow"))?;
        self.counts.insert(&request.name, &count);
        Ok(AddReply { count })
    }

    fn get(&self, _: &Query, request: GetRequest) -> Reply<GetReply> {
        let count = self.counts.get(&request.name).unwrap_or_default();
        Ok(GetReply { count })
    }
}

lockstep_guest::export!({{Service}}State: {{Service}});
