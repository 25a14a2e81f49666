//! All of the corpus except numbers and host calls: control, memory, tables, bulk operators at the
//! edges of their ranges, growth at the profile's limits, the stack, fuel that ends at every kind
//! of place, and what persists between the commands of an entry.

use super::{Case, case};

/// A table of four elements, three functions of one type, another type, and a passive segment of
/// each kind.
const TABLE: &str = "(type $number (func (result i32))) (type $other (func (result i64)))
    (table $t 4 65536 funcref)
    (func $seven (type $number) (i32.const 7)) (func $eight (type $number) (i32.const 8)) (func $nine (type $number) (i32.const 9))
    (elem (i32.const 0) $seven $eight $nine)
    (elem $passive func $eight $seven $eight)
    (data $bytes \"0123456789\")";
pub(super) const DEEP: &str = "(func $deep (param i32) (result i32)
    (if (result i32) (local.get 0)
      (then (i32.add (call $deep (i32.sub (local.get 0) (i32.const 1))) (local.get 0)))
      (else (i32.const 0))))";

/// Makes a case whose reply is the value of the expression.
pub(super) fn number(name: &str, expression: &str) -> Case {
    case(name, format!("(i32.const 512) {expression} i32.store (call $reply (i32.const 512) (i32.const 4))"))
}

/// Makes a case that runs `does` and then replies the 32 bytes from 1020.
fn bytes(name: &str, does: &str) -> Case {
    case(name, format!("{does} (call $reply (i32.const 1020) (i32.const 32))"))
}

fn control() -> Vec<Case> {
    let table = "(local $n i32)
        (local.set $n (i32.load8_u (local.get $request)))
        (block $c (block $b (block $a (br_table $a $b $c (local.get $n))) (return (call $reply (i32.const 600) (i32.const 1))))
          (return (call $reply (i32.const 600) (i32.const 2))))
        (call $reply (i32.const 600) (i32.const 3))";
    let through = |index: u32| {
        number(
            &format!("control/call-indirect-{index}"),
            &format!("(call_indirect (type $number) (i32.const {index}))"),
        )
        .more(TABLE)
    };
    vec![
        case("control/br-table", table).requests(&[b"\x00", b"\x01", b"\x02", b"\xff"]),
        number("control/if-without-else", "(i32.const 1) (if (i32.const 0) (then unreachable))"),
        number("control/select", "(select (i32.const 1) (i32.const 2) (i32.const 0))"),
        number(
            "control/typed-select",
            "(ref.is_null (select (result funcref) (ref.null func) (ref.func $seven) (i32.const 0)))",
        )
        .more(TABLE),
        number("control/ref-is-null", "(ref.is_null (ref.null func))"),
        number("control/multi-value-block", "(block (result i32 i32) (i32.const 40) (i32.const 2)) i32.add"),
        number(
            "control/loop-with-parameter",
            "(i32.const 10) (loop $more (param i32) (result i32) i32.const 3 i32.sub local.tee $length (br_if $more (i32.gt_s (local.get $length) (i32.const 0))))",
        ),
        number("control/globals", "(global.set $g (i32.mul (global.get $g) (i32.const 3))) (global.get $g)")
            .more("(global $g (mut i32) (i32.add (i32.const 10) (i32.const 4)))"),
        case("control/unreachable", "unreachable"),
        through(0),
        through(1),
        number("control/call-indirect-of-another-type", "(i32.wrap_i64 (call_indirect (type $other) (i32.const 2)))")
            .more(TABLE),
        number("control/call-indirect-of-nothing", "(call_indirect (type $number) (i32.const 3))").more(TABLE),
        number("control/call-indirect-past-the-end", "(call_indirect (type $number) (i32.const 4))").more(TABLE),
        number("control/start-function", "(i32.load (i32.const 700))")
            .more("(func $begin (i32.store (i32.const 700) (i32.const 77))) (start $begin)"),
        number(
            "control/statics-between-commands",
            "(i32.store (i32.const 700) (i32.add (i32.load (i32.const 700)) (i32.const 1))) (i32.load (i32.const 700))",
        )
        .requests(&[b"", b"", b""]),
        number("control/memory-kept-between-commands", "(drop (memory.grow (i32.const 1))) (memory.size)")
            .requests(&[b"", b"", b""]),
    ]
}

/// The depth that `$deep` reached before semantics 5: its native frames filled the profile's stack,
/// except for a few frames of the host. The end of the metered stack is in `depth`.
const STACK_LEVELS: u32 = 43_600;

fn stack() -> Vec<Case> {
    let deep = |name: &str, levels: u32| number(name, &format!("(call $deep (i32.const {levels}))")).more(DEEP);
    vec![
        deep("stack/deep", 10_000),
        deep("stack/just-within", STACK_LEVELS - STACK_LEVELS / 20),
        deep("stack/just-past", STACK_LEVELS + STACK_LEVELS / 20).inexact(),
        deep("stack/endless", 1_000_000_000).inexact(),
    ]
}

fn bulk() -> Vec<Case> {
    let mut cases = Vec::new();
    // Memory has two pages: 131,072 bytes. The data segment has 10 bytes, the element segment 3
    // elements, the table 4.
    let ranges = [
        (
            "memory.fill",
            "",
            [
                ("zero", "1024 88 0"),
                ("some", "1024 88 9"),
                ("edge", "131064 88 8"),
                ("zero-at-the-end", "131072 88 0"),
                ("past", "131065 88 8"),
                ("zero-past", "131073 88 0"),
                ("wraps", "-1 88 2"),
                ("largest", "0 88 -1"),
            ],
        ),
        (
            "memory.copy",
            "",
            [
                ("zero", "1024 256 0"),
                ("overlaps-up", "1026 1020 20"),
                ("overlaps-down", "1020 1026 20"),
                ("edge", "1024 131064 8"),
                ("source-past", "1024 131065 8"),
                ("target-past", "131065 1024 8"),
                ("wraps", "-4 1024 8"),
                ("zero-past", "131073 0 0"),
            ],
        ),
        (
            "memory.init",
            "$bytes",
            [
                ("zero", "1024 10 0"),
                ("whole", "1024 0 10"),
                ("part", "1024 4 3"),
                ("segment-past", "1024 4 7"),
                ("target-past", "131070 0 10"),
                ("zero-past-segment", "1024 11 0"),
                ("edge", "131062 0 10"),
                ("wraps", "1024 -1 2"),
            ],
        ),
        (
            "table.init",
            "$t $passive",
            [
                ("zero", "4 3 0"),
                ("whole", "0 0 3"),
                ("edge", "1 0 3"),
                ("table-past", "2 0 3"),
                ("segment-past", "0 1 3"),
                ("zero-past-segment", "0 4 0"),
                ("zero-past-table", "5 0 0"),
                ("wraps", "-1 0 2"),
            ],
        ),
        (
            "table.copy",
            "$t $t",
            [
                ("zero", "4 4 0"),
                ("some", "0 1 2"),
                ("overlaps-up", "1 0 3"),
                ("overlaps-down", "0 1 3"),
                ("source-past", "0 2 3"),
                ("target-past", "2 0 3"),
                ("zero-past", "5 0 0"),
                ("wraps", "-1 0 2"),
            ],
        ),
    ];
    let set = "(i32.store8 (i32.const 1020) (i32.const 1)) (i32.store16 (i32.const 1026) (i32.const 0x2332)) (i64.store (i32.const 131064) (i64.const 0x0102030405060708))";
    let look = "(i32.store (i32.const 1040) (if (result i32) (ref.is_null (table.get $t (i32.const 1))) (then (i32.const 0)) (else (call_indirect (type $number) (i32.const 1)))))
        (i32.store (i32.const 1044) (ref.is_null (table.get $t (i32.const 3))))";
    for (operator, of, rows) in ranges {
        for (what, operands) in rows {
            let operands: String = operands.split(' ').map(|n| format!("(i32.const {n})")).collect();
            cases.push(
                bytes(&format!("bulk/{operator}-{what}"), &format!("{set} ({operator} {of} {operands}) {look}"))
                    .more(TABLE),
            );
        }
    }
    let fill = |what: &str, at: u32, count: u32| {
        bytes(
            &format!("bulk/table.fill-{what}"),
            &format!("(table.fill $t (i32.const {at}) (ref.func $eight) (i32.const {count})) {look}"),
        )
        .more(TABLE)
    };
    cases.extend([fill("zero", 4, 0), fill("whole", 0, 4), fill("past", 1, 4), fill("zero-past", 5, 0)]);
    cases.extend([
        bytes(
            "bulk/data-dropped",
            "(data.drop $bytes) (memory.init $bytes (i32.const 1024) (i32.const 0) (i32.const 1))",
        )
        .more(TABLE),
        bytes(
            "bulk/data-dropped-zero",
            "(data.drop $bytes) (data.drop $bytes) (memory.init $bytes (i32.const 1024) (i32.const 0) (i32.const 0))",
        )
        .more(TABLE),
        bytes(
            "bulk/elements-dropped",
            "(elem.drop $passive) (table.init $t $passive (i32.const 0) (i32.const 0) (i32.const 1))",
        )
        .more(TABLE),
        bytes("bulk/table.get-past", "(drop (table.get $t (i32.const 4)))").more(TABLE),
        bytes("bulk/table.set-past", "(table.set $t (i32.const 4) (ref.func $seven))").more(TABLE),
        bytes("bulk/table.set", &format!("(table.set $t (i32.const 1) (ref.func $seven)) {look}")).more(TABLE),
    ]);
    cases
}

fn memory() -> Vec<Case> {
    let grow =
        |what: &str, pages: &str| number(&format!("memory/grow-{what}"), &format!("(memory.grow (i32.const {pages}))"));
    let table = |what: &str, elements: &str| {
        number(&format!("memory/table-grow-{what}"), &format!("(table.grow $t (ref.null func) (i32.const {elements}))"))
            .more(TABLE)
    };
    vec![
        grow("by-0", "0"),
        grow("by-1", "1"),
        // The profile allows 1024 pages; two exist already.
        grow("to-the-limit", "1022"),
        grow("past-the-limit", "1023"),
        grow("past-the-type", "-1"),
        case("memory/denied-growth-then-trap", "(drop (memory.grow (i32.const 1023))) unreachable"),
        case("memory/denied-growth-then-fuel", "(drop (memory.grow (i32.const 1023))) (loop (br 0)) unreachable"),
        case("memory/denied-growth-of-a-table-then-trap", "(drop (table.grow $t (ref.null func) (i32.const 65536))) unreachable").more(TABLE),
        number("memory/grow-until-denied", "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 64)) (i32.const -1)))) (memory.size)"),
        table("by-0", "0"),
        table("to-the-limit", "65532"),
        table("past-the-limit", "65533"),
        number("memory/table-without-a-limit-of-its-own", "(table.grow $wide (ref.null func) (i32.const 65536)) (table.grow $wide (ref.null func) (i32.const 1)) i32.add").more("(table $wide 0 funcref)"),
        number("memory/load-at-the-end", "(i32.load (i32.const 131068))"),
        number("memory/load-past-the-end", "(i32.load (i32.const 131069))"),
        number("memory/load-with-an-offset-that-wraps", "(i32.load offset=0xffffffff (i32.const 1))"),
        number("memory/store-past-the-end", "(i32.store8 (i32.const 131072) (i32.const 1)) (i32.const 0)"),
        number("memory/narrow-loads", "(i32.store (i32.const 640) (i32.const 0x80ff8180)) (i32.add (i32.add (i32.load8_s (i32.const 640)) (i32.load8_u (i32.const 641))) (i32.add (i32.load16_s (i32.const 642)) (i32.load16_u (i32.const 640))))"),
        number("memory/narrow-wide-loads", "(i64.store (i32.const 640) (i64.const 0xf0ff81808182ff80)) (i32.wrap_i64 (i64.add (i64.add (i64.load8_s (i32.const 640)) (i64.load32_s (i32.const 644))) (i64.add (i64.add (i64.load8_u (i32.const 643)) (i64.load32_u (i32.const 640))) (i64.add (i64.load16_s (i32.const 646)) (i64.load16_u (i32.const 642))))))"),
        number("memory/narrow-stores", "(i64.store32 (i32.const 640) (i64.const -2)) (i64.store16 (i32.const 641) (i64.const 77)) (i64.store8 (i32.const 643) (i64.const 300)) (i32.store16 (i32.const 640) (i32.const 70000)) (i32.load (i32.const 640))"),
        number("memory/unaligned", "(i32.store (i32.const 641) (i32.const 0x01020304)) (i32.load (i32.const 639))"),
        number("memory/fresh-is-zero", "(drop (memory.grow (i32.const 3))) (i32.load (i32.const 300000))"),
    ]
}

/// Makes cases of the same work with different amounts of fuel. Further cases do endless or
/// expensive work of other kinds.
fn fuel() -> Vec<Case> {
    let work = "(memory.fill (i32.const 1024) (i32.const 1) (i32.const 1000))
        (call $put (i32.const 0) (i32.const 1) (i32.const 1024) (i32.const 100))
        (call $get (i32.const 0) (i32.const 1) (i32.const 64))
        (call $put (i32.const 1) (i32.const 1) (i32.const 1024) (i32.const 100))
        (call $ok)";
    let with = |fuel: u64| case(format!("fuel/{fuel:06}"), work).fuel(fuel);
    let mut cases: Vec<Case> =
        [0, 1, 10, 100, 1_000, 1_200, 2_000, 2_300, 5_000, 6_300, 6_500, 7_500, 7_600, 10_000].map(with).into();
    cases.extend([
        case("fuel/endless-loop", "(loop (br 0)) (call $ok)"),
        case("fuel/endless-calls", "(loop (call $nothing) (br 0)) (call $ok)").more("(func $nothing)"),
        case("fuel/endless-fill", "(drop (memory.grow (i32.const 1000))) (loop (memory.fill (i32.const 0) (i32.const 0) (i32.const 65000000)) (br 0)) (call $ok)"),
        case("fuel/endless-growth", "(loop (drop (memory.grow (i32.const 1))) (br 0)) (call $ok)"),
        case("fuel/endless-table-growth", "(loop (drop (table.grow $t (ref.null func) (i32.const 1))) (br 0)) (call $ok)").more(TABLE),
        case("fuel/endless-reads", "(loop (call $get (i32.const 0) (i32.const 1) (i32.const 64)) (br 0)) (call $ok)"),
        case("fuel/endless-lines", "(loop (call $log (i32.const 0) (i32.const 0) (i32.const 0)) (br 0)) (call $ok)"),
        case("fuel/a-line-that-is-dear", "(drop (memory.grow (i32.const 1000))) (call $log (i32.const 0) (i32.const 4096) (i32.const 60000000)) (call $log (i32.const 0) (i32.const 4096) (i32.const 60000000)) (call $ok)"),
        case("fuel/each-command-has-its-own", "(memory.fill (i32.const 1024) (i32.const 1) (i32.const 60000)) (call $ok)").fuel(70_000).requests(&[b"", b""]),
    ]);
    cases
}

pub(super) fn cases() -> Vec<Case> {
    [control(), stack(), bulk(), memory(), fuel()].into_iter().flatten().collect()
}
