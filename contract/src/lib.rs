//! The contract of a Lockstep guest with its clients: the services that its protobuf descriptor
//! declares. Host, tools and the SDK's build use these rules, so that a build refuses what a node
//! would refuse.
//!
//! ```text
//! encoded descriptor ──► descriptor (bounds, names, imports) ──► services ──► Contract
//!                                               rules (what each method is) ──┘      │
//!                                               differences (old and new) ◄──────────┘
//! ```
//!
//! - [`Contract`] is what one component serves.
//! - [`rules`] says what a method is: a command, a query or a watch.
//! - [`differences`](differences()) compares two contracts and tells whether old clients survive
//!   the new one.
//! - [`StateLock`] is the record of what lies under each tag of a guest's state.
//!
//! The crate knows no transport, no component and no file. It does no IO.

mod descriptor;
mod differences;
mod known;
mod method;
pub mod rules;
mod services;
mod state_lock;

pub use descriptor::{
    DESCRIPTOR_BYTES_MAX, FILES_MAX, MESSAGES_MAX, METHODS_MAX, NAME_BYTES_MAX, PARTS_MAX, check_syntax, mark_import,
};
pub use differences::{Difference, differences};
pub use known::TooLarge;
pub use method::{Consistency, Freshness, Kind, Method, find_bool};
pub use services::{Contract, ContractError, described, is_reserved};
pub use state_lock::{STATE_LOCK_FILE, StateDifference, StateLock, StateLockError};
