//! Has the store rewrite the files of a state that is above its quota, on a thread of its own, so
//! that removed rows take no room any more. It refuses nothing; `quota` asks for it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::Machine;
use super::shared::Shared;
use crate::threads;

/// Ends a tidying when it is dropped, also by a panic.
struct Turn {
    shared: Arc<Shared>,
    began: Instant,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.shared.tidying.lock().end(self.began, Instant::now());
        self.shared.quota.forget_size();
    }
}

impl Machine {
    /// Has the state rewritten on a thread of its own, if it is time for that. Waits for nothing.
    pub(super) fn tidy(&self) {
        let began = Instant::now();
        if !self.shared.tidying.lock().begin(self.applied_index(), began) {
            return;
        }
        let turn = Turn { shared: self.shared.clone(), began };
        let work = move || {
            threads::give_way();
            let shared = &turn.shared;
            let compacted = shared.state.current().compact(|| !shared.stopping.load(Relaxed));
            match compacted {
                Ok(_) => {
                    tracing::info!(took = ?began.elapsed(), "the state is above its quota; its files were rewritten")
                }
                Err(error) if error.is_passing() => {
                    shared.note_shortage(&error, "the state is above its quota, and its files are not rewritten");
                }
                // A broken disk stops the next write of the apply thread.
                Err(error) => tracing::error!(%error, "rewriting the files of the state, which is above its quota"),
            }
        };
        // Without a thread, the turn ends at once.
        if let Err(error) = std::thread::Builder::new().name("tidy-state".into()).spawn(work) {
            tracing::warn!(%error, "no thread to rewrite the files of the state, which is above its quota");
        }
    }
}
