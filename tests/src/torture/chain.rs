//! The first checker: one pass over the version chain that the test guest returns with every
//! answer. The chain says what was written where and after what, so the checker needs no search. It
//! never guesses: no order of the operations can explain what it reports.
//!
//! What must hold, for each key:
//! - Each write has one place: no two records share a version, and no token is in two places.
//!   Across all keys no two writes share a stamp.
//! - The chain is closed: the record that a write replaced has the version before. There are no
//!   more versions that nobody saw than writes of unknown outcome that nobody saw.
//! - Nothing comes from nowhere: a value that is read was written by a call that had begun, and
//!   never by a call that was refused.
//! - Real time: a write comes after everything that was acknowledged or read before it began, and a
//!   linearizable read sees all of that.
//! - Local reads of one node never go back.
//! - At the end every key is read, and what was acknowledged is still there.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use super::history::{Kind, Operation, Outcome, Record, Stamp, describe};

/// A violation, in words that name the operations.
pub type Violation = String;

/// Most violations in a report. More of them add no information.
const VIOLATIONS_MAX: usize = 20;

/// Checks a history, whose operations can be in any order.
///
/// `ends_at` is the time at which the final reads began, if the run came that far. Every key that
/// was written must be read after it.
pub fn check(history: &[Operation], ends_at: Option<u64>) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut keys: BTreeMap<u32, Vec<&Operation>> = BTreeMap::new();
    for operation in history {
        keys.entry(operation.key).or_default().push(operation);
    }
    let mut stamps = HashMap::new();
    for operations in keys.values() {
        let chain = Chain::collect(operations, &mut violations);
        chain.is_closed(operations, &mut violations);
        chain.stamps_are_unique(&mut stamps, &mut violations);
        real_time(operations, &mut violations);
        local_reads(operations, &mut violations);
        if let Some(ends_at) = ends_at {
            is_read_at_the_end(operations, ends_at, &mut violations);
        }
    }
    violations.truncate(VIOLATIONS_MAX);
    violations
}

/// Everything that was seen of one key.
struct Chain<'h> {
    key: u32,
    by_version: BTreeMap<u64, (Record, &'h Operation)>,
}

impl<'h> Chain<'h> {
    fn collect(operations: &[&'h Operation], violations: &mut Vec<Violation>) -> Chain<'h> {
        let mut chain = Chain { key: operations[0].key, by_version: BTreeMap::new() };
        let mut by_token: HashMap<u64, Record> = HashMap::new();
        for operation in operations {
            for record in sightings(operation) {
                match by_token.entry(record.token) {
                    Entry::Vacant(place) => {
                        place.insert(record);
                    }
                    Entry::Occupied(place) if *place.get() == record => {}
                    Entry::Occupied(place) => violations.push(format!(
                        "one write stands in two places: {:?} and {record:?}, the latter seen by {}",
                        place.get(),
                        describe(operation)
                    )),
                }
                let (first, seen_by) = *chain.by_version.entry(record.version).or_insert((record, operation));
                if first != record {
                    violations.push(format!(
                        "fork: version {} is {first:?} for {} and {record:?} for {}",
                        record.version,
                        describe(seen_by),
                        describe(operation)
                    ));
                }
            }
        }
        chain
    }

    /// Checks the links of the chain.
    ///
    /// Versions must have the order of the log, and every token must come from a call.
    fn is_closed(&self, operations: &[&Operation], violations: &mut Vec<Violation>) {
        let mut puts: HashMap<u64, &Operation> = HashMap::new();
        for operation in operations {
            if let Kind::Put(token) = operation.kind {
                puts.insert(token, operation);
            }
            if let Outcome::Wrote(written, previous) = operation.outcome {
                let follows = previous.map_or(0, |previous| previous.version) + 1;
                if written.version != follows || Kind::Put(written.token) != operation.kind {
                    violations.push(format!("a write that does not follow what it replaced: {}", describe(operation)));
                }
            }
        }
        let mut before: Option<Record> = None;
        for (record, seen_by) in self.by_version.values() {
            if let Some(before) = before.replace(*record)
                && before.stamp >= record.stamp
            {
                violations.push(format!("versions against the log: {before:?} before {record:?}"));
            }
            match puts.get(&record.token) {
                None => violations.push(format!("a value that nobody wrote: {}", describe(seen_by))),
                Some(put) if put.outcome == Outcome::Refused => violations.push(format!(
                    "refused as not applied, and applied: {}; seen by {}",
                    describe(put),
                    describe(seen_by)
                )),
                Some(_) => {}
            }
        }
        nothing_from_the_future(operations, &puts, violations);
        self.gaps_are_explained(operations, violations);
    }

    fn gaps_are_explained(&self, operations: &[&Operation], violations: &mut Vec<Violation>) {
        let newest = self.by_version.last_key_value().map_or(0, |(version, _)| *version);
        let gaps = newest - self.by_version.len() as u64;
        let seen: std::collections::HashSet<u64> = self.by_version.values().map(|(record, _)| record.token).collect();
        let unseen = operations.iter().filter(|operation| operation.outcome == Outcome::Maybe);
        let unseen = unseen.filter(|operation| matches!(operation.kind, Kind::Put(token) if !seen.contains(&token)));
        let unseen = unseen.count() as u64;
        if gaps > unseen {
            violations.push(format!(
                "key {}: {gaps} of {newest} versions were seen by nobody, and only {unseen} writes have an unknown outcome",
                self.key
            ));
        }
    }

    fn stamps_are_unique(&self, stamps: &mut HashMap<Stamp, (u32, Record)>, violations: &mut Vec<Violation>) {
        for (record, _) in self.by_version.values() {
            if let Some((key, other)) = stamps.insert(record.stamp, (self.key, *record))
                && (key, other) != (self.key, *record)
            {
                violations
                    .push(format!("two writes in one place: {other:?} of key {key}, {record:?} of key {}", self.key));
            }
        }
    }
}

/// Returns every record that an operation saw.
fn sightings(operation: &Operation) -> impl Iterator<Item = Record> {
    let pair = match operation.outcome {
        Outcome::Wrote(written, previous) => [Some(written), previous],
        Outcome::Read(found) => [found, None],
        Outcome::Maybe | Outcome::Refused => [None, None],
    };
    pair.into_iter().flatten()
}

/// Returns the version that an operation proves to exist once it has returned.
fn proves(operation: &Operation) -> Option<u64> {
    match operation.outcome {
        Outcome::Wrote(written, _) => Some(written.version),
        Outcome::Read(found) => found.map(|record| record.version),
        Outcome::Maybe | Outcome::Refused => None,
    }
}

fn nothing_from_the_future(
    operations: &[&Operation],
    puts: &HashMap<u64, &Operation>,
    violations: &mut Vec<Violation>,
) {
    for operation in operations {
        for record in sightings(operation) {
            if let Some(put) = puts.get(&record.token)
                && put.invoked > operation.returned
            {
                violations.push(format!("seen before it was written: {} by {}", describe(put), describe(operation)));
            }
        }
    }
}

/// The greatest version that was proven before a moment. The moments must increase.
struct Floor<'h> {
    returns: Vec<&'h Operation>,
    next: usize,
    highest: Option<(u64, &'h Operation)>,
}

impl<'h> Floor<'h> {
    fn over(operations: impl Iterator<Item = &'h Operation>) -> Floor<'h> {
        let mut returns: Vec<&Operation> = operations.filter(|operation| proves(operation).is_some()).collect();
        returns.sort_by_key(|operation| operation.returned);
        Floor { returns, next: 0, highest: None }
    }

    fn before(&mut self, moment: u64) -> Option<(u64, &'h Operation)> {
        while let Some(operation) = self.returns.get(self.next).filter(|operation| operation.returned < moment) {
            let version = proves(operation).expect("only those are kept");
            if self.highest.is_none_or(|(highest, _)| version > highest) {
                self.highest = Some((version, operation));
            }
            self.next += 1;
        }
        self.highest
    }
}

fn by_invocation<'h>(operations: &[&'h Operation]) -> Vec<&'h Operation> {
    let mut sorted = operations.to_vec();
    sorted.sort_by_key(|operation| operation.invoked);
    sorted
}

fn real_time(operations: &[&Operation], violations: &mut Vec<Violation>) {
    let mut floor = Floor::over(operations.iter().copied());
    for operation in by_invocation(operations) {
        let Some((proven, by)) = floor.before(operation.invoked) else { continue };
        match (operation.kind, operation.outcome) {
            (Kind::Get, Outcome::Read(found)) if found.map_or(0, |record| record.version) < proven => {
                violations.push(format!("lost or stale: {} although before it {}", describe(operation), describe(by)));
            }
            (_, Outcome::Wrote(written, _)) if written.version <= proven => {
                violations.push(format!("reordered: {} although before it {}", describe(operation), describe(by)));
            }
            _ => {}
        }
    }
}

/// Checks each node by itself, whatever happened to it.
fn local_reads(operations: &[&Operation], violations: &mut Vec<Violation>) {
    let reads = operations.iter().copied().filter(|operation| matches!(operation.outcome, Outcome::Read(_)));
    let mut nodes: BTreeMap<u32, Vec<&Operation>> = BTreeMap::new();
    for read in reads {
        nodes.entry(read.node).or_default().push(read);
    }
    for reads in nodes.values() {
        let mut floor = Floor::over(reads.iter().copied());
        for read in by_invocation(reads) {
            let version = proves(read).unwrap_or(0);
            if let Some((proven, by)) = floor.before(read.invoked)
                && version < proven
                && read.kind == Kind::GetLocal
            {
                violations.push(format!("a node went back: {} although before it {}", describe(read), describe(by)));
            }
        }
    }
}

fn is_read_at_the_end(operations: &[&Operation], ends_at: u64, violations: &mut Vec<Violation>) {
    let written = operations.iter().any(|operation| matches!(operation.outcome, Outcome::Wrote(..)));
    let read = operations.iter().any(|operation| {
        operation.kind == Kind::Get && operation.invoked >= ends_at && matches!(operation.outcome, Outcome::Read(_))
    });
    if written && !read {
        violations.push(format!("key {} was written and not read at the end", operations[0].key));
    }
}

#[cfg(test)]
mod tests;
