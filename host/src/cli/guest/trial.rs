//! One run of a script, in one of the ways in which a cluster may run it. This file compares
//! nothing and prints nothing.

use std::path::Path;

use super::script::{Answer, ScriptCall};
use crate::guest::Component;
use crate::machine::{Replica, ReplicaDigest, ReplicaError, Reuse};
use lockstep_contract::Kind;

/// Log time at the beginning: 2024-01-01. Each entry is a second later, or as much later as the
/// script says.
const START_MS: u64 = 1_704_067_200_000;
const STEP_MS: u64 = 1000;
/// Most restarts, or snapshots, of one run. They come after every call of a short script, and are
/// spread over a long one.
const PAUSES_MAX: usize = 32;

/// How a script is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Each command has its own entry, and so its own instance. Queries run where they stand in the
    /// script.
    OneByOne,
    /// Like `OneByOne`, but the node stops and starts between calls.
    Restarts,
    /// Like `OneByOne`, but the guest writes and restores a snapshot between calls.
    Snapshots,
    /// Like `OneByOne`, but queries share an instance, as on a node. In the other ways each query
    /// has its own instance.
    QueriesTogether,
    /// All commands in one entry, where they share an instance as long as no command fails; then
    /// the queries. Another entry begins where the script lets time pass.
    Together,
    /// Like `Together`, but each command has its own instance.
    Apart,
}

/// The result of one run.
#[derive(Debug)]
pub(super) struct Run {
    /// The answer of each call.
    pub(super) answers: Vec<Answer>,
    pub(super) standing: ReplicaDigest,
}

/// Why a run did not complete.
#[derive(Debug)]
pub(super) enum Stop {
    /// After this call the guest did not write or restore its snapshot as it must.
    Snapshot(usize, ReplicaError),
    /// This machine failed.
    Host(ReplicaError),
}

impl From<ReplicaError> for Stop {
    fn from(error: ReplicaError) -> Stop {
        Stop::Host(error)
    }
}

/// Runs the calls on a new replica in a temporary directory.
pub(super) fn run(way: Way, calls: &[ScriptCall], component: &Component) -> anyhow::Result<Result<Run, Stop>> {
    let place = tempfile::Builder::new().prefix("lockstep-guest-").tempdir()?;
    Ok(match way {
        Way::OneByOne | Way::Restarts | Way::Snapshots | Way::QueriesTogether => {
            in_order(way, calls, component, place.path())
        }
        Way::Together => in_one_entry(Reuse::Shared, calls, component, place.path()),
        Way::Apart => in_one_entry(Reuse::Never, calls, component, place.path()),
    })
}

fn in_order(way: Way, calls: &[ScriptCall], component: &Component, place: &Path) -> Result<Run, Stop> {
    let mut replica = Replica::open(place, component.clone())?;
    let mut answers = Vec::with_capacity(calls.len());
    let mut time_ms = START_MS;
    let every = calls.len().div_ceil(PAUSES_MAX);
    for (number, call) in calls.iter().enumerate() {
        answers.push(match call.kind {
            Kind::Command => {
                time_ms = time_ms.saturating_add(pause_ms(call).unwrap_or(STEP_MS));
                let applied = replica.apply(time_ms, vec![call.command()], Reuse::Shared)?;
                Answer::Verdict(applied.verdicts.into_iter().next().expect("one command, one verdict"))
            }
            Kind::Query | Kind::Watch => {
                if let Some(pause_ms) = pause_ms(call) {
                    time_ms = time_ms.saturating_add(pause_ms);
                    // Lets time pass with an entry without commands, as a leader does on an idle
                    // cluster.
                    replica.apply(time_ms, Vec::new(), Reuse::Shared)?;
                }
                read(&mut replica, call, if way == Way::QueriesTogether { Reuse::Shared } else { Reuse::Never })?
            }
        });
        if (number + 1).is_multiple_of(every) {
            match way {
                Way::Restarts => replica = replica.reopen()?,
                Way::Snapshots => replica.snapshot_restore().map_err(|error| blame(number, error))?,
                Way::OneByOne | Way::QueriesTogether | Way::Together | Way::Apart => {}
            }
        }
    }
    Ok(Run { answers, standing: replica.standing()? })
}

fn pause_ms(call: &ScriptCall) -> Option<u64> {
    call.after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX))
}

fn blame(call: usize, error: ReplicaError) -> Stop {
    match error.is_of_the_guest() {
        true => Stop::Snapshot(call, error),
        false => Stop::Host(error),
    }
}

fn in_one_entry(reuse: Reuse, calls: &[ScriptCall], component: &Component, place: &Path) -> Result<Run, Stop> {
    let mut replica = Replica::open(place, component.clone())?;
    let mut time_ms = START_MS;
    let mut verdicts = Vec::with_capacity(calls.len());
    for group in calls.chunk_by(|_, next| next.after.is_none()) {
        time_ms = time_ms.saturating_add(pause_ms(&group[0]).unwrap_or(STEP_MS));
        let commands: Vec<_> =
            group.iter().filter(|call| call.kind == Kind::Command).map(ScriptCall::command).collect();
        verdicts.extend(replica.apply(time_ms, commands, reuse)?.verdicts);
    }
    let mut verdicts = verdicts.into_iter();
    let answers = calls.iter().map(|call| match call.kind {
        Kind::Command => Ok(Answer::Verdict(verdicts.next().expect("a verdict for each command"))),
        Kind::Query | Kind::Watch => read(&mut replica, call, Reuse::Never),
    });
    let answers = answers.collect::<Result<_, ReplicaError>>()?;
    Ok(Run { answers, standing: replica.standing()? })
}

fn read(replica: &mut Replica, call: &ScriptCall, reuse: Reuse) -> Result<Answer, ReplicaError> {
    Ok(match call.kind {
        Kind::Watch => Answer::Stepped(replica.watch(&call.method, &call.request, &call.caller, reuse)?),
        Kind::Command | Kind::Query => {
            Answer::Verdict(replica.query(&call.method, &call.request, &call.caller, reuse)?)
        }
    })
}
