//! The golden corpus: small guests, the outcome of each of their commands, and the file that
//! records the outcomes. It pins the meaning of fuel, limits and verdicts: replicas of one cluster
//! must agree on every line. The cases are data in the files beside this one.

mod calls;
mod control;
pub(super) mod depth;
mod numbers;
mod vectors;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::PathBuf;

use super::*;
use crate::guest::SEMANTICS;
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
/// used by a case or not, and the limits.
fn tables() -> [String; 2] {
    let limits = serde_json::to_string(&Limits::default()).unwrap();
    [format!("table/fuel  {}", hash(engine::FUEL.as_bytes())), format!("table/limits  {}", hash(limits.as_bytes()))]
}

/// Returns every line, sorted by name.
fn lines() -> Vec<String> {
    let mut lines: Vec<String> = results(&ENGINE).into_iter().chain(tables()).collect();
    lines.sort();
    lines
}

/// Returns the lines of all cases under the limits of `engine`.
fn results(engine: &Engine) -> Vec<String> {
    let cases: Vec<Case> = [numbers::cases(), vectors::cases(), control::cases(), calls::cases(), depth::cases()]
        .into_iter()
        .flatten()
        .collect();
    let names: BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    assert_eq!(names.len(), cases.len(), "two cases have one name");
    cases.iter().map(|case| case.run(engine)).collect()
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

/// Compares the outcomes under these limits with those of a file. Cases that came later are not in
/// it.
fn means_what_it_meant(limits: Limits, golden: &str) {
    let found = on_a_deep_stack(move || results(&Engine::new(&limits).unwrap()));
    // The limits are those of today's default profile, and the test of profiles compares them.
    let is_case = |line: &&str| !line.starts_with("semantics ") && !line.starts_with("table/");
    let golden: Vec<String> = golden.lines().filter(is_case).map(str::to_owned).collect();
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

/// A command that ends in the same way with and without the metering has the same reply and rows.
/// Only its fuel differs, and where the stack ends. The records are compared, because the tests
/// above compare each with what this build does.
#[test]
fn what_metering_adds_is_seen_in_fuel_and_depth_alone() {
    let cases = |record: &'static str| -> BTreeMap<&'static str, &'static str> {
        let is_case = |line: &&str| !line.starts_with("semantics ") && !line.starts_with("table/");
        record.lines().filter(is_case).map(|line| line.split_once("  ").expect("a name and what follows")).collect()
    };
    let without_fuel = |outcome: &'static str| {
        let columns = outcome.split("  ").map(|column| column.split_once(' ').map_or(column, |(_, rest)| rest));
        columns.collect::<Vec<_>>()
    };
    let may_differ = |outcome: &str| outcome.contains(" Fuel ") || outcome.contains(" Stack ");
    let (plain, metered) = (cases(GOLDEN_4), cases(GOLDEN_TEXT));
    let mut compared = 0;
    for (name, plain) in &plain {
        let metered = metered[name];
        if may_differ(plain) || may_differ(metered) {
            continue;
        }
        assert_eq!(without_fuel(plain), without_fuel(metered), "{name}");
        compared += 1;
    }
    assert!(compared > 300, "only {compared} of {} cases", plain.len());
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
