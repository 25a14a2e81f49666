//! Torture: load on a real cluster, faults drawn from a seed, and checkers that read what the
//! clients saw. This module owns the faults, the recorder and the verdict. It uses only what any
//! client or operator can query from a node.
//!
//! ```text
//! plan (seed) ──► run: one cycle = load ─► fault ─► heal ─► liveness ─► final reads ─► state hashes
//!                        │ load: clients on every node ──► history
//!                        └ judge: chain (every write names the one before it) and wgl (porcupine), both must agree
//!                    the cluster ends: verify runs its log again (`lockstep replay`)
//! ```
//!
//! - A write without a definite answer stays "maybe" for ever. A failed read proves nothing and is
//!   dropped.
//! - An unknown verdict counts as a failure, and so does a fault that did not happen.
//! - Every cycle has keys of its own, so its history is judged as a whole and then dropped: memory
//!   does not grow with the run.

pub mod chain;
pub(crate) mod cycle;
#[cfg(target_os = "linux")]
pub mod disk;
#[cfg(not(target_os = "linux"))]
#[path = "disk_nowhere.rs"]
pub mod disk;
pub mod history;
pub mod judge;
pub mod load;
pub mod nemesis;
pub mod plan;
pub mod points;
pub mod run;
pub mod verify;
pub mod wgl;
