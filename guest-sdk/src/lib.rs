//! Lets you write a replicated state machine for Lockstep: typed state over the host's store,
//! handlers from your `.proto`, and tests that need no wasm.
//!
//! ```text
//! app.proto ─ build.rs ─► include_proto!(): messages, service traits, descriptor
//!
//! host calls apply / query / watch
//!   └► exports ─► dispatch: find the method, decode
//!        └► your handler (context, request) ─► collections ─► key, value ─► host: the store
//!   ◄─ Reply of a message or a Step, encoded
//! ```
//!
//! - [`Command`], [`Query`], [`Watch`]: what a handler can learn about its call.
//! - [`Status`], [`Reply`], [`Step`]: what a handler returns.
//! - [`Map`], [`Set`], [`Value`], [`Counter`], and [`Table`], a map with indexes: the state,
//!   declared with [`state!`]. `&mut self` is the permission to write.
//! - [`snapshot`]: how the state is sent to another node. The default copies it as it is.
//! - [`version!`], [`migrate!`], [`Migration`]: how a new version takes over the state of an old
//!   one.
//! - [`log`]: lines for the node's operator.
//! - [`Harness`]: calls the same handlers in an ordinary `cargo test`. With
//!   `LOCKSTEP_COMPONENT=<file.wasm>` the same tests run on the built component, in a node's
//!   sandbox ([`test`]).
//!
//! Memory does not survive a call reliably: a static, a thread-local or a field that is not a
//! collection may or may not keep its value until the next command. Keep everything in collections.
//! There is no clock and no source of randomness: [`Command::time`] is the log's time,
//! [`Command::id`] is unique and grows, and [`Command::random`] draws the same numbers on every
//! node.

// Generated code names this crate `lockstep_guest`, also within this crate.
extern crate self as lockstep_guest;

#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
#[allow(unsafe_code, missing_docs, unused_qualifications, clippy::all)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "wit",
        world: "watching-guest",
        pub_export_macro: true,
        export_macro_name: "export_machine",
        default_bindings_module: "lockstep_guest::bindings",
        runtime_path: "lockstep_guest::wit_bindgen_rt",
    });
}

/// The export that only machines with `migrate!` have.
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
#[allow(unsafe_code, missing_docs, unused_qualifications, clippy::all)]
pub mod migrator_bindings {
    wit_bindgen::generate!({
        inline: "
            package lockstep:sdk;
            world migrator-alone { export lockstep:machine/migrator@1.0.0; }
        ",
        path: "wit",
        with: {
            "lockstep:machine/types@1.0.0": crate::bindings::lockstep::machine::types,
            "lockstep:machine/migrator@1.0.0": generate,
        },
        pub_export_macro: true,
        export_macro_name: "export_migrator",
        default_bindings_module: "lockstep_guest::migrator_bindings",
        runtime_path: "lockstep_guest::wit_bindgen_rt",
    });
}

mod collections;
mod context;
mod details;
#[doc(hidden)]
pub mod dispatch;
#[cfg(target_arch = "wasm32")]
mod exports;
mod host;
mod index;
pub mod key;
#[doc(hidden)]
pub mod limits;
#[doc(hidden)]
pub mod lock;
pub mod log;
mod macros;
mod map;
#[doc(hidden)]
pub mod migration;
#[cfg(any(test, target_arch = "wasm32"))]
mod missing;
mod random;
mod rewrite;
mod rows;
mod set;
mod shape;
mod single;
pub mod snapshot;
mod status;
mod step;
mod table;
#[doc(hidden)]
pub mod tags;
#[cfg(not(target_arch = "wasm32"))]
pub mod test;
mod text;
pub mod value;

pub use context::{Cause, Command, Migration, Predecessor, Query, Watch};
pub use dispatch::{Machine, State};
pub use index::{By, Found, FoundKeys, Index};
pub use key::Key;
pub use map::Map;
pub use migration::{Migrated, Migrates};
pub use rows::{Drain, DrainKeys, Keys, Rows, Values};
pub use set::Set;
pub use shape::Shape;
pub use single::{Counter, Value};
pub use status::{Code, ErrorInfo, Reply, Status};
pub use step::Step;
pub use table::{DrainRows, Table};
#[cfg(not(target_arch = "wasm32"))]
pub use test::Harness;
pub use value::Stored;

// Re-exported for generated code, so that an author's crate depends on this crate alone.
pub use prost;
pub use prost_types;

#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub use exports::{Exports, Migrator};
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub use wit_bindgen::rt as wit_bindgen_rt;
