//! A value that is made anew for those who ask, and only once for all who ask while another is
//! being made. So a flood of questions costs no more than one making after the other. Nobody gets a
//! value whose making began before it asked. Knows no value.

use std::future::Future;

use tokio::sync::Mutex;
use tokio::time::Instant;

/// The value that was made last, and when its making began.
#[derive(Debug)]
pub(super) struct Fresh<T>(Mutex<Option<(Instant, T)>>);

impl<T> Default for Fresh<T> {
    fn default() -> Fresh<T> {
        Fresh(Mutex::new(None))
    }
}

impl<T: Clone> Fresh<T> {
    /// Returns a value whose making begins after this call.
    pub(super) async fn get<F: Future<Output = T>>(&self, make: impl FnOnce() -> F) -> T {
        let asked = Instant::now();
        let mut last = self.0.lock().await;
        if let Some((begun, value)) = &*last
            && *begun > asked
        {
            return value.clone();
        }
        let begun = Instant::now();
        let value = make().await;
        *last = Some((begun, value.clone()));
        value
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use futures::future::join_all;
    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn all_who_ask_meanwhile_share_the_next_one() {
        let (fresh, made, go) = (Fresh::default(), AtomicU64::new(0), Notify::new());
        let make = || async {
            let number = made.fetch_add(1, Relaxed);
            go.notified().await;
            number
        };
        let first = fresh.get(make);
        tokio::pin!(first);
        assert!(futures::poll!(&mut first).is_pending());
        let mut others = Box::pin(join_all((0..20).map(|_| fresh.get(make))));
        assert!(futures::poll!(&mut others).is_pending());
        go.notify_one();
        assert_eq!(first.await, 0);
        assert!(futures::poll!(&mut others).is_pending(), "what was begun before they asked is not for them");
        go.notify_one();
        assert_eq!(others.await, vec![1; 20]);
        go.notify_one();
        assert_eq!(fresh.get(make).await, 2);
    }

    #[tokio::test]
    async fn one_who_leaves_keeps_nobody() {
        let fresh = Fresh::default();
        let mut leaving = Box::pin(fresh.get(std::future::pending::<u64>));
        assert!(futures::poll!(&mut leaving).is_pending());
        drop(leaving);
        assert_eq!(fresh.get(|| async { 7 }).await, 7);
    }
}
