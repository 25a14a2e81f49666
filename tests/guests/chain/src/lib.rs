//! A guest of the tests: registers that keep their history, a stream of all of them, a command that
//! uses fuel, and one that panics. The checkers rely on this: the reply to a write contains its own
//! place in the log and the write before it. This guest is not part of the product.

use std::hint::black_box;
use std::ops::Bound;

use lockstep_guest::{Command, Map, Query, Reply, Step, Watch};

lockstep_guest::include_proto!();

lockstep_guest::state! {
    /// Keys, each with its latest write.
    pub struct Registers {
        records: Map<String, Record> = 1,
    }
}

/// Rounds in one unit of `Burn`.
const ROUNDS_PER_UNIT: u64 = 100_000;

impl Chain for Registers {
    fn put(&mut self, cx: &Command, request: PutRequest) -> Reply<PutResponse> {
        let previous = self.records.get(&request.key);
        let version = previous.as_ref().map_or(0, |record| record.version) + 1;
        let written = Record { value: request.value, index: cx.index(), position: cx.position(), version };
        self.records.insert(&request.key, &written);
        Ok(PutResponse { written: Some(written), previous })
    }

    fn get(&self, cx: &Query, request: GetRequest) -> Reply<GetResponse> {
        Ok(GetResponse { read_at_index: cx.index(), record: self.records.get(&request.key) })
    }

    fn walk(&self, cx: &Watch, request: WalkRequest) -> Reply<Step<WalkResponse>> {
        if request.page == 0 {
            return Ok(Step::wait().again());
        }
        let after = cx.recall().unwrap_or(request.after);
        let rows = self.records.range((Bound::Excluded(after.clone()), Bound::Unbounded)).take(request.page as usize);
        let page: Vec<WalkResponse> = rows.map(|(key, record)| WalkResponse { key, record: Some(record) }).collect();
        let last = page.last().map_or(after, |row| row.key.clone());
        let is_full = page.len() == request.page as usize;
        let step = Step::send_all(page).remember(&last);
        Ok(if is_full { step.again() } else { step })
    }

    fn burn(&mut self, _: &Command, request: BurnRequest) -> Reply<BurnResponse> {
        let mut result = 1_u64;
        for _ in 0..request.units {
            for _ in 0..ROUNDS_PER_UNIT {
                result ^= result << 13;
                result ^= result >> 7;
                result = black_box(result ^ (result << 17));
            }
        }
        Ok(BurnResponse { result })
    }

    fn panic(&mut self, _: &Command, request: PanicRequest) -> Reply<PanicResponse> {
        panic!("the word is {:?}", request.word)
    }
}

lockstep_guest::export!(Registers: Chain);
