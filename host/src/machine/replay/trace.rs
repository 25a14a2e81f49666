//! Instances that keep what each command did: its calls of the store, the lines that it logged, and
//! its fuel. The guest notices nothing of it. This file computes no entry.
//!
//! - A command that is run twice, because it failed in a used instance, has two attempts.
//! - Keys and values are kept up to some bytes, and a number of calls of each attempt.

use std::any::Any;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::guest::{ApplyInstance, Call, Component, HostFault, LogLine, Page, Range, Rows, StoreFault, Verdict};
use crate::machine::entry::{Instance, Instances};

/// Most store calls of one attempt that are kept.
const CALLS_MAX: usize = 10_000;
/// Most bytes of one key or value that are kept.
const BYTES_MAX: usize = 4 << 10;
/// Bytes in front of a row of a page: the lengths of its key and value.
const ROW_HEAD_BYTES: usize = 8;

/// Bytes of a key or value, of which the first ones are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// The first bytes.
    pub kept: Vec<u8>,
    /// How many there were.
    pub bytes: usize,
}

impl Cut {
    pub(crate) fn of(bytes: &[u8]) -> Cut {
        Cut { kept: bytes[..bytes.len().min(BYTES_MAX)].to_vec(), bytes: bytes.len() }
    }

    /// Returns whether all bytes are there.
    pub fn is_whole(&self) -> bool {
        self.kept.len() == self.bytes
    }
}

/// One call of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreCall {
    /// A read of one key.
    Get {
        /// The key.
        key: Cut,
        /// Its value; `None` if there is no such row.
        value: Option<Cut>,
    },
    /// A page of a scan.
    Scan {
        /// First key of the range.
        start: Cut,
        /// First key behind the range.
        end: Option<Cut>,
        /// Whether it goes backwards.
        reverse: bool,
        /// Most rows that were asked for; 0 for a whole page.
        limit: u32,
        /// Rows that were found.
        rows: u32,
        /// Whether there are more.
        more: bool,
    },
    /// A write of one key.
    Put {
        /// The key.
        key: Cut,
        /// The value.
        value: Cut,
    },
    /// A removal of one key.
    Remove {
        /// The key.
        key: Cut,
    },
    /// A removal of many keys.
    RemoveRange {
        /// First key of the range.
        start: Cut,
        /// First key behind the range.
        end: Option<Cut>,
        /// Rows that it removed.
        removed: u64,
    },
}

/// One run of a command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attempt {
    /// Its place in the entry.
    pub position: u32,
    /// The fuel that it used.
    pub fuel: u64,
    /// The lines that the guest logged.
    pub lines: Vec<LogLine>,
    /// Its calls of the store, in order.
    pub calls: Vec<StoreCall>,
    /// Calls that were left out, because there were too many.
    pub calls_left_out: u64,
}

/// Makes instances that keep what they do. Clones share what is kept.
#[derive(Clone)]
pub(crate) struct Traced {
    component: Component,
    attempts: Arc<Mutex<Vec<Attempt>>>,
}

impl Traced {
    /// Makes instances of `component` that add to `attempts`.
    pub(crate) fn new(component: &Component, attempts: &Arc<Mutex<Vec<Attempt>>>) -> Traced {
        Traced { component: component.clone(), attempts: attempts.clone() }
    }
}

impl Instances for Traced {
    fn fresh(&self) -> Result<Box<dyn Instance>, HostFault> {
        let mut instance = ApplyInstance::new(&self.component)?;
        instance.keep_lines();
        Ok(Box::new(TracedInstance { instance, attempts: self.attempts.clone() }))
    }
}

struct TracedInstance {
    instance: ApplyInstance,
    attempts: Arc<Mutex<Vec<Attempt>>>,
}

impl Instance for TracedInstance {
    fn served(&self) -> u32 {
        self.instance.served()
    }

    fn apply(&mut self, call: Call<'_>, store: Box<dyn Rows>) -> (Result<Verdict, HostFault>, Box<dyn Rows>) {
        let calls = Arc::<Mutex<Calls>>::default();
        let traced = Box::new(TracedRows { inner: store, calls: calls.clone() });
        let (verdict, traced) = self.instance.apply(call, traced);
        let traced = traced.into_any().downcast::<TracedRows>().expect("the store that was given comes back");
        let Calls { list, left_out } = std::mem::take(&mut *calls.lock());
        self.attempts.lock().push(Attempt {
            position: call.context.position,
            fuel: self.instance.fuel_used(),
            lines: self.instance.take_lines(),
            calls: list,
            calls_left_out: left_out,
        });
        (verdict, traced.inner)
    }

    fn fuel_used(&self) -> u64 {
        self.instance.fuel_used()
    }

    fn fuel_of_start(&self) -> u64 {
        self.instance.fuel_of_start()
    }
}

#[derive(Default)]
struct Calls {
    list: Vec<StoreCall>,
    left_out: u64,
}

/// A store that keeps what is asked of it.
struct TracedRows {
    inner: Box<dyn Rows>,
    calls: Arc<Mutex<Calls>>,
}

impl TracedRows {
    fn keep(&self, call: impl FnOnce() -> StoreCall) {
        let mut calls = self.calls.lock();
        if calls.list.len() == CALLS_MAX {
            calls.left_out += 1;
        } else {
            calls.list.push(call());
        }
    }
}

impl Rows for TracedRows {
    fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreFault> {
        let value = self.inner.get(key)?;
        self.keep(|| StoreCall::Get { key: Cut::of(key), value: value.as_deref().map(Cut::of) });
        Ok(value)
    }

    fn scan(&mut self, range: Range<'_>, reverse: bool, limit: u32) -> Result<Page, StoreFault> {
        let page = self.inner.scan(range, reverse, limit)?;
        self.keep(|| StoreCall::Scan {
            start: Cut::of(range.start),
            end: range.end.map(Cut::of),
            reverse,
            limit,
            rows: count(&page.rows),
            more: page.more,
        });
        Ok(page)
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreFault> {
        self.keep(|| StoreCall::Put { key: Cut::of(key), value: Cut::of(value) });
        self.inner.put(key, value)
    }

    fn remove(&mut self, key: &[u8]) -> Result<(), StoreFault> {
        self.keep(|| StoreCall::Remove { key: Cut::of(key) });
        self.inner.remove(key)
    }

    fn remove_range(&mut self, range: Range<'_>, limit: u64) -> Result<u64, StoreFault> {
        let removed = self.inner.remove_range(range, limit)?;
        self.keep(|| StoreCall::RemoveRange { start: Cut::of(range.start), end: range.end.map(Cut::of), removed });
        Ok(removed)
    }

    fn passed_over(&mut self) -> u64 {
        self.inner.passed_over()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// Counts the rows of a page.
fn count(mut rows: &[u8]) -> u32 {
    let mut count = 0;
    while let Some((head, rest)) = rows.split_first_chunk::<ROW_HEAD_BYTES>() {
        let length =
            |at: usize| head[at..at + 4].iter().rev().fold(0, |sum: usize, byte| sum << 8 | usize::from(*byte));
        rows = rest.get(length(0) + length(4)..).unwrap_or_default();
        count += 1;
    }
    count
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A store with one row.
    struct One;

    impl Rows for One {
        fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreFault> {
            Ok((key == b"a").then(|| b"1".to_vec()))
        }

        fn scan(&mut self, _: Range<'_>, _: bool, _: u32) -> Result<Page, StoreFault> {
            let mut page = Page::default();
            page.push(b"a", b"1");
            page.push(b"bb", &[7; 300]);
            Ok(page)
        }

        fn put(&mut self, _: &[u8], _: &[u8]) -> Result<(), StoreFault> {
            Ok(())
        }

        fn remove(&mut self, _: &[u8]) -> Result<(), StoreFault> {
            Ok(())
        }

        fn remove_range(&mut self, _: Range<'_>, _: u64) -> Result<u64, StoreFault> {
            Ok(1)
        }

        fn into_any(self: Box<Self>) -> Box<dyn Any> {
            self
        }
    }

    #[test]
    fn every_call_is_kept_with_its_answer_up_to_a_number() {
        let calls = Arc::<Mutex<Calls>>::default();
        let mut rows = TracedRows { inner: Box::new(One), calls: calls.clone() };
        rows.get(b"a").unwrap();
        rows.get(b"b").unwrap();
        rows.scan(Range { start: b"a", end: None }, true, 3).unwrap();
        rows.put(b"k", &[7; BYTES_MAX + 1]).unwrap();
        rows.remove_range(Range { start: b"a", end: Some(b"b") }, 0).unwrap();
        let kept = calls.lock().list.clone();
        assert_eq!(kept[0], StoreCall::Get { key: Cut::of(b"a"), value: Some(Cut::of(b"1")) });
        assert_eq!(kept[1], StoreCall::Get { key: Cut::of(b"b"), value: None });
        let scan = StoreCall::Scan { start: Cut::of(b"a"), end: None, reverse: true, limit: 3, rows: 2, more: false };
        assert_eq!(kept[2], scan);
        let StoreCall::Put { value, .. } = &kept[3] else { panic!("a write") };
        assert_eq!((value.is_whole(), value.bytes, value.kept.len()), (false, BYTES_MAX + 1, BYTES_MAX));
        assert!(matches!(&kept[4], StoreCall::RemoveRange { removed: 1, .. }));
        for _ in 0..CALLS_MAX {
            rows.remove(b"a").unwrap();
        }
        let kept = calls.lock();
        assert_eq!((kept.list.len(), kept.left_out), (CALLS_MAX, 5));
        drop(kept);
        assert!(rows.into_any_box().is::<One>());
    }

    impl TracedRows {
        fn into_any_box(self) -> Box<dyn Any> {
            self.inner.into_any()
        }
    }
}
