//! The applied index, and the readers that wait for a greater index. A reader is woken once, when
//! its own index is reached, so that many readers do not wake for every entry. This module does not
//! know what is applied.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// The applied index, and the readers that wait for a greater one.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    applied: AtomicU64,
    waiting: Mutex<BTreeMap<u64, Vec<oneshot::Sender<()>>>>,
}

/// Removes readers that gave up on an index from the map, however their wait ended.
struct Registered<'a> {
    progress: &'a Progress,
    index: u64,
    receiver: oneshot::Receiver<()>,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.receiver.close();
        let mut waiting = self.progress.waiting.lock();
        if let Some(waiters) = waiting.get_mut(&self.index) {
            waiters.retain(|waiter| !waiter.is_closed());
            if waiters.is_empty() {
                waiting.remove(&self.index);
            }
        }
    }
}

impl Progress {
    pub(crate) fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    /// Notes that `index` is applied, and wakes its readers. Every reader that begins now must see
    /// it.
    pub(crate) fn advance(&self, index: u64) {
        self.applied.fetch_max(index, Ordering::AcqRel);
        let mut waiting = self.waiting.lock();
        if waiting.first_key_value().is_some_and(|(first, _)| *first <= index) {
            let later = waiting.split_off(&(index + 1));
            let reached = std::mem::replace(&mut *waiting, later);
            drop(waiting);
            for sender in reached.into_values().flatten() {
                // A reader that gave up has dropped its receiver.
                let _gone = sender.send(());
            }
        }
    }

    /// Waits until `index` is applied.
    pub(crate) async fn wait(&self, index: u64) {
        while self.applied() < index {
            let mut registered = {
                let mut waiting = self.waiting.lock();
                if self.applied() >= index {
                    return;
                }
                let (sender, receiver) = oneshot::channel();
                waiting.entry(index).or_default().push(sender);
                Registered { progress: self, index, receiver }
            };
            // The reader was woken, or a shutdown dropped the sender. The loop checks the index
            // again.
            let _woken = (&mut registered.receiver).await;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn waiters_wake_at_their_own_index() {
        let progress = Arc::new(Progress::default());
        progress.wait(0).await;
        let waiter = |index| {
            let progress = progress.clone();
            tokio::spawn(async move { progress.wait(index).await })
        };
        let (third, fifth) = (waiter(3), waiter(5));
        while progress.waiting.lock().len() < 2 {
            tokio::task::yield_now().await;
        }
        progress.advance(4);
        third.await.unwrap();
        assert!(!fifth.is_finished());
        progress.advance(5);
        fifth.await.unwrap();
        assert!(progress.waiting.lock().is_empty());
    }

    #[tokio::test]
    async fn who_gives_up_leaves_nothing_behind() {
        use futures::FutureExt;
        let progress = Progress::default();
        for index in 1..100 {
            assert!(progress.wait(index).now_or_never().is_none());
        }
        assert!(progress.waiting.lock().is_empty());
    }
}
