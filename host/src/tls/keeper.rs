//! What the files of one use hold now. Looks at them when asked, takes good new ones, and refuses
//! bad ones. Has no clock and no task of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::material::{Bytes, Dates, Material};
use super::settings::{Audience, Files, TlsError};

/// The files of one use, and what they held when they were last good.
#[derive(Debug)]
pub(super) struct Keeper {
    files: Files,
    audience: Audience,
    current: ArcSwap<Material>,
    seen: Mutex<Seen>,
    /// Whether the files hold something that cannot be used. Read without waiting for a look.
    is_refusing: AtomicBool,
    /// Counts the changes.
    changes: watch::Sender<u64>,
}

/// What the files held when somebody looked last.
#[derive(Debug)]
struct Seen {
    last: blake3::Hash,
    /// The contents in use.
    used: blake3::Hash,
    /// Contents that cannot be used, and somebody was told so.
    bad: Option<blake3::Hash>,
}

/// What a look at the files has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Looked {
    /// Nothing to tell.
    Same,
    /// They have changed, and new connections use them.
    Changed,
    /// They have changed and cannot be used. The old ones stay in use.
    Refused(TlsError),
}

impl Keeper {
    pub(super) fn open(files: Files, audience: Audience) -> Result<Arc<Keeper>, TlsError> {
        let bytes = Bytes::read(&files);
        let used = bytes.hash();
        let dates = if matches!(audience, Audience::Clients { .. }) { Dates::AreTold } else { Dates::Hold };
        let material = Material::make(&files, bytes, &audience, dates)?;
        let seen = Mutex::new(Seen { last: used, used, bad: None });
        let current = ArcSwap::from_pointee(material);
        let is_refusing = AtomicBool::new(false);
        Ok(Arc::new(Keeper { files, audience, current, seen, is_refusing, changes: watch::Sender::new(0) }))
    }

    pub(super) fn now(&self) -> Arc<Material> {
        self.current.load_full()
    }

    /// Completes once what is in use refuses something, by `refuses`.
    pub(super) async fn until_refused(&self, refuses: impl Fn(&Material) -> bool) {
        let mut changes = self.changes.subscribe();
        // Also at the beginning: the files may have changed since the handshake began.
        while !refuses(&self.now()) {
            // The sender lives as long as `self`.
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Returns whether the files hold something that cannot be used.
    pub(super) fn is_refusing(&self) -> bool {
        self.is_refusing.load(Relaxed)
    }

    /// Looks at the files. Blocks.
    ///
    /// Files that belong together are seldom written at the same moment, and half a file with CAs
    /// may be a good one. So new contents count only once two looks in a row have found them. Bad
    /// ones are told once.
    pub(super) fn look(&self) -> Looked {
        let mut seen = self.seen.lock();
        let looked = self.look_at(&mut seen);
        self.is_refusing.store(seen.bad.is_some(), Relaxed);
        looked
    }

    fn look_at(&self, seen: &mut Seen) -> Looked {
        let bytes = Bytes::read(&self.files);
        let found = bytes.hash();
        let is_settled = std::mem::replace(&mut seen.last, found) == found;
        if found == seen.used {
            seen.bad = None;
            return Looked::Same;
        }
        if !is_settled || seen.bad == Some(found) {
            return Looked::Same;
        }
        match Material::make(&self.files, bytes, &self.audience, Dates::Hold) {
            Ok(material) => {
                (seen.used, seen.bad) = (found, None);
                self.current.store(Arc::new(material));
                self.changes.send_modify(|changes| *changes += 1);
                Looked::Changed
            }
            Err(error) => {
                seen.bad = Some(found);
                Looked::Refused(error)
            }
        }
    }
}
