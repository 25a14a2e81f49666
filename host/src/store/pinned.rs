//! A RocksDB snapshot that owns its database, so that it can be kept and sent to other threads. Never writes.
//! That takes unsafe code, of which the host has little: here, in `guest/code.rs` (compiled code is run as it was kept), in `net/descriptors.rs` and
//! `guest/apart.rs` (limits of a process), and in `cli/mod.rs` (`_exit`).

use std::path::Path;
use std::sync::Arc;

use rocksdb::{ColumnFamily, DB, Snapshot};

/// The database as it was when this was made.
pub(super) struct Pinned {
    // Declared before `database`, so dropped before it: releasing a snapshot needs the database.
    snapshot: Snapshot<'static>,
    database: Arc<DB>,
}

impl Pinned {
    /// Pins what `database` holds now.
    #[allow(unsafe_code)]
    pub(super) fn new(database: Arc<DB>) -> Pinned {
        let snapshot = database.snapshot();
        // SAFETY: the snapshot refers to the `DB` inside the Arc, which does not move and lives as long as `self.database`. The
        // fields are private, never replaced, and `snapshot` is dropped first. The `'static` reference is never handed out.
        let snapshot = unsafe { std::mem::transmute::<Snapshot<'_>, Snapshot<'static>>(snapshot) };
        Pinned { snapshot, database }
    }

    /// The snapshot, for as long as this is borrowed.
    pub(super) fn snapshot<'a>(&'a self) -> &'a Snapshot<'a> {
        &self.snapshot
    }

    /// Where the database is.
    pub(super) fn path(&self) -> &Path {
        self.database.path()
    }

    /// A family of the database. The name is one of `columns`.
    pub(super) fn family(&self, name: &'static str) -> &ColumnFamily {
        family(&self.database, name)
    }
}

/// A family of a database that we opened; all families are named at open.
pub(super) fn family<'a>(database: &'a DB, name: &'static str) -> &'a ColumnFamily {
    database.cf_handle(name).expect("every family of columns.rs is named at open")
}
