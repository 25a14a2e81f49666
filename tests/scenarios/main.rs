//! Scenarios: one behaviour, one file, real processes.
#![allow(clippy::unwrap_used)]

mod backup;
mod calling;
#[cfg(target_os = "linux")]
mod compiling;
mod component_tests;
mod damaged_disk;
mod disk_full;
mod durable_steps;
mod equal_hashes;
mod failover;
mod file_limit;
mod first_hour;
mod forwarding;
mod fuel_table;
mod guest_bench;
mod guest_projects;
mod guest_tools;
mod guests;
mod held_fsync;
mod hung_disk;
mod identity;
mod imports;
mod joining;
mod json_log;
mod kill_rounds;
mod leader_changes;
mod local_reads;
mod log_nobody_takes;
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
mod restored_harness;
mod slow_apply;
mod snapshot_catch_up;
mod state_hash;
mod surface;
mod transfers;
mod watch_ends;
mod watch_limits;
mod watch_pages;
mod watch_times;
mod watching;
#[cfg(target_os = "linux")]
mod worst_command;
