//! Migrations in the harness: a machine takes over the state of an older one, and runs `migrate!`
//! on it as the entry of a change does. The older machine is a built component, another crate, or
//! what a backup holds.

use std::thread;

use super::component::Component;
use super::guest::Guest;
use super::host::{Call, Mode, Store};
use super::{Harness, difference};
use crate::context::{Place, Predecessor};
use crate::dispatch::{Machine, Method, State};
use crate::limits::{MIGRATION_CALLS_MAX, MIGRATION_WRITE_BYTES_MAX};
use crate::log::Level;
use crate::migration::Migrates;
use crate::snapshot::AsItIs;
use crate::status::{Reply, Status};

/// The machine of a [`Component`] whose source is not at hand.
#[derive(Debug)]
pub struct AnyMachine;

impl State for AnyMachine {
    fn open() -> Self {
        Self
    }
}

impl Machine for AnyMachine {
    type Snapshots = AsItIs;
    const METHODS: &'static [&'static [Method<Self>]] = &[];
}

impl Component {
    /// Makes a harness with this component, for an older machine whose crate is not at hand.
    pub fn harness(&self) -> Harness<AnyMachine> {
        Harness::in_component(self)
    }
}

impl<M: Machine> Harness<M> {
    /// Makes a harness that goes on from the state, the index and the time of an older machine.
    ///
    /// ```ignore
    /// let mut old = Component::open("tests/v1.wasm")?.harness();
    /// old.command::<_, Lease>("locks.Locks/Acquire", &request)?;
    /// let mut machine = Harness::<LockTable>::taking_over(old);
    /// machine.migrate()?;
    /// ```
    ///
    /// # Panics
    /// As for [`new`](Self::new).
    pub fn taking_over<Old: Machine>(old: Harness<Old>) -> Self {
        old.between_entries();
        let mut machine = Self::new();
        (machine.index, machine.clock_ms, machine.log_ms) = (old.index, old.clock_ms, old.log_ms);
        machine.predecessor = match &old.guest {
            Guest::Native => None,
            Guest::Component(component) => Some(component.as_predecessor()),
        };
        machine.restored.insert(0, old.store.clone());
        machine.store = old.store;
        machine
    }
}

impl<M: Machine + Migrates> Harness<M> {
    /// Runs all calls of the migration from the machine whose state this is, in one entry. Streams
    /// get a reset.
    ///
    /// It runs twice, the second time in another thread, and both must write the same.
    ///
    /// # Errors
    /// The status with which a call ended; RESOURCE_EXHAUSTED when there are too many calls or
    /// writes for an entry. The state is then as it was.
    ///
    /// # Panics
    /// When the state is not that of a component. [`migrate_from`](Self::migrate_from) takes the
    /// version.
    pub fn migrate(&mut self) -> Reply<()> {
        let from = self.predecessor.clone();
        self.change_from(from.expect("the state is that of a component; otherwise take `migrate_from` with a version"))
    }

    /// Does what [`migrate`](Self::migrate) does, from this version: for a state that an older
    /// machine made natively, or that comes from a backup.
    ///
    /// # Errors
    /// As for [`migrate`](Self::migrate).
    ///
    /// # Panics
    /// When the migration does not do the same twice.
    pub fn migrate_from(&mut self, version: &str) -> Reply<()> {
        let hash = self.predecessor.as_ref().map_or([0; 32], |predecessor| predecessor.hash);
        self.change_from(Predecessor { hash, version: version.to_owned() })
    }

    fn change_from(&mut self, from: Predecessor) -> Reply<()> {
        self.between_entries();
        if let Guest::Component(component) = &self.guest {
            component.assert_migrates();
        }
        self.begin_entry();
        let (guest, place) = (&self.guest, self.place());
        let run = |store: Store| run::<M>(guest, place, &from, store);
        let other = self.store.clone();
        let second = thread::scope(|scope| {
            let running = scope.spawn(|| run(other));
            // Outcomes of the guest do not unwind, but a broken program that runs the component
            // does.
            running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        let first = run(self.store.clone());
        let code = |run: &Run| run.outcome.as_ref().map_err(Status::code).copied();
        assert!(
            code(&first) == code(&second),
            "the migration ended with {:?} and then with {:?}",
            first.outcome,
            second.outcome
        );
        self.lines.extend(first.lines);
        first.outcome?;
        if let Some(difference) = difference(&first.store, &second.store) {
            panic!("the migration does not write the same twice: {difference}");
        }
        self.store = first.store;
        self.restored.insert(self.log.len(), self.store.clone());
        self.streams_after_reset();
        Ok(())
    }
}

/// What a migration left behind.
struct Run {
    outcome: Reply<()>,
    store: Store,
    lines: Vec<(Level, String)>,
}

fn run<M: Migrates>(guest: &Guest, place: Place, from: &Predecessor, store: Store) -> Run {
    let mut run = Run { outcome: Ok(()), store, lines: Vec::new() };
    let (mut cursor, mut written) = (Vec::new(), 0);
    for _ in 0..MIGRATION_CALLS_MAX {
        let call = Call::new(Mode::Migrate, std::mem::take(&mut run.store));
        let (call, outcome) = guest.migrate::<M>(call, place, from, cursor);
        written += call.written_bytes();
        run.store = call.store;
        run.lines.extend(call.lines);
        cursor = match outcome {
            Err(status) => return Run { outcome: Err(status), ..run },
            Ok(_) if written > MIGRATION_WRITE_BYTES_MAX => {
                let bytes = MIGRATION_WRITE_BYTES_MAX;
                return Run { outcome: too_large(format!("writes more than {bytes} bytes")), ..run };
            }
            Ok(migrated) => match migrated.cursor {
                Some(cursor) => cursor,
                None => return run,
            },
        };
    }
    Run { outcome: too_large(format!("takes more than {MIGRATION_CALLS_MAX} calls")), ..run }
}

fn too_large(why: String) -> Reply<()> {
    Err(Status::resource_exhausted(format!("the migration {why}, which is too much for one entry")))
}
