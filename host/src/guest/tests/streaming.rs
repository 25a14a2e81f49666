//! The guest's own snapshot and restore.

use std::sync::Mutex;

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

/// Writes the value of `v`, and reads it back in pieces of one byte.
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
    let verdict = snapshot(&component, Context::default(), Box::new(state.clone()), Box::new(stream.clone()));
    assert_eq!(verdict.unwrap(), Verdict::Reply(Bytes::new()));
    assert_eq!(*stream.0.lock().unwrap(), b"value");
    let (verdict, restored) = restore(&component, Context::default(), Box::new(Map::default()), Box::new(stream));
    assert_eq!(verdict.unwrap(), Verdict::Reply(Bytes::new()));
    assert_eq!(map(restored), state);
}

#[test]
fn receiver_that_goes_away_ends_the_snapshot() {
    let verdict = snapshot(&guest(), Context::default(), Box::new(Map::default()), Box::new(Broken));
    assert_eq!(reason(verdict.unwrap()), Reason::Stream);
}

#[test]
fn snapshot_cannot_write_to_the_store() {
    let snapshot_body = "(call $put (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1)) (call $ok)";
    let component = Text { snapshot: snapshot_body, ..Text::default() }.load();
    let verdict = snapshot(&component, Context::default(), Box::new(Map::default()), Box::new(Shared::default()));
    assert_eq!(reason(verdict.unwrap()), Reason::Forbidden);
}
