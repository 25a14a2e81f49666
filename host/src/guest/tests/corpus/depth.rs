//! Recursion in the corpus: every way to come from one call into the next, large and small frames,
//! ways out of a function that must give back what its entry took, and the last call that fits
//! beside the first that does not.

use super::control::{DEEP, number};
use super::{Case, case};

/// Bytes of a frame of `$deep`: 64, one parameter, two operands, 12 operators.
pub(in crate::guest::tests) const DEEP_BYTES: u64 = 64 + 8 * 3 + 12;
/// Bytes of the frame of `apply` in cases made by `number`: 64, seven parameters, two operands, 8
/// operators.
pub(in crate::guest::tests) const APPLY_BYTES: u64 = 64 + 8 * 9 + 8;
/// Bytes of a frame of `$large`: 64, one parameter, 1000 locals, two operands, 12 operators.
const LARGE_BYTES: u64 = 64 + 8 * 1003 + 12;
const STACK_BYTES: u64 = 2 << 20;

const EVEN: &str = "(func $even (param i32) (result i32)
      (if (result i32) (local.get 0) (then (call $odd (i32.sub (local.get 0) (i32.const 1)))) (else (i32.const 1))))
    (func $odd (param i32) (result i32)
      (if (result i32) (local.get 0) (then (call $even (i32.sub (local.get 0) (i32.const 1)))) (else (i32.const 0))))";
const INDIRECT: &str =
    "(type $step (func (param i32) (result i32))) (table $steps 1 funcref) (elem (i32.const 0) $next)
    (func $next (type $step)
      (if (result i32) (local.get 0)
        (then (i32.add (i32.const 1) (call_indirect (type $step) (i32.sub (local.get 0) (i32.const 1)) (i32.const 0))))
        (else (i32.const 7))))";
const VECTOR: &str = "(func $vector (param i32 v128) (result v128)
    (if (result v128) (local.get 0)
      (then (i32x4.add (call $vector (i32.sub (local.get 0) (i32.const 1)) (local.get 1)) (local.get 1)))
      (else (local.get 1))))";
const NESTED: &str = "(func $nested (param i32) (result i32)
    (block $c
      (block $b
        (block $a (br_table $a $b $c (i32.rem_u (local.get 0) (i32.const 3))))
        (if (i32.eqz (local.get 0)) (then (return (i32.const 1))))
        (return (i32.add (call $nested (i32.sub (local.get 0) (i32.const 1))) (i32.const 1))))
      (loop $again (return (i32.add (call $nested (i32.sub (local.get 0) (i32.const 1))) (i32.const 2)))))
    (br 0 (i32.add (call $nested (i32.sub (local.get 0) (i32.const 1))) (i32.const 3))))";
const PAIR: &str = "(func $pair (param i32) (result i32 i64)
      (if (i32.eqz (local.get 0)) (then (return (i32.const 1) (i64.const 2))))
      (call $pair (i32.sub (local.get 0) (i32.const 1))) (i64.add (i64.const 3)))
    (func $triple (param i32) (result i64 i32 i32)
      (if (result i64 i32 i32) (local.get 0)
        (then (call $triple (i32.sub (local.get 0) (i32.const 1))) (i32.add (i32.const 1)))
        (else (i64.const 1) (i32.const 2) (i32.const 3))))";
const EARLY: &str = "(func $nothing)
    (func $early (param i32) (result i32)
      (call $nothing)
      (block $out (loop (br_if $out (local.get 0)) (return (i32.const 1))))
      (i32.const 2))";

/// A function with many parameters and locals of all types.
fn wide() -> String {
    format!(
        "(func $wide (param i32) (param {}) (result i32) (local {}) (local {})
        (if (result i32) (local.get 0)
          (then (call $wide (i32.sub (local.get 0) (i32.const 1)) {}))
          (else (i32.wrap_i64 (local.get 40)))))",
        "i64 ".repeat(40),
        "f64 ".repeat(40),
        "v128 ".repeat(10),
        "(i64.const 9)".repeat(40)
    )
}

fn large() -> String {
    format!(
        "(func $large (param i32) (result i32) (local {})
        (if (result i32) (local.get 0)
          (then (i32.add (call $large (i32.sub (local.get 0) (i32.const 1))) (local.get 0)))
          (else (i32.const 0))))",
        "i64 ".repeat(1000)
    )
}

/// The products that `$kept` computes before its call and behind it.
const KEPT: [u32; 2] = [500, 2_000];

/// A function without end that computes the same products before a call of itself and behind it. A
/// compiler keeps them in the frame meanwhile. They are added up, or stored.
pub(in crate::guest::tests) fn kept(products: u32, are_stored: bool) -> String {
    let product = |k: u32| format!("(i32.mul (local.get 0) (i32.const {}))", 2 * k + 3);
    let uses: String = match are_stored {
        true => (0..products).map(|k| format!("(i32.store (i32.const {}) {})\n", 1024 + 4 * k, product(k))).collect(),
        false => (0..products).map(|k| format!("(local.set 1 (i32.xor (local.get 1) {}))\n", product(k))).collect(),
    };
    format!(
        "(func $kept (param i32) (result i32) (local i32)
        {uses} (local.set 1 (call $kept (i32.add (local.get 0) (local.get 1)))) {uses} (local.get 1))"
    )
}

/// The same with vectors.
pub(in crate::guest::tests) fn kept_vectors(products: u32) -> String {
    let product = |k: u32| format!("(i32x4.mul (local.get 1) (i32x4.splat (i32.const {})))", 2 * k + 3);
    let uses: String =
        (0..products).map(|k| format!("(local.set 2 (v128.xor (local.get 2) {}))\n", product(k))).collect();
    format!(
        "(func $kept (param i32) (result i32) (local v128 v128)
        (local.set 1 (i32x4.splat (local.get 0)))
        {uses} (local.set 0 (call $kept (i32x4.extract_lane 1 (local.get 2)))) {uses}
        (i32.add (local.get 0) (i32x4.extract_lane 1 (local.get 2))))"
    )
}

/// Returns how often a function with frames of this size may call itself when `apply` calls it.
pub(in crate::guest::tests) fn last_level(frame_bytes: u64) -> u64 {
    (STACK_BYTES - APPLY_BYTES) / frame_bytes - 1
}

/// Makes cases of one recursion: some levels, and without an end.
fn recursion(name: &str, functions: &str, call: impl Fn(u64) -> String) -> [Case; 2] {
    let of = |what: &str, levels: u64| number(&format!("depth/{name}-{what}"), &call(levels)).more(functions);
    [of("some", 1_000), of("endless", 1_000_000_000).inexact()]
}

/// Makes cases at the end of the stack.
fn edge(name: &str, function: &str, functions: &str, frame_bytes: u64) -> [Case; 2] {
    let of = |what: &str, levels: u64| {
        number(&format!("depth/{name}-{what}"), &format!("(call ${function} (i32.const {levels}))")).more(functions)
    };
    let last = last_level(frame_bytes);
    [of("last-within", last).inexact(), of("first-past", last + 1).inexact()]
}

pub(super) fn cases() -> Vec<Case> {
    let call = |function: &'static str| move |levels: u64| format!("(call ${function} (i32.const {levels}))");
    let wide_call = |levels: u64| format!("(call $wide (i32.const {levels}) {})", "(i64.const 9)".repeat(40));
    let vector_call =
        |levels: u64| format!("(i32x4.extract_lane 0 (call $vector (i32.const {levels}) (i32x4.splat (i32.const 3))))");
    let pair_call = |levels: u64| format!("(call $pair (i32.const {levels})) i32.wrap_i64 i32.add");
    // The i64 lies below the two numbers, so a function takes them off first.
    let turned = format!(
        "{PAIR} (func $turned (param i32) (result i32) (local i32)
        (call $triple (local.get 0)) i32.add (local.set 1) i32.wrap_i64 (i32.add (local.get 1)))"
    );
    let groups = [
        recursion("mutual", EVEN, call("even")),
        recursion("by-table", INDIRECT, call("next")),
        recursion("wide", &wide(), wide_call),
        recursion("vectors", VECTOR, vector_call),
        recursion("nested", NESTED, call("nested")),
        recursion("two-results", PAIR, pair_call),
        recursion("three-results", &turned, call("turned")),
        edge("deep", "deep", DEEP, DEEP_BYTES),
        edge("large", "large", &large(), LARGE_BYTES),
    ];
    let mut cases: Vec<Case> = groups.into_iter().flatten().collect();
    let begin = "(func $begin (i32.store (i32.const 700) (call $deep (i32.const 20000)))) (start $begin)";
    let again = "(local.set $length (i32.const 100000))
        (loop $more
          (drop (call $early (i32.and (local.get $length) (i32.const 1))))
          (br_if $more (local.tee $length (i32.sub (local.get $length) (i32.const 1)))))
        (call $early (i32.const 0))";
    cases.extend([
        number("depth/in-a-start-function", "(i32.add (i32.load (i32.const 700)) (call $deep (i32.const 20000)))")
            .more(format!("{DEEP} {begin}")),
        number("depth/returns-give-it-back", again).more(EARLY),
        number("depth/each-command-has-all-of-it", "(call $deep (i32.const 20000))")
            .more(DEEP)
            .requests(&[b"", b"", b""]),
        // The last function of a module may trap for its own reasons.
        case("depth/a-trap-in-the-last-function", "(call $last) (call $ok)").more("(func $last unreachable)"),
    ]);
    for products in KEPT {
        let endless = |what: &str, functions: String| {
            number(&format!("depth/{what}-{products}-endless"), "(call $kept (i32.const 7))").more(functions).inexact()
        };
        cases.push(endless("kept", kept(products, false)));
        cases.push(endless("kept-stores", kept(products, true)));
        cases.push(endless("kept-vectors", kept_vectors(products)));
    }
    cases
}
