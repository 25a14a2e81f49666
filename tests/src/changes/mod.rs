//! Changes of the guest under load: up to a next version and back, with a node killed at a step of
//! it, and the torture's judges over what the clients saw. This module owns the order of changes
//! and what is counted. Load, histories and judges are the torture's.
//!
//! ```text
//! plan (seed) ──► run: one cluster per guest = v1 ─► legs
//!                   one leg = load ─► change or rollback, a node dies at a step ─► all run one version
//!                             ─► torture::cycle: liveness, final reads, state hashes, both judges
//! ```
//!
//! - Every leg has keys of its own. The rows of earlier legs stay, so each migration moves them.
//!   They are looked up when the cluster ends.
//! - A step at which no node died is a failure, and so is a change that is refused again and again.
//! - The commands mean the same in every version, so a rollback must leave what was acknowledged.

pub mod guest;
pub mod pause;
pub mod plan;
pub mod run;
mod state;
mod switch;
