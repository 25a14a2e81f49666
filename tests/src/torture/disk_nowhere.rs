//! Where there is no FUSE of Linux there is no disk that can lose its power. Says so, once asked.

use std::convert::Infallible;
use std::path::Path;

use anyhow::Result;

/// Never mounted.
pub struct Disk(Infallible);

impl Disk {
    /// `None`, with a notice.
    pub fn mount() -> Result<Option<Disk>> {
        println!("NOTICE: no power is cut, because this system has no FUSE of Linux");
        Ok(None)
    }

    /// Of no disk.
    pub fn path(&self) -> &Path {
        match self.0 {}
    }

    /// Of no disk.
    pub fn cut_power(&self) {
        match self.0 {}
    }
}
