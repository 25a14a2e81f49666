//! What other replicas make of the same log: each command of it once more, on a store of its own. A
//! command that is not a function of state and entry alone is found here, unless chance hides it.

use std::collections::BTreeMap;

use super::guest::Guest;
use super::host::Store;
use super::{Applied, Ran, apply, moved};
use crate::dispatch::Machine;

/// How a replica differs from the one that the test drove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Replica {
    /// In another thread.
    Plain,
    /// Each command runs twice, the first run undone, as after a trap of a neighbour in its entry.
    Repeating,
    /// A new node after 1, 2, 4, 8, ... entries.
    Moving,
}

/// States that were restored, by the number of commands before.
type Restored = BTreeMap<usize, Store>;

/// Says where a replica disagrees.
pub(super) fn agree<M: Machine>(guest: &Guest, log: &[Applied], restored: &Restored) -> Result<(), String> {
    for replica in [Replica::Plain, Replica::Repeating, Replica::Moving] {
        // A thread of its own, so that thread-locals begin anew.
        std::thread::scope(|scope| {
            let running = scope.spawn(move || replay::<M>(guest, log, restored, replica));
            // Outcomes of the guest do not unwind; a program that should run its component, and breaks, does.
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
