//! The guests of the benchmarks: the small one of `ladder.wat`, and the key-value guest that
//! `cargo xtask` has built; and limits that let both run for long. Loads and runs none.

use std::path::PathBuf;

use anyhow::{Context, Result};
use lockstep::guest::Limits;
use wit_component::StringEncoding;
use wit_parser::Resolve;

const LADDER: &str = include_str!("ladder.wat");
const CONTRACT: &str = include_str!("../../../wit/machine.wit");

/// Fuel for anything that is measured.
pub const FUEL: u64 = 1 << 60;
/// Log time of the first entry, in milliseconds since 1970.
pub const START_MS: u64 = 1_704_067_200_000;

/// Returns limits with more fuel than any node gives, so that a measurement can be long.
pub fn limits() -> Limits {
    let limits =
        Limits { fuel_per_command: FUEL, fuel_per_entry: FUEL, store_calls_max: u64::MAX, ..Limits::default() };
    Limits { store_bytes_max: u64::MAX, write_bytes_per_command_max: u64::MAX, ..limits }
}

/// Builds the guest of `ladder.wat` from its text, in the form that a compiler leaves.
pub fn ladder_wasm() -> Result<Vec<u8>> {
    let mut module = wat::parse_str(LADDER)?;
    let mut resolve = Resolve::default();
    let package = resolve.push_str("machine.wit", CONTRACT)?;
    let world = resolve.select_world(&[package], Some("machine-guest"))?;
    wit_component::embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)?;
    Ok(module)
}

/// Reads the key-value guest.
pub fn kv_wasm() -> Result<Vec<u8>> {
    let path = build_dir()?.join("kv.wasm");
    std::fs::read(&path).with_context(|| format!("reading {}", path.display()))
}

/// Returns the directory of finished files.
pub fn build_dir() -> Result<PathBuf> {
    let directory = std::env::var_os("LOCKSTEP_BUILD_DIR");
    directory.map(PathBuf::from).context("LOCKSTEP_BUILD_DIR is not set; `cargo xtask` says there where kv.wasm is")
}
