//! Tests of entries with guests that are functions: which writes are kept, which are undone, which
//! commands run again.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::rc::Rc;

use super::*;
use crate::codec::Genesis;
use crate::guest::{Failure, Reason, Status};
use crate::store::{Column, StoreError};
use crate::types::CommittedLeaderId;
use openraft::vote::RaftLeaderId;

/// An empty base.
#[derive(Clone)]
struct Empty;

impl Read for Empty {
    fn get(&self, _: Column, _: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(None)
    }

    fn scan(
        &self,
        _: Column,
        _: &[u8],
        _: Option<&[u8]>,
        _: bool,
        _: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Bytes of the reply to "large".
const LARGE: usize = 1_000;

/// Runs requests like "put a", "put a; fail", "neighbour" (fails unless it is the first of its
/// instance), "burn", "large", "fault".
#[derive(Default)]
struct Scripted {
    /// The requests in the order in which they ran, with the number of commands their instance had
    /// run before.
    ran: Rc<RefCell<Vec<(String, u32)>>>,
    /// The fuel that creating an instance costs.
    fuel_of_start: u64,
}

struct ScriptedInstance {
    fuel_of_start: u64,
    served: u32,
    fuel_used: u64,
    ran: Rc<RefCell<Vec<(String, u32)>>>,
}

impl Instances for Scripted {
    fn fresh(&self) -> Result<Box<dyn Instance>, HostFault> {
        Ok(Box::new(ScriptedInstance {
            fuel_of_start: self.fuel_of_start,
            served: 0,
            fuel_used: 0,
            ran: self.ran.clone(),
        }))
    }
}

impl Instance for ScriptedInstance {
    fn served(&self) -> u32 {
        self.served
    }

    fn apply(&mut self, call: Call<'_>, mut store: Box<dyn Rows>) -> (Result<Verdict, HostFault>, Box<dyn Rows>) {
        let request = String::from_utf8_lossy(call.request).into_owned();
        self.ran.borrow_mut().push((request.clone(), self.served));
        let neighbours = self.served;
        self.served += 1;
        self.fuel_used = 10;
        let mut verdict = Verdict::Reply(call.request.to_vec().into());
        for step in request.split("; ") {
            match step {
                "fail" => verdict = failed(),
                "refuse" => verdict = Verdict::Refused(Status { code: 5, message: "no".into(), details: vec![] }),
                "neighbour" if neighbours > 0 => verdict = failed(),
                "burn" => self.fuel_used = call.fuel,
                "large" => verdict = Verdict::Reply(vec![7; LARGE].into()),
                "fault" => return (Err(HostFault("disk".into())), store),
                put => {
                    if let Some(key) = put.strip_prefix("put ") {
                        store.put(key.as_bytes(), b"1").unwrap();
                    }
                }
            }
        }
        (Ok(verdict), store)
    }

    fn fuel_used(&self) -> u64 {
        self.fuel_used
    }

    fn fuel_of_start(&self) -> u64 {
        self.fuel_of_start
    }
}

fn failed() -> Verdict {
    Verdict::Failed(Failure { reason: Reason::Trap, detail: "here".into() })
}

fn log_id(index: u64) -> LogId {
    LogId { leader_id: CommittedLeaderId::new(1, 1), index }
}

fn entry_of(requests: &[&str]) -> codec::entry::Entry {
    let command = |(counter, request): (usize, &&str)| Command {
        origin: Some(Origin { node: 1, boot: 1, counter: counter as u64 }.into()),
        method: "S/M".into(),
        request: request.as_bytes().to_vec().into(),
        caller: String::new(),
    };
    let commands = requests.iter().enumerate().map(command).collect();
    codec::entry::Entry { time_ms: 7, commands, ..Default::default() }
}

fn begun() -> System {
    System { genesis: Some((1, Genesis::default()).into()), ..System::default() }
}

fn limits() -> Limits {
    Limits { fuel_per_command: 100, fuel_per_entry: 250, ..Limits::default() }
}

struct Run {
    effects: Effects,
    ran: Vec<(String, u32)>,
}

impl Run {
    fn keys(&self) -> Vec<&str> {
        self.effects.writes.keys().map(|key| std::str::from_utf8(key).unwrap()).collect()
    }

    fn verdicts(&self) -> Vec<Verdict> {
        self.effects.outcomes.iter().map(|(_, verdict)| verdict.clone()).collect()
    }

    fn ran(&self) -> Vec<(&str, u32)> {
        self.ran.iter().map(|(request, served)| (request.as_str(), *served)).collect()
    }
}

fn run_from(system: &System, requests: &[&str]) -> Result<Run, HostFault> {
    let (sandbox, limits) = (Scripted::default(), limits());
    let runner = Runner { instances: &sandbox, limits: &limits };
    let effects = normal(system, log_id(2), &entry_of(requests), Some(runner), Empty)?;
    let ran = sandbox.ran.borrow().clone();
    Ok(Run { effects, ran })
}

fn run(requests: &[&str]) -> Run {
    run_from(&begun(), requests).unwrap()
}

fn reply(text: &str) -> Verdict {
    Verdict::Reply(text.as_bytes().to_vec().into())
}

#[test]
fn commands_of_an_entry_share_an_instance_while_all_goes_well() {
    let run = run(&["put a", "put b"]);
    assert_eq!(run.keys(), ["a", "b"]);
    assert_eq!(run.ran(), [("put a", 0), ("put b", 1)]);
    assert_eq!(run.effects.system.counters.commands, 2);
}

#[test]
fn failed_and_refused_commands_leave_no_write_and_a_fresh_instance() {
    let run = run(&["put a; refuse", "put b", "put c; fail", "put d"]);
    assert_eq!(run.keys(), ["b", "d"]);
    assert_eq!(run.ran(), [("put a; refuse", 0), ("put b", 0), ("put c; fail", 1), ("put c; fail", 0), ("put d", 0)]);
    assert_eq!((run.effects.system.counters.commands, run.effects.system.counters.failed), (4, 2));
}

#[test]
fn failure_beside_a_neighbour_is_run_again_alone_and_only_that_counts() {
    let run = run(&["put a", "put b; neighbour", "put c"]);
    assert_eq!(run.verdicts(), [reply("put a"), reply("put b; neighbour"), reply("put c")]);
    assert_eq!(run.keys(), ["a", "b", "c"]);
    assert_eq!(run.ran(), [("put a", 0), ("put b; neighbour", 1), ("put b; neighbour", 0), ("put c", 1)]);
}

#[test]
fn commands_past_the_fuel_of_their_entry_are_not_run() {
    let run = run(&["burn", "burn", "put c"]);
    assert_eq!(run.verdicts(), [reply("burn"), reply("burn"), not_run()]);
    assert_eq!(run.keys(), Vec::<&str>::new());
    assert_eq!(run.effects.system.counters.commands, 2, "what was not run is not counted");
}

#[test]
fn commands_before_genesis_are_refused_and_those_beside_it_run() {
    let before = run_from(&System::default(), &["put a"]).unwrap();
    assert_eq!(before.verdicts(), [not_run()]);
    assert!(before.ran.is_empty());
    let (sandbox, limits) = (Scripted::default(), limits());
    let runner = Runner { instances: &sandbox, limits: &limits };
    let with = codec::entry::Entry { genesis: Some(Genesis::default()), ..entry_of(&["put a"]) };
    let effects = normal(&System::default(), log_id(1), &with, Some(runner), Empty).unwrap();
    assert_eq!(effects.outcomes[0].1, reply("put a"));
    assert_eq!(effects.system.genesis.unwrap().0, 1);
}

fn read_only(on: bool, methods: &[&str]) -> codec::entry::Entry {
    let methods = methods.iter().map(|method| method.to_string()).collect();
    let mode = codec::entry::ReadOnly { on, methods, by: "ann".into() };
    codec::entry::Entry { read_only: Some(mode), ..entry_of(&[]) }
}

fn after(system: &System, entry: &codec::entry::Entry) -> System {
    normal(system, log_id(2), entry, None, Empty).unwrap().system
}

#[test]
fn a_read_only_mode_refuses_commands_and_runs_none() {
    let open = after(&begun(), &read_only(true, &["S/Other"]));
    assert_eq!(run_from(&open, &["put a"]).unwrap().verdicts(), [reply("put a")]);
    let closed = after(&begun(), &read_only(true, &["S/*"]));
    let run = run_from(&closed, &["put a", "put b"]).unwrap();
    assert_eq!(run.verdicts(), [read_only::refusal(), read_only::refusal()]);
    assert!(run.ran.is_empty() && run.keys().is_empty());
    assert_eq!(run.effects.system.counters, begun().counters, "what was not run is not counted");
    let again = after(&closed, &read_only(false, &[]));
    assert_eq!(run_from(&again, &["put a"]).unwrap().verdicts(), [reply("put a")]);
}

#[test]
fn retention_and_quotas_are_set_by_who_knew_the_ones_before() {
    let set = |expected_index: u64, value: &str| {
        let settings = vec![codec::entry::Setting { key: "trailing_commands".into(), value: value.into() }];
        let operation = codec::entry::Operation { expected_index, settings, by: "ann".into() };
        codec::entry::Entry { operation: Some(operation), ..entry_of(&[]) }
    };
    let first = normal(&begun(), log_id(2), &set(0, "5"), None, Empty).unwrap();
    assert!(first.system_writes.iter().any(|(key, _)| *key == key::OPERATION));
    let operation = first.system.operation.clone().unwrap();
    assert_eq!((operation.index, operation.number("trailing_commands")), (2, Some(5)));
    let late = normal(&first.system, log_id(3), &set(0, "7"), None, Empty).unwrap();
    assert_eq!(late.system.operation, first.system.operation);
    let next = normal(&first.system, log_id(3), &set(2, "7"), None, Empty).unwrap();
    assert_eq!(next.system.operation.unwrap().number("trailing_commands"), Some(7));
}

#[test]
fn a_read_only_mode_is_part_of_the_state() {
    let effects = normal(&begun(), log_id(2), &read_only(true, &["S/*"]), None, Empty).unwrap();
    let keys: Vec<_> = effects.system_writes.iter().map(|(key, _)| *key).collect();
    assert!(keys.contains(&super::super::system::key::READ_ONLY), "{keys:?}");
    let other = normal(&begun(), log_id(2), &read_only(true, &[]), None, Empty).unwrap();
    assert_ne!(effects.system.hash, other.system.hash);
    let mode = effects.system.read_only.unwrap();
    assert_eq!((mode.index, mode.time_ms, mode.by.as_str()), (2, 7, "ann"));
}

#[test]
fn second_genesis_changes_nothing() {
    let other = Genesis { cluster_id: vec![9; 16].into(), ..Genesis::default() };
    let entry = codec::entry::Entry { genesis: Some(other), ..entry_of(&[]) };
    let effects = normal(&begun(), log_id(5), &entry, None, Empty).unwrap();
    assert_eq!(effects.system.genesis, begun().genesis);
}

#[test]
fn log_time_never_goes_back() {
    let system = System { time_ms: 50, ..begun() };
    assert_eq!(run_from(&system, &["put a"]).unwrap().effects.system.time_ms, 50);
    assert_eq!(run(&["put a"]).effects.system.time_ms, 7);
}

#[test]
fn host_faults_are_no_outcome() {
    assert!(run_from(&begun(), &["put a", "fault"]).is_err());
}

#[test]
fn hash_depends_on_outcomes_and_writes_alone() {
    let hash = |requests: &[&str]| run(requests).effects.system.hash;
    assert_eq!(hash(&["put a"]), hash(&["put a"]));
    assert_ne!(hash(&["put a"]), hash(&["put b"]));
    assert_ne!(hash(&["fail"]), hash(&["refuse"]));
}

#[test]
fn making_instances_costs_the_entry() {
    let (sandbox, limits) = (Scripted { fuel_of_start: 60, ..Scripted::default() }, limits());
    let runner = Runner { instances: &sandbox, limits: &limits };
    // Each failure discards its instance, so 70 of the 250 are used by each command, and a command
    // may need 100.
    let effects = normal(&begun(), log_id(2), &entry_of(&["fail"; 6]), Some(runner), Empty).unwrap();
    let not_run = effects.outcomes.iter().filter(|(_, verdict)| is_not_run(verdict)).count();
    assert_eq!(not_run, 3);
    assert_eq!(sandbox.ran.borrow().len(), 3);
}

#[test]
fn what_each_command_took_is_told_and_nothing_of_one_that_was_not_run() {
    let (sandbox, limits) = (Scripted { fuel_of_start: 5, ..Scripted::default() }, limits());
    let runner = Runner { instances: &sandbox, limits: &limits };
    let entry = entry_of(&["large", "neighbour", "burn", "burn", "put a"]);
    let spent = normal(&begun(), log_id(2), &entry, Some(runner), Empty).unwrap().spent;
    let took = |fuel, reply_bytes| Some(Spent { fuel, reply_bytes, failed: false });
    // The second runs again in an instance of its own. After the fourth, 240 of 250 are used.
    let burned = took(100, "burn".len() as u64);
    let expected = [took(15, LARGE as u64), took(25, "neighbour".len() as u64), burned, burned, None];
    assert_eq!(spent, expected);
}

#[test]
fn what_failed_or_was_refused_is_told() {
    let (sandbox, limits) = (Scripted::default(), limits());
    let runner = Runner { instances: &sandbox, limits: &limits };
    let spent =
        normal(&begun(), log_id(2), &entry_of(&["fail", "put a", "refuse"]), Some(runner), Empty).unwrap().spent;
    assert_eq!(spent.into_iter().map(|one| one.unwrap().failed).collect::<Vec<_>>(), [true, false, true]);
}

/// Returns the verdicts of an entry under a limit of its replies.
fn replies_within(reply_bytes_per_entry_max: u64, requests: &[&str]) -> Vec<Verdict> {
    let sandbox = Scripted::default();
    let limits = Limits { fuel_per_entry: u64::MAX, reply_bytes_per_entry_max, ..limits() };
    let runner = Runner { instances: &sandbox, limits: &limits };
    let effects = normal(&begun(), log_id(2), &entry_of(requests), Some(runner), Empty).unwrap();
    effects.outcomes.into_iter().map(|(_, verdict)| verdict).collect()
}

#[test]
fn commands_past_the_replies_of_their_entry_are_not_run() {
    let large = Verdict::Reply(vec![7; LARGE].into());
    let run = |bytes_max, requests: &[&str]| replies_within(bytes_max, requests);
    assert_eq!(run(1_500, &["large"; 4]), [large.clone(), large.clone(), not_run(), not_run()]);
    assert_eq!(run(1_000, &["large", "put a"]), [large.clone(), not_run()], "the limit is used up");
    assert_eq!(run(0, &["large", "put a"]), [large.clone(), not_run()], "the first one always runs");
    assert_eq!(run(u64::MAX, &["large"; 3]), [large.clone(), large.clone(), large], "a profile of semantics 3");
}

#[test]
fn refusals_count_as_replies_and_failures_do_not() {
    let refused = || Verdict::Refused(Status { code: 5, message: "no".into(), details: vec![] });
    assert_eq!(replies_within(2, &["refuse", "refuse"]), [refused(), not_run()]);
    assert_eq!(replies_within(2, &["fail", "fail", "refuse"]), [failed(), failed(), refused()]);
}

/// What is not run is the same for the hash on every replica, and counts no command.
#[test]
fn replies_past_the_limit_leave_nothing_but_their_verdict() {
    let sandbox = Scripted::default();
    let limits = Limits { fuel_per_entry: u64::MAX, reply_bytes_per_entry_max: 1, ..limits() };
    let entry = entry_of(&["large", "put a", "put b"]);
    let effects =
        || normal(&begun(), log_id(2), &entry, Some(Runner { instances: &sandbox, limits: &limits }), Empty).unwrap();
    let once = effects();
    assert!(once.writes.is_empty() && once.system.counters.commands == 1);
    assert_eq!(once.system.hash, effects().system.hash);
}
