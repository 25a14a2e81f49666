//! Calls of the guest of `ladder.wat`, over rows in memory: the cost of a call and of a store call
//! without any disk. Measures nothing.

use std::any::Any;
use std::collections::BTreeMap;
use std::hint::black_box;

use anyhow::{Result, ensure};
use lockstep::guest::{ApplyInstance, Call, Context, Page, Range, Rows, StoreFault, Verdict};

use crate::guests::{FUEL, START_MS};

/// Bytes of a request that [`Rung::Echo`] gives back, beside its first five.
const ECHOED_BYTES: usize = 256;

/// The actions of `ladder.wat`. A request of no bytes asks for none.
#[derive(Clone, Copy)]
pub enum Rung {
    /// `store.get` of a row of 64 bytes.
    Get = 1,
    /// `store.put` of a row of 64 bytes.
    Put = 2,
    /// `store.scan` of 16 rows of 64 bytes.
    Scan = 3,
    /// A round of a loop: multiply, add, count, compare.
    Loop = 4,
    /// Answers with the request.
    Echo = 5,
}

impl Rung {
    /// Returns a request for so many of the action in one call.
    pub fn request(self, times: u32) -> Vec<u8> {
        [&[self as u8][..], &times.to_le_bytes()].concat()
    }
}

/// Returns a request of 261 bytes, which are the answer, too.
pub fn echo() -> Vec<u8> {
    [&Rung::Echo.request(0)[..], &[7; ECHOED_BYTES]].concat()
}

/// Makes one call, and returns its store.
pub fn one_call(instance: &mut ApplyInstance, request: &[u8], store: Box<dyn Rows>) -> Result<Box<dyn Rows>> {
    let context = Context { index: 1, position: 0, time_ms: START_MS };
    let call = Call { context, method: "costs.Ladder/Climb", request, caller: "", fuel: FUEL };
    let (verdict, store) = instance.apply(call, store);
    let verdict = verdict?;
    ensure!(matches!(verdict, Verdict::Reply(_)), "the guest of the benchmark answered {verdict:?}");
    black_box(verdict);
    Ok(store)
}

/// Rows in memory.
#[derive(Default)]
pub struct HeldRows(BTreeMap<Vec<u8>, Vec<u8>>);

impl HeldRows {
    /// Makes the rows that `ladder.wat` reads.
    pub fn filled() -> HeldRows {
        let key = |number: u32| [b"row\0", &number.to_le_bytes()[..]].concat();
        HeldRows((0..1000).map(|number| (key(number), vec![0; 64])).collect())
    }
}

impl Rows for HeldRows {
    fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreFault> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(&mut self, range: Range<'_>, reverse: bool, limit: u32) -> Result<Page, StoreFault> {
        let mut page = Page::default();
        let end = range.end.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let rows = self.0.range::<[u8], _>((std::ops::Bound::Included(range.start), end));
        assert!(!reverse, "the benchmark scans forwards");
        for (count, (key, value)) in (0..).zip(rows) {
            page.more = limit != 0 && count == limit;
            if page.more || !page.push(key, value) {
                break;
            }
        }
        Ok(page)
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreFault> {
        self.0.insert(key.to_vec(), value.to_vec());
        Ok(())
    }

    fn remove(&mut self, key: &[u8]) -> Result<(), StoreFault> {
        self.0.remove(key);
        Ok(())
    }

    fn remove_range(&mut self, _: Range<'_>, _: u64) -> Result<u64, StoreFault> {
        Err(StoreFault("the benchmark removes no ranges".to_owned()))
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
