//! Asks every member which semantics its build runs, before the number of the cluster is raised. It
//! proposes nothing. A member that comes back later with an older build is unfit: its own machine
//! says so when it applies the entry.

use futures::future::join_all;

use super::{Upgrades, of_all};
use crate::raft::membership::Server;
use crate::raft::membership::builds::Build;
use crate::raft::upgrade::stopped::Stopped;

impl Upgrades {
    /// Checks that every member, voter or not, is reached and runs this number.
    pub(super) async fn require_builds(&self, semantics: u32, servers: &[Server]) -> Result<(), Stopped> {
        let asked = join_all(servers.iter().map(|server| async move {
            let build = match self.asked(server) {
                Some(asked) => asked.build().await?,
                None => Build::own(),
            };
            build.check(semantics)
        }));
        let found = of_all(servers, asked.await);
        found.map(drop).map_err(|members| Stopped::Older { semantics, members })
    }
}
