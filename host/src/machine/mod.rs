//! Committed entries become effects: apply, queries, watches, snapshots, the state hash.
