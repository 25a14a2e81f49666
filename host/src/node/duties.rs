//! A node's background tasks that are of no group: regular checks of the room on the disk, and of
//! the tasks themselves. None talks to a client.

use tokio::task::JoinSet;
use tokio::time::{Duration, sleep};

use crate::store::Space;

/// Time between two checks of the room on the disk. In that time a disk of 1 GB/s fills half of the
/// default `--min_free_bytes`.
const SPACE_PAUSE: Duration = Duration::from_millis(250);

/// Checks the room on the disk for as long as the node lives.
pub(super) async fn watch_space(space: Space) {
    loop {
        sleep(SPACE_PAUSE).await;
        let looked = space.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || looked.look()).await {
            tracing::error!(%error, "looking at the room on the disk failed");
        }
    }
}

/// Completes when one of the tasks has panicked. Without that task the node would answer and do
/// only half of its work.
pub(super) async fn panicked(tasks: &mut JoinSet<()>) -> String {
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended
            && error.is_panic()
        {
            return format!("a task of this node panicked: {error}");
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_is_noticed_and_one_that_ends_is_not() {
        let mut tasks = JoinSet::new();
        tasks.spawn(async {});
        let ended = tokio::time::timeout(Duration::from_millis(50), panicked(&mut tasks)).await;
        assert!(ended.is_err(), "{ended:?}");
        tasks.spawn(async { panic!("a bug") });
        assert!(panicked(&mut tasks).await.contains("a bug"));
    }
}
