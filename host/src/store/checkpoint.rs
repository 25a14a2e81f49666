//! One checkpoint, as whoever reads or sends it holds it. `snapshot` makes and removes checkpoints.

use std::path::PathBuf;

/// The state at one log position. It stays on disk while an `Arc` of it exists.
#[derive(Debug)]
pub struct Checkpoint {
    /// The last log index that it includes.
    pub index: u64,
    /// The term of that entry.
    pub term: u64,
    /// Its directory.
    pub path: PathBuf,
}
