//! The demo's temporary directory. It is locked while it is in use, and removed at the end. If a
//! demo was killed, the next demo removes its directory.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

const PREFIX: &str = "lockstep-demo-";
/// Name of the lock file. The demo that made the directory holds it locked.
const LOCK: &str = "lock";

/// Creates the directory. Its lock is released when the file is closed.
pub(crate) fn create() -> Result<(PathBuf, File)> {
    let path = std::env::temp_dir().join(format!("{PREFIX}{}", std::process::id()));
    let made = DirBuilder::new().mode(0o700).create(&path);
    made.with_context(|| format!("cannot make the directory {}", path.display()))?;
    // Locked before it gets its name, so that no other process finds it unlocked.
    let unnamed = path.join(".lock");
    let lock = File::create(&unnamed)?;
    lock.try_lock()?;
    std::fs::rename(unnamed, path.join(LOCK))?;
    Ok((path, lock))
}

/// Removes the directories that killed demos left, and prints each. It does not remove a directory
/// that is in use, that has another owner, or that has no lock file.
pub(crate) fn remove_left_behind(mine: &Path) -> Result<()> {
    let owner = std::fs::metadata(mine)?.uid();
    for entry in std::fs::read_dir(std::env::temp_dir())?.flatten() {
        let path = entry.path();
        let is_one = entry.file_name().to_string_lossy().starts_with(PREFIX)
            && entry.metadata().is_ok_and(|found| found.is_dir() && found.uid() == owner);
        if !is_one || path == mine {
            continue;
        }
        let Some(_locks) = take_over(&path) else { continue };
        match std::fs::remove_dir_all(&path) {
            Ok(()) => println!("removed {}, which a demo left that was killed", path.display()),
            Err(error) => eprintln!("{}, which a demo left, could not be removed: {error}", path.display()),
        }
    }
    Ok(())
}

/// Returns the locks of the demo and of all its nodes, if none of them is held any more.
fn take_over(path: &Path) -> Option<Vec<File>> {
    let mut locks = vec![path.join(LOCK)];
    let inside = std::fs::read_dir(path).ok()?.flatten();
    locks.extend(inside.map(|entry| entry.path().join("LOCK")).filter(|lock| lock.is_file()));
    locks.iter().map(|lock| File::open(lock).ok().filter(|file| file.try_lock().is_ok())).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_in_use_stays_and_one_left_behind_goes() {
        let (mine, mine_locked) = create().unwrap();
        let other = mine.with_file_name(format!("{PREFIX}other-{}", std::process::id()));
        std::fs::create_dir_all(other.join("nodeA")).unwrap();
        remove_left_behind(&mine).unwrap();
        assert!(other.exists(), "without a lock it is not surely ours");
        let demo = File::create(other.join(LOCK)).unwrap();
        let node = File::create(other.join("nodeA/LOCK")).unwrap();
        node.lock().unwrap();
        remove_left_behind(&mine).unwrap();
        assert!(other.exists(), "a node still runs");
        node.unlock().unwrap();
        demo.lock().unwrap();
        remove_left_behind(&mine).unwrap();
        assert!(other.exists(), "its demo still runs");
        demo.unlock().unwrap();
        remove_left_behind(&mine).unwrap();
        assert!(!other.exists() && mine.exists());
        drop(mine_locked);
        std::fs::remove_dir_all(mine).unwrap();
    }
}
