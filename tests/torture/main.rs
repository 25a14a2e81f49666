//! The torture at small size, and the proof that it can see: three faults are planted in the host, and each must be caught. The same
//! run without the plant passes.
#![allow(clippy::unwrap_used)]

mod points;
mod power;
mod seeing;
mod small;

/// Whole clusters under load: one at a time.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
