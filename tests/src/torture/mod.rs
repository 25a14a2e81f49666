//! Torture: load on a real cluster, faults drawn from a seed, and judges that read what the clients saw. Owns the faults, the
//! recorder and the verdict; never looks into a node beyond what any client or operator can ask.
//!
//! ```text
//! plan (seed) ──► run: one cycle = load ─► fault ─► heal ─► liveness ─► final reads ─► state hashes
//!                        │ load: clients on every node ──► history
//!                        └ judge: chain (every write names the one before it) and wgl (porcupine), both must agree
//! ```
//!
//! - A write without a definite answer stays "maybe" for ever; a failed read proves nothing and is dropped.
//! - An unknown verdict is a failed one, and so is a fault that never happened.
//! - Every cycle has keys of its own, so a history is judged whole and then forgotten: memory does not grow with the run.

pub mod chain;
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
pub mod wgl;
