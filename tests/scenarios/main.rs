//! Scenarios: one behaviour, one file, real processes.
#![allow(clippy::unwrap_used)]

mod backup;
mod failover;
mod first_hour;
mod forwarding;
mod joining;
mod kill_rounds;
mod operating;
mod reading;
mod restart;
mod snapshot_catch_up;
mod surface;
mod transfers;
mod watching;
