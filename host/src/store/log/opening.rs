//! Opens `raft/`, with the logs of all groups. Decides whether logs that are not whole have the
//! torn tail of a crash, which is cut, or are damaged, which is refused. Never accepts a log that
//! holds less than `SYNCED` says, whichever group it is of. Never changes logs that RocksDB
//! refuses.
//!
//! - RocksDB opens logs whose last record is incomplete. `SYNCED` tells whether that dropped too
//!   much.
//! - If RocksDB refuses them, or would not notice their damage (`store/record_files.rs`), a *copy*
//!   is opened up to the first damage. If the copy has all that was synced, it replaces the logs.
//!   The original stays beside it until the next start that needs no repair.
//! - Anything else is refused: a node that lost what it had acknowledged must neither vote nor
//!   acknowledge again.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use rocksdb::{DB, Options};

use super::super::files::{create_directory, names, remove_directory, sync_directory};
use super::super::{DataDir, GroupDir, StoreError, options, record_files};
use super::check::{self, CHECKED_BYTES, Found};
use super::synced::{Ends, Promises, Synced};
use super::wal_tail;
use crate::types::{GROUP, GroupId};

/// Name of the copy while it is repaired.
const REPAIRING: &str = "raft.repairing";

/// Logs that may be used.
pub(super) struct Opened {
    pub(super) database: Arc<DB>,
    /// The log of each group that was ever here, and that of group 0.
    pub(super) found: BTreeMap<GroupId, Found>,
    pub(super) synced: Synced,
}

/// Opens the logs of all groups. The head of this file has the rules.
pub(super) fn open(directory: &DataDir) -> Result<Opened, StoreError> {
    open_sound(directory).map_err(|error| refusal(directory.root(), error))
}

/// Looks at the log of one group in an open database, when nobody writes it. Makes the slot of a
/// group that was never here; that slot is on disk on return.
pub(super) fn open_group(
    database: &DB,
    raft: &Path,
    synced: &Synced,
    directory: &GroupDir,
    group: GroupId,
) -> Result<Found, StoreError> {
    let promised = synced.read_group(group)?;
    if promised.is_none() {
        if let Some(remains) = directory.remains_of_state()? {
            let text = format!("it holds no log, and {} says that there was one", remains.display());
            return Err(StoreError::damaged(raft, text).of_group(group));
        }
        synced.lower(&[(group, Ends::default())])?;
    }
    check_group(database, raft, group, &promised.unwrap_or_default(), CHECKED_BYTES)
}

fn open_sound(directory: &DataDir) -> Result<Opened, StoreError> {
    let synced = Synced::open(&directory.root().join("SYNCED"), &directory.raft())?;
    let promised = synced.read()?;
    let is_nothing = promised.values().all(Ends::is_nothing);
    // After a power cut `SYNCED` may be empty although there is a log.
    if is_nothing && !directory.raft().join("CURRENT").exists() {
        check_nothing_was_lost(directory)?;
    }
    remove_directory(&directory.root().join(REPAIRING))?;
    // Without this, RocksDB would make new logs if `CURRENT` is missing.
    let mut setup = options::raft();
    setup.create_if_missing(is_nothing);
    let torn = wal_tail::torn(&directory.raft());
    let (database, repaired) = match open_database(&setup, &directory.raft()) {
        Ok(database) => (database, false),
        Err(refused) if refused.is_damage() => {
            repair(directory, &promised, &refused)?;
            (open_database(&setup, &directory.raft())?, true)
        }
        Err(error) => return Err(error),
    };
    let found = check_all(&database, &directory.raft(), &promised)?;
    if !repaired {
        forget_original(directory);
    }
    if let Some((wal, bytes)) = torn {
        tracing::warn!(
            wal = %wal.display(),
            bytes,
            last_log_id = ?found.get(&GROUP).and_then(Found::last),
            groups = found.len(),
            "CUT a torn tail off the log: its last record was incomplete, and had never been acknowledged"
        );
    }
    Ok(Opened { database: Arc::new(database), found, synced })
}

/// Checks the logs of all groups against what was promised.
fn check_all(database: &DB, path: &Path, promised: &Promises) -> Result<BTreeMap<GroupId, Found>, StoreError> {
    if let Some(group) = check::groups(database, path)?.iter().find(|group| !promised.contains_key(group)) {
        let text = format!("there is a log of group {group}, and SYNCED has no record of that group");
        return Err(StoreError::damaged(path, text));
    }
    let bytes = CHECKED_BYTES / promised.len() as u64;
    let checked = promised.iter().map(|(group, ends)| Ok((*group, check_group(database, path, *group, ends, bytes)?)));
    checked.collect()
}

fn check_group(database: &DB, path: &Path, group: GroupId, promised: &Ends, bytes: u64) -> Result<Found, StoreError> {
    let found = check::check(database, path, group, bytes).map_err(|error| error.of_group(group))?;
    match promised.missing_in(&found.ends()) {
        None => Ok(found),
        Some(missing) => Err(StoreError::damaged(path, missing).of_group(group)),
    }
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

/// Replaces the logs by a copy without the damaged tail, if the copy holds all that was promised.
fn repair(directory: &DataDir, promised: &Promises, refused: &StoreError) -> Result<(), StoreError> {
    let copy = directory.root().join(REPAIRING);
    tracing::warn!(error = %refused, "the log was not opened; looking at a copy of it whether only a torn tail is wrong");
    let repaired = copy_log(&directory.raft(), &copy).and_then(|()| open_copy(&copy, promised));
    let found = match repaired {
        Ok(found) => found,
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
    // Group 0 stands for all: it is the one that a node always has.
    let ends = found.get(&GROUP).map(Found::ends).unwrap_or_default();
    let synced = promised.get(&GROUP).copied().unwrap_or_default();
    tracing::error!(
        why = %refused,
        last_log_id = ?ends.last,
        vote = ?ends.vote,
        synced_last_log_id = ?synced.last,
        synced_vote = ?synced.vote,
        groups = found.len(),
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
fn open_copy(copy: &Path, promised: &Promises) -> Result<BTreeMap<GroupId, Found>, StoreError> {
    record_files::spoil(copy)?;
    let found = {
        let database = open_database(&options::raft_up_to_damage(), copy)?;
        check_all(&database, copy, promised)?
    };
    for name in names(copy)? {
        let path = copy.join(name);
        File::open(&path).and_then(|file| file.sync_all()).map_err(StoreError::io("fsync", &path))?;
    }
    sync_directory(copy)?;
    Ok(found)
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
pub(super) fn refusal(root: &Path, error: StoreError) -> StoreError {
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
