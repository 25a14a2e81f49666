//! Where the states of a replay are made, and where a replay begins. It writes to a directory of
//! its own, and to no other.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::error::ReplayError;
use super::history::History;
use crate::guest::Component;
use crate::machine::backup::Unfounded;
use crate::machine::system::System;
use crate::store::{Checkpoint, Checkpoints, DataDir, Generation, State};
use crate::types::GROUP;

/// A directory for the states of a replay. The caller removes it.
pub struct Place {
    // Declared before `directory`, so that they are closed before its lock is released.
    state: State,
    checkpoints: Checkpoints,
    _directory: DataDir,
}

/// Where a replay begins.
#[derive(Clone)]
pub enum Base {
    /// Before the first entry.
    Empty,
    /// Behind the last entry of a checkpoint.
    Checkpoint(Arc<Checkpoint>),
}

impl Base {
    /// Returns the first entry that is run.
    pub fn next(&self) -> u64 {
        match self {
            Base::Empty => 0,
            Base::Checkpoint(checkpoint) => checkpoint.index + 1,
        }
    }

    /// Returns the id of the cluster that the state is of; `None` before its genesis entry.
    pub fn cluster(&self) -> Result<Option<Bytes>, ReplayError> {
        let Base::Checkpoint(checkpoint) = self else { return Ok(None) };
        let system = System::read(&*checkpoint.open()?)?;
        Ok(system.in_force().map(|(_, profile)| profile.cluster_id.clone()))
    }

    /// Says in words where it is.
    pub fn words(&self) -> String {
        match self {
            Base::Empty => "the empty state".to_owned(),
            Base::Checkpoint(checkpoint) => format!("the state at entry {}", checkpoint.index),
        }
    }
}

impl Place {
    /// Opens or creates the directory.
    pub fn open(root: &Path) -> Result<Place, ReplayError> {
        let directory = DataDir::open(root)?;
        let state = State::open(&directory, GROUP)?;
        let checkpoints = Checkpoints::open(&directory, GROUP)?;
        Ok(Place { state, checkpoints, _directory: directory })
    }

    /// Reads a backup. Returns where a replay of it begins, and the component that it holds.
    /// Blocks.
    pub fn base_of_backup(&self, from: impl Read + Send + 'static) -> Result<(Base, Bytes), ReplayError> {
        let read = Unfounded::read(&self.state, from)?;
        let component = Bytes::copy_from_slice(read.component());
        let checkpoint = self.keep(read.generation())?;
        Ok((Base::Checkpoint(checkpoint), component))
    }

    /// Keeps a state as it is now.
    pub(crate) fn keep(&self, generation: &Generation) -> Result<Arc<Checkpoint>, ReplayError> {
        let position = |from: &dyn crate::store::Read| {
            let applied = System::read(from)?.applied;
            Ok(applied.map(|applied| (applied.index, applied.leader_id.term)))
        };
        let kept = self.checkpoints.create(generation, &position)?;
        kept.ok_or_else(|| ReplayError::Lacks("a state without an entry cannot be kept".into()))
    }

    /// Begins a history.
    pub(crate) fn history(&self, base: &Base, component: Component) -> Result<History, ReplayError> {
        Ok(match base {
            Base::Empty => History::begin_empty(&self.state, component)?,
            Base::Checkpoint(checkpoint) => History::begin(&self.state, checkpoint, component)?,
        })
    }
}
