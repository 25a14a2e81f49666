//! Operators that cost more the more they do, in the corpus: on ranges of memory and of tables, and
//! those that make them grow. Sizes that the guest computes and sizes that stand in its code,
//! nothing, a little and a lot, in and out of bounds, and the least fuel that suffices beside the
//! most that does not.

use super::control::number;
use super::depth::last_level;
use super::{Case, case};

/// The size that the request holds.
const ASKED: &str = "(i32.load (local.get $request))";

/// A table of 1000 elements that may grow, and a passive segment of each kind.
fn parts() -> String {
    format!(
        "(type $number (func (result i32))) (table $t 1000 65536 funcref)
        (func $seven (type $number) (i32.const 7)) (elem (i32.const 0) $seven) (elem $passive func {})
        (data $bytes \"{}\")",
        "$seven ".repeat(200),
        "0123456789".repeat(500)
    )
}

/// An operator, as text with the size left out, and sizes of which all are granted.
struct Bulk {
    name: &'static str,
    text: &'static str,
    granted: &'static [u32],
    /// A size that is out of bounds, or denied.
    too_much: u32,
}

const MEMORY: [Bulk; 3] = [
    Bulk {
        name: "memory.fill",
        text: "(memory.fill (i32.const 1024) (i32.const 88) SIZE)",
        granted: &[0, 1, 63, 64, 65, 127, 128, 129, 4096, 60_000],
        too_much: 131_072,
    },
    Bulk {
        name: "memory.copy",
        text: "(memory.copy (i32.const 1024) (i32.const 1000) SIZE)",
        granted: &[0, 1, 63, 64, 65, 127, 128, 129, 4096, 60_000],
        too_much: 131_072,
    },
    Bulk {
        name: "memory.init",
        text: "(memory.init $bytes (i32.const 1024) (i32.const 0) SIZE)",
        granted: &[0, 1, 63, 64, 65, 127, 128, 129, 4096, 5_000],
        too_much: 5_001,
    },
];

const OTHERS: [Bulk; 5] = [
    Bulk {
        name: "memory.grow",
        text: "(i32.store (i32.const 1020) (memory.grow SIZE))",
        granted: &[0, 1, 2, 7, 500],
        too_much: 1_023,
    },
    Bulk {
        name: "table.fill",
        text: "(table.fill $t (i32.const 0) (ref.func $seven) SIZE)",
        granted: &[0, 1, 7, 8, 9, 15, 16, 1_000],
        too_much: 1_001,
    },
    Bulk {
        name: "table.copy",
        text: "(table.copy $t $t (i32.const 1) (i32.const 0) SIZE)",
        granted: &[0, 1, 7, 8, 9, 15, 16, 999],
        too_much: 1_000,
    },
    Bulk {
        name: "table.init",
        text: "(table.init $t $passive (i32.const 0) (i32.const 0) SIZE)",
        granted: &[0, 1, 7, 8, 9, 15, 16, 200],
        too_much: 201,
    },
    Bulk {
        name: "table.grow",
        text: "(i32.store (i32.const 1020) (table.grow $t (ref.func $seven) SIZE))",
        granted: &[0, 1, 7, 8, 9, 15, 16, 60_000],
        too_much: 65_000,
    },
];

impl Bulk {
    /// Makes a case that asks for these sizes, one after the other.
    fn case(&self, what: &str, sizes: &[u32]) -> Case {
        let requests: Vec<Vec<u8>> = sizes.iter().map(|size| size.to_le_bytes().to_vec()).collect();
        Case { requests, ..self.with(what, ASKED) }
    }

    /// Makes a case of the size that the expression has. The reply has the bytes that changed.
    fn with(&self, what: &str, size: &str) -> Case {
        let does = self.text.replace("SIZE", size);
        case(format!("sizes/{}-{what}", self.name), format!("{does} (call $reply (i32.const 1020) (i32.const 200))"))
            .more(parts())
    }
}

fn each() -> impl Iterator<Item = &'static Bulk> {
    MEMORY.iter().chain(&OTHERS)
}

/// Sizes that are computed, and the largest that there is. It costs more than a command has, except
/// of the growth of a memory, which is denied.
fn computed() -> Vec<Case> {
    let of = |bulk: &'static Bulk| {
        [
            bulk.case("granted", bulk.granted),
            bulk.case("too-much", &[bulk.too_much]),
            bulk.case("largest", &[u32::MAX]),
            bulk.case("largest-signed", &[1 << 31]),
        ]
    };
    each().flat_map(of).collect()
}

/// Sizes in the code. Those up to 128 bytes are paid for in another way.
fn constant() -> Vec<Case> {
    let of = |bulk: &'static Bulk| {
        let sizes = [0, 63, 64, 128, 129, 4096];
        sizes.map(|size: u32| bulk.with(&format!("constant-{size}"), &format!("(i32.const {size})")))
    };
    MEMORY.iter().flat_map(of).collect()
}

/// The last fuel with which an operator does not begin, and the first with which it does. A size
/// that is too much shows it: the command does not end because of its fuel. With other sizes it is
/// the fuel of the whole command.
fn at_the_edge() -> Vec<Case> {
    let of = |bulk: &'static Bulk, what: &str, size: u32, enough: u64| {
        [
            bulk.case(&format!("{what}-affordable"), &[size]).fuel(enough),
            bulk.case(&format!("{what}-not-affordable"), &[size]).fuel(enough - 1),
        ]
    };
    let rows = AFFORDABLE.iter().zip(each());
    rows.flat_map(|((granted, too_much), bulk)| {
        let last = bulk.granted.last().copied().unwrap_or(0);
        [of(bulk, "granted", last, *granted), of(bulk, "too-much", bulk.too_much, *too_much)].into_iter().flatten()
    })
    .collect()
}

/// For each operator: the fuel that suffices for the largest size that is granted, and for one that
/// is too much.
const AFFORDABLE: [(u64, u64); 8] = [
    (7_817, 16_481),
    (7_817, 16_481),
    (945, 721),
    (4_096_546, 8_380_962),
    (1_321, 1_097),
    (1_313, 1_097),
    (521, 297),
    (60_547, 65_547),
];

fn elsewhere() -> Vec<Case> {
    let fill = "(func $fill (param i32) (memory.fill (i32.const 1024) (i32.const 7) (local.get 0)))";
    let begin = "(func $begin (memory.fill (i32.const 1020) (i32.const 7) (i32.const 100))
        (drop (memory.grow (i32.const 3)))) (start $begin)";
    let ways_out = "(func $ways (param i32) (result i32 i64)
        (if (local.get 0) (then (memory.copy (i32.const 1024) (i32.const 0) (local.get 0)) (return (i32.const 1) (i64.const 2))))
        (block $out (memory.fill (i32.const 1024) (i32.const 1) (i32.const 20)) (br $out))
        (return (i32.const 3) (i64.const 4))
        (memory.fill (i32.const 1024) (i32.const 1) (i32.const 20))
        (memory.init $bytes (memory.grow (local.get 0))))";
    let ways = |name: &str, n: u32| {
        number(&format!("sizes/ways-out-{name}"), &format!("(call $ways (i32.const {n})) drop (i32.add (memory.size))"))
            .more(format!("{} {ways_out}", parts()))
    };
    let grown = "(drop (memory.grow (i32.const 1000)))";
    let megabytes =
        |name: &str, does: &str| case(format!("sizes/{name}-of-megabytes"), format!("{grown} {does} (call $ok)"));
    vec![
        case("sizes/in-a-leaf", format!("(call $fill {ASKED}) (call $reply (i32.const 1020) (i32.const 32))"))
            .more(fill)
            .requests(&[b"\x05\0\0\0", b"\x80\0\0\0", b"\0\x10\0\0"]),
        case("sizes/in-a-start-function", "(call $reply (i32.const 1020) (i32.const 128))").more(begin),
        ways("early", 9),
        ways("late", 0),
        megabytes("memory.fill", "(memory.fill (i32.const 0) (i32.const 1) (i32.const 65000000))"),
        megabytes("memory.copy", "(memory.copy (i32.const 32000000) (i32.const 0) (i32.const 32000000))"),
        // With more fuel than a command has, the size is out of bounds.
        MEMORY[0].case("largest-with-much-fuel", &[u32::MAX]).fuel(1_000_000_000),
        // Beyond 4,096 pages, more are not paid for.
        OTHERS[0].case("most-that-is-paid-for", &[4_096, 4_097, 65_536]),
        case(
            "sizes/endless-nothing",
            format!("(loop (memory.fill (i32.const 0) (i32.const 0) {ASKED}) (br 0)) (call $ok)"),
        )
        .requests(&[b"\0\0\0\0"]),
        case(
            "sizes/endless-little",
            "(loop (memory.copy (i32.const 0) (i32.const 9) (i32.const 9)) (br 0)) (call $ok)",
        ),
        // The fuel suffices up to the operator, and not for it. Nothing looks at it there.
        case("sizes/constant-past-the-end", "(memory.fill (i32.const 131072) (i32.const 1) (i32.const 8)) (call $ok)")
            .fuel(40),
        case("sizes/constant-to-the-end", "(memory.copy (i32.const 131064) (i32.const 0) (i32.const 8)) (call $ok)")
            .fuel(40),
        case(
            "sizes/each-command-has-its-own",
            "(memory.fill (i32.const 1024) (i32.const 1) (i32.const 64000)) (call $ok)",
        )
        .fuel(10_000)
        .requests(&[b"", b""]),
    ]
}

/// Bytes of a frame of `$filling`: 64, one parameter, four operands, 18 operators. What pays for
/// the size has no part in it.
const FILLING_BYTES: u64 = 64 + 8 * 5 + 18;
const FILLING: &str = "(func $filling (param i32) (result i32)
    (memory.fill (i32.const 1024) (i32.const 1) (i32.and (local.get 0) (i32.const 127)))
    (if (result i32) (local.get 0)
      (then (i32.add (call $filling (i32.sub (local.get 0) (i32.const 1))) (local.get 0)))
      (else (i32.const 0))))";

fn deep() -> Vec<Case> {
    let last = last_level(FILLING_BYTES);
    [("last-within", last), ("first-past", last + 1)]
        .map(|(what, levels)| {
            number(&format!("sizes/deep-{what}"), &format!("(call $filling (i32.const {levels}))"))
                .more(FILLING)
                .inexact()
        })
        .into()
}

pub(super) fn cases() -> Vec<Case> {
    [computed(), constant(), at_the_edge(), elsewhere(), deep()].into_iter().flatten().collect()
}
