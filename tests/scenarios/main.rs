//! The scenarios: each file tests one behaviour, with real processes.
#![allow(clippy::unwrap_used)]

mod access;
mod any_authority;
mod backup;
#[cfg(target_os = "linux")]
mod before_1970;
mod calling;
mod catching_up;
mod client_crate;
#[cfg(target_os = "linux")]
mod client_memory;
mod clocks;
#[cfg(target_os = "linux")]
mod compiling;
mod component_tests;
mod copies;
mod damaged_disk;
mod descriptors;
mod disk_full;
mod durable_steps;
mod equal_hashes;
mod failover;
mod file_limit;
mod first_hour;
mod floods;
mod forged;
mod forwarding;
mod founding;
mod fuel_table;
#[cfg(target_os = "linux")]
mod full_port;
mod golden_directory;
mod groups;
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
mod large_status;
mod leader_changes;
mod local_reads;
mod log_nobody_takes;
mod log_time;
mod manager;
mod membership;
mod misbehaving;
mod misbehaving_snapshots;
mod moving;
mod newcomer;
mod only_grpc;
mod operating;
mod partitions;
mod pausing;
mod printed;
mod put_back;
mod quiet_links;
mod reading;
mod recovering;
mod removed;
mod resets;
mod restart;
mod restored_harness;
mod silent_connections;
mod slow_apply;
mod snapshot_catch_up;
mod state_hash;
mod surface;
mod tls_clients;
mod tls_moves;
mod tls_reload;
mod transfers;
mod watch_ends;
mod watch_limits;
mod watch_pages;
mod watch_times;
mod watching;
#[cfg(target_os = "linux")]
mod worst_command;
