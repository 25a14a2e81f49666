//! Replays the log on other replicas: runs each command again, on a store of its own. This detects
//! a command that is not a function of state and entry alone, unless the results happen to be
//! equal.

use std::collections::BTreeMap;

use super::guest::Guest;
use super::host::Store;
use super::{Applied, Ran, apply, moved};
use crate::dispatch::Machine;

/// How a replica differs from the one that the test uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Replica {
    /// It runs in another thread.
    Plain,
    /// It runs each command twice and undoes the first run, as after a trap of another command in
    /// the entry.
    Repeating,
    /// It moves to a new node after 1, 2, 4, 8, ... entries.
    Moving,
}

/// States that were restored, each by the number of commands before it.
type Restored = BTreeMap<usize, Store>;

/// Replays the log on every replica. Returns the first difference.
pub(super) fn agree<M: Machine>(guest: &Guest, log: &[Applied], restored: &Restored) -> Result<(), String> {
    for replica in [Replica::Plain, Replica::Repeating, Replica::Moving] {
        // Each replica has a thread of its own, so that thread-locals start anew.
        std::thread::scope(|scope| {
            let running = scope.spawn(move || replay::<M>(guest, log, restored, replica));
            // Outcomes of the guest do not unwind, but a broken program that runs the component
            // does.
            running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
    }
    Ok(())
}

fn replay<M: Machine>(guest: &Guest, log: &[Applied], restored: &Restored, replica: Replica) -> Result<(), String> {
    let mut store = Store::new();
    let mut entries = 0_u64;
    for (at, first) in log.iter().enumerate() {
        let place = first.command.place;
        if let Some(state) = restored.get(&at) {
            store = state.clone();
        }
        if place.position == 0 && at > 0 {
            entries += 1;
            if replica == Replica::Moving && entries.is_power_of_two() {
                store =
                    moved::<M>(guest, store).map_err(|problem| format!("before index {}: {problem}", place.index))?;
            }
        }
        if replica == Replica::Repeating {
            let ran = apply::<M>(guest, store, &first.command);
            compare(first, &ran)?;
            store = ran.call.into_store_before();
        }
        let ran = apply::<M>(guest, store, &first.command);
        compare(first, &ran)?;
        store = ran.call.store;
    }
    Ok(())
}

fn compare(first: &Applied, second: &Ran) -> Result<(), String> {
    let second = &second.applied;
    let place = format!("{} at index {}", first.command.method, first.command.place.index);
    if second.outcome != first.outcome {
        return Err(format!("{place} answered {:?} and then {:?}", first.outcome, second.outcome));
    }
    if second.writes != first.writes {
        return Err(format!("{place} wrote {:?} and then {:?}", first.writes, second.writes));
    }
    Ok(())
}
