//! Owns which component this node may run and which cluster it is in: loads, stores and compares
//! components, and records the cluster on disk. Sends nothing to others; `raft/membership/join.rs`
//! does that through the [`Host`] that this implements. `admission/keeping.rs` keeps components for
//! a change, and `admission/supply.rs` gets those that the machine waits for.

mod keeping;
mod supply;

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use crate::api;
use crate::codec::{Change, Genesis};
use crate::faults;
use crate::guest::{Component, Engine, Limits, Shelf};
use crate::machine::{self, Machine, SemanticsRange};
use crate::raft::ClusterCell;
use crate::raft::membership::join::{ComponentId, Host, JoinOffer};
use crate::store::{DataDir, LogDisk};
use crate::types::{Addresses, Cluster, Identity, NodeId, hex};
use lockstep_proto::peer::Route;

/// A node's own admission. Cheap to clone; clones share everything.
#[derive(Clone)]
pub(crate) struct Admission {
    directory: Arc<DataDir>,
    disk: LogDisk,
    machine: Machine,
    cluster: ClusterCell,
    identity: Arc<Mutex<Identity>>,
    /// The component that the node was started with or has fetched.
    current: Arc<Mutex<Option<ComponentId>>>,
    /// The node that asked this one in, in this run of the process. It has the component, and the
    /// membership may not be here yet.
    inviter: Arc<Mutex<Option<(NodeId, Addresses)>>>,
}

impl Admission {
    pub(crate) fn new(
        directory: Arc<DataDir>,
        disk: LogDisk,
        machine: Machine,
        cluster: ClusterCell,
        identity: Identity,
    ) -> Admission {
        let (identity, current, inviter) = (Arc::new(Mutex::new(identity)), Arc::default(), Arc::default());
        Admission { directory, disk, machine, cluster, identity, current, inviter }
    }

    pub(crate) fn cluster(&self) -> Option<Cluster> {
        self.cluster.get()
    }

    pub(crate) fn component_hash(&self) -> Option<[u8; 32]> {
        self.current.lock().map(|component| component.hash)
    }

    /// Returns the genesis entry of this node's cluster.
    ///
    /// `None` if the node does not know both cluster and component.
    pub(crate) fn genesis_to_propose(&self) -> Option<Genesis> {
        let (cluster, current) = (self.cluster.get()?, (*self.current.lock())?);
        Some(machine::genesis_of(cluster.id, &self.machine.component()?, current.source_hash))
    }

    /// Loads the component before Raft starts. Blocks, because it compiles.
    ///
    /// A member loads the component that its state runs, whatever `--fsm` names; any other node
    /// loads the one that `--fsm` names, if any. A member that lacks a component which it did not
    /// enter the cluster with starts without it, and fetches it later. Returns why this node may
    /// not take part in its cluster, if so: it has another component only, or none, or this build
    /// does not run the profile.
    pub(crate) fn load_at_start(&self, fsm: Option<&Path>) -> anyhow::Result<Option<String>> {
        let brought = fsm.map(read).transpose()?;
        let Some(cluster) = self.cluster.get() else {
            if let (Some(path), Some((id, encoded))) = (fsm, brought) {
                let component = self.compile(&encoded, &founding_limits()).with_context(|| refusal(path))?;
                self.install(id, component)?;
            }
            return Ok(None);
        };
        let genesis = self.machine.genesis();
        if let Some(genesis) = &genesis
            && genesis.cluster_id != cluster.id[..]
        {
            bail!(
                "state/ holds the state of cluster {}, and raft/ is of a node of cluster {}: directories of two nodes were mixed; put back \
                 what belongs here, or remove this node from the cluster and add it again with an empty data directory",
                hex(&genesis.cluster_id),
                cluster.id_hex()
            );
        }
        let profile = self.machine.profile().map(|(_, profile)| profile);
        let entered_with = ComponentId { hash: cluster.component_hash, source_hash: cluster.component_hash };
        let recorded = profile.as_ref().and_then(id_of).unwrap_or(entered_with);
        if let (Some(path), Some((id, encoded))) = (fsm, &brought)
            && !same_component(*id, recorded)
            && let Some(unfit) = self.set_aside((path, *id, &encoded[..]), recorded, entered_with)
        {
            return Ok(Some(unfit));
        }
        let encoded = match (self.recorded(&recorded.hash), fsm.zip(brought)) {
            (Ok(encoded), _) => encoded,
            (Err(problem), Some((path, (id, encoded)))) if id.hash == recorded.hash => {
                tracing::warn!("{problem}; {} is that component, and takes its place", path.display());
                encoded.to_vec()
            }
            (Err(problem), _) if recorded.hash != entered_with.hash => {
                tracing::warn!("{problem}; it is fetched from another node");
                return Ok(None);
            }
            (Err(problem), brought) => {
                // `--fsm` names a file with another encoding in this version, or it would have
                // replaced the recorded one.
                let bring = match brought {
                    None => "start the node with --fsm <the file that the cluster was started with>, or ",
                    Some(_) => "",
                };
                return Ok(Some(format!(
                    "{problem}; {bring}copy that file of components/ from another node of the cluster, and start it again"
                )));
            }
        };
        let limits = match profile.as_ref().map(machine::limits_of) {
            Some(Err(why)) => return Ok(Some(why)),
            Some(Ok(limits)) => limits,
            None => founding_limits(),
        };
        let component = match self.compile(&encoded, &limits) {
            Ok(component) => component,
            // It ran here once: under another version of this program, or on a machine with more
            // room.
            Err(error) => {
                let why = format!("the cluster's component cannot run here: {error:#}");
                return Ok(Some(format!(
                    "{why}; start the version that the cluster runs, or mend that and start the node again"
                )));
            }
        };
        self.install(recorded, component)?;
        Ok(self.machine.check_fitness().err())
    }

    /// Deals with a file of `--fsm` that is not the component which this node's state runs. The
    /// cluster may have changed to it while this node was down, so it is kept for when the log says
    /// so. Returns why this node may not take part in its cluster, if so: it has nothing else to
    /// run.
    fn set_aside(
        &self,
        (path, id, encoded): (&Path, ComponentId, &[u8]),
        recorded: ComponentId,
        entered_with: ComponentId,
    ) -> Option<String> {
        let (file, own) = (format!("{} is component {}", path.display(), hex(&id.hash)), hex(&recorded.hash));
        if self.is_known(id, entered_with) {
            tracing::warn!("{file}; this node's state runs {own}, and so does this node: --fsm may be left out");
            return None;
        }
        if let Err(problem) = self.recorded(&recorded.hash) {
            return Some(format!(
                "{file}, but this node's state runs {own}, and {problem}; start it without --fsm, or with the file that the \
                 cluster was started with"
            ));
        }
        tracing::warn!(
            "{file}; this node's state runs {own}, and so does this node, unless the log says that the cluster has changed since"
        );
        if let Err(error) = self.directory.save_component(&id.hash, encoded) {
            tracing::warn!(%error, "the component of --fsm cannot be kept; it is fetched if the cluster runs it");
        }
        None
    }

    /// Returns whether a component that is not in force is one that the cluster ran before, or that
    /// this node keeps for a change.
    fn is_known(&self, id: ComponentId, entered_with: ComponentId) -> bool {
        let genesis = self.machine.genesis().as_ref().and_then(id_of);
        let before = self.machine.profile_before().as_ref().and_then(id_of);
        let is_recorded =
            [Some(entered_with), genesis, before].into_iter().flatten().any(|one| same_component(id, one));
        is_recorded || self.recorded(&id.hash).is_ok()
    }

    /// Returns a component as this node stores it, or what is wrong with that.
    fn recorded(&self, hash: &[u8; 32]) -> Result<Vec<u8>, String> {
        let place = || format!("{}/{}.wasm", self.directory.components().display(), hex(hash));
        match self.directory.load_component(hash) {
            Ok(Some(encoded)) if blake3::hash(&encoded).as_bytes() == hash => Ok(encoded),
            Ok(Some(_)) => Err(format!("{} is damaged: its BLAKE3 is not its name", place())),
            Ok(None) => Err(format!("{}, the component that this node's cluster runs, is missing", place())),
            Err(error) => Err(error.to_string()),
        }
    }

    fn compile(&self, encoded: &[u8], limits: &Limits) -> anyhow::Result<Component> {
        let engine = Engine::new(limits)?;
        match engine.build() {
            Ok(build) => tracing::debug!(build, "guests are run so"),
            Err(error) => {
                tracing::warn!(%error, "the build of the engine cannot be described; nodes cannot compare it")
            }
        }
        let component = Component::load_from(&engine, encoded, &*self.directory)?;
        api::admit(&component)?;
        Ok(component)
    }

    /// Stores the component on disk and puts it into use.
    fn install(&self, id: ComponentId, component: Component) -> anyhow::Result<()> {
        self.directory.save_component(&id.hash, component.encoded())?;
        self.machine.set_component(component);
        *self.current.lock() = Some(id);
        Ok(())
    }

    /// Records on disk which cluster this node is in, for ever. Durable on return.
    pub(crate) fn stamp(&self, cluster: Cluster) -> anyhow::Result<()> {
        let mut identity = self.identity.lock();
        if let Some(current) = &identity.cluster
            && current.id != cluster.id
        {
            bail!("this node is already in cluster {}, it cannot enter {}", current.id_hex(), cluster.id_hex());
        }
        let stamped = Identity { cluster: Some(cluster.clone()), ..identity.clone() };
        self.disk.save_identity(&stamped)?;
        *identity = stamped;
        self.cluster.set(cluster.clone());
        tracing::info!(cluster = cluster.id_hex(), "this node is in a cluster now");
        Ok(())
    }

    fn enter(&self, offer: JoinOffer) -> anyhow::Result<()> {
        let limits = machine::limits_of(&offer.genesis).map_err(anyhow::Error::msg)?;
        let hash = offer.cluster.component_hash;
        let source_hash = offer.genesis.source_hash.as_ref().try_into().unwrap_or(hash);
        let encoded = match (offer.component, self.machine.component()) {
            (Some(fetched), _) => fetched,
            (None, Some(own)) => own.encoded().clone(),
            (None, None) => bail!("no component was offered and this node brought none"),
        };
        if blake3::hash(&encoded).as_bytes() != &hash {
            bail!("the component here is not {}, which the cluster runs", hex(&hash));
        }
        let component = self.compile(&encoded, &limits).context("the cluster's component cannot run on this node")?;
        self.install(ComponentId { hash, source_hash }, component)?;
        tracing::info!(leader = %offer.leader, "asked in by the leader");
        *self.inviter.lock() = Some((offer.leader_id, offer.leader));
        self.stamp(offer.cluster)
    }
}

/// Reads the file of `--fsm`: returns its two hashes and the encoded component.
pub(super) fn read(path: &Path) -> anyhow::Result<(ComponentId, Bytes)> {
    let file = std::fs::read(path).with_context(|| format!("--fsm: cannot read {}", path.display()))?;
    let encoded = Component::encode(&file).with_context(|| refusal(path))?;
    let id = ComponentId { hash: *blake3::hash(&encoded).as_bytes(), source_hash: *blake3::hash(&file).as_bytes() };
    Ok((id, encoded))
}

/// Returns the limits of a cluster that this node founds.
fn founding_limits() -> Limits {
    SemanticsRange::of_this_build().founding_limits()
}

fn refusal(path: &Path) -> String {
    format!("--fsm: {} is refused", path.display())
}

/// Returns the component that a profile names.
pub(super) fn id_of(profile: &Genesis) -> Option<ComponentId> {
    let hash = profile.component_hash.as_ref().try_into().ok()?;
    Some(ComponentId { hash, source_hash: profile.source_hash.as_ref().try_into().unwrap_or(hash) })
}

/// Compares by the encoded component, or by the file that was encoded once: no node re-encodes a
/// recorded component.
pub(super) fn same_component(a: ComponentId, b: ComponentId) -> bool {
    a.hash == b.hash || a.source_hash == b.source_hash
}

/// Compiled code is stored beside its component.
impl Shelf for DataDir {
    fn take(&self, name: &str) -> Option<Vec<u8>> {
        self.load_code(name).unwrap_or_else(|error| {
            tracing::warn!(%error, "compiled code cannot be read; it is compiled again");
            None
        })
    }

    fn put(&self, name: &str, replaces: &str, code: &[u8]) {
        if let Err(error) = self.save_code(name, replaces, code) {
            tracing::warn!(%error, "compiled code cannot be kept; the next start compiles again");
        }
    }
}

impl Host for Admission {
    fn boot(&self) -> u64 {
        self.identity.lock().boot
    }

    fn component(&self) -> Option<ComponentId> {
        let in_force = self.machine.profile().and_then(|(_, profile)| id_of(&profile));
        in_force.or(*self.current.lock())
    }

    fn build(&self) -> Option<String> {
        let build = self.machine.component()?.engine().build().ok()?.to_owned();
        Some(if faults::is_set("build-differs") { format!("{build}, planted") } else { build })
    }

    fn profile(&self) -> Option<(u64, Genesis)> {
        self.machine.profile()
    }

    fn sending_to(&self, node: NodeId) -> Option<machine::SendAttempt> {
        self.machine.snapshots().transfers().progress_to(node)
    }

    fn load_component(&self, hash: &[u8; 32]) -> Result<Option<Vec<u8>>, String> {
        self.directory.load_component(hash).map_err(|error| error.to_string())
    }

    fn adopt(&self, offer: JoinOffer) -> BoxFuture<'static, Result<(), String>> {
        let desk = self.clone();
        Box::pin(async move {
            let entered = tokio::task::spawn_blocking(move || desk.enter(offer)).await;
            entered.map_err(|error| error.to_string())?.map_err(|error| format!("{error:#}"))
        })
    }

    fn prepare(
        &self,
        change: Change,
        holder: Option<(Addresses, Route)>,
    ) -> BoxFuture<'static, Result<String, String>> {
        self.prepare_change(&change, holder)
    }
}
