//! A log in memory, in which everything is durable at once: for tests whose machine or replay reads
//! entries again.

use std::future::Future;
use std::ops::{Range, RangeInclusive};
use std::pin::Pin;

use parking_lot::Mutex;

use super::super::apply::LogGate;
use super::super::replay::EntrySource;
use crate::store::StoreError;
use crate::types::{Entry, LogId};

/// The entries of the log, which a test adds.
#[derive(Default)]
pub(super) struct Logged(pub(super) Mutex<Vec<Entry>>);

impl LogGate for Logged {
    fn wait_durable(&self, _: u64) -> Result<(), StoreError> {
        Ok(())
    }

    fn note_served(&self, _: LogId) -> Result<(), StoreError> {
        Ok(())
    }

    fn read(&self, indexes: Range<u64>) -> Result<Vec<Entry>, StoreError> {
        let entries = self.0.lock();
        Ok(entries.iter().filter(|entry| indexes.contains(&entry.log_id.index)).cloned().collect())
    }

    fn barrier(&self) -> Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send + '_>> {
        Box::pin(async { Ok(()) })
    }
}

impl EntrySource for Logged {
    fn range(&self) -> Option<RangeInclusive<u64>> {
        let entries = self.0.lock();
        Some(entries.first()?.log_id.index..=entries.last()?.log_id.index)
    }

    fn read(&self, from: u64) -> Result<Vec<Entry>, StoreError> {
        // Two at a time, so that a replay reads on.
        LogGate::read(self, from..from + 2)
    }
}
