//! Owns the checkpoints: the state at one log position, as hard links beside the state. They
//! protect against a bad install, not against damage of the disk. Never reads a row; the caller
//! says at which position a checkpoint stands.
//!
//! - A checkpoint gets its final name only when it is complete and durable.
//! - The three newest are kept. One that is in use is never removed.
//! - None of an abandoned range of positions is listed, once that range is known. Its directory
//!   goes when nobody uses it.

use std::fs;
use std::ops::Range;
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
    listed: Mutex<Listed>,
    /// Abandoned checkpoints that were in use, and where each is now.
    aside: Mutex<Vec<(Arc<Checkpoint>, PathBuf)>>,
    /// Held while a checkpoint is made, so that only one is made at a time.
    making: Mutex<()>,
}

/// The checkpoints that are offered, and those that must not come to them.
#[derive(Debug)]
struct Listed {
    /// Oldest first.
    checkpoints: Vec<Arc<Checkpoint>>,
    /// Positions of a history that was taken back.
    abandoned: Range<u64>,
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
        Ok(Checkpoints(Arc::new(Inner {
            root,
            listed: Mutex::new(Listed { checkpoints: list, abandoned: 0..0 }),
            aside: Mutex::default(),
            making: Mutex::new(()),
        })))
    }

    /// Finds the whole checkpoints of a stopped node, oldest first. Opens none of them, and changes
    /// nothing.
    pub fn found(directory: &DataDir, group: u32) -> Result<Vec<Arc<Checkpoint>>, StoreError> {
        let root = directory.group(group).snapshots();
        if !root.is_dir() {
            return Ok(Vec::new());
        }
        let mut found: Vec<_> = names(&root)?.iter().filter_map(|name| decode_name(name)).collect();
        found.sort_unstable();
        let checkpoint = |(index, term)| Checkpoint { index, term, path: root.join(encode_name(index, term)) };
        Ok(found.into_iter().map(|position| Arc::new(checkpoint(position))).collect())
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
        self.0.listed.lock().checkpoints.last().cloned()
    }

    /// Returns all checkpoints, oldest first.
    pub fn list(&self) -> Vec<Arc<Checkpoint>> {
        self.0.listed.lock().checkpoints.clone()
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
        let mut listed = self.0.listed.lock();
        if !listed.checkpoints.iter().any(|kept| Arc::ptr_eq(kept, broken)) {
            return false;
        }
        if self.rename_aside(broken).is_none() {
            return false;
        }
        listed.checkpoints.retain(|kept| !Arc::ptr_eq(kept, broken));
        true
    }

    /// Sets aside all checkpoints at these indexes, and keeps those that are being made from being
    /// listed: their history was taken back.
    pub fn abandon(&self, indexes: Range<u64>) {
        let mut listed = self.0.listed.lock();
        let all = std::mem::take(&mut listed.checkpoints).into_iter();
        let (gone, kept): (Vec<_>, Vec<_>) = all.partition(|checkpoint| indexes.contains(&checkpoint.index));
        *listed = Listed { checkpoints: kept, abandoned: indexes };
        drop(listed);
        for checkpoint in gone {
            tracing::info!(index = checkpoint.index, "a checkpoint of a history that was taken back is set aside");
            self.put_aside(checkpoint);
        }
        self.remove_aside();
    }

    /// Sets aside a checkpoint that is not listed. If its name stays, the next open asks again.
    fn put_aside(&self, checkpoint: Arc<Checkpoint>) {
        if let Some(aside) = self.rename_aside(&checkpoint) {
            self.0.aside.lock().push((checkpoint, aside));
        }
    }

    /// Removes what was set aside and is not in use any more.
    fn remove_aside(&self) {
        self.0.aside.lock().retain(|(checkpoint, aside)| {
            // It is not listed, so only who has a reference can take another.
            if Arc::strong_count(checkpoint) > 1 {
                return true;
            }
            if let Err(error) = remove_directory(aside) {
                tracing::warn!(%error, "an abandoned checkpoint stays on disk until the next start");
            }
            false
        });
    }

    fn is_abandoned(&self, index: u64) -> bool {
        self.0.listed.lock().abandoned.contains(&index)
    }

    /// Returns the new name; `None` if the old one stays.
    fn rename_aside(&self, checkpoint: &Checkpoint) -> Option<PathBuf> {
        // The name of an unfinished checkpoint: the next open removes it, and a current reader can
        // finish.
        let aside = self.0.root.join(format!("{}.tmp", encode_name(checkpoint.index, checkpoint.term)));
        match fs::rename(&checkpoint.path, &aside) {
            Ok(()) => Some(aside),
            Err(error) => {
                tracing::warn!(%error, path = %checkpoint.path.display(), "a checkpoint cannot be set aside");
                None
            }
        }
    }

    fn publish(&self, temporary: &Path, index: u64, term: u64) -> Result<Option<Arc<Checkpoint>>, StoreError> {
        let same = |checkpoint: &&Arc<Checkpoint>| (checkpoint.index, checkpoint.term) == (index, term);
        let existing = self.0.listed.lock().checkpoints.iter().find(same).cloned();
        if existing.is_some() {
            remove_directory(temporary)?;
            return Ok(existing);
        }
        let path = self.0.root.join(encode_name(index, term));
        if self.is_abandoned(index) {
            return Err(abandoned(index));
        }
        faults::io("checkpoint-before-publish").map_err(StoreError::io("rename to", &path))?;
        fs::rename(temporary, &path).map_err(StoreError::io("rename to", &path))?;
        sync_directory(&self.0.root)?;
        faults::point("checkpoint-after-publish");
        let checkpoint = Arc::new(Checkpoint { index, term, path });
        let mut listed = self.0.listed.lock();
        if listed.abandoned.contains(&index) {
            self.put_aside(checkpoint);
            self.remove_aside();
            return Err(abandoned(index));
        }
        listed.checkpoints.push(checkpoint.clone());
        listed.checkpoints.sort_by_key(|checkpoint| (checkpoint.index, checkpoint.term));
        remove_superfluous(&mut listed.checkpoints);
        self.remove_aside();
        Ok(Some(checkpoint))
    }
}

fn abandoned(index: u64) -> StoreError {
    StoreError::Misuse(format!("the state at entry {index} belongs to a history that was taken back"))
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
