//! The disk on systems without Linux FUSE, where no disk can lose its power. It prints a notice
//! when it is mounted.

use std::convert::Infallible;
use std::path::Path;

use anyhow::Result;

/// A disk that cannot be mounted.
pub struct Disk(Infallible);

impl Disk {
    /// Returns `None` and prints a notice.
    pub fn mount() -> Result<Option<Disk>> {
        println!("NOTICE: no power is cut, because this system has no FUSE of Linux");
        Ok(None)
    }

    /// Never called, because there is no disk.
    pub fn path(&self) -> &Path {
        match self.0 {}
    }

    /// Never called, because there is no disk.
    pub fn cut_power(&self) {
        match self.0 {}
    }
}
