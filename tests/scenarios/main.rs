//! Scenarios: one behaviour, one file, real processes.
#![allow(clippy::unwrap_used)]

mod failover;
mod first_hour;
mod forwarding;
mod joining;
mod kill_rounds;
mod leader_changes;
mod operating;
mod reading;
mod restart;
mod snapshot_catch_up;
mod surface;
mod watching;
