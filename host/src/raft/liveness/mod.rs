//! Whether a leader is there, and who follows one that is gone. It changes no membership.
//!
//! `presence` knows which nodes stream to this one, and `canvass` asks the other voters whether the
//! leader's process has ended and who takes over. `leader` shows who leads. `timeouts` makes
//! openraft's configuration.

pub mod canvass;
pub mod leader;
pub mod presence;
pub mod timeouts;
