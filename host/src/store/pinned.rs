//! A RocksDB snapshot that owns its database, so that it can be stored and sent to other threads.
//! Never writes. This takes unsafe code. The host has little of it: here, in `guest/code.rs`
//! (stored compiled code is run), in `net/descriptors.rs` and `guest/apart.rs` (limits of a
//! process), and in `cli/mod.rs` (`_exit`).

use std::path::Path;
use std::sync::Arc;

use rocksdb::{ColumnFamily, DB, Snapshot};

/// The database as it was when this value was made.
pub(super) struct Pinned {
    // Declared before `database`, and so dropped before it: releasing a snapshot needs the
    // database.
    snapshot: Snapshot<'static>,
    database: Arc<DB>,
}

impl Pinned {
    /// Pins the current contents of `database`.
    #[allow(unsafe_code)]
    pub(super) fn new(database: Arc<DB>) -> Pinned {
        let snapshot = database.snapshot();
        // SAFETY: the snapshot refers to the `DB` inside the Arc, which does not move and lives as
        // long as `self.database`. The fields are private and never replaced, and `snapshot` is
        // dropped first. The `'static` reference is never handed out.
        let snapshot = unsafe { std::mem::transmute::<Snapshot<'_>, Snapshot<'static>>(snapshot) };
        Pinned { snapshot, database }
    }

    /// Returns the snapshot, for as long as `self` is borrowed.
    pub(super) fn snapshot<'a>(&'a self) -> &'a Snapshot<'a> {
        &self.snapshot
    }

    /// Returns the database's path.
    pub(super) fn path(&self) -> &Path {
        self.database.path()
    }

    /// Returns a family of the database. The name is one of `columns`.
    pub(super) fn family(&self, name: &'static str) -> &ColumnFamily {
        family(&self.database, name)
    }
}

/// Returns a family of a database that the store opened. All families are named at open.
pub(super) fn family<'a>(database: &'a DB, name: &'static str) -> &'a ColumnFamily {
    database.cf_handle(name).expect("every family of columns.rs is named at open")
}
