//! Gets the components that the machine needs, and makes them ready: from `components/` on the
//! disk, or else from another node. It verifies and keeps each one before the machine may run it,
//! and puts none into use.

use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use lockstep_proto::peer::Route;
use openraft::async_runtime::WatchReceiver;
use tokio::time::sleep;

use super::Admission;
use crate::codec::{Change, Genesis};
use crate::guest::Component;
use crate::logs::Sparse;
use crate::machine;
use crate::raft::membership::join::fetch_component;
use crate::raft::{GroupCell, Raft, RaftCell};
use crate::types::{Addresses, GROUP, NodeId, StoredMembership, hex};

/// Shortest pause before the machine's component is looked for again.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// Longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// Why a component is not ready.
enum Lack {
    /// No node that was asked has it.
    Absent(String),
    /// This node cannot run it, wherever it comes from.
    Unfit(String),
}

impl Lack {
    fn words(self) -> String {
        match self {
            Lack::Absent(why) | Lack::Unfit(why) => why,
        }
    }
}

/// Says which component this node waits for, and why it does not have it.
fn absent(profile: &Genesis, why: &str) -> String {
    format!(
        "this node cannot go on without component {}, which it does not have, and no other node has given it: {why}",
        hex(&profile.component_hash)
    )
}

impl Admission {
    /// Makes this node ready for a change. See [`crate::raft::membership::join::Host::prepare`].
    pub(super) fn prepare_change(
        &self,
        change: &Change,
        holder: Option<(Addresses, Route)>,
    ) -> BoxFuture<'static, Result<String, String>> {
        let cluster_id = self.cluster.get().map(|cluster| cluster.id).unwrap_or_default();
        let (admission, profile) = (self.clone(), machine::profile_of(change, &cluster_id));
        let prepare = async move {
            let holders = holder.into_iter().collect();
            let component = admission.make_ready(&profile, holders).await.map_err(Lack::words)?;
            // It may have been in use already, and then it is not wanted beside that.
            component.engine().build().map(str::to_owned).map_err(|error| error.to_string())
        };
        prepare.boxed()
    }

    /// Gives the machine each component that it waits for, as long as the node runs. `recorded` are
    /// the members that its state knows, until `raft` is set and says which there are.
    pub(crate) async fn supply(self, recorded: StoredMembership, raft: RaftCell) {
        let mut wanted = self.machine.watch_wanted();
        let (mut pause, told) = (PAUSE_MIN, Sparse::default());
        loop {
            let profile = wanted.borrow_and_update().clone();
            let Some(profile) = profile else {
                pause = PAUSE_MIN;
                match wanted.changed().await {
                    Ok(()) => continue,
                    Err(_) => return,
                }
            };
            let made = self.make_ready(&profile, self.holders(&recorded, raft.get().as_deref())).await;
            if let Err(lack) = made {
                match &lack {
                    Lack::Unfit(why) => self.machine.cannot_run_wanted(&profile, why.clone()),
                    Lack::Absent(why) => self.machine.lacks_wanted(&profile, absent(&profile, why)),
                }
                if let Some(left_out) = told.due() {
                    let why = lack.words();
                    tracing::warn!(why, left_out, "the component that this node waits for is not ready");
                }
            }
            tokio::select! {
                () = sleep(pause) => pause = PAUSE_MAX.min(2 * pause),
                changed = wanted.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Returns the other members, and the node that asked this one in, with the routes to them.
    fn holders(&self, recorded: &StoredMembership, raft: Option<&Raft>) -> Vec<(Addresses, Route)> {
        let me = self.identity.lock().node_id;
        let members = |stored: &StoredMembership| -> Vec<(NodeId, Addresses)> {
            stored.membership().nodes().map(|(id, node)| (*id, node.clone())).collect()
        };
        let current = raft.map(|raft| members(&raft.server_metrics().borrow_watched().membership_config));
        // Raft names none before its core has begun.
        let mut nodes = current.filter(|nodes| !nodes.is_empty()).unwrap_or_else(|| members(recorded));
        nodes.extend(self.inviter.lock().clone());
        let cell = GroupCell::new(self.cluster.clone(), GROUP);
        let others = nodes.into_iter().filter(|(id, _)| *id != me);
        others.filter_map(|(id, node)| Some((node, cell.route(me, id)?))).collect()
    }

    /// Verifies, compiles, keeps and offers the component of a profile. If it is not on the disk,
    /// asks one holder after the other.
    async fn make_ready(&self, profile: &Genesis, holders: Vec<(Addresses, Route)>) -> Result<Component, Lack> {
        if let Some(ready) = self.machine.component_for(profile) {
            return Ok(ready);
        }
        let hash: [u8; 32] = profile.component_hash.as_ref().try_into().map_err(|_| {
            Lack::Unfit(format!("the hash of its component has {} bytes", profile.component_hash.len()))
        })?;
        let limits = machine::limits_of(profile).map_err(Lack::Unfit)?;
        let admission = self.clone();
        let kept = tokio::task::spawn_blocking(move || admission.recorded(&hash)).await;
        let encoded = match kept.map_err(|error| Lack::Absent(error.to_string()))? {
            Ok(encoded) => encoded.into(),
            Err(problem) => self.fetch(hash, holders, problem).await?,
        };
        let admission = self.clone();
        let compiled = tokio::task::spawn_blocking(move || {
            let component = admission.compile(&encoded, &limits)?;
            admission.directory.save_component(&hash, &encoded)?;
            admission.machine.offer_component(component.clone());
            anyhow::Ok(component)
        });
        match compiled.await {
            Ok(Ok(component)) => Ok(component),
            Ok(Err(error)) => Err(Lack::Unfit(format!("component {} cannot run here: {error:#}", hex(&hash)))),
            Err(error) => Err(Lack::Absent(error.to_string())),
        }
    }

    /// Asks one holder after the other. `problem` says what is wrong with the disk.
    async fn fetch(
        &self,
        hash: [u8; 32],
        holders: Vec<(Addresses, Route)>,
        mut problem: String,
    ) -> Result<Bytes, Lack> {
        for (holder, route) in holders {
            match fetch_component(self.cluster.dialer(), &holder, route, hash).await {
                Ok(encoded) => {
                    tracing::info!(component = hex(&hash), from = %holder, "a component was fetched");
                    return Ok(encoded);
                }
                Err(status) => problem = status.message().to_owned(),
            }
        }
        Err(Lack::Absent(problem))
    }
}
