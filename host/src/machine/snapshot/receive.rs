//! The receiving side of a snapshot: turns frames into a new generation beside the one in use. It
//! compares the result with what was sent, and returns it only if both are equal. It never touches
//! the state in use.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;

use super::error::SnapshotError;
use super::frames::{FORMAT, Footer, Frame, Header, RowReader};
use super::transfers::Transfer;
use crate::codec::Genesis;
use crate::faults;
use crate::guest::{self, Component, Context, Page, Range, Rows, SnapshotSource, StoreFault, Verdict};
use crate::machine::digest::digest;
use crate::machine::log_position::LogPosition;
use crate::machine::overlay::{Transaction, fault};
use crate::machine::system::System;
use crate::store::{Batch, Column, Generation, State, StoreError};
use crate::types::{COMPONENT_BYTES_MAX, hex};

/// Most bytes that a restore may write before it commits.
const UNCOMMITTED_BYTES_MAX: usize = 4 << 20;
/// Most keys that a restore may remove before it commits: a range may hold more keys than fit in
/// memory.
const REMOVED_UNCOMMITTED_MAX: u64 = 16_384;

/// How often a guest that waits for its turn to restore checks for a free slot.
const PLACE_LOOK: Duration = Duration::from_millis(100);

/// Waits for the next frame; returns `None` when there are no more.
pub(in crate::machine) type Incoming = Box<dyn FnMut() -> Result<Option<Bytes>, SnapshotError> + Send>;

/// Finds the component that restores a guest's own snapshot, by its hash, and by its profile where
/// the sender told that. May wait.
pub(in crate::machine) type Find<'a> = &'a dyn Fn([u8; 32], Option<&Genesis>) -> Option<Component>;

/// Builds the state that the frames describe. Blocks. It runs guests, so the thread needs the stack
/// size for guests.
pub(in crate::machine) fn receive(
    state: &State,
    find: Find<'_>,
    incoming: Incoming,
    transfer: &Arc<Transfer>,
) -> Result<(Arc<Generation>, System), SnapshotError> {
    receive_into(&|| state.create(), find, incoming, transfer)
}

/// Builds the state that the frames describe in a generation that `create` makes, as [`receive`]
/// does.
pub(in crate::machine) fn receive_into(
    create: &dyn Fn() -> Result<Generation, StoreError>,
    find: Find<'_>,
    incoming: Incoming,
    transfer: &Arc<Transfer>,
) -> Result<(Arc<Generation>, System), SnapshotError> {
    let frames = Frames::new(incoming, transfer.clone());
    let header = read_header(&frames)?;
    let mut generation = Arc::new(create()?);
    let mut restored = Ok(());
    if let Some(wanted) = header.component {
        let profile = read_profile(&frames)?;
        restored = match find(wanted, profile.as_ref()) {
            Some(component) => restore(&generation, header, &component, &frames, transfer),
            None => Err(SnapshotError::OtherComponent(hex(&wanted))),
        };
        frames.lock().skip_guest()?;
        if frames.lock().take(&Frame::Restart)? {
            tracing::warn!("the sender's guest failed in the middle of its snapshot; the rows themselves follow");
            drop(generation);
            generation = Arc::new(create()?);
            restored = Ok(());
        }
    }
    restored?;
    let footer = read_rows(&generation, &frames, transfer)?;
    let system = check(&generation, header, footer, transfer)?;
    // The flush is done here and not during the install: if the disk has no room, the snapshot is
    // refused and the node goes on.
    generation.flush()?;
    Ok((generation, system))
}

/// Builds the state of a backup, up to its footer. Also returns the encoded component. Blocks.
pub(in crate::machine) fn receive_backup(
    state: &State,
    incoming: Incoming,
    transfer: &Arc<Transfer>,
) -> Result<(Arc<Generation>, System, Vec<u8>), SnapshotError> {
    let frames = Frames::new(incoming, transfer.clone());
    let header = read_header(&frames)?;
    if header.component.is_some() {
        return Err(SnapshotError::Damaged("it holds a guest's own snapshot, which no backup does".into()));
    }
    let mut component = Vec::new();
    while matches!(frames.lock().peek()?, Frame::Component(_)) {
        if let Frame::Component(body) = frames.lock().next()? {
            component.extend(body);
            if component.len() > COMPONENT_BYTES_MAX {
                let problem = format!("its component is larger than {COMPONENT_BYTES_MAX} bytes");
                return Err(SnapshotError::Damaged(problem));
            }
        }
    }
    let generation = Arc::new(state.create()?);
    let footer = read_rows(&generation, &frames, transfer)?;
    let system = check(&generation, header, footer, transfer)?;
    match frames.lock().end()? {
        true => Ok((generation, system, component)),
        false => Err(SnapshotError::Damaged("frames follow the footer".into())),
    }
}

/// The incoming frames, with a lookahead of one frame.
struct Frames {
    incoming: Incoming,
    transfer: Arc<Transfer>,
    peeked: Option<Frame>,
    /// The first error. Once it is set, no more frames are read.
    problem: Option<String>,
}

impl Frames {
    fn new(incoming: Incoming, transfer: Arc<Transfer>) -> Arc<Mutex<Frames>> {
        Arc::new(Mutex::new(Frames { incoming, transfer, peeked: None, problem: None }))
    }

    fn peek(&mut self) -> Result<&Frame, SnapshotError> {
        if let Some(problem) = &self.problem {
            return Err(SnapshotError::Damaged(problem.clone()));
        }
        if self.peeked.is_none() {
            let Some(bytes) = (self.incoming)()? else { return Err(self.fail("it ended before its footer".into())) };
            faults::point("snapshot-receive-frame");
            self.transfer.moved(bytes.len());
            match Frame::decode(&bytes) {
                Ok(frame) => self.peeked = Some(frame),
                Err(problem) => return Err(self.fail(problem)),
            }
        }
        Ok(self.peeked.as_ref().expect("just put there"))
    }

    fn fail(&mut self, problem: String) -> SnapshotError {
        self.problem = Some(problem.clone());
        SnapshotError::Damaged(problem)
    }

    fn next(&mut self) -> Result<Frame, SnapshotError> {
        self.peek()?;
        Ok(self.peeked.take().expect("peeked"))
    }

    fn take(&mut self, wanted: &Frame) -> Result<bool, SnapshotError> {
        let is_wanted = self.peek()? == wanted;
        if is_wanted {
            self.peeked = None;
        }
        Ok(is_wanted)
    }

    /// Skips the frames that a guest left unread or could not read.
    fn skip_guest(&mut self) -> Result<(), SnapshotError> {
        while matches!(self.peek()?, Frame::Guest(_)) {
            self.peeked = None;
        }
        Ok(())
    }

    /// Returns whether there are no more frames.
    fn end(&mut self) -> Result<bool, SnapshotError> {
        Ok(self.peeked.is_none() && (self.incoming)()?.is_none())
    }
}

fn read_header(frames: &Mutex<Frames>) -> Result<Header, SnapshotError> {
    let mut frames = frames.lock();
    match frames.next()? {
        Frame::Header(header) if header.format == FORMAT => {
            frames.transfer.is_of(header.applied.index);
            Ok(header)
        }
        Frame::Header(header) => Err(SnapshotError::Format { found: header.format, supported: FORMAT }),
        _ => Err(SnapshotError::Damaged("it does not begin with a header".into())),
    }
}

/// Reads the profile of the component that wrote the snapshot, if the sender told it.
fn read_profile(frames: &Mutex<Frames>) -> Result<Option<Genesis>, SnapshotError> {
    let mut frames = frames.lock();
    if !matches!(frames.peek()?, Frame::Profile(_)) {
        return Ok(None);
    }
    let Frame::Profile(body) = frames.next()? else { return Ok(None) };
    let damaged = |error: prost::DecodeError| SnapshotError::Damaged(format!("its profile: {error}"));
    Genesis::decode(body.as_slice()).map(Some).map_err(damaged)
}

fn restore(
    generation: &Arc<Generation>,
    header: Header,
    component: &Component,
    frames: &Arc<Mutex<Frames>>,
    transfer: &Arc<Transfer>,
) -> Result<(), SnapshotError> {
    let context = Context { index: header.applied.index, position: 0, time_ms: header.time_ms };
    let source = Source { frames: frames.clone(), rest: Bytes::new() };
    let loader = Loader {
        generation: generation.clone(),
        transaction: Transaction::new(generation.clone()),
        uncommitted: 0,
        transfer: transfer.clone(),
    };
    let place = place_for(component, transfer);
    let (ended, store) = guest::restore(component, &place, context, Box::new(loader), Box::new(source));
    drop(place);
    match ended? {
        Verdict::Reply(_) => {
            let mut loader = store.into_any().downcast::<Loader>().expect("the store that was given comes back");
            Ok(loader.commit()?)
        }
        Verdict::Refused(status) => {
            Err(SnapshotError::Unfaithful(format!("the guest refused to restore: {}", status.message)))
        }
        Verdict::Failed(failure) => Err(SnapshotError::Unfaithful(format!(
            "the guest's restore failed: {:?}: {}",
            failure.reason, failure.detail
        ))),
    }
}

/// Returns a slot for a guest that restores. Waits while all slots are taken. The steps show the
/// sender that this node is still alive.
fn place_for(component: &Component, transfer: &Transfer) -> guest::Slot {
    loop {
        if let Some(place) = guest::restore_slot(component) {
            return place;
        }
        std::thread::sleep(PLACE_LOOK);
        transfer.step();
    }
}

fn read_rows(generation: &Generation, frames: &Mutex<Frames>, transfer: &Transfer) -> Result<Footer, SnapshotError> {
    let (mut data, mut system) = (RowReader::default(), RowReader::default());
    loop {
        let mut batch = Batch::new();
        let frame = frames.lock().next()?;
        match frame {
            Frame::Raw(body) => data.push(&body, |key, value| put(&mut batch, Column::Data, key, value))?,
            Frame::System(body) => system.push(&body, |key, value| put(&mut batch, Column::System, key, value))?,
            Frame::Footer(footer) if data.is_empty() && system.is_empty() => return Ok(footer),
            other => return Err(SnapshotError::Damaged(format!("a frame out of place: {}", other.name()))),
        }
        if let Some(problem) = data.problem().or_else(|| system.problem()) {
            return Err(SnapshotError::Damaged(problem));
        }
        generation.commit(&batch)?;
        transfer.passed(batch.len() as u64);
    }
}

fn put(batch: &mut Batch, column: Column, key: &[u8], value: &[u8]) -> Result<(), SnapshotError> {
    batch.put(column, key, value);
    Ok(())
}

fn check(
    generation: &Generation,
    header: Header,
    footer: Footer,
    transfer: &Transfer,
) -> Result<System, SnapshotError> {
    let system = System::read(generation)?;
    if system.applied.as_ref().map(LogPosition::from) != Some(header.applied) {
        return Err(SnapshotError::Damaged("its host records are of another position than its header".into()));
    }
    let found = digest(generation, transfer)?;
    if found != footer {
        return Err(SnapshotError::Unfaithful(format!(
            "{} rows with digest {} were sent, {} rows with digest {} came out of the restore",
            footer.rows,
            hex(&footer.digest),
            found.rows,
            hex(&found.digest)
        )));
    }
    Ok(system)
}

/// Passes the bodies of the guest's frames to the guest.
struct Source {
    frames: Arc<Mutex<Frames>>,
    rest: Bytes,
}

impl SnapshotSource for Source {
    fn read(&mut self, bytes_max: usize) -> Result<Vec<u8>, String> {
        while self.rest.is_empty() {
            let mut frames = self.frames.lock();
            if !matches!(frames.peek().map_err(|error| error.to_string())?, Frame::Guest(_)) {
                return Ok(Vec::new());
            }
            if let Frame::Guest(body) = frames.next().map_err(|error| error.to_string())? {
                self.rest = body.into();
            }
        }
        Ok(self.rest.split_to(bytes_max.min(self.rest.len())).to_vec())
    }
}

/// A transaction that commits whenever it has become large. A restore may write more than fits in
/// memory, and all of it is discarded if the restore fails.
struct Loader {
    generation: Arc<Generation>,
    transaction: Transaction<Arc<Generation>>,
    uncommitted: usize,
    transfer: Arc<Transfer>,
}

impl Loader {
    fn commit(&mut self) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        for (key, value) in self.transaction.take_writes() {
            match value {
                Some(value) => batch.put(Column::Data, &key, &value),
                None => batch.remove(Column::Data, &key),
            }
        }
        self.uncommitted = 0;
        self.generation.commit(&batch)
    }

    fn wrote(&mut self, bytes: usize) -> Result<(), StoreFault> {
        self.uncommitted += bytes;
        if self.uncommitted >= UNCOMMITTED_BYTES_MAX { self.commit().map_err(fault) } else { Ok(()) }
    }
}

impl Rows for Loader {
    fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreFault> {
        self.transfer.step();
        self.transaction.get(key)
    }

    fn scan(&mut self, range: Range<'_>, reverse: bool, limit: u32) -> Result<Page, StoreFault> {
        self.transfer.step();
        self.transaction.scan(range, reverse, limit)
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreFault> {
        self.transaction.put(key, value)?;
        self.transfer.passed(1);
        self.wrote(key.len() + value.len())
    }

    fn remove(&mut self, key: &[u8]) -> Result<(), StoreFault> {
        self.transaction.remove(key)?;
        self.wrote(key.len())
    }

    fn remove_range(&mut self, range: Range<'_>, limit: u64) -> Result<u64, StoreFault> {
        let mut removed = 0;
        loop {
            let left = if limit == 0 { u64::MAX } else { limit - removed };
            let at_once = left.min(REMOVED_UNCOMMITTED_MAX);
            let found = self.transaction.remove_range(range, at_once)?;
            removed += found;
            self.transfer.step();
            if found > 0 {
                // The removed keys are not known here, so their bytes cannot be counted; they are
                // committed at once instead.
                self.commit().map_err(fault)?;
            }
            if found < at_once || removed == limit {
                return Ok(removed);
            }
        }
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::{DataDir, Read};

    #[test]
    fn what_a_restore_removes_does_not_pile_up_in_memory() {
        let place = tempfile::tempdir().unwrap();
        let state = State::open(&DataDir::open(place.path()).unwrap(), 0).unwrap();
        let generation = Arc::new(state.create().unwrap());
        let transaction = Transaction::new(generation.clone());
        let transfer = Arc::default();
        let mut loader = Loader { generation: generation.clone(), transaction, uncommitted: 0, transfer };
        let keys = REMOVED_UNCOMMITTED_MAX + 100;
        for key in 0..keys {
            loader.put(&key.to_be_bytes(), b"value").unwrap();
        }
        let everything = || Range { start: b"", end: None };
        assert_eq!(loader.remove_range(everything(), keys - 10).unwrap(), keys - 10);
        assert_eq!(loader.uncommitted, 0);
        assert!(loader.transaction.take_writes().is_empty());
        assert_eq!(generation.get(Column::Data, &(keys - 11).to_be_bytes()).unwrap(), None);
        assert!(generation.get(Column::Data, &(keys - 10).to_be_bytes()).unwrap().is_some());
        assert_eq!(loader.remove_range(everything(), 0).unwrap(), 10);
        assert_eq!(loader.remove_range(everything(), 0).unwrap(), 0);
    }
}
