//! Owns which generation of the state is in force, and how another one replaces it. Never reads a
//! row.
//!
//! - `CURRENT` names the generation in force. It also holds the index of the snapshot that the
//!   generation was installed from, if there was one. It is replaced by rename, after the new
//!   generation is complete and fsynced.
//! - At most one other generation is built at a time. One that was never installed is removed when
//!   it is dropped, or at the next open.
//! - A replaced generation stays readable until its last reader is dropped.
//! - A scratch state is never in force. `state/scratch.rs` makes it.

mod scratch;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;

use super::files::{create_directory, names, remove_directory, sync_directory, write_atomically};
use super::generation::{Construction, Generation};
use super::{DataDir, StoreError};
use crate::faults;

/// The state of one group. Clones share it.
#[derive(Clone, Debug)]
pub struct State(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    current: ArcSwap<Generation>,
    /// The index of the snapshot that the generation in force at open had been installed from.
    installed: Option<u64>,
    /// The number of the newest generation ever made. No number is used twice in one run.
    newest: AtomicU64,
    constructing: Arc<AtomicBool>,
}

impl State {
    /// Returns a future that completes once nobody has the generation in force any more. After the
    /// last of these states it may be opened again.
    pub fn released(&self) -> impl Future<Output = ()> + Send + use<> {
        self.current().closed()
    }

    /// Opens the generation in force, or makes the first one. Removes other generations, and
    /// scratch states, that a crash left.
    pub fn open(directory: &DataDir, group: u32) -> Result<State, StoreError> {
        let root = directory.group(group).state();
        create_directory(&root)?;
        scratch::remove_left_over(&root)?;
        let numbers = numbers(&root)?;
        let (number, installed) = match read_current(&root)? {
            Some(current) => current,
            // A crash before the very first CURRENT leaves at most generation 1, which is then
            // empty or complete.
            None if numbers.iter().all(|number| *number == 1) => (first(&root)?, None),
            None => return Err(StoreError::damaged(&root, "there are several generations and no CURRENT")),
        };
        if !numbers.contains(&number) && number != 1 {
            return Err(StoreError::damaged(&root, format!("CURRENT names generation {number}, which is not there")));
        }
        for other in numbers.iter().filter(|other| **other != number) {
            remove_directory(&root.join(other.to_string()))?;
        }
        let generation = Generation::open(&root.join(number.to_string())).map_err(|error| match error.is_damage() {
            true => StoreError::StateDamaged { what: error.to_string(), root: root.clone() },
            false => error,
        })?;
        Ok(State(Arc::new(Inner {
            root,
            current: ArcSwap::from_pointee(generation),
            installed,
            newest: AtomicU64::new(number),
            constructing: Arc::default(),
        })))
    }

    /// Opens the generation in force of a stopped node, to read it. `None` if there is none. It
    /// holds what was flushed.
    pub fn look(directory: &DataDir, group: u32) -> Result<Option<Generation>, StoreError> {
        let root = directory.group(group).state();
        match read_current(&root)? {
            Some((number, _)) => Generation::open_read_only(&root.join(number.to_string()), None).map(Some),
            None => Ok(None),
        }
    }

    /// Returns the generation in force.
    pub fn current(&self) -> Arc<Generation> {
        self.0.current.load_full()
    }

    /// Returns the index of the snapshot that the state at open had been installed from.
    ///
    /// `None` when the state grew on this node from nothing.
    pub fn installed_from(&self) -> Option<u64> {
        self.0.installed
    }

    /// Makes a new, empty generation beside the one in force.
    ///
    /// Fails while another one is being built. If the generation is dropped without
    /// [`install`](Self::install), its directory is removed.
    pub fn create(&self) -> Result<Generation, StoreError> {
        if self.0.constructing.swap(true, Ordering::AcqRel) {
            return Err(StoreError::Misuse("another state is being built".into()));
        }
        let construction = Construction(self.0.constructing.clone());
        let number = self.0.newest.fetch_add(1, Ordering::Relaxed) + 1;
        let generation = Generation::open(&self.0.root.join(number.to_string()))?;
        Ok(generation.under_construction(construction))
    }

    /// Puts a generation from [`create`](Self::create) in force. `index` is that of its snapshot.
    ///
    /// The order is: flush, fsync, CURRENT, then visible to readers. When this returns, a restart
    /// finds the new generation. On an error the old one stays in force, and the caller may try the
    /// same one again.
    pub fn install(&self, generation: Arc<Generation>, index: u64) -> Result<(), StoreError> {
        faults::io("install-before-flush").map_err(StoreError::io("flush", generation.path()))?;
        generation.flush()?;
        sync_directory(generation.path())?;
        // The generation's name must be on disk before CURRENT names it.
        sync_directory(&self.0.root)?;
        let number = generation.path().file_name().and_then(|name| name.to_str()).expect("generations have numbers");
        let current = self.0.root.join("CURRENT");
        faults::io("install-before-current").map_err(StoreError::io("write", &current))?;
        // From here on a restart may find this generation in CURRENT, so its directory stays even
        // if a later step fails.
        generation.establish();
        write_atomically(&current, format!("{number} {index}\n").as_bytes())?;
        faults::io("install-after-current").map_err(StoreError::io("write", &current))?;
        self.0.current.swap(generation).doom();
        Ok(())
    }
}

/// Records generation 1 as the one in force. Its directory is created when it is opened.
fn first(root: &Path) -> Result<u64, StoreError> {
    write_atomically(&root.join("CURRENT"), b"1\n")?;
    Ok(1)
}

/// Returns the generation's number, and the index of the snapshot that it was installed from.
fn read_current(root: &Path) -> Result<Option<(u64, Option<u64>)>, StoreError> {
    let path = root.join("CURRENT");
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io("read", &path)(error)),
    };
    let text = String::from_utf8_lossy(&bytes);
    let numbers: Option<Vec<u64>> = text.split_whitespace().map(|number| number.parse().ok()).collect();
    match numbers.as_deref() {
        Some([number]) => Ok(Some((*number, None))),
        Some([number, index]) => Ok(Some((*number, Some(*index)))),
        _ => {
            let what = format!("{} names no generation", path.display());
            Err(StoreError::StateDamaged { what, root: root.to_owned() })
        }
    }
}

fn numbers(root: &Path) -> Result<Vec<u64>, StoreError> {
    Ok(names(root)?.iter().filter_map(|name| name.parse().ok()).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
