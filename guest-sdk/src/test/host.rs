//! The imports of `machine.wit` in an ordinary process: one store in memory per call, with the
//! host's rules about who may write and how much. A broken rule ends the call, as in wasm.

use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::host::Page;
use crate::limits::{
    CHUNK_BYTES_MAX, COMMAND_WRITE_BYTES_MAX, KEY_BYTES_MAX, KEYS_REMOVED_MAX, LOG_BYTES_MAX, STORE_BYTES_MAX,
    STORE_CALLS_MAX, VALUE_BYTES_MAX,
};
use crate::log::Level;
use crate::status::Status;
use crate::value::describe;

/// Most bytes of rows in one page; the host's store sends as many at once.
const PAGE_BYTES_MAX: usize = 256 * 1024;

/// Rows of a store.
pub(crate) type Store = BTreeMap<Vec<u8>, Vec<u8>>;

/// The writes of a call: each key with its new value, or `None` for a removal.
pub(crate) type Writes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Apply,
    Query,
    Watch,
    Snapshot,
    Restore,
    Migrate,
}

/// State of the host during a call, and what the call left behind.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) mode: Mode,
    pub(crate) store: Store,
    pub(crate) caller: String,
    pub(crate) node_status: String,
    pub(crate) reads: Reads,
    pub(crate) lines: Vec<(Level, String)>,
    pub(crate) sink: Vec<u8>,
    pub(crate) source: Vec<u8>,
    /// Values of the written keys before the call.
    before: Writes,
    written_bytes: usize,
    store_calls: usize,
    store_bytes: usize,
    keys_removed: usize,
    log_bytes: usize,
}

/// Keys and ranges that a step read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reads {
    keys: Vec<Vec<u8>>,
    /// Each with its start, and its end if it has one.
    ranges: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Reads {
    pub(crate) fn touched_by(&self, writes: &Writes) -> bool {
        self.keys.iter().any(|key| writes.contains_key(key))
            || self
                .ranges
                .iter()
                .any(|(start, end)| writes.keys().any(|key| key >= start && end.as_ref().is_none_or(|end| key < end)))
    }
}

impl Call {
    pub(crate) fn new(mode: Mode, store: Store) -> Self {
        Self {
            mode,
            store,
            caller: String::new(),
            node_status: String::new(),
            reads: Reads::default(),
            lines: Vec::new(),
            sink: Vec::new(),
            source: Vec::new(),
            before: Writes::new(),
            written_bytes: 0,
            store_calls: 0,
            store_bytes: 0,
            keys_removed: 0,
            log_bytes: 0,
        }
    }

    /// Runs guest code with this call as its host.
    ///
    /// A panic becomes INTERNAL. On any error the writes are undone.
    pub(crate) fn run<T>(mut self, code: impl FnOnce() -> Result<T, Status>) -> (Self, Result<T, Status>) {
        HOST.with_borrow_mut(|host| {
            assert!(host.is_none(), "a handler cannot use the harness");
            *host = Some(self);
        });
        let outcome = catch_unwind(AssertUnwindSafe(code)).unwrap_or_else(|panic| Err(explain(&*panic)));
        self = HOST.take().expect("the call is still there");
        if outcome.is_err() {
            self.undo();
        }
        (self, outcome)
    }

    pub(crate) fn writes(&self) -> Writes {
        self.before.keys().map(|key| (key.clone(), self.store.get(key).cloned())).collect()
    }

    /// Returns the store as it was before the call.
    pub(crate) fn into_store_before(mut self) -> Store {
        self.undo();
        self.store
    }

    fn undo(&mut self) {
        for (key, value) in std::mem::take(&mut self.before) {
            match value {
                Some(value) => self.store.insert(key, value),
                None => self.store.remove(&key),
            };
        }
    }

    fn set(&mut self, what: &str, key: &[u8], value: Option<&[u8]>) {
        self.may_write(what, key);
        check_key(key);
        let value_len = value.map_or(0, <[u8]>::len);
        if value_len > VALUE_BYTES_MAX {
            end(Status::resource_exhausted(format!(
                "the value of key {} has {value_len} bytes; at most {VALUE_BYTES_MAX}",
                describe(key)
            )));
        }
        self.count_written(key.len() + value_len);
        self.replace(key, value);
    }

    fn count_written(&mut self, bytes: usize) {
        self.written_bytes += bytes;
        if self.is_bounded() && self.written_bytes > COMMAND_WRITE_BYTES_MAX {
            end(Status::resource_exhausted(format!("one command writes at most {COMMAND_WRITE_BYTES_MAX} bytes")));
        }
    }

    /// Tells whether what the call writes has a limit.
    fn is_bounded(&self) -> bool {
        matches!(self.mode, Mode::Apply | Mode::Migrate)
    }

    /// Returns the bytes of keys and values that the call wrote.
    pub(crate) fn written_bytes(&self) -> usize {
        self.written_bytes
    }

    fn replace(&mut self, key: &[u8], value: Option<&[u8]>) {
        let old = match value {
            Some(value) => self.store.insert(key.to_vec(), value.to_vec()),
            None => self.store.remove(key),
        };
        self.before.entry(key.to_vec()).or_insert(old);
    }

    /// Counts store calls and the bytes that they move. Snapshots and restores have no limit of
    /// them.
    fn spend(&mut self, calls: usize, bytes: usize) {
        self.store_calls += calls;
        self.store_bytes += bytes;
        if matches!(self.mode, Mode::Snapshot | Mode::Restore) {
            return;
        }
        if self.store_calls > STORE_CALLS_MAX {
            end(Status::resource_exhausted(format!(
                "one call of the guest makes at most {STORE_CALLS_MAX} calls of store"
            )));
        }
        if self.store_bytes > STORE_BYTES_MAX {
            end(Status::resource_exhausted(format!(
                "one call of the guest reads and writes at most {STORE_BYTES_MAX} bytes of store"
            )));
        }
    }

    fn may_write(&self, what: &str, key: &[u8]) {
        if !matches!(self.mode, Mode::Apply | Mode::Migrate | Mode::Restore) {
            end(Status::internal(format!(
                "{what} at key {} in a {:?}, which must not write",
                describe(key),
                self.mode
            )));
        }
    }

    fn only_in(&self, mode: Mode, what: &str) {
        if self.mode != mode {
            end(Status::internal(format!("{what} is for {mode:?} only, not for {:?}", self.mode)));
        }
    }
}

thread_local! {
    static HOST: RefCell<Option<Call>> = const { RefCell::new(None) };
}

/// Payload that ends the running call with a status, without the output of a panic.
struct Ended(Status);

fn end(status: Status) -> ! {
    resume_unwind(Box::new(Ended(status)))
}

fn explain(panic: &(dyn Any + Send)) -> Status {
    if let Some(Ended(status)) = panic.downcast_ref() {
        return status.clone();
    }
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    Status::internal(format!("the guest panicked: {message}"))
}

fn with<T>(f: impl FnOnce(&mut Call) -> T) -> T {
    HOST.with_borrow_mut(|host| {
        let call = host.as_mut().expect("the state can be used in a handler only, or through Harness::inspect");
        f(call)
    })
}

fn check_key(key: &[u8]) {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        end(Status::resource_exhausted(format!(
            "a key has {} bytes; from 1 to {KEY_BYTES_MAX} are possible",
            key.len()
        )));
    }
}

/// Checks the bounds of a range. A bound may be one byte longer than a key: the least byte string
/// above the longest key has that length.
fn check_bounds(start: &[u8], end: Option<&[u8]>) {
    for (what, bound) in [("start", Some(start)), ("end", end)] {
        let len = bound.map_or(0, <[u8]>::len);
        if len > KEY_BYTES_MAX + 1 {
            self::end(Status::resource_exhausted(format!(
                "the {what} of the range has {len} bytes; at most {} are possible",
                KEY_BYTES_MAX + 1
            )));
        }
    }
}

pub(crate) fn get(key: &[u8]) -> Option<Vec<u8>> {
    check_key(key);
    with(|call| {
        let value = call.store.get(key).cloned();
        call.spend(1, key.len() + value.as_ref().map_or(0, Vec::len));
        call.reads.keys.push(key.to_vec());
        value
    })
}

pub(crate) fn scan(start: &[u8], end: Option<&[u8]>, reverse: bool, limit: u32) -> Page {
    check_bounds(start, end);
    with(|call| {
        let page = scan_store(&call.store, start, end, reverse, limit);
        call.spend(1, start.len() + end.map_or(0, <[u8]>::len) + page.page.rows.len());
        let mut looked_at = (start.to_vec(), end.map(<[u8]>::to_vec));
        if let (true, Some(last)) = (page.page.more, page.last) {
            if reverse {
                looked_at.0 = last;
            } else {
                looked_at.1 = Some([last.as_slice(), &[0]].concat());
            }
        }
        call.reads.ranges.push(looked_at);
        page.page
    })
}

struct Scanned {
    page: Page,
    last: Option<Vec<u8>>,
}

fn scan_store(store: &Store, start: &[u8], end: Option<&[u8]>, reverse: bool, limit: u32) -> Scanned {
    let mut scanned = Scanned { page: Page::default(), last: None };
    if end.is_some_and(|end| end <= start) {
        return scanned;
    }
    let upper = end.map_or(Bound::Unbounded, Bound::Excluded);
    let rows = store.range::<[u8], _>((Bound::Included(start), upper));
    let rows: Box<dyn Iterator<Item = _>> = if reverse { Box::new(rows.rev()) } else { Box::new(rows) };
    for (count, (key, value)) in (0_u32..).zip(rows) {
        let bytes = scanned.page.rows.len() + 8 + key.len() + value.len();
        let full = (limit != 0 && count == limit) || (count > 0 && bytes > PAGE_BYTES_MAX);
        if full {
            scanned.page.more = true;
            break;
        }
        let out = &mut scanned.page.rows;
        for len in [key.len(), value.len()] {
            out.extend_from_slice(&u32::try_from(len).expect("within limits").to_le_bytes());
        }
        out.extend_from_slice(key);
        out.extend_from_slice(value);
        scanned.last = Some(key.clone());
    }
    scanned
}

pub(crate) fn put(key: &[u8], value: &[u8]) {
    with(|call| {
        call.spend(1, key.len() + value.len());
        call.set("put", key, Some(value));
    });
}

pub(crate) fn remove(key: &[u8]) {
    with(|call| {
        call.spend(1, key.len());
        call.set("remove", key, None);
    });
}

pub(crate) fn remove_range(start: &[u8], end: Option<&[u8]>, limit: u32) -> u64 {
    with(|call| {
        // A removal that finds no key counts as a write, too.
        call.may_write("remove-range", start);
        let bounds_len = start.len() + end.map_or(0, <[u8]>::len);
        call.spend(1, bounds_len);
        call.count_written(bounds_len);
        check_bounds(start, end);
        let most = if limit == 0 { usize::MAX } else { limit as usize };
        let keys: Vec<Vec<u8>> = call
            .store
            .range::<[u8], _>((Bound::Included(start), Bound::Unbounded))
            .map(|(key, _)| key.clone())
            .take_while(|key| end.is_none_or(|end| key.as_slice() < end))
            .take(most)
            .collect();
        call.keys_removed += keys.len();
        if call.is_bounded() && call.keys_removed > KEYS_REMOVED_MAX {
            self::end(Status::resource_exhausted(format!(
                "one command removes at most {KEYS_REMOVED_MAX} keys by range"
            )));
        }
        for key in &keys {
            call.replace(key, None);
        }
        keys.len() as u64
    })
}

pub(crate) fn caller() -> String {
    with(|call| call.caller.clone())
}

pub(crate) fn node_status() -> String {
    with(|call| {
        call.only_in(Mode::Query, "node.status");
        call.node_status.clone()
    })
}

pub(crate) fn log(level: Level, message: &str) {
    with(|call| {
        // A line that does not fit uses up the room, so later lines are dropped, too.
        call.log_bytes = call.log_bytes.saturating_add(message.len());
        if call.log_bytes <= LOG_BYTES_MAX {
            call.lines.push((level, message.to_owned()));
        }
    });
}

pub(crate) fn sink_write(chunk: &[u8]) {
    with(|call| {
        call.only_in(Mode::Snapshot, "snapshot-sink");
        if chunk.len() > CHUNK_BYTES_MAX {
            end(Status::resource_exhausted("a chunk has at most 1 MiB"));
        }
        call.sink.extend_from_slice(chunk);
    });
}

pub(crate) fn source_read(max: u32) -> Vec<u8> {
    with(|call| {
        call.only_in(Mode::Restore, "snapshot-source");
        let len = call.source.len().min(max as usize);
        call.source.drain(..len).collect()
    })
}
