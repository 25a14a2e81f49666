//! Abuse: one client that means harm, beside clients that do not. Real nodes serve a steady load of
//! puts and gets while another process attacks one of them, and a judge compares what the honest
//! clients saw before, during and after. This module uses only what anybody can reach from a
//! network, and looks at a node's process from outside.
//!
//! ```text
//! run: three nodes ──► warm up ──► baseline ──► attack ──► after ──► judge: figures ──► verdict
//!        │ honest: puts and gets at a steady rate, at every node
//!        │ watched: memory and processor time of each node's process
//!        └ attacker: a process of its own, which runs one of the cases on what `wire` gives it
//! ```
//!
//! - An attacker that did nothing proves nothing, so the table says what it did.
//! - The attacker and the attacked node have half of the processors, and the attacker is nice(1): a
//!   real one has a machine of its own, and so have the other nodes.
//! - Everything is on loopback and ends with the run.

mod attacker;
mod case;
mod cases;
mod honest;
mod judge;
mod processors;
mod run;
mod table;
mod watched;
mod wire;

pub use attacker::{ATTACK, attack_by_words};
pub use case::{Case, Promised, Role, list, named, shown};
pub use judge::{Figures, Judging, Verdict};
pub use run::{Judged, Options, run};
pub use table::{json, rows};
