//! Host calls of the corpus: the cost and the result of each, the limits of what crosses the
//! boundary, calls that a command may not make, results that are not values of their type, and
//! traps around writes.

use super::{Case, case};

/// `(call $put key)`: a key of one byte at address `key`, a value from 1024.
fn put(key: u32, value_bytes: u32) -> String {
    format!("(call $put (i32.const {key}) (i32.const 1) (i32.const 1024) (i32.const {value_bytes}))")
}

/// A scan with bounds in memory. `start` and `end` are an address and a length each.
fn scan(start: &str, end: Option<&str>, reverse: u32, limit: u32) -> String {
    let some = u32::from(end.is_some());
    let numbers = format!("{start} {some} {} {reverse} {limit} 64", end.unwrap_or("0 0"));
    let operands: String = numbers.split_whitespace().map(|n| format!("(i32.const {n})")).collect();
    format!("(call $scan {operands}) (i32.store (i32.const 1008) (i32.load8_u (i32.const 72)))")
}

fn remove_range(start: &str, end: Option<&str>, limit: u32) -> String {
    let some = u32::from(end.is_some());
    let numbers = format!("{start} {some} {} {limit}", end.unwrap_or("0 0"));
    let operands: String = numbers.split_whitespace().map(|n| format!("(i32.const {n})")).collect();
    format!("(i64.store (i32.const 512) (call $remove_range {operands}))")
}

/// Replies with the list that the last call of an import returned.
const LIST: &str = "(call $reply (i32.load (i32.const 64)) (i32.load (i32.const 68)))";
const OPTION: &str = "(i32.store (i32.const 1000) (i32.load (i32.const 64))) (call $reply (i32.load (i32.const 68)) (i32.load (i32.const 72)))";
const COUNT: &str = "(call $reply (i32.const 512) (i32.const 8))";
/// Keys of `Case::rows` have three bytes. These are the bounds 2 and 5, and the bound after 5.
const KEYS: &str = "(data (i32.const 600) \"\\00\\00\\02\\00\\00\\05\\00\")";
const ROOM: &str = "(drop (memory.grow (i32.const 1000)))";

fn reads() -> Vec<Case> {
    let get = "(call $get (i32.const 600) (i32.const 3) (i32.const 64))";
    let scans = [
        ("all", scan("0 0", None, 0, 0)),
        ("all-reverse", scan("0 0", None, 1, 0)),
        ("limit-1", scan("0 0", None, 0, 1)),
        ("reverse-limit-2", scan("0 0", None, 1, 2)),
        ("range", scan("600 3", Some("603 3"), 0, 0)),
        ("range-with-its-end", scan("600 3", Some("603 4"), 0, 0)),
        ("empty-range", scan("603 3", Some("600 3"), 0, 0)),
        ("start-too-long", scan("0 4098", None, 0, 0)),
        ("longest-bounds", scan("0 4097", Some("0 4097"), 0, 0)),
        ("end-too-long", scan("0 0", Some("0 4098"), 0, 0)),
    ];
    let mut cases: Vec<Case> = scans
        .into_iter()
        .map(|(what, does)| case(format!("call/scan-{what}"), format!("{does} {LIST}")).more(KEYS).rows(9, 2))
        .collect();
    cases.extend([
        case("call/get-nothing", format!("{get} {OPTION}")).more(KEYS),
        case("call/get-something", format!("{get} {OPTION}")).more(KEYS).rows(3, 10),
        case("call/get-something-large", format!("{get} {OPTION}")).more(KEYS).rows(3, 100_000),
        case("call/get-of-an-empty-key", "(call $get (i32.const 0) (i32.const 0) (i32.const 64)) (call $ok)"),
        case("call/get-of-a-long-key", "(call $get (i32.const 0) (i32.const 4097) (i32.const 64)) (call $ok)"),
        // A page holds 256 KiB.
        case("call/scan-a-full-page", format!("{} {LIST}", scan("0 0", None, 0, 0))).rows(60, 5_000),
        case("call/scan-many-rows", format!("{} {LIST}", scan("0 0", None, 0, 0))).rows(5_000, 0),
        case("call/reads-past-the-store-budget", "(loop (global.set $next (i32.const 65536)) (call $get (i32.const 600) (i32.const 3) (i32.const 64)) (br 0)) (call $ok)").more(KEYS).rows(3, 1_000_000).fuel(1 << 40),
        case("call/caller", format!("(call $caller (i32.const 64)) {LIST}")),
    ]);
    cases
}

fn writes() -> Vec<Case> {
    vec![
        case("call/put", format!("{} (call $ok)", put(0, 100))),
        case("call/put-reads-its-own", format!("{} (call $get (i32.const 0) (i32.const 1) (i32.const 64)) {OPTION}", put(0, 5))),
        case("call/put-empty-value", format!("{} (call $ok)", put(0, 0))),
        case("call/put-empty-key", "(call $put (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 1)) (call $ok)"),
        case("call/put-longest-key", "(call $put (i32.const 0) (i32.const 4096) (i32.const 0) (i32.const 1)) (call $ok)"),
        case("call/put-too-long-key", "(call $put (i32.const 0) (i32.const 4097) (i32.const 0) (i32.const 1)) (call $ok)"),
        case("call/put-largest-value", format!("{ROOM} {} (call $ok)", put(0, 1_048_576))),
        case("call/put-too-large-value", format!("{ROOM} {} (call $ok)", put(0, 1_048_577))),
        case("call/put-from-beyond-memory", put(0, 1 << 20) + "(call $ok)"),
        // Eight values of 1 MiB less 2 bytes, and their keys, are 8 MiB less 8 bytes.
        case("call/puts-to-the-limit", format!("{ROOM} {} {} (call $ok)", put(0, 1_048_574).repeat(8), put(0, 7))),
        case("call/puts-past-the-limit", format!("{ROOM} {} {} (call $ok)", put(0, 1_048_574).repeat(8), put(0, 8))),
        case("call/remove", "(call $remove (i32.const 600) (i32.const 3)) (call $ok)").more(KEYS).rows(4, 1),
        case("call/remove-nothing", "(call $remove (i32.const 600) (i32.const 3)) (call $ok)").more(KEYS),
        case("call/remove-empty-key", "(call $remove (i32.const 600) (i32.const 0)) (call $ok)"),
        case("call/remove-range-all", format!("{} {COUNT}", remove_range("0 0", None, 0))).rows(9, 1),
        case("call/remove-range-some", format!("{} {COUNT}", remove_range("600 3", Some("603 3"), 0))).more(KEYS).rows(9, 1),
        case("call/remove-range-limit", format!("{} {COUNT}", remove_range("0 0", None, 4))).rows(9, 1),
        case("call/remove-range-empty", format!("{} {COUNT}", remove_range("603 3", Some("600 3"), 0))).more(KEYS).rows(9, 1),
        case("call/remove-range-without-fuel", format!("{} {COUNT}", remove_range("0 0", None, 0))).rows(100, 1).fuel(20_000),
        case("call/remove-range-to-the-limit", format!("{} {COUNT}", remove_range("0 0", None, 0))).rows(100_000, 0),
        case("call/remove-range-past-the-limit", format!("{} {COUNT}", remove_range("0 0", None, 0))).rows(100_001, 0),
        case("call/calls-past-the-store-budget", "(loop (call $remove (i32.const 0) (i32.const 1)) (br 0)) (call $ok)").fuel(1 << 40),
        case("call/trap-before-a-write", format!("unreachable {}", put(0, 1))),
        case("call/trap-between-writes", format!("{} unreachable {}", put(0, 1), put(1, 1))),
        case("call/trap-after-writes", format!("{} {} unreachable", put(0, 1), put(1, 1))),
        case("call/refuse-after-a-write", format!("{} (call $refuse (i32.const 5) (i32.const 0) (i32.const 3))", put(0, 1))),
        case("call/commands-see-what-was-before", format!("(call $get (i32.const 0) (i32.const 1) (i32.const 64)) (call $put (i32.const 0) (i32.const 1) (local.get $request) (local.get $length)) {OPTION}"))
            .requests(&[b"one", b"two", b"three"]),
    ]
}

fn forbidden() -> Vec<Case> {
    vec![
        case("call/status", "(call $status (i32.const 64)) (call $ok)"),
        case("call/sink", "(call $sink (i32.const 0) (i32.const 1)) (call $ok)"),
        case("call/source", "(call $source (i32.const 1) (i32.const 64)) (call $ok)"),
        case("call/abort", "(call $abort (local.get $request) (local.get $length)) (call $ok)").requests(&[b"help"]),
        case("call/log", "(call $log (i32.const 1) (local.get $request) (local.get $length)) (call $ok)")
            .requests(&[b"a line"]),
        case("call/log-of-no-level", "(call $log (i32.const 4) (i32.const 0) (i32.const 0)) (call $ok)"),
        case(
            "call/log-not-utf8",
            "(i32.store8 (i32.const 600) (i32.const 255)) (call $log (i32.const 1) (i32.const 600) (i32.const 1)) (call $ok)",
        ),
        case(
            "call/log-past-its-limit",
            format!(
                "{ROOM} (call $log (i32.const 0) (i32.const 4096) (i32.const 65000)) (call $log (i32.const 0) (i32.const 4096) (i32.const 65000)) (call $ok)"
            ),
        ),
    ]
}

fn results() -> Vec<Case> {
    // A refusal with `length` bytes of details, from 4096.
    let details = |length: u32| {
        format!(
            "{ROOM} (drop (call $refuse (i32.const 3) (i32.const 0) (i32.const 0))) (i32.store (i32.const 272) (i32.const 4096))
            (i32.store (i32.const 276) (i32.const {length})) (i32.const 256)"
        )
    };
    // A message of one letter, then letters of two bytes.
    let refuse = |what: &str, code: &str, length: u32| {
        let text = format!(
            "(i32.store8 (i32.const 4095) (i32.const 120))
            (loop $next (i32.store16 offset=4096 (local.get $length) (i32.const 0xa4c3))
              (br_if $next (i32.lt_u (local.tee $length (i32.add (local.get $length) (i32.const 2))) (i32.const 4000))))
            (call $refuse (i32.const {code}) (i32.const 4095) (i32.const {length}))"
        );
        case(format!("result/refusal-{what}"), text)
    };
    vec![
        case("result/echo", super::ECHO).requests(&[b"", b"x", &[0xff; 300]]),
        case(
            "result/context",
            "(i64.store (i32.const 512) (local.get $index)) (i32.store (i32.const 520) (local.get $position)) (i64.store (i32.const 524) (local.get $time)) (i32.store (i32.const 532) (local.get $method_length)) (call $reply (i32.const 512) (i32.const 24))",
        ),
        case("result/largest", format!("{ROOM} (call $reply (i32.const 0) (i32.const 4128768))")),
        case("result/too-large", format!("{ROOM} (call $reply (i32.const 0) (i32.const 4128769))")),
        case("result/gigantic", "(call $reply (i32.const 0) (i32.const -1))"),
        case("result/to-the-end-of-memory", "(call $reply (i32.const 131071) (i32.const 1))"),
        case("result/beyond-memory", "(call $reply (i32.const 131071) (i32.const 2))"),
        case("result/empty-beyond-memory", "(call $reply (i32.const 200000) (i32.const 0))"),
        case("result/area-beyond-memory", "(i32.const 131064)"),
        case("result/area-unaligned", "(i32.const 7)"),
        case("result/of-no-case", "(i32.store8 (i32.const 256) (i32.const 2)) (i32.const 256)"),
        case(
            "result/message-not-utf8",
            "(i32.store8 (i32.const 600) (i32.const 255)) (call $refuse (i32.const 3) (i32.const 600) (i32.const 1))",
        ),
        case("result/message-beyond-memory", "(call $refuse (i32.const 3) (i32.const 131071) (i32.const 2))"),
        case("result/details-at-the-limit", details(4_096)),
        case("result/details-past-the-limit", details(4_097)),
        case("result/details-beyond-memory", details(1 << 30)),
        refuse("code-1", "1", 3),
        refuse("code-16", "16", 3),
        refuse("code-0", "0", 3),
        refuse("code-17", "17", 3),
        refuse("message-under-the-limit", "9", 1_023),
        // The limit is within a character of two bytes, so the message is cut before that
        // character.
        refuse("message-cut", "9", 1_031),
    ]
}

pub(super) fn cases() -> Vec<Case> {
    [reads(), writes(), forbidden(), results()].into_iter().flatten().collect()
}
