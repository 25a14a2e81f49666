//! Owns the checkpoints: the state at one log position, as hard links beside the state. They
//! protect against a bad install, not against damage of the disk. Never reads a row; the caller
//! says at which position a checkpoint stands.
//!
//! - A checkpoint gets its final name only when it is complete and durable.
//! - The three newest are kept. One that is in use is never removed.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::checkpoint::Checkpoint;
use super::files::{create_directory, names, remove_directory, sync_directory};
use super::generation::Generation;
use super::{DataDir, Read, StoreError};
use crate::faults;

/// Number of checkpoints to keep. They share files with the state; an old one costs the bytes that
/// changed since.
const KEPT: usize = 3;
/// Name of the checkpoint that is being made.
const TEMPORARY: &str = "making.tmp";

/// The checkpoints of one group. Clones share them.
#[derive(Clone, Debug)]
pub struct Checkpoints(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    /// Oldest first.
    list: Mutex<Vec<Arc<Checkpoint>>>,
    /// Held while a checkpoint is made, so that only one is made at a time.
    making: Mutex<()>,
}

/// Returns the (index, term) at which a state stands; `None` when nothing was applied yet.
pub type Position<'a> = &'a dyn Fn(&dyn Read) -> Result<Option<(u64, u64)>, StoreError>;

impl Checkpoints {
    /// Lists the checkpoints on disk. Removes unfinished ones; removes damaged ones and logs an
    /// error.
    pub fn open(directory: &DataDir, group: u32) -> Result<Checkpoints, StoreError> {
        let root = directory.group(group).snapshots();
        create_directory(&root)?;
        // RocksDB makes `<name>.tmp` before it gives a checkpoint its final name.
        for name in names(&root)?.iter().filter(|name| name.ends_with(".tmp")) {
            remove_directory(&root.join(name))?;
        }
        let mut list = Vec::new();
        for (index, term) in names(&root)?.iter().filter_map(|name| decode_name(name)) {
            let path = root.join(encode_name(index, term));
            match Generation::open_read_only(&path, None) {
                Ok(_) => list.push(Arc::new(Checkpoint { index, term, path })),
                Err(error) if error.is_damage() => {
                    tracing::error!(%error, "removing a damaged checkpoint; the one before it is used");
                    remove_directory(&path)?;
                }
                // A disk that fails to answer now says nothing about the checkpoint.
                Err(error) => tracing::error!(%error, "a checkpoint cannot be opened and is left alone"),
            }
        }
        list.sort_by_key(|checkpoint| (checkpoint.index, checkpoint.term));
        Ok(Checkpoints(Arc::new(Inner { root, list: Mutex::new(list), making: Mutex::new(()) })))
    }

    /// Makes a checkpoint of `from` as it is now. Commits may continue meanwhile.
    ///
    /// The position is read from the checkpoint itself, so it fits the rows. The checkpoint is
    /// durable on return. If one exists at the same position already, that one is returned. If the
    /// state has no position, the result is `None`. Blocks while another checkpoint is being made.
    pub fn create(&self, from: &Generation, position: Position<'_>) -> Result<Option<Arc<Checkpoint>>, StoreError> {
        let _making = self.0.making.lock();
        let temporary = self.0.root.join(TEMPORARY);
        remove_directory(&temporary)?;
        let made = make(from, &temporary).and_then(|()| position(&Generation::open_read_only(&temporary, None)?));
        let checkpoint = match made {
            Ok(Some((index, term))) => self.publish(&temporary, index, term),
            Ok(None) => remove_directory(&temporary).map(|()| None),
            Err(error) => Err(error),
        };
        if checkpoint.is_err() {
            // The caller gets the first error. A leftover is removed at the next attempt.
            drop(remove_directory(&temporary));
        }
        checkpoint
    }

    /// Returns the checkpoint at the greatest position.
    pub fn newest(&self) -> Option<Arc<Checkpoint>> {
        self.0.list.lock().last().cloned()
    }

    /// Returns all checkpoints, oldest first.
    pub fn list(&self) -> Vec<Arc<Checkpoint>> {
        self.0.list.lock().clone()
    }

    /// Removes an unreadable checkpoint from the list, now and after a restart. Returns whether it
    /// did.
    ///
    /// The last checkpoint stays, because openraft must never be told that there is none.
    pub fn discard(&self, broken: &Arc<Checkpoint>) -> bool {
        self.list().len() > 1 && self.set_aside(broken)
    }

    /// Does the same as [`Checkpoints::discard`], but also with the last one. For use before
    /// openraft is started.
    pub fn set_aside(&self, broken: &Arc<Checkpoint>) -> bool {
        let mut list = self.0.list.lock();
        if !list.iter().any(|kept| Arc::ptr_eq(kept, broken)) {
            return false;
        }
        // The name of an unfinished checkpoint: the next open removes it, and a current reader can
        // finish.
        let aside = self.0.root.join(format!("{}.tmp", encode_name(broken.index, broken.term)));
        if let Err(error) = fs::rename(&broken.path, &aside) {
            tracing::warn!(%error, path = %broken.path.display(), "a broken checkpoint cannot be set aside");
            return false;
        }
        list.retain(|kept| !Arc::ptr_eq(kept, broken));
        true
    }

    fn publish(&self, temporary: &Path, index: u64, term: u64) -> Result<Option<Arc<Checkpoint>>, StoreError> {
        let same = |checkpoint: &&Arc<Checkpoint>| (checkpoint.index, checkpoint.term) == (index, term);
        let existing = self.0.list.lock().iter().find(same).cloned();
        if existing.is_some() {
            remove_directory(temporary)?;
            return Ok(existing);
        }
        let path = self.0.root.join(encode_name(index, term));
        faults::io("checkpoint-before-publish").map_err(StoreError::io("rename to", &path))?;
        fs::rename(temporary, &path).map_err(StoreError::io("rename to", &path))?;
        sync_directory(&self.0.root)?;
        faults::point("checkpoint-after-publish");
        let checkpoint = Arc::new(Checkpoint { index, term, path });
        let mut list = self.0.list.lock();
        list.push(checkpoint.clone());
        list.sort_by_key(|checkpoint| (checkpoint.index, checkpoint.term));
        remove_superfluous(&mut list);
        Ok(Some(checkpoint))
    }
}

fn make(from: &Generation, temporary: &Path) -> Result<(), StoreError> {
    let doing = "make a checkpoint";
    faults::io("checkpoint-before-make").map_err(StoreError::io(doing, from.path()))?;
    // RocksDB flushes what is in memory.
    from.check_room()?;
    rocksdb::checkpoint::Checkpoint::new(from.database())
        .and_then(|checkpoint| checkpoint.create_checkpoint(temporary))
        .map_err(StoreError::rocks(doing, from.path()))
}

/// Removes all but the newest. Checkpoints in use stay listed and are checked again next time.
fn remove_superfluous(list: &mut Vec<Arc<Checkpoint>>) {
    let superfluous = list.len().saturating_sub(KEPT);
    let newest = list.split_off(superfluous);
    list.retain(|checkpoint| {
        // Nobody can take another reference while the list is locked.
        if Arc::strong_count(checkpoint) > 1 {
            return true;
        }
        if let Err(error) = remove_directory(&checkpoint.path) {
            tracing::warn!(%error, "an old checkpoint stays on disk");
        }
        false
    });
    list.extend(newest);
}

impl Checkpoint {
    /// Opens the checkpoint for reading. It stays on disk while the result lives.
    pub fn open(self: &Arc<Self>) -> Result<Arc<Generation>, StoreError> {
        Ok(Arc::new(Generation::open_read_only(&self.path, Some(self.clone()))?))
    }
}

fn encode_name(index: u64, term: u64) -> String {
    format!("{index}-{term}")
}

fn decode_name(name: &str) -> Option<(u64, u64)> {
    let (index, term) = name.split_once('-')?;
    let position = (index.parse().ok()?, term.parse().ok()?);
    (encode_name(position.0, position.1) == name).then_some(position)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
