//! Remembers tokens that were checked, so that a call costs no signature. It keeps no token, only
//! its hash. What it remembers is bounded.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::RwLock;

use super::tokens::Bearer;

/// Most tokens that are remembered. Some 500 bytes each, with the longest name.
const REMEMBERED_MAX: usize = 8_192;

/// Tokens that were checked, by their hash.
#[derive(Debug, Default)]
pub(super) struct Verified(RwLock<HashMap<[u8; 32], Arc<Bearer>>>);

impl Verified {
    pub(super) fn hash(token: &str) -> [u8; 32] {
        *blake3::hash(token.as_bytes()).as_bytes()
    }

    /// Returns who shows the token, if it was checked and has not expired.
    pub(super) fn get(&self, hash: &[u8; 32], now: SystemTime) -> Option<Arc<Bearer>> {
        self.0.read().get(hash).filter(|bearer| now < bearer.until).cloned()
    }

    /// Remembers a token. When there is no room, those that have expired go; if that is not enough,
    /// all go, and are checked again.
    pub(super) fn put(&self, hash: [u8; 32], bearer: Arc<Bearer>, now: SystemTime) {
        let mut known = self.0.write();
        if known.len() >= REMEMBERED_MAX {
            known.retain(|_, bearer| now < bearer.until);
        }
        if known.len() >= REMEMBERED_MAX {
            known.clear();
        }
        known.insert(hash, bearer);
    }

    /// How many tokens are remembered at most.
    pub(super) const MAX: usize = REMEMBERED_MAX;

    pub(super) fn len(&self) -> usize {
        self.0.read().len()
    }
}
