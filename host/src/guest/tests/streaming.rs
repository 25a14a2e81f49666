//! Tests of the guest's own snapshot and restore.

use std::sync::Mutex;

use super::super::limits::Budget;
use super::*;

#[derive(Clone, Default)]
pub(super) struct Shared(Arc<Mutex<Vec<u8>>>);

impl SnapshotSink for Shared {
    fn write(&mut self, chunk: &[u8]) -> Result<(), String> {
        self.0.lock().unwrap().extend_from_slice(chunk);
        Ok(())
    }
}

impl SnapshotSource for Shared {
    fn read(&mut self, bytes_max: usize) -> Result<Vec<u8>, String> {
        let mut left = self.0.lock().unwrap();
        let take = left.len().min(bytes_max);
        Ok(left.drain(..take).collect())
    }
}

struct Broken;

impl SnapshotSink for Broken {
    fn write(&mut self, _: &[u8]) -> Result<(), String> {
        Err("the receiver is gone".to_owned())
    }
}

/// Makes a guest that writes the value of `v`, and reads it back in pieces of one byte.
fn guest() -> Component {
    let key = r#"(data (i32.const 600) "v")"#;
    let snapshot = "(call $get (i32.const 600) (i32.const 1) (i32.const 64))
        (call $sink (i32.load (i32.const 68)) (i32.load (i32.const 72))) (call $ok)";
    let restore = "(local $at i32) (local.set $at (i32.const 1024))
        (block $end (loop $more
          (call $source (i32.const 1) (i32.const 64))
          (br_if $end (i32.eqz (i32.load (i32.const 68))))
          (i32.store8 (local.get $at) (i32.load8_u (i32.load (i32.const 64))))
          (local.set $at (i32.add (local.get $at) (i32.const 1)))
          (br $more)))
        (call $put (i32.const 600) (i32.const 1) (i32.const 1024) (i32.sub (local.get $at) (i32.const 1024)))
        (call $ok)";
    Text { snapshot, restore, more: key, ..Text::default() }.load()
}

#[test]
fn restore_rebuilds_what_snapshot_wrote() {
    let component = guest();
    let state = Map { rows: [(b"v".to_vec(), b"value".to_vec())].into(), broken: false };
    let stream = Shared::default();
    let verdict = snapshot_of(&component, state.clone(), stream.clone());
    assert_eq!(verdict.unwrap(), Verdict::Reply(Bytes::new()));
    assert_eq!(*stream.0.lock().unwrap(), b"value");
    let (verdict, restored) = restore_of(&component, stream);
    assert_eq!(verdict.unwrap(), Verdict::Reply(Bytes::new()));
    assert_eq!(restored, state);
}

#[test]
fn receiver_that_goes_away_ends_the_snapshot() {
    let verdict = snapshot_of(&guest(), Map::default(), Broken);
    assert_eq!(reason(verdict.unwrap()), Reason::Stream);
}

#[test]
fn snapshot_cannot_write_to_the_store() {
    let snapshot_body = "(call $put (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1)) (call $ok)";
    let component = Text { snapshot: snapshot_body, ..Text::default() }.load();
    let verdict = snapshot_of(&component, Map::default(), Shared::default());
    assert_eq!(reason(verdict.unwrap()), Reason::Forbidden);
}

fn ends_by_its_quiet_deadline(text: Text<'_>, mode: imports::Mode) {
    let component = text.load();
    let exports = component.exports();
    let export = if mode == imports::Mode::Restore { &exports.restore } else { &exports.snapshot };
    let mut sandbox = instance::Sandbox::new(&component).unwrap();
    let stream = Shared(Arc::new(Mutex::new(vec![7; 40])));
    sandbox.state().sink = Some(Box::new(stream.clone()));
    sandbox.state().source = Some(Box::new(stream));
    let (verdict, _) = streams::run(&mut sandbox, export, mode, Context::default(), Box::new(Map::default()), 50);
    assert_eq!(reason(verdict.unwrap()), Reason::Deadline);
}

#[test]
fn stream_that_stands_still_ends_the_call_whatever_the_fuel() {
    let spins = "(loop (br 0)) (call $ok)";
    ends_by_its_quiet_deadline(Text { snapshot: spins, ..Text::default() }, imports::Mode::Snapshot);
    ends_by_its_quiet_deadline(Text { restore: spins, ..Text::default() }, imports::Mode::Restore);
    // Writing or reading no bytes is no progress, nor are calls that do not touch the stream.
    let writes_nothing = "(loop (call $sink (i32.const 0) (i32.const 0)) (br 0)) (call $ok)";
    ends_by_its_quiet_deadline(Text { snapshot: writes_nothing, ..Text::default() }, imports::Mode::Snapshot);
    let reads_past_the_end = "(loop (call $source (i32.const 9) (i32.const 64)) (br 0)) (call $ok)";
    ends_by_its_quiet_deadline(Text { restore: reads_past_the_end, ..Text::default() }, imports::Mode::Restore);
    let gets = "(loop (call $get (i32.const 0) (i32.const 1) (i32.const 64)) (br 0)) (call $ok)";
    ends_by_its_quiet_deadline(Text { restore: gets, ..Text::default() }, imports::Mode::Restore);
}

/// Puts a row of 64 KiB.
const PUT: &str = "(call $put (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 65536))";

#[test]
fn restore_that_writes_far_more_than_it_has_read_is_ended() {
    let for_ever = format!("(loop {PUT} (br 0)) (call $ok)");
    let component = Text { restore: &for_ever, ..Text::default() }.load();
    let (verdict, _) = restore_of(&component, Shared::default());
    match verdict.unwrap() {
        Verdict::Failed(failure) => {
            assert_eq!(failure.reason, Reason::LimitExceeded);
            assert!(failure.detail.contains("written by a restore"), "{}", failure.detail);
        }
        other => panic!("expected a failure, got {other:?}"),
    }
}

#[test]
fn restore_may_write_more_the_more_it_reads() {
    // 1,500 rows are more than a restore may write that has read nothing.
    let restore = format!(
        "(local $n i32)
        (call $source (i32.const 524288) (i32.const 64))
        (loop $more {PUT}
          (br_if $more (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 1500))))
        (call $ok)"
    );
    let component = Text { restore: &restore, ..Text::default() }.load();
    let (verdict, _) = restore_of(&component, Shared::default());
    assert_eq!(reason(verdict.unwrap()), Reason::LimitExceeded);
    let (verdict, _) = restore_of(&component, Shared(Arc::new(Mutex::new(vec![7; 512 << 10]))));
    assert_eq!(verdict.unwrap(), Verdict::Reply(Bytes::new()));
}

#[test]
fn each_row_of_a_restore_counts_more_than_its_bytes() {
    let mut budget = Budget::of_restore(&Limits::default());
    let rows = (0..2_000_000).take_while(|_| budget.take_write(1).is_ok()).count();
    assert!((900_000..1_100_000).contains(&rows), "{rows}");
    // The eight rows of a byte of a bitmap.
    budget.earn_writes(1);
    assert!((0..8).all(|_| budget.take_write(64).is_ok()) && budget.take_write(1 << 10).is_err());
}

/// A disk or a network that is slow for each chunk.
struct Slow;

impl SnapshotSink for Slow {
    fn write(&mut self, _: &[u8]) -> Result<(), String> {
        std::thread::sleep(std::time::Duration::from_millis(2));
        Ok(())
    }
}

#[test]
fn stream_that_moves_may_take_its_time() {
    // Each turn is shorter than the deadline; all of them together are longer.
    let snapshot = "(local $n i32)
        (loop $more (call $sink (i32.const 0) (i32.const 1))
          (br_if $more (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 400))))
        (call $ok)";
    let component = Text { snapshot, ..Text::default() }.load();
    let mut sandbox = instance::Sandbox::new(&component).unwrap();
    sandbox.state().sink = Some(Box::new(Slow));
    let export = &component.exports().snapshot;
    let began = std::time::Instant::now();
    let (verdict, _) =
        streams::run(&mut sandbox, export, imports::Mode::Snapshot, Context::default(), Box::new(Map::default()), 500);
    assert_eq!(verdict.unwrap(), Verdict::Reply(Bytes::new()));
    assert!(began.elapsed().as_millis() > 500, "it did not take longer than the deadline: {:?}", began.elapsed());
}

/// A sender that digests its rows before it reports that the guest has no more frames, and a disk
/// that hangs for a while.
struct Sluggish(Map);

const SLUGGISH: std::time::Duration = std::time::Duration::from_secs(1);

impl SnapshotSource for Sluggish {
    fn read(&mut self, _: usize) -> Result<Vec<u8>, String> {
        std::thread::sleep(SLUGGISH);
        Ok(Vec::new())
    }
}

impl Rows for Sluggish {
    fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreFault> {
        self.0.get(key)
    }

    fn scan(&mut self, range: Range<'_>, reverse: bool, limit: u32) -> Result<Page, StoreFault> {
        self.0.scan(range, reverse, limit)
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreFault> {
        std::thread::sleep(SLUGGISH);
        self.0.put(key, value)
    }

    fn remove(&mut self, key: &[u8]) -> Result<(), StoreFault> {
        self.0.remove(key)
    }

    fn remove_range(&mut self, range: Range<'_>, limit: u64) -> Result<u64, StoreFault> {
        self.0.remove_range(range, limit)
    }

    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}

/// Time that the host takes is not the guest's time. Otherwise a restore would end as unfaithful
/// when the sender reads its rows a second time, between the guest's last frame and the next one,
/// for longer than the guest's quiet deadline.
#[test]
fn what_the_host_waits_for_is_no_time_of_the_guest() {
    let component = guest();
    let mut sandbox = instance::Sandbox::new(&component).unwrap();
    sandbox.state().source = Some(Box::new(Sluggish(Map::default())));
    let (export, store) = (&component.exports().restore, Box::new(Sluggish(Map::default())));
    let quiet_ms = SLUGGISH.as_millis() as u32 * 2 / 5;
    let (verdict, _) = streams::run(&mut sandbox, export, imports::Mode::Restore, Context::default(), store, quiet_ms);
    assert_eq!(verdict.unwrap(), Verdict::Reply(Bytes::new()));
}
