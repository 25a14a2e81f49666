//! A node's background task that is of no group: regular checks of the room on the disk. It talks
//! to no client.

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
