//! The second checker: porcupine's search for a linear order, per key, over the same history. It
//! shares only the operations with `chain`, so that an error in one checker shows in the other. It
//! leaves out local reads, which promise less.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use porcupine_rs::{CheckResult, Model, Operation as Step, check_operations_timeout};

use super::chain::Violation;
use super::history::{Kind, Operation, Outcome};

/// Most time of the search for one history. A search that does not finish counts as a failure.
pub const TIME_MAX: Duration = Duration::from_secs(60);

/// A register that returns what a write replaced.
#[derive(Clone, Debug)]
struct Register;

#[derive(Clone, Debug)]
enum Op {
    /// Writes a token and returns what it replaced.
    Swap(u64, Option<u64>),
    /// Writes a token. What it replaced is unknown.
    Put(u64),
    Read(Option<u64>),
}

impl Model for Register {
    type State = Option<u64>;
    type Op = Op;
    type Metadata = ();

    fn init() -> Option<u64> {
        None
    }

    fn step(state: &Option<u64>, op: &Op) -> (bool, Option<u64>) {
        match op {
            Op::Swap(token, previous) => (previous == state, Some(*token)),
            Op::Put(token) => (true, Some(*token)),
            Op::Read(token) => (token == state, *state),
        }
    }
}

/// Searches each key of the history, within [`TIME_MAX`] for all keys.
pub fn check(history: &[Operation]) -> Vec<Violation> {
    check_within(history, TIME_MAX)
}

/// Does what [`check`] does, within another time.
pub fn check_within(history: &[Operation], time_max: Duration) -> Vec<Violation> {
    let deadline = Instant::now() + time_max;
    let mut keys: BTreeMap<u32, Vec<&Operation>> = BTreeMap::new();
    for operation in history {
        keys.entry(operation.key).or_default().push(operation);
    }
    let verdicts = keys.iter().map(|(key, operations)| {
        let left = deadline.saturating_duration_since(Instant::now());
        match check_operations_timeout(&steps(operations), left) {
            CheckResult::Ok => None,
            CheckResult::Illegal => Some(format!("key {key}: porcupine finds no linear order")),
            CheckResult::Unknown => Some(format!("key {key}: porcupine was not done after {time_max:?}")),
        }
    });
    verdicts.flatten().collect()
}

/// Converts operations to the checker's form.
///
/// A write of unknown outcome that nobody saw can be left out: if it were in the order, the next
/// operation would have seen it, or would be another such write. A write that was seen was applied
/// at some time after its call.
fn steps(operations: &[&Operation]) -> Vec<Step<Register>> {
    let mut seen = HashSet::new();
    for operation in operations {
        match operation.outcome {
            Outcome::Wrote(_, Some(record)) | Outcome::Read(Some(record)) => {
                seen.insert(record.token);
            }
            _ => {}
        }
    }
    let time = |nanoseconds: u64| i64::try_from(nanoseconds).expect("a run ends within centuries");
    let steps = operations.iter().filter_map(|operation| {
        let (op, return_time) = match (operation.kind, operation.outcome) {
            (Kind::Put(token), Outcome::Wrote(_, previous)) => {
                (Op::Swap(token, previous.map(|record| record.token)), time(operation.returned))
            }
            (Kind::Put(token), Outcome::Maybe) if seen.contains(&token) => (Op::Put(token), i64::MAX),
            (Kind::Get, Outcome::Read(found)) => (Op::Read(found.map(|record| record.token)), time(operation.returned)),
            _ => return None,
        };
        Some(Step {
            client_id: Some(operation.client),
            call_time: time(operation.invoked),
            return_time,
            op,
            metadata: None,
        })
    });
    steps.collect()
}
