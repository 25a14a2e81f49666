//! Tests of calls of `migrate`: what they may do, what they are told, and how they end.

use super::*;

/// How a migration returns: `$done`, or `$on` with the cursor of the next call.
const RETURNS: &str = "
  (func $done (result i32) (i32.store8 (i32.const 256) (i32.const 0)) (i32.store8 (i32.const 260) (i32.const 1))
    (i32.store (i32.const 264) (i32.const 0)) (i32.store (i32.const 268) (i32.const 0)) (i32.const 256))
  (func $on (param $at i32) (param $length i32) (result i32)
    (i32.store8 (i32.const 256) (i32.const 0)) (i32.store8 (i32.const 260) (i32.const 0))
    (i32.store (i32.const 264) (local.get $at)) (i32.store (i32.const 268) (local.get $length)) (i32.const 256))";

const HASH: [u8; 32] = [7; 32];

fn guest(migrate: &str) -> Component {
    Text { migrate: Some(migrate), more: RETURNS, ..Text::default() }.load()
}

type Called = (Result<(Migrated, u64), HostFault>, Map);

fn one_call(component: &Component, cursor: &[u8], fuel: u64, before: Map) -> Called {
    let context = Context { index: 7, position: 0, time_ms: 1_000 };
    let from = Predecessor { hash: &HASH, version: "1.0" };
    let (called, store) = migrate(component, context, from, cursor, fuel, Box::new(before));
    (called, map(store))
}

fn plenty() -> u64 {
    Limits::default().migration_fuel()
}

/// Makes the first call of a migration with this body.
fn first(body: &str) -> (Migrated, Map) {
    let (called, after) = one_call(&guest(body), b"", plenty(), Map::default());
    (called.unwrap().0, after)
}

fn failed(body: &str) -> Failure {
    match first(body).0 {
        Migrated::Failed(failure) => failure,
        other => panic!("expected a failure, got {other:?}"),
    }
}

fn rows(count: u8, value: &[u8]) -> Map {
    Map { rows: (0..count).map(|key| (vec![b'k', key], value.to_vec())).collect(), broken: false }
}

/// Rewrites the first row behind the cursor, whose key and a zero byte are the next cursor.
const ROW_BY_ROW: &str = r#"(local $row i32) (local $key_length i32)
    (call $scan (local.get $cursor) (local.get $cursor_length) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 64))
    (if (i32.eqz (i32.load (i32.const 68))) (then (return (call $done))))
    (local.set $row (i32.load (i32.const 64)))
    (local.set $key_length (i32.load (local.get $row)))
    (memory.copy (i32.const 1024) (i32.add (local.get $row) (i32.const 8)) (local.get $key_length))
    (i32.store8 (i32.add (i32.const 1024) (local.get $key_length)) (i32.const 0))
    (i32.store (i32.const 512) (i32.const 0x0077656e))
    (call $put (i32.const 1024) (local.get $key_length) (i32.const 512) (i32.const 3))
    (call $on (i32.const 1024) (i32.add (local.get $key_length) (i32.const 1)))"#;

#[test]
fn calls_hand_the_cursor_on_until_one_is_done() {
    let component = guest(ROW_BY_ROW);
    let (mut state, mut cursor, mut calls) = (rows(5, b"old"), Bytes::new(), 0);
    loop {
        let (called, after) = one_call(&component, &cursor, plenty(), state);
        (state, calls) = (after, calls + 1);
        match called.unwrap().0 {
            Migrated::More(next) => cursor = next,
            ended => break assert_eq!(ended, Migrated::Done),
        }
    }
    assert_eq!((calls, state), (6, rows(5, b"new")));
}

#[test]
fn a_call_is_told_what_ran_before_and_where_it_is() {
    let body = r#"
        (if (i64.ne (local.get $index) (i64.const 7)) (then unreachable))
        (if (i32.ne (local.get $position) (i32.const 0)) (then unreachable))
        (if (i64.ne (local.get $time) (i64.const 1000)) (then unreachable))
        (call $caller (i32.const 64))
        (if (i32.load (i32.const 68)) (then unreachable))
        (i32.store (i32.const 512) (i32.const 0x63766800))
        (call $put (i32.const 513) (i32.const 1) (local.get $hash) (local.get $hash_length))
        (call $put (i32.const 514) (i32.const 1) (local.get $version) (local.get $version_length))
        (call $put (i32.const 515) (i32.const 1) (local.get $cursor) (local.get $cursor_length))
        (call $log (i32.const 1) (i32.const 513) (i32.const 3))
        (call $done)"#;
    let (called, after) = one_call(&guest(body), b"the cursor", plenty(), Map::default());
    assert_eq!(called.unwrap().0, Migrated::Done);
    let told: [(&[u8], &[u8]); 3] = [(b"c", b"the cursor"), (b"h", &HASH), (b"v", b"1.0")];
    assert_eq!(after.rows, told.map(|(key, value)| (key.to_vec(), value.to_vec())).into());
}

#[test]
fn a_guest_without_migrator_is_done_and_changes_nothing() {
    let component = Text::default().load();
    let (called, after) = one_call(&component, b"", plenty(), rows(3, b"old"));
    assert_eq!((called, after), (Ok((Migrated::Done, 0)), rows(3, b"old")));
}

#[test]
fn a_refusal_is_the_guest_s_own() {
    let body = r#"(i32.store (i32.const 512) (i32.const 0x20746f6e)) (i32.store (i32.const 516) (i32.const 0x21776f6e))
        (call $put (i32.const 512) (i32.const 1) (i32.const 512) (i32.const 1))
        (call $refuse (i32.const 9) (i32.const 512) (i32.const 8))"#;
    let (ended, after) = first(body);
    assert_eq!(ended, Migrated::Refused(Status { code: 9, message: "not now!".to_owned(), details: vec![] }));
    assert_eq!(after.rows.len(), 1, "the caller undoes what the call wrote");
    let (ended, _) = first("(call $refuse (i32.const 99) (i32.const 0) (i32.const 0))");
    assert!(matches!(ended, Migrated::Refused(Status { code: 13, .. })), "{ended:?}");
}

#[test]
fn failures_have_the_reasons_of_commands() {
    let cases = [
        ("unreachable", Reason::Trap),
        ("(loop (br 0)) (call $done)", Reason::Fuel),
        ("(call $abort (i32.const 0) (i32.const 0)) (call $done)", Reason::Aborted),
        ("(i32.const 7)", Reason::MalformedReply),
        ("(call $put (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)) (call $done)", Reason::LimitExceeded),
        ("(call $status (i32.const 64)) (call $done)", Reason::Forbidden),
        ("(call $sink (i32.const 0) (i32.const 1)) (call $done)", Reason::Forbidden),
        ("(call $source (i32.const 1) (i32.const 64)) (call $done)", Reason::Forbidden),
    ];
    for (body, reason) in cases {
        let failure = failed(body);
        assert_eq!(failure.reason, reason, "{body}");
        assert!(failure.detail.starts_with("migrate at index 7, position 0: "), "{body}: {}", failure.detail);
    }
}

#[test]
fn a_cursor_is_bounded_and_may_stay() {
    let (ended, _) = first("(call $on (i32.const 1024) (i32.const 4096))");
    assert!(matches!(ended, Migrated::More(cursor) if cursor.len() == 4_096));
    let oversized = failed("(call $on (i32.const 1024) (i32.const 4097))");
    assert_eq!(oversized.reason, Reason::OversizedReply);
    assert!(oversized.detail.contains("the cursor has 4097 bytes, the limit is 4096"), "{}", oversized.detail);

    // A migration that removes what it has done begins at the same place each time.
    let (same, _) = first("(call $on (i32.const 1024) (i32.const 0))");
    assert_eq!(same, Migrated::More(Bytes::new()));

    let done = "(drop (call $on (i32.const 1024) (i32.const 5000))) (i32.store8 (i32.const 260) (i32.const 1)) (i32.const 256)";
    assert_eq!(first(done).0, Migrated::Done, "nobody needs the cursor of a call that is done");
}

#[test]
fn a_call_may_write_more_than_a_command_and_not_without_end() {
    let writes = |mib: u32| {
        let body = format!(
            "(local $left i32) (local.set $left (i32.const {mib})) (drop (memory.grow (i32.const 32)))
            (loop $more
              (call $put (i32.const 600) (i32.const 1) (i32.const 0) (i32.const 1048575))
              (br_if $more (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
            (call $done)"
        );
        first(&body).0
    };
    assert_eq!(writes(64), Migrated::Done);
    assert!(matches!(writes(65), Migrated::Failed(failure) if failure.reason == Reason::LimitExceeded));
}

#[test]
fn the_store_s_budget_is_that_of_fifty_commands() {
    let calls = |count: u32| {
        let body = format!(
            "(local $left i32) (local.set $left (i32.const {count}))
            (loop $more
              (call $remove (i32.const 600) (i32.const 1))
              (br_if $more (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
            (call $done)"
        );
        one_call(&guest(&body), b"", 1 << 40, Map::default()).0.unwrap().0
    };
    assert_eq!(calls(5_000_000), Migrated::Done);
    assert!(matches!(calls(5_000_001), Migrated::Failed(failure) if failure.reason == Reason::StoreBudget));
}

#[test]
fn the_caller_decides_the_fuel_and_gets_the_same_count_each_time() {
    let component = guest(ROW_BY_ROW);
    let used = |fuel: u64| {
        let (called, _) = one_call(&component, b"", fuel, rows(1, b"old"));
        called.unwrap()
    };
    let (ended, fuel) = used(plenty());
    assert!(matches!(ended, Migrated::More(_)) && fuel > 9_000, "a scan and a put have their price: {fuel}");
    assert_eq!(used(plenty()).1, fuel);
    assert!(matches!(used(fuel / 2).0, Migrated::Failed(failure) if failure.reason == Reason::Fuel));
}

#[test]
fn start_functions_count_for_every_call() {
    let fuel = |more: &str| {
        let component = Text { migrate: Some("(call $done)"), more, ..Text::default() }.load();
        one_call(&component, b"", plenty(), Map::default()).0.unwrap().1
    };
    let start = "(func $warm (local i32) (loop (br_if 0 (i32.lt_u (local.tee 0 (i32.add (local.get 0) (i32.const 1))) (i32.const 1000)))))
        (start $warm)";
    assert!(fuel(&format!("{RETURNS} {start}")) > fuel(RETURNS) + 3_000);
}

#[test]
fn each_call_has_a_fresh_instance() {
    let body = "(i32.store8 (i32.const 512) (i32.add (i32.load8_u (i32.const 512)) (i32.const 1)))
        (call $put (i32.const 600) (i32.const 1) (i32.const 512) (i32.const 1)) (call $done)";
    let component = guest(body);
    for _ in 0..50 {
        let (called, after) = one_call(&component, b"", plenty(), Map::default());
        assert_eq!((called.unwrap().0, after.rows.into_values().next()), (Migrated::Done, Some(vec![1])));
    }
}

#[test]
fn a_failed_disk_is_a_host_fault_and_the_store_comes_back() {
    let broken = Map { broken: true, ..rows(1, b"old") };
    let (called, after) = one_call(&guest(ROW_BY_ROW), b"", plenty(), broken);
    assert_eq!((called.unwrap_err().0.as_str(), after.broken), ("the disk is gone", true));
}

#[test]
fn queries_of_a_guest_that_migrates_cannot_write() {
    let query = "(call $put (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1)) (call $ok)";
    let component = Text { query, migrate: Some("(call $done)"), more: RETURNS, ..Text::default() }.load();
    let mut instance = QueryInstance::new(&component).unwrap().unwrap();
    let (verdict, _) = instance.query(call(b""), Box::new(Map::default()), Arc::new(String::new));
    assert_eq!(reason(verdict.unwrap()), Reason::Forbidden);
}
