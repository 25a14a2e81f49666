//! A guest of the tests: a lock service in its first version, which keeps each lock as text.
//! `locks-2` is the next version and migrates this state. This guest is not part of the product.

use std::time::Duration;

use lockstep_guest::{Cause, Command, Map, Query, Reply, Status, Step, Watch};

lockstep_guest::include_proto!();

lockstep_guest::version!("1");

lockstep_guest::state! {
    /// Locks by name. A lock is a text: until when it is held, a space, by whom.
    pub struct LockTable {
        texts: Map<String, String> = 1,
    }
}

/// The end of a lease that the clients of the long runs took: never.
const NEVER_MS: u64 = u64::MAX;
/// Most bytes of a name.
const NAME_BYTES_MAX: usize = 200;

/// A lock that is held.
struct Held {
    owner: String,
    until_ms: u64,
}

impl Locks for LockTable {
    fn acquire(&mut self, cx: &Command, request: AcquireRequest) -> Reply<AcquireResponse> {
        let AcquireRequest { name, owner, ttl_ms } = request;
        if name.is_empty() || name.len() > NAME_BYTES_MAX || owner.is_empty() || owner.contains(' ') || ttl_ms == 0 {
            return Err(Status::invalid_argument("a lock needs name, owner and time"));
        }
        if let Some(held) = self.held(&name, cx.time_ms()).filter(|held| held.owner != owner) {
            return Ok(AcquireResponse { acquired: false, owner: held.owner, until_ms: held.until_ms });
        }
        let until_ms = cx.time_ms().saturating_add(ttl_ms);
        self.texts.insert(&name, &format!("{until_ms} {owner}"));
        Ok(AcquireResponse { acquired: true, owner, until_ms })
    }

    fn release(&mut self, cx: &Command, request: ReleaseRequest) -> Reply<ReleaseResponse> {
        let held = self.held(&request.name, cx.time_ms());
        let released = held.is_some_and(|held| held.owner == request.owner);
        if released {
            self.texts.delete(&request.name);
        }
        Ok(ReleaseResponse { released })
    }

    fn get(&self, cx: &Query, request: GetRequest) -> Reply<GetResponse> {
        let (owner, until_ms) = shown(self.held(&request.name, cx.time_ms()));
        Ok(GetResponse { read_at_index: cx.index(), owner, until_ms })
    }

    fn watch(&self, cx: &Watch, request: WatchRequest) -> Reply<Step<WatchResponse>> {
        let held = self.held(&request.name, cx.time_ms());
        let left_ms = held.as_ref().map(|held| held.until_ms - cx.time_ms());
        let (owner, until_ms) = shown(held);
        let step = Step::send(WatchResponse { owner, until_ms, reset: cx.cause() == Cause::Reset });
        Ok(match left_ms {
            Some(left_ms) => step.or_after(Duration::from_millis(left_ms)),
            None => step,
        })
    }
}

/// The clients of the long runs take locks from whoever has them, and for ever. The text of such a
/// lock goes on with the place of the command and the number of writes.
impl Chain for LockTable {
    fn put(&mut self, cx: &Command, request: WriteRequest) -> Reply<WriteResponse> {
        let WriteRequest { key, value } = request;
        if value.contains(' ') {
            return Err(Status::invalid_argument("an owner has no spaces"));
        }
        let previous = self.taken(&key);
        let version = previous.as_ref().map_or(0, |previous| previous.version) + 1;
        let (index, position) = (cx.index(), cx.position());
        self.texts.insert(&key, &format!("{NEVER_MS} {value} {index} {position} {version}"));
        Ok(WriteResponse { written: Some(Written { value, index, position, version }), previous })
    }

    fn get(&self, cx: &Query, request: ReadRequest) -> Reply<ReadResponse> {
        Ok(ReadResponse { read_at_index: cx.index(), record: self.taken(&request.key) })
    }
}

impl LockTable {
    /// Returns a lock that a client of the long runs took.
    fn taken(&self, name: &str) -> Option<Written> {
        let text = self.texts.get(name)?;
        let mut words = text.split(' ').skip(1);
        let (value, index, position, version) = (words.next()?, words.next()?, words.next()?, words.next()?);
        let number = |word: &str| word.parse().expect("every lock is written so");
        let position = position.parse().expect("every lock is written so");
        Some(Written { value: value.to_owned(), index: number(index), position, version: number(version) })
    }

    /// Returns who holds a lock, unless the lease has run out.
    fn held(&self, name: &str, now_ms: u64) -> Option<Held> {
        let text = self.texts.get(name)?;
        let (until_ms, owner) = text.split_once(' ').expect("every lock is written so");
        let until_ms = until_ms.parse().expect("every lock is written so");
        Some(Held { owner: owner.to_owned(), until_ms }).filter(|held| held.until_ms > now_ms)
    }
}

fn shown(held: Option<Held>) -> (String, u64) {
    held.map_or((String::new(), 0), |held| (held.owner, held.until_ms))
}

lockstep_guest::export!(LockTable: Locks, Chain);

#[cfg(test)]
mod tests {
    use lockstep_guest::Harness;

    use super::*;

    fn acquired(machine: &mut Harness<LockTable>, owner: &str) -> bool {
        let request = AcquireRequest { name: "a".into(), owner: owner.into(), ttl_ms: 1_000 };
        let response: AcquireResponse = machine.command("locks.Locks/Acquire", &request).expect("it is valid");
        response.acquired
    }

    #[test]
    fn a_lock_has_one_holder_until_its_lease_runs_out_or_it_is_given_back() {
        let mut machine = Harness::<LockTable>::new();
        assert!(acquired(&mut machine, "ann") && acquired(&mut machine, "ann") && !acquired(&mut machine, "bob"));
        machine.advance(Duration::from_secs(1));
        assert!(acquired(&mut machine, "bob") && !acquired(&mut machine, "ann"));
        let release = ReleaseRequest { name: "a".into(), owner: "bob".into() };
        let released: Reply<ReleaseResponse> = machine.command("locks.Locks/Release", &release);
        assert_eq!(released, Ok(ReleaseResponse { released: true }));
        assert!(acquired(&mut machine, "ann"));
        machine.assert_replicas_agree();
    }
}
