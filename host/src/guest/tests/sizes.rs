//! Tests of the price that operators pay for their size: what each costs to the unit, that it looks
//! at the fuel before it begins, which modules and functions are rewritten for it, and that the
//! semantics before it are rewritten as they were. The corpus has the outcomes.

use super::*;
use crate::types::hex;

/// Fuel of an operator on a range, of one that makes something grow, and of a unit.
const RANGE: u64 = 32;
const GROWTH: u64 = 255;
const UNIT: u64 = 8;

const PARTS: &str = "(table $t 70 65536 funcref) (elem $passive func $f $f $f) (func $f)
    (data $bytes \"01234567890123456789012345678901234567890123456789012345678901234567890123456789\")";

/// Runs one command with a number as request, and returns how it ends and the fuel that it used.
fn run(apply: &str, size: u32, fuel: u64) -> (Verdict, u64) {
    let component = Text { apply, more: PARTS, ..Text::default() }.load();
    let mut instance = ApplyInstance::new(&component).unwrap();
    let request = size.to_le_bytes();
    let (verdict, _) = instance.apply(Call { fuel, ..call(&request) }, Box::new(Map::default()));
    (verdict.unwrap(), instance.fuel_used())
}

fn used(apply: &str, size: u32) -> u64 {
    run(apply, size, 10 * Limits::default().fuel_per_command).1
}

/// An operator with its operands but for the last one, and what it leaves.
type Row = (&'static str, &'static str, &'static str);

const MEMORY: [Row; 3] = [
    ("i32.const 1024 i32.const 7", "memory.fill", ""),
    ("i32.const 1024 i32.const 4096", "memory.copy", ""),
    ("i32.const 1024 i32.const 0", "memory.init $bytes", ""),
];
const TABLES: [Row; 3] = [
    ("i32.const 1 ref.null func", "table.fill $t", ""),
    ("i32.const 1 i32.const 0", "table.copy $t $t", ""),
    ("i32.const 1 i32.const 0", "table.init $t $passive", ""),
];

/// Returns what the operator costs beside its operands: with it and without.
fn price((operands, operator, leaves): Row, size: u32, is_constant: bool) -> u64 {
    let asked = if is_constant { format!("i32.const {size}") } else { "local.get $request i32.load".to_owned() };
    let with = format!("{operands} {asked} {operator} {leaves} call $ok");
    let drops = "drop ".repeat(operands.matches("i32.const").count() + operands.matches("ref.null").count() + 1);
    let without = format!("{operands} {asked} {drops} call $ok");
    used(&with, size) - used(&without, size)
}

#[test]
fn ranges_cost_a_unit_for_each_whole_64_bytes_or_8_elements() {
    for size in [0, 1, 63, 64, 79, 80] {
        for row in MEMORY {
            let wanted = RANGE + UNIT * u64::from(size / 64);
            for is_constant in [false, true] {
                assert_eq!(price(row, size, is_constant), wanted, "{row:?} of {size}, a constant: {is_constant}");
            }
        }
    }
    for size in [128, 129, 8_191, 8_192, 60_000] {
        for (row, is_constant) in [(MEMORY[0], false), (MEMORY[0], true), (MEMORY[1], false), (MEMORY[1], true)] {
            assert_eq!(price(row, size, is_constant), RANGE + UNIT * u64::from(size / 64), "{row:?} of {size}");
        }
    }
    for (row, sizes) in TABLES.into_iter().zip([&[0, 7, 8, 69][..], &[0, 7, 8, 69], &[0, 1, 3]]) {
        for size in sizes {
            for is_constant in [false, true] {
                assert_eq!(price(row, *size, is_constant), RANGE + UNIT * u64::from(size / 8), "{row:?} of {size}");
            }
        }
    }
}

#[test]
fn growth_costs_what_is_asked_for_whether_it_is_granted_or_not() {
    for is_constant in [false, true] {
        for pages in [0, 1, 3, 1_022, 1_023, 4_096] {
            let found = price(("", "memory.grow", "drop"), pages, is_constant);
            assert_eq!(found, GROWTH + 1024 * UNIT * u64::from(pages), "{pages} pages");
        }
        for pages in [4_097, 65_536, u32::MAX >> 1, u32::MAX] {
            let found = price(("", "memory.grow", "drop"), pages, is_constant);
            assert_eq!(found, GROWTH + 1024 * UNIT * 4_096, "{pages} pages");
        }
        for elements in [0, 7, 8, 60_000, 65_530] {
            let found = price(("ref.null func", "table.grow $t", "drop"), elements, is_constant);
            assert_eq!(found, GROWTH + UNIT * u64::from(elements / 8), "{elements} elements");
        }
    }
}

/// The operator itself uses no fuel, so it runs with the fuel that pays for it, and does not with a
/// unit less.
#[test]
fn the_fuel_is_looked_at_right_before_the_operator() {
    for (operands, operator, _) in MEMORY.into_iter().chain(TABLES) {
        let apply = format!("{operands} local.get $request i32.load {operator} call $ok");
        let ends = |fuel: u64| reason(run(&apply, 200_000, fuel).0);
        let (mut too_little, mut enough) = (0, 1_000_000);
        while enough - too_little > 1 {
            let between = (too_little + enough) / 2;
            match ends(between) {
                Reason::Fuel => too_little = between,
                Reason::Trap => enough = between,
                other => panic!("{operator}: {other:?}"),
            }
        }
        let size = if operator.starts_with("table") { 200_000 / 8 } else { 200_000 / 64 };
        assert!((0..100).contains(&(enough - RANGE - UNIT * size)), "{operator}: {enough}");
    }
}

#[test]
fn the_added_function_is_not_shown_to_people() {
    let component = Text {
        apply: "call $ask call $ok",
        more: "(func $ask i32.const 0 i32.const 0 i32.const -1 memory.fill)",
        ..Text::default()
    }
    .load();
    let (verdict, _) = ApplyInstance::new(&component).unwrap().apply(call(b""), Box::new(Map::default()));
    let Verdict::Failed(failure) = verdict.unwrap() else { panic!("it costs too much") };
    assert_eq!(failure.reason, Reason::Fuel);
    let lines: Vec<&str> = failure.detail.lines().collect();
    assert_eq!(lines[1..3], ["in the guest:", "  ask"], "{}", failure.detail);
}

fn limits_of(semantics: u32) -> Limits {
    Limits { semantics, ..Limits::default() }
}

fn form(semantics: u32, component: &[u8]) -> Vec<u8> {
    depth::metered(&limits_of(semantics), component).unwrap()
}

fn has(form: &[u8], word: &str) -> bool {
    form.windows(word.len()).any(|window| window == word.as_bytes())
}

/// What the build before the price of a size made of the golden components.
#[test]
fn what_is_made_under_semantics_5_is_what_it_was() {
    let golden = [
        (golden::KV, "a1de3e2d2fcbf00a2263f8c19b9856d68544eac5c561a5c163e1693d5675c9c4"),
        (golden::COUNTER, "e9d2729322ece891179d8ecb509c2413032c53ecdf130859893332b23ce5802f"),
        (golden::WORDS, "5721664bf8e69368ed3303554d94231ca11d89a35c651cdd7a7d186ee569dc96"),
        (golden::TALLY, "8e1fcf114d3f8cee06c61dc28ddc08de305ce85caae9428afb172808539668ee"),
    ];
    for (component, hash) in golden {
        assert_eq!(hex(blake3::hash(&form(5, component)).as_bytes()), hash);
    }
}

#[test]
fn only_what_has_a_size_is_rewritten_for_it() {
    let of = |functions: &str| {
        let text = format!("(component (core module (memory 1) (table 1 funcref) {functions}))");
        wat::parse_str(text).unwrap()
    };
    let without = of("(func $f (result i32) (call $f)) (func (param i32) (result i32) (return (memory.size)))");
    assert_eq!(form(5, &without), form(6, &without));
    let words = ["price-of-bytes", "price-of-pages", "price-of-elements", "price-of-more-elements"];
    let rows = [
        ("(func (memory.copy (i32.const 0) (i32.const 0) (i32.const 128)))", [false, false, false, false]),
        ("(func (memory.copy (i32.const 0) (i32.const 0) (i32.const 129)))", [true, false, false, false]),
        ("(func (param i32) (memory.fill (i32.const 0) (i32.const 0) (local.get 0)))", [true, false, false, false]),
        // The constant is not the size.
        (
            "(func (param i32) (memory.fill (i32.const 0) (i32.const 0) (i32.add (local.get 0) (i32.const 1))))",
            [true, false, false, false],
        ),
        ("(func (drop (memory.grow (i32.const 1))))", [false, true, false, false]),
        ("(func (table.copy (i32.const 0) (i32.const 0) (i32.const 1)))", [false, false, true, false]),
        ("(func (drop (table.grow (ref.null func) (i32.const 1))))", [false, false, false, true]),
        (
            "(func (drop (table.grow (ref.null func) (memory.grow (i32.const 1)))))
             (func unreachable (memory.fill (i32.add)) (table.copy))",
            [true, true, true, true],
        ),
    ];
    for (functions, wanted) in rows {
        let component = of(functions);
        let made = form(6, &component);
        assert_eq!(words.map(|word| has(&made, word)), wanted, "{functions}");
        assert_ne!(made, form(5, &component), "{functions}");
        let features = features::PARSED_FEATURES;
        wasmparser::Validator::new_with_features(features).validate_all(&made).unwrap();
    }
}

/// Two modules, each with functions of its own for its sizes.
#[test]
fn every_module_pays_for_itself() {
    let text = "(component
        (core module $a (memory 1) (func (param i32) (memory.fill (i32.const 0) (i32.const 0) (local.get 0))))
        (component (core module (table 1 funcref) (func (param i32) (table.copy (local.get 0) (i32.const 0) (local.get 0))))))";
    let made = form(6, &wat::parse_str(text).unwrap());
    assert!(has(&made, "price-of-bytes") && has(&made, "price-of-elements"));
    let of_names = made.windows(4).filter(|window| window == b"used").count();
    assert_eq!(of_names, 2, "each module has a function that traps");
}
