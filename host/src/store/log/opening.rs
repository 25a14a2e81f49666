//! Opens `raft/`. Decides whether a log that is not whole has the torn tail of a crash, which is
//! cut, or is damaged, which is refused. Never accepts a log that holds less than `SYNCED` says.
//! Never changes a log that RocksDB refuses.
//!
//! - RocksDB opens a log whose last record is incomplete. `SYNCED` tells whether that dropped too
//!   much.
//! - If RocksDB refuses the log, or would not notice its damage (`store/record_files.rs`), a *copy*
//!   is opened up to the first damage. If the copy has all that was synced, it replaces the log.
//!   The original stays beside it until the next start that needs no repair.
//! - Anything else is refused: a node that lost what it had acknowledged must neither vote nor
//!   acknowledge again.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use rocksdb::{DB, Options};

use super::super::files::{create_directory, names, remove_directory, sync_directory};
use super::super::{DataDir, StoreError, options, record_files};
use super::check::{self, Found};
use super::synced::{Ends, Synced};
use super::wal_tail;

/// Name of the copy while it is repaired.
const REPAIRING: &str = "raft.repairing";

/// A log that may be used.
pub(super) struct Opened {
    pub(super) database: Arc<DB>,
    pub(super) found: Found,
    pub(super) synced: Synced,
}

/// Opens the log of `group`. The head of this file has the rules.
pub(super) fn open(directory: &DataDir, group: u32) -> Result<Opened, StoreError> {
    open_sound(directory, group).map_err(|error| refusal(directory, error))
}

fn open_sound(directory: &DataDir, group: u32) -> Result<Opened, StoreError> {
    let synced = Synced::open(&directory.root().join("SYNCED"), group, &directory.raft())?;
    let promised = synced.read()?;
    // After a power cut `SYNCED` may be empty although there is a log.
    if promised.is_nothing() && !directory.raft().join("CURRENT").exists() {
        check_nothing_was_lost(directory)?;
    }
    remove_directory(&directory.root().join(REPAIRING))?;
    // Without this, RocksDB would make a new log if `CURRENT` is missing.
    let mut setup = options::raft();
    setup.create_if_missing(promised.is_nothing());
    let torn = wal_tail::torn(&directory.raft());
    let (database, repaired) = match open_database(&setup, &directory.raft()) {
        Ok(database) => (database, false),
        Err(refused) if refused.is_damage() => {
            repair(directory, group, &promised, &refused)?;
            (open_database(&setup, &directory.raft())?, true)
        }
        Err(error) => return Err(error),
    };
    let found = check::check(&database, &directory.raft(), group)?;
    check_promise(&promised, &found, &directory.raft())?;
    if !repaired {
        forget_original(directory);
    }
    if let Some((wal, bytes)) = torn {
        tracing::warn!(
            wal = %wal.display(),
            bytes,
            last_log_id = ?found.last(),
            "CUT a torn tail off the log: its last record was incomplete, and had never been acknowledged"
        );
    }
    Ok(Opened { database: Arc::new(database), found, synced })
}

/// Fails if a node without a log has a state. A node without a log is new, and a new node has
/// applied nothing.
fn check_nothing_was_lost(directory: &DataDir) -> Result<(), StoreError> {
    match directory.remains_of_state()? {
        None => Ok(()),
        Some(remains) => Err(StoreError::damaged(
            &directory.raft(),
            format!("it holds no log, and {} says that there was one", remains.display()),
        )),
    }
}

fn open_database(setup: &Options, path: &Path) -> Result<DB, StoreError> {
    record_files::check(path)?;
    DB::open_cf_descriptors(setup, path, options::raft_families()).map_err(StoreError::rocks("open the log", path))
}

fn check_promise(promised: &Ends, found: &Found, path: &Path) -> Result<(), StoreError> {
    match promised.missing_in(&found.ends()) {
        None => Ok(()),
        Some(missing) => Err(StoreError::damaged(path, missing)),
    }
}

/// Replaces the log by a copy without the damaged tail, if the copy holds all that was promised.
fn repair(directory: &DataDir, group: u32, promised: &Ends, refused: &StoreError) -> Result<(), StoreError> {
    let copy = directory.root().join(REPAIRING);
    tracing::warn!(error = %refused, "the log was not opened; looking at a copy of it whether only a torn tail is wrong");
    let repaired = copy_log(&directory.raft(), &copy).and_then(|()| open_copy(&copy, group, promised));
    let ends = match repaired {
        Ok(ends) => ends,
        Err(error) => {
            // The copy is useless, and the caller gets this error. The next start removes what is
            // left.
            drop(remove_directory(&copy));
            return Err(match error {
                StoreError::Damaged { what, .. } => {
                    StoreError::damaged(&directory.raft(), format!("{refused}; and up to that damage, {what}"))
                }
                error if error.is_damage() => {
                    StoreError::damaged(&directory.raft(), format!("{refused}; and a copy: {error}"))
                }
                error => error,
            });
        }
    };
    let original = directory.replace_log(&copy)?;
    tracing::error!(
        why = %refused,
        last_log_id = ?ends.last,
        vote = ?ends.vote,
        synced_last_log_id = ?promised.last,
        synced_vote = ?promised.vote,
        original = %original.display(),
        "CUT a torn tail off the log: what stood behind `last_log_id` had never been acknowledged. The original is kept until the next start"
    );
    Ok(())
}

/// Copies the files that may change, and links those that never do.
fn copy_log(from: &Path, to: &Path) -> Result<(), StoreError> {
    create_directory(to)?;
    for name in names(from)? {
        let (source, target) = (from.join(&name), to.join(&name));
        if name == "LOCK" || name.starts_with("LOG") || source.is_dir() {
            continue;
        }
        if name.ends_with(".sst") {
            fs::hard_link(&source, &target).map_err(StoreError::io("link to", &target))?;
        } else {
            fs::copy(&source, &target).map_err(StoreError::io("copy to", &target))?;
        }
    }
    Ok(())
}

/// Opens the copy up to its first damage and checks its contents. The copy is on disk and closed on
/// return.
fn open_copy(copy: &Path, group: u32, promised: &Ends) -> Result<Ends, StoreError> {
    record_files::spoil(copy)?;
    let found = {
        let database = open_database(&options::raft_up_to_damage(), copy)?;
        check::check(&database, copy, group)?
    };
    check_promise(promised, &found, copy)?;
    for name in names(copy)? {
        let path = copy.join(name);
        File::open(&path).and_then(|file| file.sync_all()).map_err(StoreError::io("fsync", &path))?;
    }
    sync_directory(copy)?;
    Ok(found.ends())
}

/// Removes the original of an earlier repair, after a start that needed no repair.
fn forget_original(directory: &DataDir) {
    let original = directory.damaged_log();
    if !original.exists() {
        return;
    }
    match remove_directory(&original) {
        Ok(()) => {
            tracing::info!(path = %original.display(), "removed the damaged original of the log that was repaired")
        }
        Err(error) => tracing::warn!(%error, "the damaged original of the log stays on disk"),
    }
}

/// Turns an error of the log into one that tells the operator what to do.
fn refusal(directory: &DataDir, error: StoreError) -> StoreError {
    let root = directory.root();
    let name = root.file_name().map_or_else(|| "<its name>".into(), |name| name.to_string_lossy().into_owned());
    match error {
        StoreError::Damaged { path, what } | StoreError::Unreadable { path, what } => {
            StoreError::LogDamaged { path, what, name, root: root.to_owned() }
        }
        StoreError::Rocks { ref path, .. } if error.is_damage() => {
            let path = path.clone();
            StoreError::LogDamaged { path, what: error.to_string(), name, root: root.to_owned() }
        }
        error => error,
    }
}
