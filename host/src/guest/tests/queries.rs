//! Tests of what queries and watches may do, and of when they end.

use std::sync::Barrier;

use super::*;

fn status() -> StatusSource {
    Arc::new(|| r#"{"node_id":"1"}"#.to_owned())
}

fn query(body: &str) -> Verdict {
    let component = Text { query: body, ..Text::default() }.load();
    let mut instance = QueryInstance::new(&component).unwrap().unwrap();
    instance.query(call(b"x"), Box::new(Map::default()), status()).0.unwrap()
}

fn step(body: &str) -> Stepped {
    let component = Text { watch: Some(body), ..Text::default() }.load();
    let mut instance = QueryInstance::new(&component).unwrap().unwrap();
    instance.watch(call(b"x"), Cause::Wake, b"memo", Box::new(Map::default())).0.unwrap()
}

#[test]
fn query_reads_the_node_s_status() {
    let body = "(call $status (i32.const 64)) (call $reply (i32.load (i32.const 64)) (i32.load (i32.const 68)))";
    assert_eq!(query(body), Verdict::Reply(Bytes::from_static(br#"{"node_id":"1"}"#)));
}

#[test]
fn query_cannot_write() {
    let put = "(call $put (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1)) (call $ok)";
    let remove = "(call $remove (i32.const 0) (i32.const 1)) (call $ok)";
    let range = "(drop (call $remove_range (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))) (call $ok)";
    for body in [put, remove, range] {
        assert_eq!(reason(query(body)), Reason::Forbidden, "{body}");
    }
}

#[test]
fn query_past_its_deadline_is_ended() {
    let limits = Limits { query_deadline_ms: 50, ..Limits::default() };
    let engine = Engine::new(&limits).unwrap();
    let text = Text { query: "(loop (br 0)) (call $ok)", ..Text::default() };
    let encoded = Component::encode(&typed_module(&text.module(), CONTRACT, "machine-guest")).unwrap();
    let component = Component::load(&engine, &encoded).unwrap();
    let mut instance = QueryInstance::new(&component).unwrap().unwrap();
    let rich = Call { fuel: u64::MAX, ..call(b"") };
    let (verdict, _) = instance.query(rich, Box::new(Map::default()), status());
    assert_eq!(reason(verdict.unwrap()), Reason::Deadline);
    assert!(!instance.usable());
}

#[test]
fn queries_cannot_take_the_instances_of_commands() {
    let limits = Limits::default();
    let engine = Engine::new(&limits).unwrap();
    let encoded = Component::encode(&typed_module(&Text::default().module(), CONTRACT, "machine-guest")).unwrap();
    let component = Component::load(&engine, &encoded).unwrap();
    let mut held: Vec<_> = (0..QUERY_INSTANCES_MAX).map(|_| QueryInstance::new(&component).unwrap().unwrap()).collect();
    assert!(QueryInstance::new(&component).unwrap().is_none());
    let _applies: Vec<_> = (0..4).map(|_| ApplyInstance::new(&component).unwrap()).collect();
    held.pop();
    assert!(QueryInstance::new(&component).unwrap().is_some());
}

/// Both ends of a stream that stands still until it is released.
struct Held(Arc<(Barrier, Barrier)>);

impl Held {
    fn hold(&self) {
        self.0.0.wait();
        self.0.1.wait();
    }
}

impl SnapshotSink for Held {
    fn write(&mut self, _: &[u8]) -> Result<(), String> {
        self.hold();
        Ok(())
    }
}

impl SnapshotSource for Held {
    fn read(&mut self, _: usize) -> Result<Vec<u8>, String> {
        self.hold();
        Ok(Vec::new())
    }
}

#[test]
fn snapshots_and_restores_cannot_take_the_instances_of_commands() {
    let sink = "(call $sink (i32.const 0) (i32.const 1)) (call $ok)";
    let source = "(call $source (i32.const 1) (i32.const 64)) (call $ok)";
    let limits = Limits::default();
    let engine = Engine::new(&limits).unwrap();
    let text = Text { snapshot: sink, restore: source, ..Text::default() };
    let encoded = Component::encode(&typed_module(&text.module(), CONTRACT, "machine-guest")).unwrap();
    let component = &Component::load(&engine, &encoded).unwrap();
    let _queries: Vec<_> = (0..QUERY_INSTANCES_MAX).map(|_| QueryInstance::new(component).unwrap().unwrap()).collect();
    let streams = (SNAPSHOT_INSTANCES_MAX + RESTORE_INSTANCES_MAX) as usize;
    let barriers = Arc::new((Barrier::new(streams + 1), Barrier::new(streams + 1)));
    let held = || Box::new(Held(barriers.clone()));
    std::thread::scope(|scope| {
        for _ in 0..SNAPSHOT_INSTANCES_MAX {
            let (slot, sink) = (snapshot_slot(component).unwrap(), held());
            let run = move || snapshot(component, &slot, Context::default(), Box::new(Map::default()), sink).unwrap();
            std::thread::Builder::new().stack_size(CALLER_STACK_BYTES).spawn_scoped(scope, run).unwrap();
        }
        for _ in 0..RESTORE_INSTANCES_MAX {
            let (slot, source) = (restore_slot(component).unwrap(), held());
            let run =
                move || restore(component, &slot, Context::default(), Box::new(Map::default()), source).0.unwrap();
            std::thread::Builder::new().stack_size(CALLER_STACK_BYTES).spawn_scoped(scope, run).unwrap();
        }
        barriers.0.wait();
        assert!(snapshot_slot(component).is_none() && restore_slot(component).is_none());
        let _applies: Vec<_> = (0..4).map(|_| ApplyInstance::new(component).unwrap()).collect();
        barriers.1.wait();
    });
    assert!(snapshot_slot(component).is_some() && restore_slot(component).is_some());
}

#[test]
fn step_says_what_to_send_and_when_to_run_again() {
    let body = "(i32.store8 (i32.const 256) (i32.const 0))
        (i32.store (i32.const 512) (local.get $request)) (i32.store (i32.const 516) (local.get $length))
        (i32.store (i32.const 264) (i32.const 512)) (i32.store (i32.const 268) (i32.const 1))
        (i32.store (i32.const 272) (local.get $memo)) (i32.store (i32.const 276) (local.get $memo_length))
        (i64.store (i32.const 280) (i64.add (local.get $index) (i64.const 1)))
        (i32.store (i32.const 288) (i32.mul (local.get $cause) (i32.const 100)))
        (i32.store8 (i32.const 292) (i32.const 1))
        (i32.const 256)";
    let expected = Step {
        replies: vec![Bytes::from_static(b"x")],
        memo: Bytes::from_static(b"memo"),
        wake_at_index: 8,
        wake_after_ms: 200,
        done: true,
    };
    assert_eq!(step(body), Stepped::Step(expected));
}

#[test]
fn step_with_an_oversized_memo_fails() {
    let body =
        "(i32.store8 (i32.const 256) (i32.const 0)) (i32.store (i32.const 276) (i32.const 4097)) (i32.const 256)";
    assert!(matches!(step(body), Stepped::Failed(failure) if failure.reason == Reason::OversizedReply));
}

#[test]
fn watch_has_no_status_and_no_writes() {
    let status = "(call $status (i32.const 64)) (i32.const 256)";
    let put = "(call $put (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1)) (i32.const 256)";
    for body in [status, put] {
        assert!(matches!(step(body), Stepped::Failed(failure) if failure.reason == Reason::Forbidden), "{body}");
    }
}
