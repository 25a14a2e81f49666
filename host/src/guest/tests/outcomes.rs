//! Tests of how commands end: every end that the guest causes is an outcome, and those of the host
//! are faults.

use super::*;

#[test]
fn reply_carries_the_bytes_and_keeps_the_instance() {
    let component = Text::default().load();
    let mut instance = ApplyInstance::new(&component).unwrap();
    let mut store: Box<dyn Rows> = Box::new(Map::default());
    for (served, request) in [b"first", b"again"].into_iter().enumerate() {
        assert_eq!(instance.served(), served as u32);
        let (verdict, returned) = instance.apply(call(request), store);
        assert_eq!(verdict.unwrap(), Verdict::Reply(Bytes::from_static(request)));
        assert!(instance.usable() && instance.fuel_used() > 0);
        store = returned;
    }
}

#[test]
fn writes_and_reads_reach_the_store() {
    let body = "(call $put (local.get $request) (i32.const 1) (local.get $request) (local.get $length))
        (call $get (local.get $request) (i32.const 1) (i32.const 64))
        (call $remove (local.get $request) (i32.const 2))
        (call $reply (i32.load (i32.const 68)) (i32.load (i32.const 72)))";
    let before = Map { rows: [(b"ke".to_vec(), b"old".to_vec())].into(), broken: false };
    let (verdict, after) = apply_to(before, body, b"key");
    assert_eq!(verdict, Verdict::Reply(Bytes::from_static(b"key")));
    assert_eq!(after.rows, [(b"k".to_vec(), b"key".to_vec())].into());
}

#[test]
fn scan_returns_rows_in_the_contract_s_framing() {
    let body = "(call $scan (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 64))
        (call $reply (i32.load (i32.const 64)) (i32.load (i32.const 68)))";
    let rows = [(b"a".to_vec(), b"1".to_vec()), (b"b".to_vec(), b"22".to_vec())].into();
    let (verdict, _) = apply_to(Map { rows, broken: false }, body, b"");
    assert_eq!(verdict, Verdict::Reply(Bytes::from_static(b"\x01\0\0\0\x02\0\0\0b22")));
}

#[test]
fn range_that_ends_before_it_starts_is_empty() {
    let body = "(call $scan (local.get $request) (i32.const 1) (i32.const 1) (local.get $request) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 64))
        (drop (call $remove_range (local.get $request) (i32.const 1) (i32.const 1) (local.get $request) (i32.const 1) (i32.const 0)))
        (call $reply (i32.load (i32.const 64)) (i32.load (i32.const 68)))";
    let rows: BTreeMap<_, _> = [(b"a".to_vec(), b"1".to_vec())].into();
    let (verdict, after) = apply_to(Map { rows: rows.clone(), broken: false }, body, b"a");
    assert_eq!(verdict, Verdict::Reply(Bytes::new()));
    assert_eq!(after.rows, rows);
}

#[test]
fn remove_range_says_how_many() {
    let body = "(i64.store (i32.const 512) (call $remove_range (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)))
        (call $reply (i32.const 512) (i32.const 1))";
    let rows = (0..9).map(|key| (vec![key], vec![])).collect();
    let (verdict, after) = apply_to(Map { rows, broken: false }, body, b"");
    assert_eq!(verdict, Verdict::Reply(Bytes::from_static(b"\x09")));
    assert!(after.rows.is_empty());
}

#[test]
fn context_and_caller_reach_the_guest() {
    let body = "(call $caller (i32.const 64))
        (if (i64.ne (local.get $index) (i64.const 7)) (then unreachable))
        (if (i32.ne (local.get $position) (i32.const 2)) (then unreachable))
        (if (i64.ne (local.get $time) (i64.const 1000)) (then unreachable))
        (call $reply (i32.load (i32.const 64)) (i32.load (i32.const 68)))";
    assert_eq!(apply(body, b"").0, Verdict::Reply(Bytes::from_static(b"alice")));
}

#[test]
fn refusal_is_passed_on_and_made_to_fit() {
    let (verdict, _) = apply("(call $refuse (i32.const 9) (local.get $request) (local.get $length))", b"not now");
    let expected = Status { code: 9, message: "not now".to_owned(), details: vec![] };
    assert_eq!(verdict, Verdict::Refused(expected));

    let long = "ä".repeat(1_000);
    let (verdict, _) = apply("(call $refuse (i32.const 99) (local.get $request) (local.get $length))", long.as_bytes());
    let Verdict::Refused(status) = verdict else { panic!("{verdict:?}") };
    assert_eq!((status.code, status.message.len()), (13, 1_024));
}

#[test]
fn failures_have_their_reasons() {
    let grow = "(if (i32.eq (memory.grow (i32.const 1024)) (i32.const -1)) (then unreachable)) (call $ok)";
    let cases = [
        ("unreachable", Reason::Trap),
        ("(i32.load (i32.const -4))", Reason::Trap),
        ("(i32.div_u (local.get $length) (i32.const 0))", Reason::Trap),
        ("(loop (br 0)) (call $ok)", Reason::Fuel),
        ("(loop (call $get (i32.const 0) (i32.const 1) (i32.const 64)) (br 0)) (call $ok)", Reason::Fuel),
        (grow, Reason::Memory),
        ("(call $reply (i32.const 0) (i32.const 4200000))", Reason::MalformedReply),
        ("(i32.const 7)", Reason::MalformedReply),
        ("(i32.store8 (i32.const 256) (i32.const 9)) (i32.const 256)", Reason::MalformedReply),
        (
            "(i32.store8 (i32.const 300) (i32.const 255)) (call $refuse (i32.const 3) (i32.const 300) (i32.const 1))",
            Reason::MalformedReply,
        ),
        ("(call $put (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)) (call $ok)", Reason::LimitExceeded),
        ("(call $put (i32.const 0) (i32.const 4097) (i32.const 0) (i32.const 0)) (call $ok)", Reason::LimitExceeded),
        ("(call $status (i32.const 64)) (call $ok)", Reason::Forbidden),
        ("(call $sink (i32.const 0) (i32.const 1)) (call $ok)", Reason::Forbidden),
        ("(call $source (i32.const 1) (i32.const 64)) (call $ok)", Reason::Forbidden),
        ("(call $abort (local.get $request) (local.get $length)) (call $ok)", Reason::Aborted),
    ];
    for (body, expected) in cases {
        assert_eq!(reason(apply(body, b"x").0), expected, "{body}");
    }
}

fn detail(verdict: Verdict) -> String {
    match verdict {
        Verdict::Failed(failure) => failure.detail,
        other => panic!("expected a failure, got {other:?}"),
    }
}

#[test]
fn failure_says_what_and_where_before_the_frames() {
    let more = "(func $inner (result i32) unreachable) (func $outer (result i32) (call $inner))";
    let component = Text { apply: "(call $outer)", more, ..Text::default() }.load();
    let (verdict, _) = ApplyInstance::new(&component).unwrap().apply(call(b""), Box::new(Map::default()));
    let trapped = detail(verdict.unwrap());
    let lines: Vec<&str> = trapped.lines().collect();
    assert!(lines[0].starts_with("test.Service/Method at index 7, position 2: wasm trap: "), "{trapped}");
    let inner = lines.iter().position(|line| *line == "  inner").expect("a frame with a name");
    assert_eq!(lines[inner + 1], "  outer", "{trapped}");

    let aborted = detail(apply("(call $abort (local.get $request) (local.get $length)) (call $ok)", b"why").0);
    assert!(aborted.starts_with("test.Service/Method at index 7, position 2: why\n"), "{aborted}");
}

#[test]
fn oversized_value_and_oversized_reply_are_failures() {
    let room = "(drop (memory.grow (i32.const 100)))";
    let put = format!("{room} (call $put (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1048577)) (call $ok)");
    assert_eq!(reason(apply(&put, b"").0), Reason::LimitExceeded);
    let reply = format!("{room} (call $reply (i32.const 0) (i32.const 4128769))");
    assert_eq!(reason(apply(&reply, b"").0), Reason::OversizedReply);
    let most = format!("{room} (call $reply (i32.const 0) (i32.const 4128768))");
    assert!(matches!(apply(&most, b"").0, Verdict::Reply(reply) if reply.len() == 4_128_768));
}

#[test]
fn writes_of_one_command_are_bounded_in_sum() {
    let body = "(drop (memory.grow (i32.const 100)))
        (loop (call $put (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1048576)) (br 0)) (call $ok)";
    assert_eq!(reason(apply(body, b"").0), Reason::LimitExceeded);
}

#[test]
fn store_budget_is_bounded_whatever_the_fuel() {
    let component =
        Text { apply: "(loop (call $remove (i32.const 0) (i32.const 1)) (br 0)) (call $ok)", ..Text::default() }.load();
    let rich = Call { fuel: 1 << 40, ..call(b"") };
    let (verdict, _) = ApplyInstance::new(&component).unwrap().apply(rich, Box::new(Map::default()));
    assert_eq!(reason(verdict.unwrap()), Reason::StoreBudget);
}

#[test]
fn growth_past_the_type_is_the_guest_s_affair() {
    // wasmtime reports this case as failed growth, as it does when the system has no memory. This
    // case must be an outcome, the other a fault of the host.
    let body = "(drop (memory.grow (i32.const 1)))
        (if (i32.ne (memory.grow (i32.const 65535)) (i32.const -1)) (then unreachable)) (call $ok)";
    assert_eq!(apply(body, b"").0, Verdict::Reply(Bytes::new()));
}

#[test]
fn denied_growth_is_told_to_the_guest_that_asks() {
    let body = "(if (i32.ne (memory.grow (i32.const 1023)) (i32.const -1)) (then unreachable)) (call $ok)";
    assert_eq!(apply(body, b"").0, Verdict::Reply(Bytes::new()));
}

#[test]
fn endless_recursion_is_an_outcome() {
    let run = || {
        let more = "(func $deep (param i32) (result i32) (i32.add (call $deep (i32.add (local.get 0) (i32.const 1))) (local.get 0)))";
        let text = Text { apply: "(call $deep (i32.const 0))", more, ..Text::default() };
        for semantics in [4, SEMANTICS] {
            let engine = Engine::new(&Limits { semantics, ..Limits::default() }).unwrap();
            let component = text.load_into(&engine);
            let (verdict, _) = ApplyInstance::new(&component).unwrap().apply(call(b""), Box::new(Map::default()));
            let Verdict::Failed(failure) = verdict.unwrap() else { panic!("it has no end") };
            assert_eq!(failure.reason, Reason::Stack, "semantics {semantics}: {}", failure.detail);
            let lines: Vec<&str> = failure.detail.lines().collect();
            assert!(lines[0].ends_with("wasm trap: call stack exhausted"), "{}", failure.detail);
            assert_eq!(lines[1..3], ["in the guest:", "  deep"], "the guest's own functions alone");
        }
    };
    std::thread::Builder::new().stack_size(CALLER_STACK_BYTES).spawn(run).unwrap().join().unwrap();
}

#[test]
fn fuel_is_the_same_in_every_instance() {
    let component = Text { apply: "(call $log (i32.const 1) (local.get $request) (local.get $length)) (memory.fill (i32.const 1024) (i32.const 1) (i32.const 4096)) (call $ok)", ..Text::default() }.load();
    let used = || {
        let mut instance = ApplyInstance::new(&component).unwrap();
        instance.apply(call(b"hello"), Box::new(Map::default())).0.unwrap();
        instance.fuel_used()
    };
    let first = used();
    assert!(first > 4_096 / 8, "bulk operators cost by their size: {first}");
    assert_eq!(used(), first);
}

#[test]
fn failed_disk_is_a_host_fault() {
    let component =
        Text { apply: "(call $get (i32.const 0) (i32.const 1) (i32.const 64)) (call $ok)", ..Text::default() }.load();
    let mut instance = ApplyInstance::new(&component).unwrap();
    let (verdict, _) = instance.apply(call(b""), Box::new(Map { broken: true, ..Map::default() }));
    assert_eq!(verdict.unwrap_err().0, "the disk is gone");
}

#[test]
fn instance_is_spent_after_anything_but_a_reply() {
    for body in ["unreachable", "(call $refuse (i32.const 3) (i32.const 0) (i32.const 0))"] {
        let component = Text { apply: body, ..Text::default() }.load();
        let mut instance = ApplyInstance::new(&component).unwrap();
        let (verdict, store) = instance.apply(call(b""), Box::new(Map::default()));
        assert!(!matches!(verdict.unwrap(), Verdict::Reply(_)) && !instance.usable());
        assert!(instance.apply(call(b""), store).0.is_err());
    }
}

#[test]
fn fresh_instance_remembers_nothing() {
    let body = "(i32.store8 (i32.const 512) (i32.add (i32.load8_u (i32.const 512)) (i32.const 1))) (call $reply (i32.const 512) (i32.const 1))";
    let component = Text { apply: body, ..Text::default() }.load();
    for _ in 0..100 {
        let (verdict, _) = ApplyInstance::new(&component).unwrap().apply(call(b""), Box::new(Map::default()));
        assert_eq!(verdict.unwrap(), Verdict::Reply(Bytes::from_static(b"\x01")));
    }
}

#[test]
fn reasons_keep_their_numbers() {
    let numbers = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
    for number in numbers {
        assert_eq!(Reason::from_u8(number).unwrap() as u8, number);
    }
    assert_eq!((Reason::Trap as u8, Reason::Aborted as u8, Reason::Stream as u8), (1, 10, 12));
    assert_eq!((Reason::from_u8(0), Reason::from_u8(14)), (None, None));
}

#[test]
fn instances_and_components_may_change_threads() {
    fn moves<T: Send>() {}
    fn shared<T: Send + Sync>() {}
    moves::<ApplyInstance>();
    moves::<QueryInstance>();
    shared::<Component>();
    shared::<Engine>();
}

/// A store that passes over removed keys in every answer.
struct Hiding(u64);

impl Rows for Hiding {
    fn get(&mut self, _: &[u8]) -> Result<Option<Vec<u8>>, StoreFault> {
        Ok(None)
    }

    fn scan(&mut self, _: Range<'_>, _: bool, _: u32) -> Result<Page, StoreFault> {
        Ok(Page::default())
    }

    fn put(&mut self, _: &[u8], _: &[u8]) -> Result<(), StoreFault> {
        Ok(())
    }

    fn remove(&mut self, _: &[u8]) -> Result<(), StoreFault> {
        Ok(())
    }

    fn remove_range(&mut self, _: Range<'_>, _: u64) -> Result<u64, StoreFault> {
        Ok(0)
    }

    fn passed_over(&mut self) -> u64 {
        self.0
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[test]
fn keys_that_were_passed_over_cost_as_rows_do() {
    let scan = "(call $scan (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 64)) (call $ok)";
    let remove = "(drop (call $remove_range (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))) (call $ok)";
    for apply in [scan, remove] {
        let component = Text { apply, ..Text::default() }.load();
        let used = |hidden: u64| {
            let mut instance = ApplyInstance::new(&component).unwrap();
            let (verdict, _) = instance.apply(call(b""), Box::new(Hiding(hidden)));
            (verdict.unwrap(), instance.fuel_used())
        };
        let (free, dear) = (used(0).1, used(1_000).1);
        assert_eq!(dear - free, 400_000, "{apply}");
        assert_eq!(reason(used(300_000).0), Reason::Fuel);
    }
}
