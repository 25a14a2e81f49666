//! Vectors of the corpus: every SIMD operator of the allow-list, with one case for each shape and
//! kind of operator, on pairs of vectors whose lanes are edge values of every shape.

use super::numbers::{data, every_pair};
use super::{Case, case};

/// Each vector is read as lanes of every shape: bytes and words that saturate, floats that round,
/// NaNs with and without a payload.
const VECTORS: [u128; 7] = [
    0,
    u128::MAX,
    0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10,
    0x7f80_8000_7fff_8000_7fff_ffff_8000_0000,
    0x3f80_0000_bfc0_0000_4020_0000_c020_0000,
    0x7fc0_0000_ffc1_2345_7fa0_0001_7f80_0000,
    0x7ff8_0000_0000_0001_c3e0_0000_0000_0000,
];

/// Shape, and its operators of two vectors.
const BINARY: [(&str, &str); 6] = [
    (
        "i8x16",
        "eq ne lt_s lt_u gt_s gt_u le_s le_u ge_s ge_u add add_sat_s add_sat_u sub sub_sat_s sub_sat_u min_s min_u max_s max_u avgr_u \
         narrow_i16x8_s narrow_i16x8_u swizzle",
    ),
    (
        "i16x8",
        "eq ne lt_s lt_u gt_s gt_u le_s le_u ge_s ge_u add add_sat_s add_sat_u sub sub_sat_s sub_sat_u mul min_s min_u max_s max_u avgr_u \
         q15mulr_sat_s narrow_i32x4_s narrow_i32x4_u extmul_low_i8x16_s extmul_high_i8x16_s extmul_low_i8x16_u extmul_high_i8x16_u",
    ),
    (
        "i32x4",
        "eq ne lt_s lt_u gt_s gt_u le_s le_u ge_s ge_u add sub mul min_s min_u max_s max_u dot_i16x8_s extmul_low_i16x8_s \
         extmul_high_i16x8_s extmul_low_i16x8_u extmul_high_i16x8_u",
    ),
    (
        "i64x2",
        "eq ne lt_s gt_s le_s ge_s add sub mul extmul_low_i32x4_s extmul_high_i32x4_s extmul_low_i32x4_u extmul_high_i32x4_u",
    ),
    ("f32x4", "eq ne lt gt le ge add sub mul div min max pmin pmax"),
    ("f64x2", "eq ne lt gt le ge add sub mul div min max pmin pmax"),
];

/// Shape, and its operators of one vector.
const UNARY: [(&str, &str); 6] = [
    ("i8x16", "abs neg popcnt"),
    (
        "i16x8",
        "abs neg extadd_pairwise_i8x16_s extadd_pairwise_i8x16_u extend_low_i8x16_s extend_high_i8x16_s extend_low_i8x16_u \
         extend_high_i8x16_u",
    ),
    (
        "i32x4",
        "abs neg extadd_pairwise_i16x8_s extadd_pairwise_i16x8_u extend_low_i16x8_s extend_high_i16x8_s extend_low_i16x8_u \
         extend_high_i16x8_u trunc_sat_f32x4_s trunc_sat_f32x4_u trunc_sat_f64x2_s_zero trunc_sat_f64x2_u_zero",
    ),
    ("i64x2", "abs neg extend_low_i32x4_s extend_high_i32x4_s extend_low_i32x4_u extend_high_i32x4_u"),
    ("f32x4", "abs neg sqrt ceil floor trunc nearest convert_i32x4_s convert_i32x4_u demote_f64x2_zero"),
    ("f64x2", "abs neg sqrt ceil floor trunc nearest convert_low_i32x4_s convert_low_i32x4_u promote_low_f32x4"),
];

/// Shape, type of a lane, number of lanes, operators that read a lane.
const LANES: [(&str, &str, u32, &[&str]); 6] = [
    ("i8x16", "i32", 16, &["extract_lane_s", "extract_lane_u"]),
    ("i16x8", "i32", 8, &["extract_lane_s", "extract_lane_u"]),
    ("i32x4", "i32", 4, &["extract_lane"]),
    ("i64x2", "i64", 2, &["extract_lane"]),
    ("f32x4", "f32", 4, &["extract_lane"]),
    ("f64x2", "f64", 2, &["extract_lane"]),
];

const LOADS: &str = "load load8x8_s load8x8_u load16x4_s load16x4_u load32x2_s load32x2_u load8_splat load16_splat load32_splat load64_splat \
                     load32_zero load64_zero";

fn on_vectors(name: String, results: &[(&str, String)]) -> Case {
    let bytes: Vec<u8> = VECTORS.iter().flat_map(|vector| vector.to_le_bytes()).collect();
    let body = every_pair(["v128", "v128"], [bytes.len(); 2], results);
    case(format!("vector/{name}"), body).more(format!("{}{}", data(2048, &bytes), data(4096, &bytes)))
}

fn listed(shape: &str, operators: &str, operands: &str) -> Vec<(&'static str, String)> {
    operators.split_whitespace().map(|operator| ("v128", format!("({shape}.{operator} {operands})"))).collect()
}

/// Returns the operations on lanes: shifts by every low lane of the second operand, tests of all
/// lanes, lanes that are read and replaced, and a lane copied to all places.
fn of_lanes((shape, lane, count, reads): (&str, &'static str, u32, &[&str])) -> Vec<(&'static str, String)> {
    let mut results = Vec::new();
    for n in [0, count - 1] {
        results.extend(reads.iter().map(|read| (lane, format!("({shape}.{read} {n} (local.get $a))"))));
        let value = format!("({shape}.{} 0 (local.get $b))", reads[0]);
        results.push(("v128", format!("({shape}.replace_lane {n} (local.get $a) {value})")));
        results.push(("v128", format!("({shape}.splat {value})")));
    }
    if lane.starts_with('i') {
        let by = "(i32x4.extract_lane 0 (local.get $b))";
        for shift in ["shl", "shr_s", "shr_u"] {
            results.push(("v128", format!("({shape}.{shift} (local.get $a) {by})")));
        }
        for test in ["all_true", "bitmask"] {
            results.push(("i32", format!("({shape}.{test} (local.get $a))")));
        }
    }
    results
}

fn bits() -> Vec<(&'static str, String)> {
    let mut results = listed("v128", "and andnot or xor", "(local.get $a) (local.get $b)");
    results.extend(listed("v128", "not", "(local.get $a)"));
    results.push(("i32", "(v128.any_true (local.get $a))".to_owned()));
    results.push((
        "v128",
        "(v128.bitselect (local.get $a) (local.get $b) (v128.const i32x4 0 -1 0xff00ff00 7))".to_owned(),
    ));
    let shuffle = "(i8x16.shuffle 0 31 1 30 2 29 3 28 4 27 5 26 6 25 7 24 (local.get $a) (local.get $b))";
    results.push(("v128", shuffle.to_owned()));
    results
}

fn memory() -> Vec<(&'static str, String)> {
    let mut results = listed("v128", LOADS, "offset=2061 (local.get $i)");
    for width in ["8", "16", "32", "64"] {
        results.push(("v128", format!("(v128.load{width}_lane offset=2063 1 (local.get $i) (local.get $a))")));
        // Outside of the stored lane, the scratch memory keeps the bytes of earlier stores.
        let store = format!("(v128.store{width}_lane offset=600 1 (i32.const 8) (local.get $b))");
        results.push(("v128", format!("(block (result v128) {store} (v128.load (i32.const 606)))")));
    }
    results
}

pub(super) fn cases() -> Vec<Case> {
    let binary = BINARY.map(|(shape, operators)| {
        on_vectors(format!("{shape}-binary"), &listed(shape, operators, "(local.get $a) (local.get $b)"))
    });
    let unary = UNARY
        .map(|(shape, operators)| on_vectors(format!("{shape}-unary"), &listed(shape, operators, "(local.get $a)")));
    let lanes = LANES.map(|lanes| on_vectors(format!("{}-lanes", lanes.0), &of_lanes(lanes)));
    let rest = [on_vectors("bits".to_owned(), &bits()), on_vectors("memory".to_owned(), &memory())];
    binary.into_iter().chain(unary).chain(lanes).chain(rest).collect()
}
