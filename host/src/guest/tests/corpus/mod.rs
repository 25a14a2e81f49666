//! The golden corpus: small guests, the outcome of each of their commands, and the file that
//! records the outcomes. It pins the meaning of fuel, limits and verdicts: replicas of one cluster
//! must agree on every line. The cases are data in the files beside this one.

mod calls;
mod control;
pub(super) mod depth;
mod numbers;
mod sizes;
mod vectors;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::PathBuf;

use super::*;
use crate::guest::{SEMANTICS, SIZES_METERED_SINCE, charges_sizes_first};
use crate::types::hex;

/// Path from the crate's directory.
const GOLDEN: &str = "src/guest/tests/corpus/golden.txt";
/// The outcomes that this build must have. They are compiled in, because `corpus/` runs the test in
/// another directory.
const GOLDEN_TEXT: &str = include_str!("golden.txt");
/// If this variable is set to any value, the test writes the file instead of comparing with it.
const REWRITE: &str = "LOCKSTEP_REWRITE_GOLDEN";
/// Replaces the fuel of a case whose recursion, before semantics 5, ended a few frames earlier or
/// later, depending on the host's build. Everything else is exact.
const INEXACT: &str = "-";
/// Operators whose price depends on a size. Before semantics 6 the engine charged it.
const WITH_A_SIZE: [&str; 8] = [
    "memory.copy",
    "memory.fill",
    "memory.init",
    "memory.grow",
    "table.copy",
    "table.fill",
    "table.init",
    "table.grow",
];

/// A guest and its requests.
struct Case {
    name: String,
    apply: String,
    more: String,
    /// The requests run one after the other in one instance, as the commands of an entry do.
    requests: Vec<Vec<u8>>,
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    fuel: u64,
    exact: bool,
}

/// Makes a case with one empty request and an empty store.
fn case(name: impl Into<String>, apply: impl Into<String>) -> Case {
    Case {
        name: name.into(),
        apply: apply.into(),
        more: String::new(),
        requests: vec![Vec::new()],
        rows: BTreeMap::new(),
        fuel: Limits::default().fuel_per_command,
        exact: true,
    }
}

impl Case {
    /// Adds functions, tables and data beside the exports.
    fn more(self, more: impl Into<String>) -> Self {
        Self { more: more.into(), ..self }
    }

    fn requests(self, requests: &[&[u8]]) -> Self {
        Self { requests: requests.iter().map(|request| request.to_vec()).collect(), ..self }
    }

    /// Sets a store with `count` rows. Each has a key of three bytes and a value of `value_bytes`
    /// bytes.
    fn rows(self, count: u32, value_bytes: usize) -> Self {
        let row = |n: u32| (n.to_be_bytes()[1..].to_vec(), vec![n as u8; value_bytes]);
        Self { rows: (0..count).map(row).collect(), ..self }
    }

    fn fuel(self, fuel: u64) -> Self {
        Self { fuel, ..self }
    }

    /// Excludes the used fuel from the comparison where the guest does not meter its depth.
    fn inexact(self) -> Self {
        Self { exact: false, ..self }
    }

    fn has_a_size(&self) -> bool {
        WITH_A_SIZE.iter().any(|operator| self.apply.contains(operator) || self.more.contains(operator))
    }

    /// Returns the name, then the fuel, the verdict and the store's contents after each request.
    fn run(&self, engine: &Engine) -> String {
        let text = Text { apply: &self.apply, more: &self.more, ..Text::default() };
        let component = text.load_into(engine);
        let mut instance = ApplyInstance::new(&component).unwrap();
        let mut store: Box<dyn Rows> = Box::new(Map { rows: self.rows.clone(), broken: false });
        let mut line = self.name.clone();
        for request in &self.requests {
            let (verdict, returned) = instance.apply(Call { fuel: self.fuel, ..call(request) }, store);
            let state = map(returned);
            let is_exact = self.exact || engine.limits().meters_depth();
            let fuel = if is_exact { instance.fuel_used().to_string() } else { INEXACT.to_owned() };
            write!(line, "  {fuel} {} {}", short(&verdict.unwrap()), hash_of(&state)).unwrap();
            store = Box::new(state);
        }
        line
    }
}

fn short(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Reply(reply) => format!("reply:{}:{}", reply.len(), hash(reply)),
        Verdict::Refused(status) => {
            let text = [status.message.as_bytes(), &status.details].concat();
            format!("refused:{}:{}:{}", status.code, status.message.len(), hash(&text))
        }
        Verdict::Failed(failure) => format!("{:?}", failure.reason),
    }
}

fn hash_of(state: &Map) -> String {
    let mut hasher = blake3::Hasher::new();
    for (key, value) in &state.rows {
        hasher.update(&(key.len() as u32).to_le_bytes()).update(key);
        hasher.update(&(value.len() as u32).to_le_bytes()).update(value);
    }
    format!("rows:{}:{}", state.rows.len(), &hex(hasher.finalize().as_bytes())[..12])
}

fn hash(bytes: &[u8]) -> String {
    hex(blake3::hash(bytes).as_bytes())[..12].to_owned()
}

/// Returns the tables that decide outcomes without running a guest: the price of every operator,
/// used by a case or not, the operators whose price is not in the table, and the limits.
fn tables() -> [String; 2] {
    let limits = serde_json::to_string(&Limits::default()).unwrap();
    let fuel = [engine::FUEL, &crate::guest::depth::OPERATORS_WITH_A_SIZE.join(" ")].concat();
    [format!("table/fuel  {}", hash(fuel.as_bytes())), format!("table/limits  {}", hash(limits.as_bytes()))]
}

/// Returns every line, sorted by name.
fn lines() -> Vec<String> {
    let mut lines: Vec<String> = cases().iter().map(|case| case.run(&ENGINE)).chain(tables()).collect();
    lines.sort();
    lines
}

fn cases() -> Vec<Case> {
    let files = [numbers::cases(), vectors::cases(), control::cases(), calls::cases(), depth::cases(), sizes::cases()];
    let cases: Vec<Case> = files.into_iter().flatten().collect();
    let names: BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    assert_eq!(names.len(), cases.len(), "two cases have one name");
    cases
}

fn by_name(lines: &[String]) -> BTreeMap<&str, &str> {
    lines.iter().map(|line| line.split_once("  ").expect("a name and what follows")).collect()
}

/// Returns the differences: changed and lost cases, then new ones.
fn differences(golden: &[String], found: &[String]) -> (Vec<String>, Vec<String>) {
    let (golden, found) = (by_name(golden), by_name(found));
    let changed = golden.iter().filter(|(name, was)| found.get(*name) != Some(was));
    let changed = changed.map(|(name, was)| {
        format!("{name}\n    was {was}\n    is  {}", found.get(name).copied().unwrap_or("no case any more"))
    });
    let new = found.keys().filter(|name| !golden.contains_key(*name));
    (changed.collect(), new.map(|name| name.to_string()).collect())
}

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(GOLDEN)
}

fn rewrite(lines: &[String]) {
    let path = golden();
    let text = format!("semantics {SEMANTICS}\n{}\n", lines.join("\n"));
    std::fs::write(&path, text).unwrap();
    println!("{} is written", path.display());
}

/// Runs `work` on a thread with the stack size of threads that call guests. A recursion may use all
/// of it.
pub(super) fn on_a_deep_stack<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::Builder::new().stack_size(CALLER_STACK_BYTES).spawn(work).unwrap();
    thread.join().unwrap()
}

#[test]
fn nothing_has_changed_its_meaning() {
    let found = on_a_deep_stack(lines);
    let mut golden: Vec<String> = GOLDEN_TEXT.lines().map(str::to_owned).collect();
    let semantics = if golden.is_empty() { String::new() } else { golden.remove(0) };
    let same_semantics = semantics == format!("semantics {SEMANTICS}");
    let (changed, new) = differences(&golden, &found);
    let may_rewrite = changed.is_empty() || !same_semantics;
    if std::env::var_os(REWRITE).is_some() && may_rewrite {
        rewrite(&found);
        return;
    }
    let advice = format!(
        "Replicas would disagree with those of the build before. If that is meant, raise SEMANTICS in host/src/guest/limits.rs first; then \
         `{REWRITE}=1 cargo test --release --workspace --lib nothing_has_changed_its_meaning` rewrites the file"
    );
    assert!(same_semantics, "golden.txt is of {semantics:?}, this build of {SEMANTICS}: rewrite it.\n{advice}");
    assert!(changed.is_empty(), "{} cases changed:\n  {}\n{advice}", changed.len(), changed.join("\n  "));
    assert!(new.is_empty(), "{} cases are not in golden.txt yet: {}\n{advice}", new.len(), new.join(", "));
}

/// The outcomes of earlier semantics, as the last builds before the next one wrote them. A cluster
/// keeps its semantics, so these files stay as they are.
const GOLDEN_3: &str = include_str!("golden-3.txt");
const GOLDEN_4: &str = include_str!("golden-4.txt");
const GOLDEN_5: &str = include_str!("golden-5.txt");

/// Compares the outcomes under these limits with those of a file. Cases that came later are not in
/// it. Where the engine charges sizes behind the operator, cases with one are left out: a build
/// with such an engine does not run these semantics.
fn means_what_it_meant(limits: Limits, golden: &'static str) {
    let mut record: BTreeMap<&str, &str> = outcomes(golden).collect();
    let mut cases: Vec<Case> = cases().into_iter().filter(|case| record.contains_key(case.name.as_str())).collect();
    if !charges_sizes_first() {
        let with_a_size: Vec<Case> = cases.extract_if(.., |case| case.has_a_size()).collect();
        record.retain(|name, _| with_a_size.iter().all(|case| case.name != *name));
        println!(
            "semantics {}: {} cases with a price by size are left out, because this wasmtime charges it behind the operator; a \
             build with it runs no semantics before {SIZES_METERED_SINCE}",
            limits.semantics,
            with_a_size.len()
        );
    }
    let found = on_a_deep_stack(move || {
        let engine = Engine::new(&limits).unwrap();
        cases.iter().map(|case| case.run(&engine)).collect::<Vec<_>>()
    });
    let golden: Vec<String> = record.iter().map(|(name, outcome)| format!("{name}  {outcome}")).collect();
    let (changed, _) = differences(&golden, &found);
    assert!(changed.is_empty(), "{} cases changed:\n  {}", changed.len(), changed.join("\n  "));
}

#[test]
fn a_profile_of_semantics_3_means_what_it_meant() {
    let free = Limits { fuel_per_reply_byte: 0, reply_bytes_per_entry_max: u64::MAX, ..Limits::default() };
    means_what_it_meant(Limits { semantics: 3, ..free }, GOLDEN_3);
}

#[test]
fn a_profile_of_semantics_4_means_what_it_meant() {
    means_what_it_meant(Limits { semantics: 4, ..Limits::default() }, GOLDEN_4);
}

#[test]
fn a_profile_of_semantics_5_means_what_it_meant() {
    means_what_it_meant(Limits { semantics: 5, ..Limits::default() }, GOLDEN_5);
}

/// Returns name and outcome of each case of a record. The limits in it are those of its default
/// profile, and the test of profiles compares them.
fn outcomes(record: &str) -> impl Iterator<Item = (&str, &str)> {
    let is_case = |line: &&str| !line.starts_with("semantics ") && !line.starts_with("table/");
    record.lines().filter(is_case).map(|line| line.split_once("  ").expect("a name and what follows"))
}

/// A command that ends in the same way with and without a metering has the same reply and rows.
/// Only its fuel differs, and where the stack ends. The records are compared, because the tests
/// above compare each with what this build does.
#[test]
fn what_metering_adds_is_seen_in_fuel_and_depth_alone() {
    for (before, after) in [(GOLDEN_4, GOLDEN_5), (GOLDEN_5, GOLDEN_TEXT)] {
        differs_in_fuel_and_depth_alone(before, after);
    }
}

fn differs_in_fuel_and_depth_alone(before: &str, after: &str) {
    fn without_fuel(outcome: &str) -> Vec<&str> {
        outcome.split("  ").map(|column| column.split_once(' ').map_or(column, |(_, rest)| rest)).collect()
    }
    let may_differ = |outcome: &str| outcome.contains(" Fuel ") || outcome.contains(" Stack ");
    let after: BTreeMap<&str, &str> = outcomes(after).collect();
    let (mut compared, mut left_out) = (0, 0);
    for (name, before) in outcomes(before) {
        let after = after[name];
        if may_differ(before) || may_differ(after) {
            left_out += 1;
            continue;
        }
        assert_eq!(without_fuel(before), without_fuel(after), "{name}");
        compared += 1;
    }
    assert!(compared > 300, "only {compared} cases, without {left_out}");
}

/// The fuel that just suffices for an operator is known to the unit.
#[test]
fn an_operator_that_costs_more_than_is_left_does_not_begin() {
    let record: BTreeMap<&str, &str> = outcomes(GOLDEN_TEXT).collect();
    let mut compared = 0;
    for (name, outcome) in &record {
        let Some(name) = name.strip_suffix("-not-affordable") else { continue };
        assert!(outcome.contains(" Fuel "), "{name}: {outcome}");
        let enough = record[format!("{name}-affordable").as_str()];
        assert!(!enough.contains(" Fuel "), "{name}: {enough}");
        compared += 1;
    }
    assert_eq!(compared, 16);
}

#[test]
fn a_difference_is_found_and_named() {
    let lines = |text: &[&str]| text.iter().map(|line| line.to_string()).collect::<Vec<_>>();
    let golden = lines(&["a  1 Trap", "b  2 Fuel", "c  3 Fuel"]);
    let (changed, new) = differences(&golden, &lines(&["a  1 Trap", "b  3 Fuel", "d  4 Fuel"]));
    assert_eq!(changed, ["b\n    was 2 Fuel\n    is  3 Fuel", "c\n    was 3 Fuel\n    is  no case any more"]);
    assert_eq!(new, ["d"]);
}

#[test]
fn every_case_is_the_same_in_a_second_run() {
    on_a_deep_stack(|| {
        let some = numbers::cases().into_iter().chain(control::cases()).step_by(7);
        for case in some {
            assert_eq!(case.run(&ENGINE), case.run(&ENGINE));
        }
    });
}
