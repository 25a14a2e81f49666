//! Tries a change out on a checkpoint, beside the state in use: migration, snapshot and restore of
//! the result, and commands and queries by the old and the new machine. It writes to scratch states
//! alone, which it removes, and it gives way to everything else that the node does.
//!
//! ```text
//! Machine::rehearse ─► a thread ─► steps: old side, new side, new side again ─► report
//!                                   side: scratch state, migration, entries, queries
//! reports of all nodes ─► agreement: what speaks against the change ─► words: what people read
//! ```
//!
//! One rehearsal runs at a time, and no shadow of a rollback beside it. It ends early when its
//! caller drops the future, when the node stops, after ten minutes, and when the disk gets short.

pub mod agreement;
mod bounds;
pub mod report;
mod side;
mod steps;
pub mod words;

use std::time::Duration;

use tokio::sync::oneshot;

use super::Machine;
use super::snapshot::Turn;
use crate::codec::{Change, entry};
use crate::guest::CALLER_STACK_BYTES;
use crate::threads;
use crate::types::NodeMode;
use bounds::Bounds;
pub use report::RehearsalReport;
use steps::Inputs;

/// Most commands that both machines run. Of more, the newest entries are taken. The time of a
/// rehearsal and the bytes of its entries are bounded, too.
pub const COMMANDS_MAX: usize = 65_536;

/// What a rehearsal runs.
#[derive(Clone, Debug)]
pub struct Rehearsal {
    /// The change. Its component was offered to this machine.
    pub change: Change,
    /// The mark of the checkpoint on which it is tried.
    pub mark: [u8; 16],
    /// Entries whose commands both machines run, with their indexes. They stand before the mark in
    /// the log, oldest first.
    pub entries: Vec<(u64, entry::Entry)>,
}

impl Machine {
    /// Tries the change out. An error says in words for an operator why this node cannot do that.
    /// What speaks against the change itself is in the report: see [`agreement::objections`].
    /// Dropping the future cancels the rehearsal.
    pub async fn rehearse(&self, rehearsal: Rehearsal) -> Result<RehearsalReport, String> {
        match &*self.shared.mode.borrow() {
            NodeMode::Serving | NodeMode::CatchingUp(_) => {}
            NodeMode::Quarantined(why) | NodeMode::Unfit(why) | NodeMode::Removed(why) | NodeMode::Disputed(why) => {
                return Err(format!("this node rehearses nothing: {why}"));
            }
        }
        let turn = Turn::take(&self.shared.rehearsing)
            .ok_or("another rehearsal is under way on this node; try again when that is done")?;
        let inputs = self.inputs(rehearsal)?;
        self.end_idle_shadow().await?;
        let (bounds, cancel) = Bounds::begin(&self.shared);
        let (done, result) = oneshot::channel();
        let work = move || {
            threads::give_way();
            let report = steps::run(inputs, &bounds);
            drop((bounds, turn));
            // If the caller has gone, nobody wants the report.
            drop(done.send(report));
        };
        std::thread::Builder::new()
            .name("rehearsal".into())
            .stack_size(CALLER_STACK_BYTES)
            .spawn(work)
            .map_err(|error| format!("no thread for the rehearsal: {error}"))?;
        let report = result.await;
        drop(cancel);
        match report {
            Ok(report) => report.map_err(|error| error.to_string()),
            Err(_) => Err("the rehearsal ended without a report; its panic is in this node's log".into()),
        }
    }

    /// Ends a shadow that an earlier dry run of a rollback has left. The store's share of
    /// descriptors is for the states of one of the two.
    async fn end_idle_shadow(&self) -> Result<(), String> {
        let shared = self.shared.clone();
        // It waits until the shadow has let go of its states.
        tokio::task::spawn_blocking(move || shared.end_shadow()).await.map_err(|error| error.to_string())
    }

    fn inputs(&self, rehearsal: Rehearsal) -> Result<Inputs, String> {
        let Rehearsal { change, mark, entries } = rehearsal;
        let old = self.component().ok_or("this node has no component yet")?;
        let new = self.offered(&change).ok_or("the component of the change is not ready on this node")?;
        let (checkpoint, marked) = self.marked(&mark)?;
        Ok(Inputs {
            state: self.shared.state.clone(),
            checkpoint,
            // Without a probation no checkpoint is made before the change.
            checkpoint_held: if change.probation_ms > 0 { marked } else { Duration::ZERO },
            old,
            new,
            entries,
            queries: self.shared.samples.newest(),
        })
    }
}
