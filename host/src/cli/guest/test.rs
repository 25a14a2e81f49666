//! `lockstep guest test`: runs a script in every way in which a cluster may run it. It compares
//! what must be equal. If something differs, it finds the shortest beginning of the script that
//! shows the difference. `trial.rs` makes one run.
//!
//! A reply may contain the index of its command, which depends on how commands share entries. So
//! only runs that put commands at the same indexes are compared: one by one with its replica,
//! restarts and snapshots; and all in one entry with the same in separate instances.

use std::path::PathBuf;

use super::script::{self, ScriptCall};
use super::trial::{self, Run, Stop, Way};
use super::{admit_file, on_guest_stack};
use crate::cli::report::{Failure, print_line};
use crate::guest::Component;
use crate::types::hex;

/// Most lines of a failing beginning that are printed. A longer one is only named.
const PRINTED_MAX: usize = 20;

/// Pairs of ways to run a script that must give the same result. Each has a name, and says what it
/// means if the results differ.
const COMPARISONS: [Comparison; 5] = [
    Comparison {
        name: "on another replica",
        one: Way::OneByOne,
        other: Way::OneByOne,
        meaning: "the same calls gave something else when they were run again: this should not be possible, please report it with the guest",
    },
    Comparison {
        name: "with restarts between calls",
        one: Way::OneByOne,
        other: Way::Restarts,
        meaning: "something is lost, or comes back, when a node restarts: this should not be possible, please report it with the guest",
    },
    Comparison {
        name: "with snapshot and restore between calls",
        one: Way::OneByOne,
        other: Way::Snapshots,
        meaning: "restore must bring back exactly what snapshot saw, key for key; the SDK's default pair does",
    },
    Comparison {
        name: "with queries in one instance",
        one: Way::OneByOne,
        other: Way::QueriesTogether,
        meaning: "queries may share an instance, and something is left in its memory: a static, a thread-local, a cache. Memory may be gone before the \
                  next query, or may not; read what a query needs from the store",
    },
    Comparison {
        name: "with all commands in one entry",
        one: Way::Apart,
        other: Way::Together,
        meaning: "commands that share an entry share an instance, and something is left in its memory: a static, a thread-local, a cache. Keep it in \
                  the store; memory may be gone before the next command, or may not",
    },
];

struct Comparison {
    name: &'static str,
    one: Way,
    other: Way,
    meaning: &'static str,
}

const AFTER_HELP: &str = "\
Runs the script on real instances over states in temporary directories: one command an entry,
again on another replica, with restarts between calls, with snapshot and restore between calls,
with queries that share an instance, and with all commands in one entry. Replies and states must be the same; where they are not, the
shortest beginning of the script that shows it is printed. Works for a guest in any language.
Exits with 1 when something differs, is not as the script expects, or fails unexpectedly.

Examples:
  lockstep guest test target/wasm32-unknown-unknown/release/my_machine.wasm --script calls.jsonl";

/// Run a script of calls in every way a cluster may run it, and compare.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("{}\n\n{AFTER_HELP}", script::FORMAT))]
pub(crate) struct TestArgs {
    /// A component, or a module with an embedded component type
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Calls as JSON lines
    #[arg(long = "script", value_name = "FILE")]
    script: PathBuf,
}

/// Where two runs differ.
enum Difference {
    /// The answers to this call differ: the answer of the one run, and that of the other.
    Answer(usize, String, String),
    /// The states at the end differ: rows and digest of each.
    State(String, String),
    /// The guest's snapshot failed after this call.
    Snapshot(usize, String),
}

/// Tests one guest.
pub(crate) fn run(args: &TestArgs) -> anyhow::Result<()> {
    on_guest_stack(|| {
        let admitted = admit_file(&args.file)?;
        let calls = script::read(&args.script, &admitted.routes)?;
        let test = Test { component: &admitted.component, args };
        test.run(&calls)
    })
}

struct Test<'a> {
    component: &'a Component,
    args: &'a TestArgs,
}

impl Test<'_> {
    fn run(&self, calls: &[ScriptCall]) -> anyhow::Result<()> {
        let first = self.trial(Way::OneByOne, calls)?.map_err(|stop| stopped(&stop))?;
        let replies = first.answers.iter().filter(|answer| answer.is_reply()).count();
        print_line(format!("{} calls: {replies} replies, {} errors", calls.len(), calls.len() - replies))?;
        self.check_expectations(calls, &first)?;
        for comparison in &COMPARISONS {
            if let Some(difference) = self.compare(comparison, calls)? {
                return Err(self.report(comparison, calls, difference)?.into());
            }
            print_line(format!("{}: the same", comparison.name))?;
        }
        let standing = first.standing;
        print_line(format!("ok: {} rows, digest {}", standing.rows, hex(&standing.digest)))
    }

    /// Reports unmet expectations, and failures that the script does not expect.
    fn check_expectations(&self, calls: &[ScriptCall], first: &Run) -> anyhow::Result<()> {
        let (mut unmet, mut failed) = (Vec::new(), Vec::new());
        for (call, answer) in calls.iter().zip(&first.answers) {
            let (line, got) = (call.line, call.show(answer));
            match call.disappointed(answer) {
                Some(wanted) => {
                    unmet.push(format!("line {line}: {}\n    expected {wanted}\n    got      {got}", call.text));
                }
                None if call.has_expectation() || answer.is_reply() => {}
                None if answer.is_failure() => failed.push(format!("line {line}: {}\n    failed   {got}", call.text)),
                None => print_line(format!("note: line {line}: {} was refused: {got}", call.method))?,
            }
        }
        let given = calls.iter().filter(|call| call.has_expectation()).count();
        if unmet.is_empty() && failed.is_empty() {
            return if given == 0 { Ok(()) } else { print_line(format!("expectations: {given} of {given} met")) };
        }
        Err(self.disappointment(given, unmet, failed).into())
    }

    fn disappointment(&self, given: usize, unmet: Vec<String>, failed: Vec<String>) -> Failure {
        let script = self.args.script.display();
        let mut parts = Vec::new();
        if !unmet.is_empty() {
            parts.push(format!("{} of {given} expectations of {script} are not met", unmet.len()));
        }
        if !failed.is_empty() {
            parts.push(format!("the guest failed in {} calls of {script} that expect no error", failed.len()));
        }
        let has_failed = !failed.is_empty();
        let failure = unmet.into_iter().chain(failed).fold(Failure::new(parts.join(", and ")), Failure::note);
        if !has_failed {
            return failure;
        }
        failure.hint("a failure is a panic, a trap or a limit, and undoes its command; where it is meant to be, give the line an \"error\" with its code")
    }

    fn trial(&self, way: Way, calls: &[ScriptCall]) -> anyhow::Result<Result<Run, Stop>> {
        trial::run(way, calls, self.component)
    }

    fn compare(&self, comparison: &Comparison, calls: &[ScriptCall]) -> anyhow::Result<Option<Difference>> {
        let one = self.trial(comparison.one, calls)?.map_err(|stop| stopped(&stop))?;
        let other = match self.trial(comparison.other, calls)? {
            Ok(other) => other,
            Err(Stop::Snapshot(call, error)) => return Ok(Some(Difference::Snapshot(call, error.to_string()))),
            Err(stop) => return Err(stopped(&stop).into()),
        };
        Ok(difference(calls, &one, &other))
    }

    /// Finds a beginning of the script that differs, while the one that is a call shorter does not.
    fn shortest(
        &self,
        comparison: &Comparison,
        calls: &[ScriptCall],
        difference: Difference,
    ) -> anyhow::Result<(usize, Difference)> {
        let (mut same, mut differs, mut found) = (0, calls.len(), difference);
        while differs - same > 1 {
            let middle = same + (differs - same) / 2;
            match self.compare(comparison, &calls[..middle])? {
                Some(difference) => (differs, found) = (middle, difference),
                None => same = middle,
            }
        }
        Ok((differs, found))
    }

    fn report(&self, comparison: &Comparison, calls: &[ScriptCall], difference: Difference) -> anyhow::Result<Failure> {
        let (length, difference) = self.shortest(comparison, calls, difference)?;
        let mut failure = Failure::new(format!("{}, the guest does something else", comparison.name));
        let line = |call: usize| format!("line {}: {}", calls[call].line, calls[call].text);
        match difference {
            Difference::Answer(call, one, other) => {
                failure = failure.note(line(call));
                failure = failure.note(format!("  {:<17} {one}", name(comparison.one)));
                failure = failure.note(format!("  {:<17} {other}", name(comparison.other)));
            }
            Difference::State(one, other) => {
                failure = failure.note(format!("after {}", line(length - 1)));
                failure = failure.note(format!("  {:<17} {one}", name(comparison.one)));
                failure = failure.note(format!("  {:<17} {other}", name(comparison.other)));
            }
            Difference::Snapshot(call, problem) => {
                failure = failure.note(format!("after {}", line(call)));
                failure = failure.note(format!("  {problem}"));
            }
        }
        let (last, script) = (calls[length - 1].line, self.args.script.display());
        failure = failure.note(format!("shortest beginning of the script that shows it: head -n {last} {script}"));
        if length <= PRINTED_MAX {
            failure = calls[..length].iter().fold(failure, |failure, call| failure.note(format!("  {}", call.text)));
        }
        Ok(failure.hint(comparison.meaning))
    }
}

fn name(way: Way) -> &'static str {
    match way {
        Way::OneByOne => "one by one:",
        Way::Restarts => "with restarts:",
        Way::Snapshots => "with snapshots:",
        Way::QueriesTogether => "in one instance:",
        Way::Together => "in one instance:",
        Way::Apart => "in one for each:",
    }
}

fn difference(calls: &[ScriptCall], one: &Run, other: &Run) -> Option<Difference> {
    let pairs = one.answers.iter().zip(&other.answers);
    let differing = pairs.enumerate().find(|(_, (one, other))| !one.agrees(other));
    if let Some((call, (one, other))) = differing {
        return Some(Difference::Answer(call, calls[call].show(one), calls[call].show(other)));
    }
    let state = |run: &Run| {
        let standing = run.standing;
        format!("{} rows, digest {}, state hash {:016x}", standing.rows, hex(&standing.digest), standing.hash)
    };
    (one.standing != other.standing).then(|| Difference::State(state(one), state(other)))
}

fn stopped(stop: &Stop) -> Failure {
    match stop {
        Stop::Snapshot(_, error) | Stop::Host(error) => Failure::new(format!("the script could not be run: {error}")),
    }
}
