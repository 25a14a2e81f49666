//! Programs made at random answer alike with and without the metering of the depth. The metered
//! stack is small here, so that a function which does not give back what its entry took ends a
//! program. This file knows no outcome in advance.

use std::fmt::Write;

use super::corpus::on_a_deep_stack;
use super::*;

/// Fuel of one program: a hundred commands. What metering costs must not decide.
const FUEL: u64 = 100 * Limits::DEFAULT.fuel_per_command;
/// The metered stack. A program needs less, at three frames at a time.
const STACK_BYTES: u64 = 64 << 10;
const PROGRAMS: u64 = 40;

/// What a function, and each way out of it, has as results.
#[derive(Clone, Copy)]
enum Results {
    One,
    Two,
    Vector,
}

/// Draws programs from a seed.
struct Draw {
    seed: u64,
    results: Results,
}

impl Draw {
    fn new(seed: u64) -> Self {
        Self { seed: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), results: Results::One }
    }

    fn below(&mut self, end: u64) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        (self.seed >> 11) % end
    }

    /// Statements with an operator that has a size, and with what lies in memory behind it.
    fn bulk(&mut self) -> String {
        let size = match self.below(2) {
            0 => format!("(i32.const {})", self.below(200)),
            _ => format!("(i32.and {} (i32.const 255))", self.number(1)),
        };
        let does = match self.below(5) {
            0 => format!("(memory.fill (i32.const 4096) {} {size})", self.number(0)),
            1 => format!("(memory.copy (i32.const 4100) (i32.const 4096) {size})"),
            2 => format!("(memory.init $bytes (i32.const 4096) (i32.const 3) (i32.rem_u {size} (i32.const 8)))"),
            3 => format!("(table.copy (i32.const 0) (i32.const 0) (i32.rem_u {size} (i32.const 3)))"),
            _ => "(local.set 2 (memory.grow (i32.const 0)))".to_owned(),
        };
        let at = format!("(i32.and {} (i32.const 255))", self.number(0));
        format!("{does} (local.set 2 (i32.add (local.get 2) (i32.load8_u offset=4096 {at})))")
    }

    /// An expression of one number.
    fn number(&mut self, depth: u32) -> String {
        match self.below(if depth == 0 { 2 } else { 8 }) {
            0 => format!("(i32.const {})", self.below(1_000)),
            1 => format!("(local.get {})", self.below(3)),
            2 => format!("(i32.add {} {})", self.number(depth - 1), self.number(depth - 1)),
            3 => format!("(i32.mul {} {})", self.number(depth - 1), self.number(depth - 1)),
            4 => format!("(i32x4.extract_lane 2 {})", self.vector(depth - 1)),
            5 | 6 => self.call(),
            _ => {
                let (number, then, otherwise) = (self.number(0), self.number(depth - 1), self.number(depth - 1));
                format!("(if (result i32) {number} (then {then}) (else {otherwise}))")
            }
        }
    }

    /// A call whose first parameter is smaller than the caller's.
    fn call(&mut self) -> String {
        let with = format!("(i32.sub (local.get 0) (i32.const 1)) {}", self.number(0));
        match self.below(4) {
            0 => format!("(call $one{} {with})", self.below(2)),
            1 => format!("(call_indirect (type $two_numbers) {with} (i32.const {}))", self.below(2)),
            2 => format!("(block (result i32) (call $two{} {with}) i32.wrap_i64 i32.add)", self.below(2)),
            _ => format!("(i32x4.extract_lane 1 (call $vector {with}))"),
        }
    }

    fn vector(&mut self, depth: u32) -> String {
        match self.below(3) {
            0 => format!("(i32x4.splat {})", self.number(depth)),
            1 => format!("(i32x4.add (v128.const i32x4 1 2 3 4) (i32x4.splat {}))", self.number(depth)),
            _ => format!("(v128.not (i32x4.splat {}))", self.number(depth)),
        }
    }

    /// The results of the function.
    fn value(&mut self, depth: u32) -> String {
        match self.results {
            Results::One => self.number(depth),
            Results::Two => format!("{} (i64.extend_i32_u {})", self.number(depth), self.number(depth)),
            Results::Vector => self.vector(depth),
        }
    }

    fn drops(&self) -> &'static str {
        if matches!(self.results, Results::Two) { "drop drop" } else { "drop" }
    }

    /// A statement; `labels` blocks are around it, and then comes the function's own label.
    fn statement(&mut self, depth: u32, labels: u64) -> String {
        match self.below(if depth == 0 { 4 } else { 9 }) {
            0 if self.below(2) == 0 => self.bulk(),
            0 => format!("(local.set 2 {})", self.number(2)),
            1 => format!("(if {} (then (return {})))", self.number(1), self.value(1)),
            2 => format!("(br_if {labels} {} {}) {}", self.value(0), self.number(1), self.drops()),
            3 => {
                let (number, value, index) = (self.number(0), self.value(0), self.number(0));
                format!("(if {number} (then (br_table {0} {0} {value} {index})))", labels + 1)
            }
            4 => format!("(block {})", self.statements(depth - 1, labels + 1)),
            5 => {
                let (then, otherwise) =
                    (self.statements(depth - 1, labels + 1), self.statements(depth - 1, labels + 1));
                format!("(if {} (then {then}) (else {otherwise}))", self.number(1))
            }
            6 => {
                let (first, second) = (self.statements(depth - 1, labels + 2), self.statements(depth - 1, labels + 1));
                format!("(block (block (block (br_table 0 1 2 {})) {first}) {second})", self.number(1))
            }
            // What lies behind the return is never reached.
            7 => {
                let (number, value, dead) = (self.number(1), self.value(0), self.statements(depth - 1, labels + 1));
                format!("(if {number} (then (return {value}) {dead} (return {value})))")
            }
            _ => {
                let (statements, number, value) =
                    (self.statements(depth - 1, labels + 1), self.number(0), self.value(1));
                format!("(loop {statements} (if {number} (then (return {value}))))")
            }
        }
    }

    fn statements(&mut self, depth: u32, labels: u64) -> String {
        let count = 1 + self.below(3);
        let mut all = String::new();
        for _ in 0..count {
            write!(all, "{} ", self.statement(depth, labels)).unwrap();
        }
        all
    }

    fn function(&mut self, name: &str, results: Results) -> String {
        self.results = results;
        let (types, last) = match results {
            Results::One => ("i32", "(local.get 1)"),
            Results::Two => ("i32 i64", "(local.get 1) (i64.const 5)"),
            Results::Vector => ("v128", "(i32x4.splat (local.get 1))"),
        };
        let (statements, value) = (self.statements(2, 0), self.value(1));
        format!(
            "(func ${name} (param i32 i32) (result {types}) (local i32)
            (if (i32.le_s (local.get 0) (i32.const 0)) (then (return {last})))
            {statements} {value})\n"
        )
    }

    /// Functions that call each other, each time with a smaller first parameter.
    fn functions(&mut self) -> String {
        let kinds = [
            ("one0", Results::One),
            ("one1", Results::One),
            ("two0", Results::Two),
            ("two1", Results::Two),
            ("vector", Results::Vector),
        ];
        let mut all = String::from(
            "(type $two_numbers (func (param i32 i32) (result i32)))
            (table 2 funcref) (elem (i32.const 0) $one0 $one1) (data $bytes \"0123456789\")\n",
        );
        for (name, results) in kinds {
            all += &self.function(name, results);
        }
        all
    }
}

/// Runs a program, and returns its verdict without the detail, and the fuel that it used.
fn run(engine: &Engine, functions: &str) -> (Verdict, u64) {
    // The first number is small, so that no program grows beyond its fuel.
    let apply = "(local $round i32) (local $sum i32)
        (loop $more
          (local.set $sum (i32.add (local.get $sum) (call $one0 (i32.const 2) (local.get $round))))
          (br_if $more (i32.lt_u (local.tee $round (i32.add (local.get $round) (i32.const 1))) (i32.const 30))))
        (i32.store (i32.const 512) (local.get $sum)) (call $reply (i32.const 512) (i32.const 4))";
    let component = Text { apply, more: functions, ..Text::default() }.load_into(engine);
    let mut instance = ApplyInstance::new(&component).unwrap();
    let (verdict, _) = instance.apply(Call { fuel: FUEL, ..call(b"") }, Box::new(Map::default()));
    let verdict = match verdict.unwrap() {
        Verdict::Failed(failure) => Verdict::Failed(Failure { detail: String::new(), ..failure }),
        other => other,
    };
    (verdict, instance.fuel_used())
}

#[test]
fn programs_at_random_answer_alike_with_and_without_it() {
    let compared = on_a_deep_stack(|| {
        let plain = Engine::new(&Limits { semantics: 4, ..Limits::default() }).unwrap();
        let metered = Engine::new(&Limits { wasm_stack_bytes: STACK_BYTES, ..Limits::default() }).unwrap();
        let mut compared = 0;
        for seed in 1..=PROGRAMS {
            let functions = Draw::new(seed).functions();
            let (without, used) = run(&plain, &functions);
            // What metering costs may be more than what is left.
            if used > FUEL / 3 {
                continue;
            }
            assert!(matches!(without, Verdict::Reply(_)), "seed {seed}: {without:?}\n{functions}");
            let (with, _) = run(&metered, &functions);
            assert_eq!(without, with, "seed {seed}:\n{functions}");
            compared += 1;
        }
        compared
    });
    assert!(compared > PROGRAMS * 9 / 10, "only {compared} of {PROGRAMS} programs were compared");
}
