//! Scenarios: one behaviour, one file, real processes.
#![allow(clippy::unwrap_used)]

mod damaged_disk;
mod disk_full;
mod durable_steps;
mod failover;
mod first_hour;
mod forwarding;
mod joining;
mod kill_rounds;
mod operating;
mod partitions;
mod pausing;
mod quiet_links;
mod reading;
mod restart;
mod snapshot_catch_up;
mod surface;
mod watching;
