//! One log entry as a function: state before and entry in, write set, outcomes and the host's records after it out. Never
//! commits, never waits, never looks at a clock: what it returns is equal on every replica.

use std::collections::BTreeMap;

use super::hash;
use super::outcome::{encode_verdict, is_not_run, not_run};
use super::overlay::Transaction;
use super::system::System;
use crate::codec::{self, Command};
use crate::guest::{ApplyInstance, Call, Component, Context, HostFault, Limits, Store, Verdict};
use crate::store::Read;
use crate::types::{LogId, Origin};

/// Makes instances that serve commands. Real guests, in tests functions, and in a benchmark what a guest is measured against.
pub trait Instances {
    /// A new one, with nothing in its memory.
    fn fresh(&self) -> Result<Box<dyn Instance>, HostFault>;
}

/// Serves commands until one does not end with a reply.
pub trait Instance {
    /// Commands served before this one.
    fn served(&self) -> u32;
    /// Runs a command, and gives the store back with whatever was written.
    fn apply(&mut self, call: Call<'_>, store: Box<dyn Store>) -> (Result<Verdict, HostFault>, Box<dyn Store>);
    /// Fuel of the last command.
    fn fuel_used(&self) -> u64;
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

    fn apply(&mut self, call: Call<'_>, store: Box<dyn Store>) -> (Result<Verdict, HostFault>, Box<dyn Store>) {
        ApplyInstance::apply(self, call, store)
    }

    fn fuel_used(&self) -> u64 {
        ApplyInstance::fuel_used(self)
    }
}

/// What an entry does.
pub(crate) struct Effects {
    /// The guest's writes, sorted.
    pub(crate) writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// The host's records that changed, the hash excepted, sorted.
    pub(crate) system_writes: Vec<(&'static [u8], Vec<u8>)>,
    /// The host's records afterwards.
    pub(crate) system: System,
    /// Of each command, in order.
    pub(crate) outcomes: Vec<(Option<Origin>, Verdict)>,
}

/// What runs the commands of an entry.
pub(crate) struct Runner<'a> {
    pub(crate) instances: &'a dyn Instances,
    pub(crate) limits: &'a Limits,
}

/// The effects of a normal entry. `runner` is there whenever a genesis entry is, this one included, and commands are to be run.
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
    let mut batch = Batch {
        context: Context { index: log_id.index, position: 0, time_ms: system.time_ms },
        transaction: Some(Box::new(Transaction::new(base))),
        instance: None,
        fuel_used: 0,
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

/// The effects of an entry without commands: `system` is what changes besides the position.
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
    let encoded: Vec<Vec<u8>> = outcomes.iter().map(|(_, verdict)| encode_verdict(verdict)).collect();
    system.hash = hash::next(before.hash, log_id.index, &encoded, data.chain(host));
    Effects { writes, system_writes, system, outcomes }
}

/// The commands of one entry on their way through.
struct Batch<R> {
    context: Context,
    /// Out only during a call.
    transaction: Option<Box<Transaction<R>>>,
    /// Kept from command to command while all goes well.
    instance: Option<Box<dyn Instance>>,
    /// Of the entry, abandoned first runs included: they cost every replica alike.
    fuel_used: u64,
}

impl<R: Read + Send + 'static> Batch<R> {
    fn run(&mut self, runner: &Runner<'_>, command: &Command) -> Result<Verdict, HostFault> {
        let left = runner.limits.fuel_per_entry.saturating_sub(self.fuel_used);
        // The first command always runs: a limit per entry below that per command must not stop the cluster.
        if self.context.position > 0 && left < runner.limits.fuel_per_command {
            return Ok(not_run());
        }
        let (first, had_neighbours) = self.attempt(runner, command)?;
        // A failure beside a neighbour may be the neighbour's; alone it is the command's own.
        let verdict = if had_neighbours && !matches!(first, Verdict::Reply(_)) {
            self.attempt(runner, command)?.0
        } else {
            first
        };
        Ok(verdict)
    }

    /// Runs the command, keeps its writes after a reply, and otherwise undoes them and lets the instance go. Also says whether
    /// the instance had served a command of this entry before.
    fn attempt(&mut self, runner: &Runner<'_>, command: &Command) -> Result<(Verdict, bool), HostFault> {
        let mut instance = match self.instance.take() {
            Some(instance) => instance,
            None => runner.instances.fresh()?,
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
