//! Tests of the machine on a real disk with a real guest in text: from an entry to its outcome,
//! through restarts and snapshots.
#![allow(clippy::unwrap_used)]

mod backup;
mod changing;
mod conformance;
mod flushing;
mod forward;
mod guest_text;
mod harness;
mod installing;
mod kept;
mod lifecycle;
mod logged;
mod modes;
mod moving;
mod rehearsal;
mod replay;
mod replica;
mod rolling_back;
mod starting;
mod transfer;
