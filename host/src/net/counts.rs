//! The counts of one port since the process began, and the log lines that its connections cause.
//! `port` shows them to operators; ports and connections count.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::logs::{Foreign, Sparse};

/// The counts of one port.
#[derive(Debug)]
pub(super) struct Counts {
    /// The name of the port, as operators know it.
    pub(super) name: &'static str,
    pub(super) accepted: AtomicU64,
    pub(super) refused: AtomicU64,
    /// Of these, those whose address had all that it may have.
    pub(super) refused_address: AtomicU64,
    pub(super) silent_closed: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) resets: AtomicU64,
    pub(super) slowed: AtomicU64,
    pub(super) control_slowed: AtomicU64,
    pub(super) control_closed: AtomicU64,
    pub(super) unread_closed: AtomicU64,
    pub(super) idle_closed: AtomicU64,
    pub(super) handshakes_failed: AtomicU64,
    /// Connections that are not encrypted.
    pub(super) plain: AtomicU64,
    slowed_lines: Sparse,
    control_lines: Sparse,
    unread_lines: Sparse,
    handshake_lines: Sparse,
    plain_lines: Sparse,
}

impl Counts {
    pub(super) fn new(name: &'static str) -> Counts {
        Counts {
            name,
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            refused_address: AtomicU64::new(0),
            silent_closed: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            resets: AtomicU64::new(0),
            slowed: AtomicU64::new(0),
            control_slowed: AtomicU64::new(0),
            control_closed: AtomicU64::new(0),
            unread_closed: AtomicU64::new(0),
            idle_closed: AtomicU64::new(0),
            handshakes_failed: AtomicU64::new(0),
            plain: AtomicU64::new(0),
            slowed_lines: Sparse::default(),
            control_lines: Sparse::default(),
            unread_lines: Sparse::default(),
            handshake_lines: Sparse::default(),
            plain_lines: Sparse::default(),
        }
    }

    pub(super) fn add(count: &AtomicU64) {
        count.fetch_add(1, Relaxed);
    }

    /// Counts calls of a connection that were reset.
    pub(super) fn reset(&self, count: usize) {
        self.resets.fetch_add(count as u64, Relaxed);
    }

    /// Counts and logs that a connection is slowed down.
    pub(super) fn slowed(&self) {
        Counts::add(&self.slowed);
        if let Some(left_out) = self.slowed_lines.due() {
            tracing::warn!(port = self.name, left_out, "a connection resets calls too fast: it is slowed down");
        }
    }

    /// Counts and logs that a connection is slowed down for its control frames.
    pub(super) fn control_slowed(&self) {
        Counts::add(&self.control_slowed);
        self.note_control("a connection sends control frames too fast: it is slowed down");
    }

    /// Counts and logs that a connection is closed for its control frames.
    pub(super) fn control_closed(&self) {
        Counts::add(&self.control_closed);
        self.note_control("a connection went on sending control frames too fast: it is closed");
    }

    fn note_control(&self, what: &'static str) {
        if let Some(left_out) = self.control_lines.due() {
            tracing::warn!(port = self.name, left_out, "{what}");
        }
    }

    /// Counts and logs that a connection is closed because it takes nothing.
    pub(super) fn unread_closed(&self) {
        Counts::add(&self.unread_closed);
        if let Some(left_out) = self.unread_lines.due() {
            tracing::warn!(
                port = self.name,
                left_out,
                "a connection takes nothing of what was sent to it: it is closed"
            );
        }
    }

    /// Counts and logs that a connection is closed because too many are not encrypted.
    pub(super) fn plain_refused(&self) {
        Counts::add(&self.refused);
        if let Some(left_out) = self.plain_lines.due() {
            tracing::warn!(
                port = self.name,
                left_out,
                "half of the connections that this port may have are in use without TLS: a new one is closed"
            );
        }
    }

    /// Counts and logs that no connection came about, because the two ends do not agree on TLS.
    pub(super) fn handshake_failed(&self, address: SocketAddr, reason: &str) {
        Counts::add(&self.handshakes_failed);
        if let Some(left_out) = self.handshake_lines.due() {
            let reason = Foreign(reason);
            tracing::warn!(port = self.name, %address, %reason, left_out, "a TLS handshake has failed");
        }
    }
}
