//! The paths of commands and of reads, from the node that takes one to the leader's log. Its files
//! know openraft by the traits that `core` implements. It decides nothing about members.
//!
//! - `proposer` makes the leader's commands into entries. `queue` is where they wait, `turns` says
//!   whose come next, by what `costs` expects of them, and `packing` what fits into one entry.
//! - `forward` sends the commands of other nodes to the leader; `forwarded` is the leader's side.
//! - `ticket` joins the waiting caller and the proposer.
//! - `wire` is how a forwarded command ended, as one node tells it to another.
//! - `read` finds the index that a linearizable read must wait for.

pub mod core;
mod costs;
pub mod forward;
pub mod forwarded;
pub mod packing;
pub mod proposer;
pub mod queue;
pub mod read;
pub mod state_source;
pub mod ticket;
pub mod turns;
pub mod wire;
