//! One of the machines of a rehearsal: a component on a scratch state of its own. It migrates,
//! applies entries and answers queries as a node does, and measures what that costs. It compares
//! nothing.
//!
//! - The migration gets the index behind the checkpoint, and entries get those behind that one, in
//!   the order in which they are run. So no call sees an index that the state has seen.
//! - Log time stands still at that of the checkpoint, or goes on with that of the entries.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::vote::RaftLeaderId;

use super::bounds::{Bounds, RehearsalError};
use super::report::{MigrationKind, MigrationReport, SideReport, millis};
use crate::codec::entry::Entry;
use crate::guest::{Call, Component, Context, Limits, Predecessor, StatusSource, Verdict};
use crate::machine::change::migration::{self, MigrationRun, MigrationStop};
use crate::machine::digest::Digester;
use crate::machine::entry::{self, Runner, batch_of};
use crate::machine::metered::{Metered, Reuse};
use crate::machine::overlay::Transaction;
use crate::machine::query::Kept;
use crate::machine::query::sample::Sampled;
use crate::machine::system::System;
use crate::store::{Checkpoint, Column, Generation, Read, State, StoreError, View};
use crate::types::{CommittedLeaderId, LogId, hex};

/// The term of the entries. It is no part of what a guest sees.
const TERM: u64 = 1;
/// Rows between two looks at the bounds while a state is read.
const ROWS_A_LOOK: u64 = 4096;
/// Pause before a query looks again for a free instance.
const INSTANCE_LOOK: Duration = Duration::from_millis(20);
/// Most looks for a free instance.
const INSTANCE_LOOKS_MAX: u32 = 1000;

/// The digest of the guest's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) rows: u64,
    pub(super) digest: [u8; 32],
}

/// A component on a scratch state.
pub(super) struct Side {
    component: Component,
    limits: Limits,
    reuse: Reuse,
    generation: Arc<Generation>,
    system: System,
    next_index: u64,
    kept: Kept,
    cost: SideReport,
    elapsed: Duration,
}

impl Side {
    /// Puts `component` on a copy of the checkpoint.
    pub(super) fn new(
        state: &State,
        checkpoint: &Checkpoint,
        component: &Component,
        reuse: Reuse,
    ) -> Result<Side, StoreError> {
        let generation = Arc::new(state.scratch_of(checkpoint)?);
        // The commands that are tried ran once. A read-only mode that came later is not theirs.
        let system = System { read_only: None, ..System::read(&*generation)? };
        // Commands for which an entry had no fuel are sent again, so each of them runs.
        let limits = Limits { fuel_per_entry: u64::MAX, ..component.engine().limits().clone() };
        Ok(Side {
            component: component.clone(),
            limits,
            reuse,
            generation,
            next_index: system.applied_index() + 1,
            system,
            kept: Kept::default(),
            cost: SideReport::default(),
            elapsed: Duration::ZERO,
        })
    }

    /// Returns the state. Nobody writes to it while the side is not used.
    pub(super) fn generation(&self) -> &Arc<Generation> {
        &self.generation
    }

    /// Returns the rolling hash of the outcomes and writes so far.
    pub(super) fn hash(&self) -> u64 {
        self.system.hash.hash
    }

    /// Passes over the index of the change, which the other side used for its migration.
    pub(super) fn pass_change(&mut self) {
        self.next_index += 1;
    }

    /// Migrates the state, which `from` made. `before` is what it holds.
    pub(super) fn migrate(
        &mut self,
        from: &Component,
        before: Contents,
        bounds: &Bounds,
    ) -> Result<MigrationReport, RehearsalError> {
        let context = Context { index: self.next_index, position: 0, time_ms: self.system.time_ms };
        self.next_index += 1;
        let hash = from.hash();
        let predecessor = Predecessor { hash: &hash, version: from.version() };
        let (transaction, limits) = (Transaction::new(self.generation.clone()), self.component.engine().limits());
        let began = Instant::now();
        let run = migration::migrate(&self.component, context, predecessor, limits, transaction, &|| bounds.is_over());
        let run = match run {
            Ok(run) => run,
            Err(MigrationStop::Host(fault)) => return Err(fault.into()),
            Err(MigrationStop::Cancelled) => {
                bounds.check()?;
                return Err(RehearsalError::Cancelled);
            }
        };
        let mut report = report_of(&run, before, migration::is_needed(&self.component, &hash));
        report.migrate_ms = millis(began.elapsed());
        if report.has_result() {
            bounds.check_room(report.bytes_written)?;
            let began = Instant::now();
            migration::store(&self.generation, run.writes)?;
            self.generation.flush()?;
            report.store_ms = millis(began.elapsed());
            let after = if report.kind == MigrationKind::Kept { before } else { self.contents(bounds)? };
            (report.rows_after, report.digest_after) = (after.rows, hex(&after.digest));
        }
        Ok(report)
    }

    /// Returns the digest of the guest's rows. Reads all of them.
    pub(super) fn contents(&self, bounds: &Bounds) -> Result<Contents, RehearsalError> {
        let (mut digester, mut rows, mut within) = (Digester::new(), 0u64, Ok(()));
        self.generation.scan(Column::Data, &[], None, false, &mut |key, value| {
            digester.row(key, value);
            rows += 1;
            if rows.is_multiple_of(ROWS_A_LOOK) {
                within = bounds.check();
            }
            if within.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        within?;
        let footer = digester.finish();
        Ok(Contents { rows: footer.rows, digest: footer.digest })
    }

    /// Applies an entry, and returns how each command ended.
    pub(super) fn apply(&mut self, entry: &Entry) -> Result<Vec<Verdict>, RehearsalError> {
        let metered = Metered::new(&self.component, self.reuse, entry.commands.len());
        let log_id = LogId { leader_id: CommittedLeaderId::new(TERM, 1), index: self.next_index };
        let runner = Runner { instances: &metered, limits: &self.limits };
        let began = Instant::now();
        let effects = entry::normal(&self.system, log_id, entry, Some(runner), self.generation.clone())?;
        self.elapsed += began.elapsed();
        self.next_index += 1;
        self.generation.commit(&batch_of(&effects))?;
        self.system = effects.system;
        self.generation.flush_if_nearly_full()?;
        let verdicts: Vec<Verdict> = effects.outcomes.into_iter().map(|(_, verdict)| verdict).collect();
        for (verdict, fuel) in verdicts.iter().zip(metered.fuel()) {
            self.note(verdict, fuel);
        }
        Ok(verdicts)
    }

    /// Answers a query from the state as it is now.
    pub(super) fn query(&mut self, query: &Sampled, bounds: &Bounds) -> Result<Verdict, RehearsalError> {
        let status: StatusSource = Arc::new(|| "{}".to_owned());
        let context = Context { index: self.system.applied_index(), position: 0, time_ms: self.system.time_ms };
        for _ in 0..INSTANCE_LOOKS_MAX {
            bounds.check()?;
            let (generation, fuel_max) = (&self.generation, self.limits.fuel_per_query);
            let (mut fuel, began) = (0, Instant::now());
            let answered = self.kept.serve(&self.component, None, |instance| {
                let (method, request, caller) = (&*query.method, &*query.request, &*query.caller);
                let call = Call { context, method, request, caller, fuel: fuel_max };
                let rows = Box::new(Transaction::<View>::new(generation.view()));
                let (verdict, _) = instance.query(call, rows, status.clone());
                fuel += instance.fuel_used();
                verdict
            })?;
            if let Some(verdict) = answered {
                self.elapsed += began.elapsed();
                self.note(&verdict, fuel);
                return Ok(verdict);
            }
            std::thread::sleep(INSTANCE_LOOK);
        }
        Err(RehearsalError::Busy)
    }

    fn note(&mut self, verdict: &Verdict, fuel: u64) {
        self.cost.fuel = self.cost.fuel.saturating_add(fuel);
        match verdict {
            Verdict::Reply(_) => {}
            Verdict::Refused(_) => self.cost.refused += 1,
            Verdict::Failed(_) => self.cost.failed += 1,
        }
    }

    /// Returns what the calls since the last time cost, and begins anew.
    pub(super) fn take_cost(&mut self) -> SideReport {
        let elapsed_us = u64::try_from(std::mem::take(&mut self.elapsed).as_micros()).unwrap_or(u64::MAX);
        SideReport { elapsed_us, ..std::mem::take(&mut self.cost) }
    }
}

fn report_of(run: &MigrationRun, before: Contents, migrates: bool) -> MigrationReport {
    let rows_written = run.writes.values().filter(|value| value.is_some()).count() as u64;
    let mut report = MigrationReport {
        rows_before: before.rows,
        digest_before: hex(&before.digest),
        rows_written,
        rows_removed: run.writes.len() as u64 - rows_written,
        bytes_written: run.written_bytes,
        calls: run.calls,
        fuel: run.fuel,
        ..MigrationReport::default()
    };
    if migrates {
        report.end(&run.end);
    }
    report
}
