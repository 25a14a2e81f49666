//! Computes one log entry as a function. Its input is the state before the entry, and the entry.
//! Its output is the write set, the outcomes, and the host's records after the entry. This module
//! never commits, waits, or reads a clock: its result is equal on every replica.

use std::collections::BTreeMap;

use super::hash;
use super::outcome::{Parts, bytes_held, is_not_run, not_run};
use super::overlay::Transaction;
use super::system::System;
use crate::codec::{self, Command};
use crate::guest::{ApplyInstance, Call, Component, Context, HostFault, Limits, Rows, Verdict};
use crate::store::Read;
use crate::types::{LogId, Origin};

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

/// The effects of an entry.
pub(crate) struct Effects {
    /// The guest's writes, sorted by key.
    pub(crate) writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// The host's records that changed, without the hash, sorted by key.
    pub(crate) system_writes: Vec<(&'static [u8], Vec<u8>)>,
    /// The host's records after the entry.
    pub(crate) system: System,
    /// The origin and the verdict of each command, in order.
    pub(crate) outcomes: Vec<(Option<Origin>, Verdict)>,
}

/// What is needed to run the commands of an entry.
pub(crate) struct Runner<'a> {
    pub(crate) instances: &'a dyn Instances,
    pub(crate) limits: &'a Limits,
}

/// Computes the effects of a normal entry. `runner` must be set if the entry has commands and a
/// genesis entry exists, including the case that this entry is the genesis entry.
pub(crate) fn normal<R: Read + Send + 'static>(
    before: &System,
    log_id: LogId,
    entry: &codec::entry::Entry,
    runner: Option<Runner<'_>>,
    base: R,
) -> Result<Effects, HostFault> {
    let mut system = before.clone();
    system.time_ms = system.time_ms.max(entry.time_ms);
    if let (None, Some(genesis)) = (&system.genesis, &entry.genesis) {
        system.genesis = Some((log_id.index, genesis.clone()).into());
    }
    let mut batch = EntryRun {
        context: Context { index: log_id.index, position: 0, time_ms: system.time_ms },
        transaction: Some(Box::new(Transaction::new(base))),
        instance: None,
        fuel_used: 0,
        reply_bytes: 0,
    };
    let mut verdicts = Vec::with_capacity(entry.commands.len());
    for (position, command) in (0u32..).zip(&entry.commands) {
        batch.context.position = position;
        verdicts.push(match (&system.genesis, &runner) {
            (None, _) => not_run(),
            (Some(_), Some(runner)) => batch.run(runner, command)?,
            (Some(_), None) => return Err(HostFault("commands were to be applied without a component".into())),
        });
    }
    let writes = batch.transaction.expect("each call gives it back").into_writes();
    for verdict in verdicts.iter().filter(|verdict| !is_not_run(verdict)) {
        system.counters.commands += 1;
        system.counters.failed += u64::from(!matches!(verdict, Verdict::Reply(_)));
    }
    let origins = entry.commands.iter().map(|command| command.origin.as_ref().map(Origin::from));
    let outcomes = origins.zip(verdicts).collect();
    Ok(finish(before, log_id, system, writes, outcomes))
}

/// Computes the effects of an entry without commands. `system` holds the changes other than the
/// position.
pub(crate) fn empty(before: &System, log_id: LogId, system: System) -> Effects {
    finish(before, log_id, system, BTreeMap::new(), Vec::new())
}

fn finish(
    before: &System,
    log_id: LogId,
    mut system: System,
    writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    outcomes: Vec<(Option<Origin>, Verdict)>,
) -> Effects {
    system.applied = Some(log_id);
    let system_writes = system.changes_since(before);
    let data = writes.iter().map(|(key, value)| hash::Write { column: hash::DATA, key, value: value.as_deref() });
    let host = system_writes.iter().map(|(key, value)| hash::Write { column: hash::SYSTEM, key, value: Some(value) });
    let parts = outcomes.iter().map(|(_, verdict)| Parts::of(verdict));
    system.hash = hash::next(before.hash, log_id.index, parts, data.chain(host));
    Effects { writes, system_writes, system, outcomes }
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
