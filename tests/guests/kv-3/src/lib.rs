//! A guest of the tests: keys and values, in the third of three versions. Its rows have one more
//! field, which every write takes over from the one before. This guest is not part of the product.

use lockstep_guest::{Command, Map, Query, Reply};

lockstep_guest::include_proto!();

lockstep_guest::version!("3");

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
        let first_index = match previous.as_ref().map_or(0, |record| record.first_index) {
            0 => cx.index(),
            first => first,
        };
        let PutRequest { key, value } = request;
        let written =
            Record { value, index: cx.index(), position: cx.position(), version, time_ms: cx.time_ms(), first_index };
        self.records.insert(&key, &written);
        Ok(PutResponse { written: Some(written), previous })
    }

    fn get(&self, cx: &Query, request: GetRequest) -> Reply<GetResponse> {
        Ok(GetResponse { read_at_index: cx.index(), record: self.records.get(&request.key) })
    }
}

lockstep_guest::export!(Kv: Chain);
