//! Numbers of the corpus: every operator of i32, i64, f32 and f64 on all pairs of edge values, as
//! bits, and operations that trap. Operands come from memory, so that the machine's own instruction
//! computes them and not the compiler.

use super::{Case, case};

const I32: [u32; 9] = [0, 1, 2, 31, 33, 0x5555_aaaa, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];
const I64: [u64; 10] =
    [0, 1, 2, 63, 65, 0x5555_aaaa_0f0f_f0f0, 0x8000_0000, i64::MAX as u64, 0x8000_0000_0000_0000, u64::MAX];
/// Zeros, ones and halves around which rounding changes, the smallest and the largest value,
/// infinities, a quiet NaN, one with a payload, and a signalling one.
const F32: [u32; 18] = [
    0,
    0x8000_0000,
    0x3f80_0000,
    0xbf80_0000,
    0x3f00_0000,
    0xbf00_0000,
    0x3fc0_0000,
    0x4020_0000,
    0x0000_0001,
    0x8000_0001,
    0x7f7f_ffff,
    0x4f00_0000,
    0xcf00_0000,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0000,
    0xffc1_2345,
    0x7fa0_0001,
];
const F64: [u64; 18] = [
    0,
    1 << 63,
    0x3ff0 << 48,
    0xbff0 << 48,
    0x3fe0 << 48,
    0xbfe0 << 48,
    0x3ff8 << 48,
    0x4004 << 48,
    1,
    (1 << 63) | 1,
    0x7fef_ffff_ffff_ffff,
    0x41e0 << 48,
    0xc3e0 << 48,
    0x7ff0 << 48,
    0xfff0 << 48,
    0x7ff8 << 48,
    0xfff8_0001_2345_6789,
    0x7ff4_0000_0000_0001,
];
/// Floats that every integer type can hold.
const SMALL32: [u32; 5] = [0, 0x8000_0000, 0x3fc0_0000, 0xbf00_0000, 0x4b00_0001];
const SMALL64: [u64; 5] = [0, 1 << 63, 0x3ff8 << 48, 0xbfe0 << 48, 0x4130_0000_8000_0000];

const INT_UNARY: [&str; 5] = ["clz", "ctz", "popcnt", "extend8_s", "extend16_s"];
const INT_BINARY: [&str; 11] = ["add", "sub", "mul", "and", "or", "xor", "shl", "shr_s", "shr_u", "rotl", "rotr"];
const INT_COMPARE: [&str; 10] = ["eq", "ne", "lt_s", "lt_u", "gt_s", "gt_u", "le_s", "le_u", "ge_s", "ge_u"];
const INT_DIVIDE: [&str; 4] = ["div_s", "div_u", "rem_s", "rem_u"];
const FLOAT_UNARY: [&str; 7] = ["abs", "neg", "ceil", "floor", "trunc", "nearest", "sqrt"];
const FLOAT_BINARY: [&str; 7] = ["add", "sub", "mul", "div", "min", "max", "copysign"];
const FLOAT_COMPARE: [&str; 6] = ["eq", "ne", "lt", "gt", "le", "ge"];

/// Operand type, and the conversions from it. The result type begins each name.
const CONVERSIONS: [(&str, &[&str]); 4] = [
    (
        "i32",
        &[
            "i64.extend_i32_s",
            "i64.extend_i32_u",
            "f32.convert_i32_s",
            "f32.convert_i32_u",
            "f64.convert_i32_s",
            "f64.convert_i32_u",
            "f32.reinterpret_i32",
        ],
    ),
    (
        "i64",
        &[
            "i32.wrap_i64",
            "i64.extend32_s",
            "f32.convert_i64_s",
            "f32.convert_i64_u",
            "f64.convert_i64_s",
            "f64.convert_i64_u",
            "f64.reinterpret_i64",
        ],
    ),
    (
        "f32",
        &[
            "i32.trunc_sat_f32_s",
            "i32.trunc_sat_f32_u",
            "i64.trunc_sat_f32_s",
            "i64.trunc_sat_f32_u",
            "f64.promote_f32",
            "i32.reinterpret_f32",
        ],
    ),
    (
        "f64",
        &[
            "i32.trunc_sat_f64_s",
            "i32.trunc_sat_f64_u",
            "i64.trunc_sat_f64_s",
            "i64.trunc_sat_f64_u",
            "f32.demote_f64",
            "i64.reinterpret_f64",
        ],
    ),
];

fn bytes32(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn bytes64(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn edges(of: &str) -> Vec<u8> {
    match of {
        "i32" => bytes32(&I32),
        "i64" => bytes64(&I64),
        "f32" => bytes32(&F32),
        _ => bytes64(&F64),
    }
}

pub(super) fn size_of(of: &str) -> usize {
    match of {
        "v128" => 16,
        "i64" | "f64" => 8,
        _ => 4,
    }
}

/// Encodes bytes as a data segment at an address.
pub(super) fn data(at: usize, bytes: &[u8]) -> String {
    let text: String = bytes.iter().map(|byte| format!("\\{byte:02x}")).collect();
    format!("(data (i32.const {at}) \"{text}\")")
}

/// Makes a body that computes `results` for every pair of operands. `results` holds types, and
/// expressions of `$a` and `$b`. The operands are at 2048 and at 4096; `of` are their types, `ends`
/// the lengths of both lists in bytes. The reply holds all results.
pub(super) fn every_pair(of: [&str; 2], ends: [usize; 2], results: &[(&str, String)]) -> String {
    let mut stores = String::new();
    for (result, expression) in results {
        let size = size_of(result);
        stores += &format!(
            "({result}.store (local.get $out) {expression}) (local.set $out (i32.add (local.get $out) (i32.const {size})))\n"
        );
    }
    let [a, b] = of;
    format!(
        "(local $i i32) (local $j i32) (local $out i32) (local $a {a}) (local $b {b})
        (local.set $out (i32.const 8192))
        (loop $outer
          (local.set $a ({a}.load offset=2048 (local.get $i)))
          (local.set $j (i32.const 0))
          (loop $inner
            (local.set $b ({b}.load offset=4096 (local.get $j)))
            {stores}
            (br_if $inner (i32.lt_u (local.tee $j (i32.add (local.get $j) (i32.const {}))) (i32.const {}))))
          (br_if $outer (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const {}))) (i32.const {}))))
        (call $reply (i32.const 8192) (i32.sub (local.get $out) (i32.const 8192)))",
        size_of(b),
        ends[1],
        size_of(a),
        ends[0],
    )
}

/// Makes a case of an operator with two operands on edge values. If the operator has one operand,
/// `second` holds a single value that is not used.
fn on_edges(name: &str, result: &str, of: &str, first: &[u8], second: &[u8], is_binary: bool) -> Case {
    let operands = if is_binary { "(local.get $a) (local.get $b)" } else { "(local.get $a)" };
    let body = every_pair([of, of], [first.len(), second.len()], &[(result, format!("({name} {operands})"))]);
    case(format!("number/{name}"), body).more(format!("{}{}", data(2048, first), data(4096, second)))
}

fn integers(of: &str) -> Vec<Case> {
    let all = edges(of);
    let one = &all[..size_of(of)];
    // The divisors exclude zero, which always traps, and -1, which traps once.
    let divisors = &all[size_of(of)..all.len() - size_of(of)];
    let name = |operator: &&str| format!("{of}.{operator}");
    let unary = INT_UNARY.iter().map(|operator| on_edges(&name(operator), of, of, &all, one, false));
    let test = [on_edges(&format!("{of}.eqz"), "i32", of, &all, one, false)];
    let binary = INT_BINARY.iter().map(|operator| on_edges(&name(operator), of, of, &all, &all, true));
    let compare = INT_COMPARE.iter().map(|operator| on_edges(&name(operator), "i32", of, &all, &all, true));
    let divide = INT_DIVIDE.iter().map(|operator| on_edges(&name(operator), of, of, &all, divisors, true));
    unary.chain(test).chain(binary).chain(compare).chain(divide).collect()
}

fn floats(of: &str) -> Vec<Case> {
    let all = edges(of);
    let one = &all[..size_of(of)];
    let name = |operator: &&str| format!("{of}.{operator}");
    let unary = FLOAT_UNARY.iter().map(|operator| on_edges(&name(operator), of, of, &all, one, false));
    let binary = FLOAT_BINARY.iter().map(|operator| on_edges(&name(operator), of, of, &all, &all, true));
    let compare = FLOAT_COMPARE.iter().map(|operator| on_edges(&name(operator), "i32", of, &all, &all, true));
    unary.chain(binary).chain(compare).collect()
}

fn conversions() -> Vec<Case> {
    let mut cases = Vec::new();
    for (of, names) in CONVERSIONS {
        let all = edges(of);
        cases.extend(names.iter().map(|name| on_edges(name, &name[..3], of, &all, &all[..size_of(of)], false)));
    }
    for of in ["f32", "f64"] {
        let small = if of == "f32" { bytes32(&SMALL32) } else { bytes64(&SMALL64) };
        for to in ["i32", "i64"] {
            for sign in ["s", "u"] {
                let name = format!("{to}.trunc_{of}_{sign}");
                cases.push(on_edges(&name, to, of, &small, &small[..size_of(of)], false));
            }
        }
    }
    cases
}

/// Makes a case that computes one value and replies its bits.
fn single(name: &str, result: &str, expression: &str) -> Case {
    let size = size_of(result);
    case(
        format!("number/{name}"),
        format!("({result}.store (i32.const 512) {expression}) (call $reply (i32.const 512) (i32.const {size}))"),
    )
}

fn traps() -> Vec<Case> {
    let mut cases = Vec::new();
    for (of, least) in [("i32", "0x80000000"), ("i64", "0x8000000000000000")] {
        for operator in INT_DIVIDE {
            let divide = |by: &str| format!("({of}.{operator} ({of}.const {least}) ({of}.const {by}))");
            cases.push(single(&format!("{of}.{operator}-by-0"), of, &divide("0")));
            if operator.ends_with('s') {
                cases.push(single(&format!("{of}.{operator}-least-by-minus-1"), of, &divide("-1")));
            }
        }
    }
    let beyond = [
        ("i32.trunc_f32_s", "2147483648", "-2147483648"),
        ("i32.trunc_f32_u", "4294967296", "-0.99"),
        ("i32.trunc_f64_s", "2147483648", "-2147483648.9"),
        ("i32.trunc_f64_u", "4294967296", "4294967295.9"),
        ("i64.trunc_f32_s", "9223372036854775808", "-9223372036854775808"),
        ("i64.trunc_f32_u", "18446744073709551616", "-0.99"),
        ("i64.trunc_f64_s", "9223372036854775808", "-9223372036854775808"),
        ("i64.trunc_f64_u", "18446744073709551616", "18446744073709549568"),
    ];
    for (operator, too_large, just_in) in beyond {
        let (to, of) = (&operator[..3], &operator[10..13]);
        for (what, value) in [("nan", "nan"), ("too-large", too_large), ("just-in", just_in)] {
            cases.push(single(&format!("{operator}-{what}"), to, &format!("({operator} ({of}.const {value}))")));
        }
    }
    cases
}

pub(super) fn cases() -> Vec<Case> {
    [integers("i32"), integers("i64"), floats("f32"), floats("f64"), conversions(), traps()]
        .into_iter()
        .flatten()
        .collect()
}
