//! Processes of `lockstep node` on one machine, for `lockstep dev`, the demo and the tests. It
//! plans names and addresses, starts nodes, hands out what they print, waits, stops and kills. No
//! process outlives the program that started it. It calls no node and knows nothing of Raft.
//!
//! [`Plan`] chooses the addresses, [`NodeCommand`] is the command line of one node, and
//! [`NodeCommand::start`] makes a [`Process`] of it. It needs little, so that `cargo xtask` can use
//! it before anything else is built.

mod command;
mod plan;
mod process;

pub use command::{NodeCommand, TlsFiles};
pub use nix::sys::signal::Signal;
pub use plan::{Node, Plan, PortError};
pub use process::{Output, Process, Stream, TakeLine};
