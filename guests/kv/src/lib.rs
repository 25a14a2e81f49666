//! The default guest: the key-value service of raft-example, wire-compatible with it. This file
//! owns what the four methods do and knows nothing of replication.

use std::time::Duration;

use lockstep_guest::{Cause, Command, Map, Query, Reply, Step, Watch};

lockstep_guest::include_proto!();

lockstep_guest::state! {
    /// Keys and their values.
    pub struct Kv {
        values: Map<String, String> = 1,
    }
}

/// Quiet time after which a watch repeats the value, if the client gives none.
const WATCH_TIMEOUT: Duration = Duration::from_secs(300);

impl Example for Kv {
    fn add(&mut self, cx: &Command, request: AddRequest) -> Reply<AddResponse> {
        self.values.insert(&request.key, &request.val);
        Ok(AddResponse { commit_index: cx.index() })
    }

    fn get(&self, cx: &Query, request: GetRequest) -> Reply<GetResponse> {
        Ok(GetResponse { read_at_index: cx.index(), value: self.values.get(&request.key).unwrap_or_default() })
    }

    fn stat(&self, cx: &Query, _: StatRequest) -> Reply<StatResponse> {
        Ok(StatResponse { stats: cx.node_status() })
    }

    fn watch(&self, cx: &Watch, request: WatchRequest) -> Reply<Step<WatchResponse>> {
        let quiet = match request.timeout_seconds {
            0 => WATCH_TIMEOUT,
            seconds => Duration::from_secs(seconds.into()),
        };
        let reached = cx.index() >= request.min_index;
        if !reached && matches!(cx.cause(), Cause::Start | Cause::Change) {
            return Ok(Step::wait().until_index(request.min_index).or_after(quiet));
        }
        // A repeated value keeps its old index. Entries without a write, such as those that only
        // advance log time, do not change it.
        let repeated = cx.recall().filter(|sent| cx.cause() == Cause::Wake && (*sent >= request.min_index || !reached));
        let current_index = repeated.unwrap_or(cx.index());
        let response = WatchResponse {
            value: self.values.get(&request.key).unwrap_or_default(),
            current_index,
            abandoned: cx.cause() == Cause::Reset,
        };
        let step = Step::send(response).remember(&current_index).or_after(quiet);
        Ok(if reached { step } else { step.until_index(request.min_index) })
    }
}

lockstep_guest::export!(Kv: Example);
