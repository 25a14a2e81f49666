//! What openraft applies again while it starts: entries that are committed, and that the state
//! lacks. openraft waits for them before it runs, and nobody would be served meanwhile. So they are
//! only noted here, and openraft is told that they are applied. The apply thread then gets them
//! from the log, ahead of all that comes later. This file applies nothing.

use std::sync::Arc;

use openraft::EntryPayload;
use parking_lot::Mutex;

use crate::types::{Entry, LogId, StoredMembership};

/// The entries that are put off, if any are. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Starting(Arc<Mutex<Option<PutOff>>>);

#[derive(Default)]
struct PutOff {
    /// The last of the entries.
    last: Option<LogId>,
    /// The last membership among them.
    membership: Option<StoredMembership>,
}

impl Starting {
    /// Puts entries off from now on.
    pub(super) fn begin(&self) {
        *self.0.lock() = Some(PutOff::default());
    }

    /// Notes an entry if entries are put off. Otherwise returns false: it is to be applied.
    pub(super) fn puts_off(&self, entry: &Entry) -> bool {
        let mut starting = self.0.lock();
        let Some(put_off) = starting.as_mut() else { return false };
        put_off.last = Some(entry.log_id);
        if let EntryPayload::Membership(membership) = &entry.payload {
            put_off.membership = Some(StoredMembership::new(Some(entry.log_id), membership.clone()));
        }
        true
    }

    /// Returns what openraft takes for applied, over a state that stands at `applied`.
    pub(super) fn over(
        &self,
        applied: Option<LogId>,
        membership: StoredMembership,
    ) -> (Option<LogId>, StoredMembership) {
        match self.0.lock().as_ref() {
            Some(put_off) => (put_off.last.or(applied), put_off.membership.clone().unwrap_or(membership)),
            None => (applied, membership),
        }
    }

    /// Puts nothing off any more. Returns the last entry that was put off.
    pub(super) fn end(&self) -> Option<LogId> {
        self.0.lock().take().and_then(|put_off| put_off.last)
    }
}
