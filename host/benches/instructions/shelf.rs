//! Keeps the compiled code of the benchmark's guests from run to run. valgrind would take a minute
//! to compile them, and cannot start the process that compiles for a node. Checks no code: the host
//! does.

use std::path::PathBuf;

use anyhow::{Context, Result};
use lockstep::guest::Shelf;

use crate::guests::build_dir;

/// Compiled code in files of one directory.
pub struct Kept(PathBuf);

impl Kept {
    /// Opens the directory, which is among the finished files.
    pub fn open() -> Result<Kept> {
        let place = build_dir()?.join("instructions");
        std::fs::create_dir_all(&place).with_context(|| format!("creating {}", place.display()))?;
        Ok(Kept(place))
    }
}

impl Shelf for Kept {
    fn take(&self, name: &str) -> Option<Vec<u8>> {
        std::fs::read(self.0.join(name)).ok()
    }

    fn put(&self, name: &str, replaces: &str, code: &[u8]) {
        let kept = std::fs::read_dir(&self.0).into_iter().flatten().flatten();
        for old in kept.filter(|file| file.file_name().to_string_lossy().starts_with(replaces)) {
            // What stays takes room, and is never read again.
            drop(std::fs::remove_file(old.path()));
        }
        if let Err(error) = std::fs::write(self.0.join(name), code) {
            eprintln!("the code of a guest is not kept, and is compiled again: {error}");
        }
    }
}
