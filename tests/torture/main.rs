//! Runs the torture at small size and shows that it can detect faults: three faults are planted in
//! the host, and each must be detected. The same run without the planted fault passes.
#![allow(clippy::unwrap_used)]

mod changes;
mod points;
mod power;
mod seeing;
mod small;

/// The tests run whole clusters under load, so only one runs at a time.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
