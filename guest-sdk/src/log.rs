//! Lines for the operator of the node, target `guest`. They are never part of the outcome; past 64 KiB
//! a call the host drops the rest.
//!
//! `log::info!("opened {name}")`, or the functions for a ready string.

use crate::host;

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For who works on the guest.
    Debug,
    /// Worth knowing.
    Info,
    /// Worth looking at.
    Warn,
    /// Something is wrong.
    Error,
}

/// Writes one line.
pub fn write(level: Level, message: &str) {
    host::log(level, message);
}

#[doc(hidden)]
#[macro_export]
macro_rules! log_debug {
    ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Debug, &format!($($arg)*)) };
}
#[doc(hidden)]
#[macro_export]
macro_rules! log_info {
    ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Info, &format!($($arg)*)) };
}
#[doc(hidden)]
#[macro_export]
macro_rules! log_warn {
    ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Warn, &format!($($arg)*)) };
}
#[doc(hidden)]
#[macro_export]
macro_rules! log_error {
    ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Error, &format!($($arg)*)) };
}

/// Formats and writes at level debug.
pub use crate::log_debug as debug;
/// Formats and writes at level error.
pub use crate::log_error as error;
/// Formats and writes at level info.
pub use crate::log_info as info;
/// Formats and writes at level warn.
pub use crate::log_warn as warn;
