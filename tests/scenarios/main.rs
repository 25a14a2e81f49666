//! Scenarios: one behaviour, one file, real processes.
#![allow(clippy::unwrap_used)]

mod backup;
#[cfg(target_os = "linux")]
mod before_1970;
mod catching_up;
mod clocks;
#[cfg(target_os = "linux")]
mod compiling;
mod component_tests;
mod damaged_disk;
mod disk_full;
mod durable_steps;
mod equal_hashes;
mod failover;
mod first_hour;
mod floods;
mod forwarding;
mod guest_tools;
mod guests;
mod held_fsync;
mod hung_disk;
mod identity;
mod joining;
mod kill_rounds;
mod leader_changes;
mod local_reads;
mod log_time;
mod manager;
mod membership;
mod misbehaving;
mod misbehaving_snapshots;
mod newcomer;
mod operating;
mod partitions;
mod pausing;
mod quiet_links;
mod reading;
mod recovering;
mod removed;
mod restart;
mod slow_apply;
mod snapshot_catch_up;
mod state_hash;
mod surface;
mod transfers;
mod watching;
#[cfg(target_os = "linux")]
mod worst_command;
