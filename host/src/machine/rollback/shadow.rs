//! The shadow of a change: what the state would be had the change never been made. A thread makes
//! it (`shadow/thread.rs`). This file holds what that thread shares with others: how far the shadow
//! is, what it found, and its state once it is taken. It runs no entry.
//!
//! - Whoever takes the shadow holds back apply meanwhile, so the shadow stands exactly there.

pub(crate) mod thread;

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::report::RollbackReport;
use crate::machine::answered::AnsweredCommands;
use crate::machine::hash::Recent;
use crate::machine::replay::history::HistoryError;
use crate::machine::system::System;
use crate::store::{Generation, StoreError};

/// Why there is no shadow.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShadowError {
    /// The disk or the sandbox failed.
    #[error("running the commands once more failed: {0}")]
    History(#[from] HistoryError),
    /// This node has not got what it takes.
    #[error("{0}")]
    Lacks(String),
    /// No thread, or no room.
    #[error("{0}")]
    Short(String),
    /// Nobody wants it any more, or the node stops.
    #[error("the work was ended")]
    Ended,
}

impl From<StoreError> for ShadowError {
    fn from(error: StoreError) -> Self {
        ShadowError::History(error.into())
    }
}

/// The state of a shadow that was taken.
pub(crate) struct Taken {
    pub(crate) generation: Arc<Generation>,
    pub(crate) system: System,
    /// Commands that it ran.
    pub(crate) commands: u64,
    /// How many of them it answered differently than clients were told.
    pub(crate) different: u64,
}

/// A shadow, as its thread and those who ask for it share it.
pub(crate) struct Shadow {
    change_index: u64,
    began: Instant,
    status: Mutex<Status>,
    /// Signalled when it is to be taken or to end, and when its thread has ended.
    changed: Condvar,
}

struct Status {
    /// The last entry that it ran.
    at: u64,
    recent: Recent,
    /// What clients were told, and what they would have been told.
    answered: AnsweredCommands,
    asked: Instant,
    is_taken: bool,
    is_cancelled: bool,
    end: Option<End>,
}

enum End {
    Taken(Box<Taken>),
    Failed(ShadowError),
    /// The end was passed on.
    Told,
}

impl Shadow {
    /// Makes the shadow of the change at entry `change_index`. It has run the entries up to `at`.
    fn new(change_index: u64, at: u64) -> Shadow {
        Shadow {
            change_index,
            began: Instant::now(),
            status: Mutex::new(Status {
                at,
                recent: Recent::default(),
                answered: AnsweredCommands::default(),
                asked: Instant::now(),
                is_taken: false,
                is_cancelled: false,
                end: None,
            }),
            changed: Condvar::new(),
        }
    }

    /// Returns the last entry that it ran. Whoever looks keeps the shadow.
    pub(crate) fn look(&self) -> Result<u64, String> {
        let mut status = self.status.lock();
        status.asked = Instant::now();
        match &status.end {
            None => Ok(status.at),
            Some(End::Failed(error)) => Err(error.to_string()),
            Some(End::Taken(_) | End::Told) => Err("a rollback has begun on this node".to_owned()),
        }
    }

    /// Returns what it found, with the hash behind entry `at` or else behind the last one.
    pub(crate) fn report(&self, at: Option<u64>) -> Result<RollbackReport, String> {
        let status = self.status.lock();
        let answered = &status.answered;
        let index = at.unwrap_or(status.at);
        let hash = status.recent.at(index).map(|hash| format!("{hash:016x}"));
        Ok(RollbackReport {
            change_index: self.change_index,
            index,
            hash: hash.unwrap_or_default(),
            commands: answered.commands,
            different: answered.different,
            differences: answered.differences.list().to_vec(),
            elapsed_ms: u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// Waits until the shadow has run everything that is applied, and takes its state. `waits` is
    /// told now and then how far it is; when it returns false, this gives up. Apply must not go on
    /// meanwhile.
    pub(crate) fn take(&self, pause: Duration, mut waits: impl FnMut(u64) -> bool) -> Result<Taken, ShadowError> {
        let mut status = self.status.lock();
        status.is_taken = true;
        self.changed.notify_all();
        loop {
            match status.end.take() {
                Some(End::Taken(taken)) => {
                    status.end = Some(End::Told);
                    return Ok(*taken);
                }
                Some(End::Failed(error)) => {
                    status.end = Some(End::Told);
                    return Err(error);
                }
                Some(End::Told) => {
                    status.end = Some(End::Told);
                    return Err(ShadowError::Ended);
                }
                None => {}
            }
            if !waits(status.at) {
                status.is_cancelled = true;
                return Err(ShadowError::Ended);
            }
            self.changed.wait_for(&mut status, pause);
        }
    }

    /// Ends the thread, and waits until it has ended.
    fn end(&self) {
        let mut status = self.status.lock();
        status.is_cancelled = true;
        self.changed.notify_all();
        while status.end.is_none() {
            self.changed.wait(&mut status);
        }
    }
}
