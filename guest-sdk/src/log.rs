//! Writes log lines for the operator of the node, with target `guest`. They are never part of the
//! outcome of a call. The host drops what one call writes past 64 KiB.
//!
//! Use `log::info!("opened {name}")`, or the function `write` for a string that is ready.

use crate::host;

/// Severity of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For developers of the guest.
    Debug,
    /// Normal event.
    Info,
    /// Event that somebody should look into.
    Warn,
    /// Error.
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
