//! A guest of the tests: keys and values, in the second of three versions. Its rows have a new
//! field, which is empty in rows of the first one, so it takes the state as it is. This guest is
//! not part of the product.

use lockstep_guest::{Command, Map, Query, Reply};

lockstep_guest::include_proto!();

lockstep_guest::version!("2");

lockstep_guest::state! {
    /// Keys, each with its latest write.
    pub struct Kv {
        records: Map<String, Record> = 1,
    }
}

impl Chain for Kv {
    fn put(&mut self, cx: &Command, request: PutRequest) -> Reply<PutResponse> {
        let previous = self.records.get(&request.key);
        let version = previous.as_ref().map_or(0, |record| record.version) + 1;
        let PutRequest { key, value } = request;
        let written = Record { value, index: cx.index(), position: cx.position(), version, time_ms: cx.time_ms() };
        self.records.insert(&key, &written);
        Ok(PutResponse { written: Some(written), previous })
    }

    fn get(&self, cx: &Query, request: GetRequest) -> Reply<GetResponse> {
        Ok(GetResponse { read_at_index: cx.index(), record: self.records.get(&request.key) })
    }
}

lockstep_guest::export!(Kv: Chain);
