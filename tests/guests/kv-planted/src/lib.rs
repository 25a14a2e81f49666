//! A guest of the tests: `kv-1` with planted differences, which a rehearsal and a probation must
//! find. It counts one write too many in its reply for the key `odd`, refuses keys that begin with
//! `refuse`, takes long to write those that begin with `slow`, and refuses to read those that begin
//! with `hide`. This guest is not part of the product.

use lockstep_guest::{Command, Map, Query, Reply, Status};

lockstep_guest::include_proto!();

lockstep_guest::version!("1-planted");

lockstep_guest::state! {
    /// Keys, each with its latest write.
    pub struct Kv {
        records: Map<String, Record> = 1,
    }
}

/// Rounds of the loop for a slow key. They take far longer than all else that a command does, and
/// less than half of its fuel.
const SLOW_ROUNDS: u64 = 4_000_000;

impl Chain for Kv {
    fn put(&mut self, cx: &Command, request: PutRequest) -> Reply<PutResponse> {
        let PutRequest { key, value } = request;
        if key.starts_with("refuse") {
            return Err(Status::failed_precondition("the key begins with refuse"));
        }
        if key.starts_with("slow") {
            (0..SLOW_ROUNDS).for_each(|round| _ = std::hint::black_box(round));
        }
        let previous = self.records.get(&key);
        let version = previous.as_ref().map_or(0, |record| record.version) + 1;
        let mut written = Record { value, index: cx.index(), position: cx.position(), version };
        self.records.insert(&key, &written);
        written.version += u64::from(key == "odd");
        Ok(PutResponse { written: Some(written), previous })
    }

    fn get(&self, cx: &Query, request: GetRequest) -> Reply<GetResponse> {
        if request.key.starts_with("hide") {
            return Err(Status::failed_precondition("the key begins with hide"));
        }
        Ok(GetResponse { read_at_index: cx.index(), record: self.records.get(&request.key) })
    }
}

lockstep_guest::export!(Kv: Chain);
