//! Instances and the calls into them: commands, queries, steps of a watch. An instance serves one
//! call at a time. It is spent after anything but a reply, because what a failed call left in its
//! memory must not reach the next call. This module decides nothing about retries or batches;
//! `machine/` does.

use std::time::Duration;

use wasmtime::Store as Wasm;
use wasmtime::component::{ComponentExportIndex, ComponentNamedList, Instance, Lift, Lower, TypedFunc};

use super::component::Component;
use super::engine::{Engine, Slot};
use super::epochs::Deadline;
use super::imports::{Mode, Quiet, State};
use super::limits::{Budget, Limits};
use super::load_error::LoadError;
use super::outcome::{self, Circumstances, Interrupts};
use super::wire::{Command, Migrate, Stream, Watch, WireStep};
use super::{Call, Cause, Failure, HostFault, LogLine, Reason, Rows, StatusSource, Step, Stepped, Verdict};

/// An epoch that is never reached. It is not `u64::MAX`, because that plus the current epoch would
/// wrap.
const NO_DEADLINE: u64 = u64::MAX / 2;

/// Most queries and steps that one instance serves. This frees what a guest leaves behind without
/// growing its memory.
const CALLS_PER_INSTANCE_MAX: u32 = 10_000;
/// Most bytes by which an instance's memory may have grown if it is to serve another query. A guest
/// that never frees memory gets a fresh instance after that.
const KEPT_GROWTH_BYTES_MAX: u64 = 1 << 20;

/// An instance with its memory and fuel, for any use.
pub(super) struct Sandbox {
    engine: Engine,
    wasm: Wasm<State>,
    instance: Instance,
    fuel_given: u64,
    /// Fuel that the start functions used.
    pub(super) fuel_of_start: u64,
    usable: bool,
}

impl Sandbox {
    /// Makes a fresh instance of an admitted component. Admission has instantiated it once, so a
    /// failure now is this host's fault.
    pub(super) fn new(component: &Component) -> Result<Self, HostFault> {
        Self::instantiate(component).map_err(|error| HostFault(format!("no instance of the guest: {error:#}")))
    }

    /// Checks that the component can be instantiated. Also checks that its functions have the
    /// contract's types.
    pub(super) fn admit(component: &Component) -> Result<(), LoadError> {
        let mut sandbox = Self::instantiate(component).map_err(|error| LoadError::Instantiate(format!("{error:#}")))?;
        let exports = component.exports();
        let mut types = || -> wasmtime::Result<()> {
            let _: Command = sandbox.typed(&exports.apply)?;
            let _: Command = sandbox.typed(&exports.query)?;
            let _: Stream = sandbox.typed(&exports.snapshot)?;
            let _: Stream = sandbox.typed(&exports.restore)?;
            if let Some(watch) = &exports.watch {
                let _: Watch = sandbox.typed(watch)?;
            }
            if let Some(migrate) = &exports.migrate {
                let _: Migrate = sandbox.typed(migrate)?;
            }
            Ok(())
        };
        types().map_err(|error| LoadError::Link(format!("{error:#}")))
    }

    fn instantiate(component: &Component) -> wasmtime::Result<Self> {
        let engine = &component.engine().inner;
        let mut wasm = Wasm::new(&engine.wasmtime, State::new(engine.limits.clone(), engine.metered));
        wasm.limiter(|state| &mut state.growth);
        // The guest's memory bounds how much one call may move into the host.
        wasm.set_hostcall_fuel(usize::try_from(engine.limits.memory_bytes_max)?);
        wasm.set_epoch_deadline(NO_DEADLINE);
        if engine.metered {
            wasm.set_fuel(engine.limits.fuel_per_instantiation)?;
        }
        let instance = component.pre().instantiate(&mut wasm)?;
        let fuel_of_start = match engine.metered {
            true => engine.limits.fuel_per_instantiation - wasm.get_fuel()?,
            false => 0,
        };
        Ok(Self { engine: component.engine().clone(), wasm, instance, fuel_given: 0, fuel_of_start, usable: true })
    }

    pub(super) fn typed<P, R>(&mut self, export: &ComponentExportIndex) -> wasmtime::Result<TypedFunc<P, R>>
    where
        P: ComponentNamedList + Lower,
        R: ComponentNamedList + Lift,
    {
        let function = self.instance.get_func(&mut self.wasm, export);
        let function = function.ok_or_else(|| wasmtime::format_err!("an export of the guest is not a function"))?;
        function.typed(&self.wasm)
    }

    /// Looks up an export in an instance of an admitted component.
    pub(super) fn admitted<P, R>(&mut self, export: &ComponentExportIndex) -> Result<TypedFunc<P, R>, HostFault>
    where
        P: ComponentNamedList + Lower,
        R: ComponentNamedList + Lift,
    {
        self.typed(export).map_err(|error| HostFault(format!("an admitted guest lost an export: {error:#}")))
    }

    pub(super) fn state(&mut self) -> &mut State {
        self.wasm.data_mut()
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.wasm.data().limits
    }

    fn set_caller(&mut self, caller: &str) {
        let own = &mut self.wasm.data_mut().caller;
        own.clear();
        own.push_str(caller);
    }

    pub(super) fn fuel_used(&self) -> u64 {
        if !self.engine.inner.metered {
            return 0;
        }
        self.fuel_given.saturating_sub(self.wasm.get_fuel().unwrap_or(0))
    }

    /// Prepares the state for a call; `finish` undoes it.
    pub(super) fn start(&mut self, mode: Mode, fuel: u64, store: Box<dyn Rows>) -> Result<(), HostFault> {
        let state = self.wasm.data_mut();
        state.mode = mode;
        state.store = Some(store);
        state.growth.start_call();
        state.budget = match mode {
            Mode::Snapshot => Budget::of_snapshot(&state.limits),
            Mode::Restore => Budget::of_restore(&state.limits),
            Mode::Migrate => Budget::of_migration(&state.limits),
            _ => Budget::of_call(&state.limits),
        };
        if !self.engine.inner.metered {
            return Ok(());
        }
        self.fuel_given = fuel;
        self.wasm.set_fuel(fuel).map_err(|error| HostFault(format!("fuel could not be set: {error:#}")))
    }

    /// Limits the time that the guest may compute without moving its stream, from now on. Each time
    /// the stream moves, the time begins anew.
    pub(super) fn start_quiet_deadline(&mut self, ms: u32) -> Deadline {
        let (running, epochs) = self.engine.start_deadline(ms);
        self.wasm.data_mut().quiet = Some(Quiet::new(Duration::from_millis(ms.into())));
        self.wasm.set_epoch_deadline(epochs);
        running
    }

    /// Ends the call, and returns the store.
    pub(super) fn finish(&mut self) -> Box<dyn Rows> {
        let state = self.wasm.data_mut();
        state.mode = Mode::Idle;
        state.store.take().expect("every import puts the store back")
    }

    /// Calls the function and classifies an error. Marks the instance as spent; `command` and
    /// `watch` mark it as usable again after a reply.
    pub(super) fn call<P, R>(
        &mut self,
        function: &TypedFunc<P, R>,
        params: P,
        interrupts: Interrupts,
    ) -> Result<Result<R, Failure>, HostFault>
    where
        P: ComponentNamedList + Lower,
        R: ComponentNamedList + Lift,
    {
        self.usable = false;
        match function.call(&mut self.wasm, params) {
            Ok(value) => Ok(Ok(value)),
            Err(error) => {
                let circumstances = Circumstances {
                    interrupts,
                    growth_denied: self.wasm.data().growth.denied(),
                    meters_depth: self.limits().meters_depth(),
                };
                outcome::classify(&error, circumstances).map(Err)
            }
        }
    }

    fn command(&mut self, function: &Command, call: Call<'_>, interrupts: Interrupts) -> Result<Verdict, HostFault> {
        let params = (call.context.into(), call.method.to_owned(), call.request.to_vec());
        let verdict = match self.call(function, params, interrupts)? {
            Ok((Ok(reply),)) => outcome::reply(reply, self.limits()),
            Ok((Err(status),)) => outcome::refusal(status.into(), self.limits()),
            Err(failure) => Verdict::Failed(failure),
        };
        let verdict = match verdict {
            Verdict::Failed(failure) => Verdict::Failed(failure.at(call.method, call.context)),
            other => other,
        };
        self.usable = matches!(verdict, Verdict::Reply(_));
        Ok(verdict)
    }

    /// Charges the fuel of a reply's bytes. A reply for which no fuel is left becomes a failure.
    fn charge_reply(&mut self, verdict: Verdict, call: Call<'_>) -> Result<Verdict, HostFault> {
        let Verdict::Reply(reply) = &verdict else { return Ok(verdict) };
        let price = (reply.len() as u64).saturating_mul(self.limits().fuel_per_reply_byte);
        if !self.engine.inner.metered || price == 0 {
            return Ok(verdict);
        }
        let broken = |error| HostFault(format!("fuel could not be charged: {error:#}"));
        let left = self.wasm.get_fuel().map_err(broken)?;
        self.wasm.set_fuel(left.saturating_sub(price)).map_err(broken)?;
        if price <= left {
            return Ok(verdict);
        }
        self.usable = false;
        let detail = format!("the reply of {} bytes costs {price} units of fuel, and {left} were left", reply.len());
        Ok(Verdict::Failed(Failure { reason: Reason::Fuel, detail }.at(call.method, call.context)))
    }

    fn watch(&mut self, function: &Watch, call: Call<'_>, cause: Cause, memo: &[u8]) -> Result<Stepped, HostFault> {
        let params = (call.context.into(), call.method.to_owned(), call.request.to_vec(), cause.into(), memo.to_vec());
        let stepped = match self.call(function, params, Interrupts::Deadline)? {
            Ok((Ok(step),)) => step_within(step, self.limits()),
            Ok((Err(status),)) => match outcome::refusal(status.into(), self.limits()) {
                Verdict::Refused(status) => Stepped::Refused(status),
                verdict => failed(verdict),
            },
            Err(failure) => Stepped::Failed(failure),
        };
        let stepped = match stepped {
            Stepped::Failed(failure) => Stepped::Failed(failure.at(call.method, call.context)),
            other => other,
        };
        self.usable = matches!(stepped, Stepped::Step(_));
        Ok(stepped)
    }
}

fn step_within(step: WireStep, limits: &Limits) -> Stepped {
    let largest = step.replies.iter().map(Vec::len).max().unwrap_or(0);
    let total = step.replies.iter().fold(0, |total: usize, reply| total.saturating_add(reply.len()));
    let checks = [
        ("memo", step.memo.len(), limits.watch_memo_bytes_max),
        ("largest reply", largest, limits.reply_bytes_max),
        ("sum of replies", total, limits.watch_replies_bytes_max),
    ];
    for (what, bytes, bytes_max) in checks {
        if bytes > bytes_max as usize {
            return failed(outcome::oversized(what, bytes, bytes_max));
        }
    }
    Stepped::Step(Step {
        replies: step.replies.into_iter().map(Into::into).collect(),
        memo: step.memo.into(),
        wake_at_index: step.wake_at_index,
        wake_after_ms: step.wake_after_ms,
        done: step.done,
    })
}

fn failed(verdict: Verdict) -> Stepped {
    match verdict {
        Verdict::Failed(failure) => Stepped::Failed(failure),
        Verdict::Refused(status) => Stepped::Refused(status),
        Verdict::Reply(_) => unreachable!("an oversized value is never a reply"),
    }
}

/// An instance for commands. Fuel decides how long a command may run; nothing interrupts it.
pub struct ApplyInstance {
    sandbox: Sandbox,
    apply: Command,
    served: u32,
}

impl ApplyInstance {
    /// Makes a fresh instance.
    pub fn new(component: &Component) -> Result<Self, HostFault> {
        let mut sandbox = Sandbox::new(component)?;
        let apply = sandbox.admitted(&component.exports().apply)?;
        Ok(Self { sandbox, apply, served: 0 })
    }

    /// Returns the number of commands served so far; 0 means that no other command can affect the
    /// next outcome.
    pub fn served(&self) -> u32 {
        self.served
    }

    /// Returns whether another command may be served: only if all commands so far ended with a
    /// reply.
    pub fn usable(&self) -> bool {
        self.sandbox.usable
    }

    /// Returns the fuel that the last command used, for metrics and for the entry's budget.
    pub fn fuel_used(&self) -> u64 {
        self.sandbox.fuel_used()
    }

    /// Returns the fuel that the start functions used when the instance was made. It counts against
    /// the entry's budget.
    pub fn fuel_of_start(&self) -> u64 {
        self.sandbox.fuel_of_start
    }

    /// Keeps the lines that the guest logs from now on, in place of writing them to this node's
    /// log. The guest notices nothing of it.
    pub fn keep_lines(&mut self) {
        self.sandbox.state().lines = Some(Vec::new());
    }

    /// Takes the lines that were kept.
    pub fn take_lines(&mut self) -> Vec<LogLine> {
        self.sandbox.state().lines.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Runs one command. Returns the store with the command's writes; the caller keeps them after a
    /// reply and undoes them otherwise.
    pub fn apply(&mut self, call: Call<'_>, store: Box<dyn Rows>) -> (Result<Verdict, HostFault>, Box<dyn Rows>) {
        if !self.usable() {
            return (Err(HostFault("a spent instance was asked to apply".to_owned())), store);
        }
        self.served += 1;
        self.sandbox.set_caller(call.caller);
        let started = self.sandbox.start(Mode::Apply, call.fuel, store);
        let verdict = started.and_then(|()| self.sandbox.command(&self.apply, call, Interrupts::Fault));
        let verdict = verdict.and_then(|verdict| self.sandbox.charge_reply(verdict, call));
        (verdict, self.sandbox.finish())
    }
}

/// An instance for queries and steps of watches. It cannot write, and it has a deadline.
pub struct QueryInstance {
    sandbox: Sandbox,
    component: Component,
    query: Command,
    watch: Option<Watch>,
    /// Bytes of memory of the instance before its first call.
    memory_bytes_at_start: u64,
    served: u32,
    _slot: Slot,
}

impl QueryInstance {
    /// Makes a fresh instance; `None` when all instances that the pool has for queries are in use.
    pub fn new(component: &Component) -> Result<Option<Self>, HostFault> {
        let Some(slot) = component.engine().query_slot() else {
            return Ok(None);
        };
        let mut sandbox = Sandbox::new(component)?;
        let exports = component.exports();
        let query = sandbox.admitted(&exports.query)?;
        let watch = exports.watch.as_ref().map(|watch| sandbox.admitted(watch)).transpose()?;
        let memory_bytes_at_start = sandbox.state().growth.memory_bytes();
        Ok(Some(Self {
            sandbox,
            component: component.clone(),
            query,
            watch,
            memory_bytes_at_start,
            served: 0,
            _slot: slot,
        }))
    }

    /// Returns whether another query may be served: only if no call so far failed.
    pub fn usable(&self) -> bool {
        self.sandbox.usable
    }

    /// Returns whether the instance should be kept for another query: it is usable, and has neither
    /// served too many calls nor grown too much.
    pub fn is_fresh_enough(&mut self) -> bool {
        let grown = self.sandbox.state().growth.memory_bytes().saturating_sub(self.memory_bytes_at_start);
        self.usable() && self.served < CALLS_PER_INSTANCE_MAX && grown <= KEPT_GROWTH_BYTES_MAX
    }

    /// Returns whether this is an instance of this very component, compiled and admitted once.
    pub fn is_of(&self, component: &Component) -> bool {
        self.component.is_same(component)
    }

    /// Returns the fuel that the last call used.
    pub fn fuel_used(&self) -> u64 {
        self.sandbox.fuel_used()
    }

    /// Runs one query. `status` answers `node.status`.
    pub fn query(
        &mut self,
        call: Call<'_>,
        store: Box<dyn Rows>,
        status: StatusSource,
    ) -> (Result<Verdict, HostFault>, Box<dyn Rows>) {
        self.sandbox.state().node_status = Some(status);
        let answered = self.limited(Mode::Query, call, store, |this| {
            let verdict = this.sandbox.command(&this.query, call, Interrupts::Deadline)?;
            // A refusal is an answer: most say that something is not there. A query that is refused
            // leaves nothing to undo, so its instance is as good as before.
            this.sandbox.usable = !matches!(verdict, Verdict::Failed(_));
            Ok(verdict)
        });
        // A kept instance must not keep any value of its caller alive.
        self.sandbox.state().node_status = None;
        answered
    }

    /// Runs one step of a watch.
    pub fn watch(
        &mut self,
        call: Call<'_>,
        cause: Cause,
        memo: &[u8],
        store: Box<dyn Rows>,
    ) -> (Result<Stepped, HostFault>, Box<dyn Rows>) {
        self.limited(Mode::Watch, call, store, |this| match &this.watch {
            Some(watch) => this.sandbox.watch(watch, call, cause, memo),
            None => {
                let detail = "the guest does not export watcher".to_owned();
                Ok(Stepped::Failed(Failure { reason: Reason::Forbidden, detail }))
            }
        })
    }

    fn limited<T>(
        &mut self,
        mode: Mode,
        call: Call<'_>,
        store: Box<dyn Rows>,
        run: impl FnOnce(&mut Self) -> Result<T, HostFault>,
    ) -> (Result<T, HostFault>, Box<dyn Rows>) {
        if !self.usable() {
            return (Err(HostFault("a spent instance was asked to query".to_owned())), store);
        }
        self.served += 1;
        self.sandbox.set_caller(call.caller);
        let (_running, epochs) = self.component.engine().start_deadline(self.sandbox.limits().query_deadline_ms);
        self.sandbox.wasm.set_epoch_deadline(epochs);
        let started = self.sandbox.start(mode, call.fuel, store);
        let done = started.and_then(|()| run(self));
        self.sandbox.wasm.set_epoch_deadline(NO_DEADLINE);
        (done, self.sandbox.finish())
    }
}
