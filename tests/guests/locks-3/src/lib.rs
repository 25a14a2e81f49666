//! A guest of the tests: the lock service in its third version, which counts renewals. Every row of
//! version 2 becomes another message, under the same tag. This guest is not part of the product.

use std::time::Duration;

use lockstep_guest::{Cause, Command, Counter, Map, Query, Reply, Status, Step, Watch};

lockstep_guest::include_proto!();

lockstep_guest::version!("3");

lockstep_guest::state! {
    /// Locks by name, and the newest fence. `texts` is the state of version 1, and is empty.
    pub struct LockTable {
        texts: Map<String, String> = 1,
        locks: Map<String, Holding> = 2,
        fences: Counter = 3,
    }
}

lockstep_guest::migrate!(LockTable {
    "2" => |state, cx| Ok(state.locks.rewrite(cx.cursor(), ROWS_PER_CALL, |_, lock: Lock| holding(lock))),
});

/// The end of a lease that the clients of the long runs took: never.
const NEVER_MS: u64 = u64::MAX;
/// Most bytes of a name.
const NAME_BYTES_MAX: usize = 200;
/// Rows that one call of the migration rewrites.
const ROWS_PER_CALL: u32 = 100;

impl Locks for LockTable {
    fn acquire(&mut self, cx: &Command, request: AcquireRequest) -> Reply<AcquireResponse> {
        let AcquireRequest { name, owner, ttl_ms } = request;
        if name.is_empty() || name.len() > NAME_BYTES_MAX || owner.is_empty() || owner.contains(' ') || ttl_ms == 0 {
            return Err(Status::invalid_argument("a lock needs name, owner and time"));
        }
        let until_ms = cx.time_ms().saturating_add(ttl_ms);
        let lease = match self.held(&name, cx.time_ms()) {
            Some((held_by, lease)) if held_by != owner => return Ok(acquire_response(held_by, &lease, false)),
            Some((_, own)) => Lease { until_ms, renewals: own.renewals + 1, ..own },
            None => Lease { until_ms, since: cx.index(), fence: self.fences.add(1), ..Lease::default() },
        };
        let response = acquire_response(owner.clone(), &lease, true);
        self.locks.insert(&name, &Holding { owner, lease: Some(lease) });
        Ok(response)
    }

    fn release(&mut self, cx: &Command, request: ReleaseRequest) -> Reply<ReleaseResponse> {
        let held = self.held(&request.name, cx.time_ms());
        let released = held.is_some_and(|(owner, _)| owner == request.owner);
        if released {
            self.locks.delete(&request.name);
        }
        Ok(ReleaseResponse { released })
    }

    fn get(&self, cx: &Query, request: GetRequest) -> Reply<GetResponse> {
        let (owner, lease) = self.held(&request.name, cx.time_ms()).unwrap_or_default();
        let Lease { until_ms, since, fence, renewals, .. } = lease;
        Ok(GetResponse { read_at_index: cx.index(), owner, until_ms, since, fence, renewals })
    }

    fn watch(&self, cx: &Watch, request: WatchRequest) -> Reply<Step<WatchResponse>> {
        let held = self.held(&request.name, cx.time_ms());
        let left_ms = held.as_ref().map(|(_, lease)| lease.until_ms - cx.time_ms());
        let (owner, lease) = held.unwrap_or_default();
        let response = WatchResponse { owner, until_ms: lease.until_ms, reset: cx.cause() == Cause::Reset };
        Ok(match left_ms {
            Some(left_ms) => Step::send(response).or_after(Duration::from_millis(left_ms)),
            None => Step::send(response),
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
        let lease = Lease {
            until_ms: NEVER_MS,
            since: cx.index(),
            fence: self.fences.add(1),
            renewals: 0,
            position: cx.position(),
            version: previous.as_ref().map_or(0, |previous| previous.version) + 1,
        };
        let holding = Holding { owner: request.value, lease: Some(lease) };
        self.locks.insert(&request.key, &holding);
        Ok(WriteResponse { written: taken(holding), previous })
    }

    fn get(&self, cx: &Query, request: ReadRequest) -> Reply<ReadResponse> {
        Ok(ReadResponse { read_at_index: cx.index(), record: self.locks.get(&request.key).and_then(taken) })
    }
}

impl LockTable {
    /// Returns who holds a lock, unless the lease has run out.
    fn held(&self, name: &str, now_ms: u64) -> Option<(String, Lease)> {
        let Holding { owner, lease } = self.locks.get(name)?;
        lease.filter(|lease| lease.until_ms > now_ms).map(|lease| (owner, lease))
    }
}

/// Turns a row of version 2 into one of this version.
fn holding(lock: Lock) -> Holding {
    let Lock { owner, until_ms, since, fence, position, version } = lock;
    Holding { owner, lease: Some(Lease { until_ms, since, fence, renewals: 0, position, version }) }
}

/// Returns a lock as the clients of the long runs know it, if one of them took it.
fn taken(holding: Holding) -> Option<Written> {
    let Holding { owner, lease } = holding;
    let Lease { since, position, version, .. } = lease.filter(|lease| lease.version > 0)?;
    Some(Written { value: owner, index: since, position, version })
}

fn acquire_response(owner: String, lease: &Lease, acquired: bool) -> AcquireResponse {
    AcquireResponse { acquired, owner, until_ms: lease.until_ms, fence: lease.fence }
}

lockstep_guest::export!(LockTable: Locks, Chain);

#[cfg(test)]
mod tests {
    use lockstep_guest::Harness;

    use super::*;

    #[test]
    fn renewals_are_counted_and_a_taken_lock_is_nobody_elses() {
        let mut machine = Harness::<LockTable>::new();
        let acquire = AcquireRequest { name: "a".into(), owner: "ann".into(), ttl_ms: 1_000 };
        for _ in 0..3 {
            let acquired: AcquireResponse = machine.command("locks.Locks/Acquire", &acquire).expect("it is valid");
            assert!(acquired.acquired);
        }
        let get = GetRequest { name: "a".into(), linearizable: true };
        let found: GetResponse = machine.query("locks.Locks/Get", &get).expect("a query refuses nothing");
        assert_eq!((found.owner.as_str(), found.renewals), ("ann", 2));
        let take = WriteRequest { key: "a".into(), value: "7".into() };
        let taken: WriteResponse = machine.command("chain.Chain/Put", &take).expect("it is valid");
        assert_eq!(taken.written.map(|written| written.version), Some(1));
        machine.advance(Duration::from_secs(3600));
        let lost: AcquireResponse = machine.command("locks.Locks/Acquire", &acquire).expect("it is valid");
        assert!(!lost.acquired && lost.owner == "7");
        machine.assert_replicas_agree();
    }
}
