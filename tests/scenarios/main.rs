//! Scenarios: one behaviour, one file, real processes.
#![allow(clippy::unwrap_used)]

mod failover;
mod first_hour;
mod forwarding;
mod held_fsync;
mod joining;
mod kill_rounds;
mod local_reads;
mod log_time;
mod operating;
mod reading;
mod restart;
mod slow_apply;
mod snapshot_catch_up;
mod state_hash;
mod surface;
mod watching;
