//! Changes what a running cluster runs. It owns the order of the steps and what each member does
//! for them. It knows no client, compares no contracts, runs no guest, and stores no component.
//!
//! - `leader` takes the steps: every member prepares, an entry marks a place in the log, every
//!   member rehearses there, and an entry makes the change. `leader/read_only` sets the read-only
//!   mode, and `leader/import` brings rows in.
//! - `rollback` takes a change back: every member runs the commands since once more, and an entry
//!   puts the result in force.
//! - `asking` sends the steps to other members, and `member` takes them on each.
//! - `window` reads from the log the commands that a rehearsal runs again.
//! - `stopped` says why a change was not made.

mod asking;
mod leader;
mod member;
mod rollback;
mod stopped;
mod window;

pub use leader::{Ended, Heard, Import, ImportError, Imported, ModeError, Plan, Step, Upgrades, UpgradesParts};
pub use member::Member;
pub use rollback::RollbackPlan;
pub use stopped::{AtMember, Stopped};
