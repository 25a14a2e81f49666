//! The imports of `machine.wit` as Rust functions. In wasm they call the host. In a native build
//! they use the harness's host of the current thread. No other part of the SDK depends on which of
//! the two it is.

/// Rows of a scan, encoded as `store.page` defines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) rows: Vec<u8>,
    pub(crate) more: bool,
}

#[cfg(target_arch = "wasm32")]
mod imports {
    use super::Page;
    use crate::bindings::lockstep::machine as wit;
    use crate::log::Level;

    pub(crate) fn get(key: &[u8]) -> Option<Vec<u8>> {
        wit::store::get(key)
    }

    pub(crate) fn scan(start: &[u8], end: Option<&[u8]>, reverse: bool, limit: u32) -> Page {
        let page = wit::store::scan(start, end, reverse, limit);
        Page { rows: page.rows, more: page.more }
    }

    pub(crate) fn put(key: &[u8], value: &[u8]) {
        wit::store::put(key, value);
    }

    pub(crate) fn remove(key: &[u8]) {
        wit::store::remove(key);
    }

    pub(crate) fn remove_range(start: &[u8], end: Option<&[u8]>, limit: u32) -> u64 {
        wit::store::remove_range(start, end, limit)
    }

    pub(crate) fn caller() -> String {
        wit::call::caller()
    }

    pub(crate) fn node_status() -> String {
        wit::node::status()
    }

    pub(crate) fn log(level: Level, message: &str) {
        let level = match level {
            Level::Debug => wit::log::Level::Debug,
            Level::Info => wit::log::Level::Info,
            Level::Warn => wit::log::Level::Warn,
            Level::Error => wit::log::Level::Error,
        };
        wit::log::write(level, message);
    }

    pub(crate) fn abort(message: &str) {
        wit::log::abort(message);
    }

    pub(crate) fn sink_write(chunk: &[u8]) {
        wit::snapshot_sink::write(chunk);
    }

    pub(crate) fn source_read(max: u32) -> Vec<u8> {
        wit::snapshot_source::read(max)
    }
}

#[cfg(target_arch = "wasm32")]
pub(crate) use imports::*;

#[cfg(not(target_arch = "wasm32"))]
pub(crate) use crate::test::host::{
    caller, get, log, node_status, put, remove, remove_range, scan, sink_write, source_read,
};
