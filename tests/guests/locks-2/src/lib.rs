//! A guest of the tests: the lock service in its second version, which keeps messages where
//! `locks-1` kept text, and moves every row over. Rows with three names make its migration refuse,
//! trap, or never end. It also takes the rows of `locks-3` back. This guest is not part of the
//! product.

use std::hint::black_box;
use std::ops::Bound;
use std::time::Duration;

use lockstep_guest::{Cause, Command, Counter, Map, Migrated, Migration, Query, Reply, Status, Step, Watch};

lockstep_guest::include_proto!();

lockstep_guest::version!("2");

lockstep_guest::state! {
    /// Locks by name, and the newest fence. `texts` is the state of version 1.
    pub struct LockTable {
        texts: Map<String, String> = 1,
        locks: Map<String, Lock> = 2,
        fences: Counter = 3,
    }
}

lockstep_guest::migrate!(LockTable {
    "1" => |state, cx| state.take_over(cx),
    "3" => |state, cx| Ok(state.locks.rewrite(cx.cursor(), ROWS_REWRITTEN, |_, holding: Holding| lock(holding))),
});

/// The end of a lease that the clients of the long runs took: never.
const NEVER_MS: u64 = u64::MAX;
/// Most bytes of a name.
const NAME_BYTES_MAX: usize = 200;
/// Rows that one call of the migration moves.
const ROWS_PER_CALL: usize = 100;
/// Rows that one call of the migration back rewrites.
const ROWS_REWRITTEN: u32 = 100;
/// The row with this name makes the migration refuse.
const REFUSE: &str = "refuse";
/// The row with this name makes the migration trap.
const TRAP: &str = "trap";
/// The row with this name makes the migration compute until its fuel is used up.
const BURN: &str = "burn";

impl Locks for LockTable {
    fn acquire(&mut self, cx: &Command, request: AcquireRequest) -> Reply<AcquireResponse> {
        let AcquireRequest { name, owner, ttl_ms } = request;
        if name.is_empty() || name.len() > NAME_BYTES_MAX || owner.is_empty() || owner.contains(' ') || ttl_ms == 0 {
            return Err(Status::invalid_argument("a lock needs name, owner and time"));
        }
        let until_ms = cx.time_ms().saturating_add(ttl_ms);
        let lock = match self.held(&name, cx.time_ms()) {
            Some(held) if held.owner != owner => return Ok(acquire_response(held, false)),
            Some(own) => Lock { until_ms, ..own },
            None => Lock { owner, until_ms, since: cx.index(), fence: self.fences.add(1), ..Lock::default() },
        };
        self.locks.insert(&name, &lock);
        Ok(acquire_response(lock, true))
    }

    fn release(&mut self, cx: &Command, request: ReleaseRequest) -> Reply<ReleaseResponse> {
        let held = self.held(&request.name, cx.time_ms());
        let released = held.is_some_and(|held| held.owner == request.owner);
        if released {
            self.locks.delete(&request.name);
        }
        Ok(ReleaseResponse { released })
    }

    fn get(&self, cx: &Query, request: GetRequest) -> Reply<GetResponse> {
        let Lock { owner, until_ms, since, fence, .. } = self.held(&request.name, cx.time_ms()).unwrap_or_default();
        Ok(GetResponse { read_at_index: cx.index(), owner, until_ms, since, fence })
    }

    fn watch(&self, cx: &Watch, request: WatchRequest) -> Reply<Step<WatchResponse>> {
        let held = self.held(&request.name, cx.time_ms());
        let left_ms = held.as_ref().map(|held| held.until_ms - cx.time_ms());
        let Lock { owner, until_ms, .. } = held.unwrap_or_default();
        let step = Step::send(WatchResponse { owner, until_ms, reset: cx.cause() == Cause::Reset });
        Ok(match left_ms {
            Some(left_ms) => step.or_after(Duration::from_millis(left_ms)),
            None => step,
        })
    }

    fn count(&self, cx: &Query, _: CountRequest) -> Reply<CountResponse> {
        let (locks, texts) = (self.locks.len() as u64, self.texts.len() as u64);
        Ok(CountResponse { read_at_index: cx.index(), locks, texts })
    }
}

/// The clients of the long runs take locks from whoever has them, and for ever.
impl Chain for LockTable {
    fn put(&mut self, cx: &Command, request: WriteRequest) -> Reply<WriteResponse> {
        let previous = self.locks.get(&request.key).and_then(taken);
        let lock = Lock {
            owner: request.value,
            until_ms: NEVER_MS,
            since: cx.index(),
            fence: self.fences.add(1),
            position: cx.position(),
            version: previous.as_ref().map_or(0, |previous| previous.version) + 1,
        };
        self.locks.insert(&request.key, &lock);
        Ok(WriteResponse { written: taken(lock), previous })
    }

    fn get(&self, cx: &Query, request: ReadRequest) -> Reply<ReadResponse> {
        Ok(ReadResponse { read_at_index: cx.index(), record: self.locks.get(&request.key).and_then(taken) })
    }
}

impl LockTable {
    /// Returns a lock, unless the lease has run out.
    fn held(&self, name: &str, now_ms: u64) -> Option<Lock> {
        self.locks.get(name).filter(|lock| lock.until_ms > now_ms)
    }

    /// Moves the next rows of version 1 over. The cursor is the name of the last row that was
    /// moved.
    fn take_over(&mut self, cx: &Migration) -> Reply<Migrated> {
        let after = String::from_utf8(cx.cursor().to_vec()).expect("a cursor is a name");
        let behind = (Bound::Excluded(after), Bound::Unbounded);
        let rows: Vec<(String, String)> = self.texts.range(behind).take(ROWS_PER_CALL).collect();
        for (name, text) in &rows {
            fail_at(name)?;
            let lock = Lock { fence: self.fences.add(1), ..read(text, cx.index()) };
            self.locks.insert(name, &lock);
            self.texts.delete(name);
        }
        Ok(match rows.into_iter().last() {
            Some((name, _)) => Migrated::more(name.into_bytes()),
            None => Migrated::done(),
        })
    }
}

/// Reads a lock of version 1: until when, by whom, and for a lock that a client of the long runs
/// took also index, position and number of the write. It has no fence.
fn read(text: &str, migrated_at: u64) -> Lock {
    let mut words = text.split(' ');
    let mut word = || words.next();
    let (until_ms, owner) = (word(), word());
    let number = |word: Option<&str>| word.map(|word| word.parse().expect("version 1 writes every lock so"));
    let (since, position, version) = (number(word()), word(), number(word()));
    Lock {
        owner: owner.expect("version 1 writes every lock so").to_owned(),
        until_ms: number(until_ms).expect("a text has a first word"),
        since: since.unwrap_or(migrated_at),
        fence: 0,
        position: position.map_or(0, |word| word.parse().expect("version 1 writes every lock so")),
        version: version.unwrap_or(0),
    }
}

/// Turns a row of version 3 back into one of this version, which counts no renewals.
fn lock(holding: Holding) -> Lock {
    let Holding { owner, lease } = holding;
    let Lease { until_ms, since, fence, position, version, .. } = lease.unwrap_or_default();
    Lock { owner, until_ms, since, fence, position, version }
}

/// Returns a lock as the clients of the long runs know it, if one of them took it.
fn taken(lock: Lock) -> Option<Written> {
    let Lock { owner, since, position, version, .. } = lock;
    (version > 0).then_some(Written { value: owner, index: since, position, version })
}

/// Ends the migration at a row that asks for it.
fn fail_at(name: &str) -> Reply<()> {
    match name {
        REFUSE => Err(Status::failed_precondition("a lock is named refuse")),
        TRAP => trap(),
        BURN => burn(),
        _ => Ok(()),
    }
}

fn trap() -> ! {
    #[cfg(target_arch = "wasm32")]
    core::arch::wasm32::unreachable();
    #[cfg(not(target_arch = "wasm32"))]
    panic!("natively there is no trap");
}

fn burn() -> ! {
    let mut rounds = 0_u64;
    loop {
        rounds = black_box(rounds.wrapping_add(1));
    }
}

fn acquire_response(lock: Lock, acquired: bool) -> AcquireResponse {
    AcquireResponse { acquired, owner: lock.owner, until_ms: lock.until_ms, fence: lock.fence }
}

lockstep_guest::export!(LockTable: Locks, Chain);

#[cfg(test)]
mod tests {
    use lockstep_guest::Harness;

    use super::*;

    fn acquire(machine: &mut Harness<LockTable>, owner: &str) -> AcquireResponse {
        let request = AcquireRequest { name: "a".into(), owner: owner.into(), ttl_ms: 1_000 };
        machine.command("locks.Locks/Acquire", &request).expect("it is valid")
    }

    #[test]
    fn a_fence_grows_with_every_change_of_holder() {
        let mut machine = Harness::<LockTable>::new();
        let first = acquire(&mut machine, "ann");
        assert!(first.acquired && acquire(&mut machine, "ann").fence == first.fence);
        assert!(!acquire(&mut machine, "bob").acquired);
        machine.advance(Duration::from_secs(1));
        let second = acquire(&mut machine, "bob");
        assert!(second.acquired && second.fence > first.fence);
        let counted = machine.query::<_, CountResponse>("locks.Locks/Count", &CountRequest::default());
        assert!(counted.is_ok_and(|counted| (counted.locks, counted.texts) == (1, 0)));
        machine.assert_replicas_agree();
    }
}
