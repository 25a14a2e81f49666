//! Computes one log entry as a function. Its input is the state before the entry, and the entry.
//! Its output is the write set, the outcomes, and the host's records after the entry. This module
//! never commits, waits, or reads a clock: its result is equal on every replica.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::hash;
use super::operation::Operation;
use super::outcome::{Parts, bytes_held, is_not_run, not_run};
use super::overlay::Transaction;
use super::read_only::{self, ReadOnly};
use super::rows;
use super::spent::{CommandsSpent, Spent};
use super::system::{System, key};
use crate::codec::{self, Command, encode_record};
use crate::guest::{ApplyInstance, Call, Component, Context, HostFault, Limits, Rows, Verdict};
use crate::store::{Batch, Column, Read};
use crate::types::{LogId, Membership, Origin, StoredMembership};

/// Makes instances that run commands. They are real guests; or functions, in tests; or, in a
/// benchmark, the code that a guest is compared with.
pub trait Instances {
    /// Makes a new instance, with empty memory.
    fn fresh(&self) -> Result<Box<dyn Instance>, HostFault>;
}

/// Runs commands until one of them does not end with a reply.
pub trait Instance {
    /// Returns how many commands this instance has run.
    fn served(&self) -> u32;
    /// Runs a command. Returns the store with the writes made so far.
    fn apply(&mut self, call: Call<'_>, store: Box<dyn Rows>) -> (Result<Verdict, HostFault>, Box<dyn Rows>);
    /// Returns the fuel that the last command used.
    fn fuel_used(&self) -> u64;
    /// Returns the fuel that creating this instance used.
    fn fuel_of_start(&self) -> u64;
}

impl Instances for Component {
    fn fresh(&self) -> Result<Box<dyn Instance>, HostFault> {
        Ok(Box::new(ApplyInstance::new(self)?))
    }
}

impl Instance for ApplyInstance {
    fn served(&self) -> u32 {
        ApplyInstance::served(self)
    }

    fn apply(&mut self, call: Call<'_>, store: Box<dyn Rows>) -> (Result<Verdict, HostFault>, Box<dyn Rows>) {
        ApplyInstance::apply(self, call, store)
    }

    fn fuel_used(&self) -> u64 {
        ApplyInstance::fuel_used(self)
    }

    fn fuel_of_start(&self) -> u64 {
        ApplyInstance::fuel_of_start(self)
    }
}

/// Writes by key; `None` is a removed key.
pub(crate) type Writes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// The effects of an entry.
pub(crate) struct Effects {
    /// The guest's writes, sorted by key.
    pub(crate) writes: Writes,
    /// The host's records that changed, without the hash, sorted by key.
    pub(crate) system_writes: Vec<(&'static [u8], Vec<u8>)>,
    /// The host's records after the entry.
    pub(crate) system: System,
    /// The origin and the verdict of each command, in order.
    pub(crate) outcomes: Vec<(Option<Origin>, Verdict)>,
    /// What each command took, in order. Neither state nor hash has it.
    pub(crate) spent: CommandsSpent,
}

/// What is needed to run the commands of an entry.
pub(crate) struct Runner<'a> {
    pub(crate) instances: &'a dyn Instances,
    pub(crate) limits: &'a Limits,
}

/// Computes the effects of a normal entry without a change. `runner` must be set if the entry has
/// commands and a genesis entry exists, including the case that this entry is the genesis entry.
pub(crate) fn normal<R: Read + Send + 'static>(
    before: &System,
    log_id: LogId,
    entry: &codec::entry::Entry,
    runner: Option<Runner<'_>>,
    base: R,
) -> Result<Effects, HostFault> {
    let mut system = begin(before, log_id, entry);
    let mut batch = EntryRun {
        context: Context { index: log_id.index, position: 0, time_ms: system.time_ms },
        transaction: Some(Box::new(Transaction::new(base))),
        instance: None,
        fuel_used: 0,
        reply_bytes: 0,
    };
    if let (Some(rows), Some(transaction)) = (&entry.rows, &mut batch.transaction) {
        rows::write(&system, rows, transaction)?;
        transaction.savepoint();
    }
    let mut verdicts = Vec::with_capacity(entry.commands.len());
    let mut spent = CommandsSpent::with_capacity(entry.commands.len());
    for (position, command) in (0u32..).zip(&entry.commands) {
        batch.context.position = position;
        let fuel_before = batch.fuel_used;
        let is_closed = system.read_only.as_ref().is_some_and(|mode| mode.covers(&command.method));
        let verdict = match (&system.genesis, &runner) {
            (None, _) => not_run(),
            (Some(_), _) if is_closed => read_only::refusal(),
            (Some(_), Some(runner)) => batch.run(runner, command)?,
            (Some(_), None) => return Err(HostFault("commands were to be applied without a component".into())),
        };
        let is_run = !is_closed && !is_not_run(&verdict);
        let failed = !matches!(verdict, Verdict::Reply(_));
        if is_run {
            system.counters.commands += 1;
            system.counters.failed += u64::from(failed);
        }
        let fuel = batch.fuel_used - fuel_before;
        spent.push(is_run.then(|| Spent { fuel, reply_bytes: bytes_held(&verdict), failed }));
        verdicts.push(verdict);
    }
    let writes = batch.transaction.expect("each call gives it back").into_writes();
    let origins = entry.commands.iter().map(|command| command.origin.as_ref().map(Origin::from));
    let outcomes = origins.zip(verdicts).collect();
    Ok(Effects { spent, ..finish(before, log_id, system, writes, outcomes) })
}

/// Computes the effects of an entry without commands. `system` holds the changes other than the
/// position.
pub(crate) fn empty(before: &System, log_id: LogId, system: System) -> Effects {
    finish(before, log_id, system, BTreeMap::new(), Vec::new())
}

/// Computes the effects of a change of the members.
pub(crate) fn membership(before: &System, log_id: LogId, membership: &Membership) -> Effects {
    let mut system = before.clone();
    system.membership = Arc::new(StoredMembership::new(Some(log_id), membership.clone()));
    empty(before, log_id, system)
}

/// Computes the effects of an entry of which nothing but its log time counts.
pub(crate) fn passed_over(before: &System, log_id: LogId, entry: &codec::entry::Entry) -> Effects {
    finish(before, log_id, begin(before, log_id, entry), Writes::new(), not_run_of(entry))
}

/// Returns the outcomes of an entry whose commands are not run.
pub(super) fn not_run_of(entry: &codec::entry::Entry) -> Vec<(Option<Origin>, Verdict)> {
    entry.commands.iter().map(|command| (command.origin.as_ref().map(Origin::from), not_run())).collect()
}

/// Returns the host's records with the log time, the genesis, the read-only mode, and the retention
/// and quotas of an entry.
pub(super) fn begin(before: &System, log_id: LogId, entry: &codec::entry::Entry) -> System {
    let mut system = before.clone();
    system.time_ms = system.time_ms.max(entry.time_ms);
    if let (None, Some(genesis)) = (&system.genesis, &entry.genesis) {
        system.genesis = Some((log_id.index, genesis.clone()).into());
    }
    if let Some(mode) = &entry.read_only {
        system.read_only = Some(Arc::new(ReadOnly::set_by(log_id.index, system.time_ms, mode)));
    }
    if let Some(wanted) = &entry.operation
        && wanted.expected_index == before.operation.as_ref().map_or(0, |operation| operation.index)
    {
        system.operation = Some(Arc::new(Operation::set_by(log_id.index, system.time_ms, wanted)));
    }
    system
}

/// Completes the effects of an entry: its position and the hash. `system` holds the other changes.
pub(super) fn finish(
    before: &System,
    log_id: LogId,
    mut system: System,
    writes: Writes,
    outcomes: Vec<(Option<Origin>, Verdict)>,
) -> Effects {
    system.applied = Some(log_id);
    let system_writes = system.changes_since(before);
    let data = writes.iter().map(|(key, value)| hash::Write { column: hash::DATA, key, value: value.as_deref() });
    let host = system_writes.iter().map(|(key, value)| hash::Write { column: hash::SYSTEM, key, value: Some(value) });
    let parts = outcomes.iter().map(|(_, verdict)| Parts::of(verdict));
    system.hash = hash::next(before.hash, log_id.index, parts, data.chain(host));
    Effects { writes, system_writes, system, outcomes, spent: CommandsSpent::new() }
}

/// Puts all writes of one entry in one batch, so that they are stored all or none.
pub(super) fn batch_of(effects: &Effects) -> Batch {
    let mut batch = Batch::new();
    for (key, value) in &effects.writes {
        match value {
            Some(value) => batch.put(Column::Data, key, value),
            None => batch.remove(Column::Data, key),
        }
    }
    for (key, value) in &effects.system_writes {
        batch.put(Column::System, key, value);
    }
    batch.put(Column::System, key::HASH, &encode_record(&effects.system.hash));
    batch
}

/// The state of one entry while its commands run.
struct EntryRun<R> {
    context: Context,
    /// `None` only during a call.
    transaction: Option<Box<Transaction<R>>>,
    /// Kept from command to command while all of them reply.
    instance: Option<Box<dyn Instance>>,
    /// Fuel used by this entry, including discarded first runs and the creation of instances: every
    /// replica spends that fuel too.
    fuel_used: u64,
    /// Bytes of what the commands of this entry answered. Every replica holds them until the entry
    /// is committed.
    reply_bytes: u64,
}

impl<R: Read + Send + 'static> EntryRun<R> {
    fn run(&mut self, runner: &Runner<'_>, command: &Command) -> Result<Verdict, HostFault> {
        // The first command always runs, or a limit per entry below the limit per command would
        // stop the cluster.
        if self.context.position > 0 && !self.has_room(runner.limits) {
            return Ok(not_run());
        }
        let (first, had_neighbours) = self.attempt(runner, command)?;
        // A failure after another command in the same instance may be caused by that command. A
        // failure in a fresh instance is the command's own.
        let verdict = if had_neighbours && !matches!(first, Verdict::Reply(_)) {
            self.attempt(runner, command)?.0
        } else {
            first
        };
        self.reply_bytes = self.reply_bytes.saturating_add(bytes_held(&verdict));
        Ok(verdict)
    }

    /// Returns whether the entry has fuel for one more command, and room for its reply.
    fn has_room(&self, limits: &Limits) -> bool {
        let fuel_left = limits.fuel_per_entry.saturating_sub(self.fuel_used);
        fuel_left >= limits.fuel_per_command && self.reply_bytes < limits.reply_bytes_per_entry_max
    }

    /// Runs the command. After a reply it keeps the command's writes; otherwise it undoes them and
    /// drops the instance. Also returns whether the instance had run another command of this entry
    /// before.
    fn attempt(&mut self, runner: &Runner<'_>, command: &Command) -> Result<(Verdict, bool), HostFault> {
        let mut instance = match self.instance.take() {
            Some(instance) => instance,
            None => {
                let fresh = runner.instances.fresh()?;
                // Without this, an entry of failing commands, each with its own instance, would
                // have no time limit.
                self.fuel_used = self.fuel_used.saturating_add(fresh.fuel_of_start());
                fresh
            }
        };
        let had_neighbours = instance.served() > 0;
        let mut transaction = self.transaction.take().expect("each call gives it back");
        transaction.savepoint();
        let call = Call {
            context: self.context,
            method: &command.method,
            request: &command.request,
            caller: &command.caller,
            fuel: runner.limits.fuel_per_command,
        };
        let (verdict, store) = instance.apply(call, transaction);
        let mut transaction =
            store.into_any().downcast::<Transaction<R>>().expect("the store that was given comes back");
        let verdict = verdict?;
        self.fuel_used = self.fuel_used.saturating_add(instance.fuel_used());
        if matches!(verdict, Verdict::Reply(_)) {
            self.instance = Some(instance);
        } else {
            transaction.rollback();
        }
        self.transaction = Some(transaction);
        Ok((verdict, had_neighbours))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "entry_tests.rs"]
mod tests;
