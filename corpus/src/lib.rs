//! The sandbox alone, with its tests and without Raft, RocksDB or a network. `cargo xtask corpus`
//! builds it for another wasmtime, profile or architecture, and runs the golden corpus of
//! `host/src/guest/tests/corpus` there. The sandbox's files are the host's, and this crate changes
//! nothing in them. `prices` says what of the fuel table another wasmtime cannot charge.
#![cfg(test)]
#![allow(dead_code, unused_imports, reason = "the host uses what the corpus does not")]

#[path = "../../host/src/faults.rs"]
mod faults;
#[path = "../../host/src/guest/mod.rs"]
mod guest;
#[path = "../../host/src/logs/mod.rs"]
mod logs;
mod prices;
#[path = "../../host/src/types/plain.rs"]
mod types;
