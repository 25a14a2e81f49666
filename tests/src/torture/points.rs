//! The crash points of the host that the torture uses, and what makes a node reach each of them.
//! The names are the host's (`host/src/faults.rs`); a test checks that both lists agree.

/// What makes a node reach a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setup {
    /// Load is enough. It also causes snapshots and purges.
    Load,
    /// An election. The leader is killed.
    Election,
    /// A snapshot from the leader. The node is down until the log that it needs is purged.
    Install,
    /// A return of the leader to a cluster with another leader. It has an entry that no other node
    /// stored, which is cut off.
    Rejoin,
    /// A start of the node.
    Start,
}

/// A step at which the node ends as with `kill -9`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Name of the point in the host.
    pub name: &'static str,
    /// What makes a node reach it.
    pub setup: Setup,
}

/// Role of the node that is hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The leader.
    Leader,
    /// A follower.
    Follower,
}

const fn point(name: &'static str, setup: Setup) -> Point {
    Point { name, setup }
}

/// Points before and after each durable step.
pub const CRASHES: &[Point] = &[
    point("log-before-sync", Setup::Load),
    point("log-after-sync", Setup::Load),
    point("vote-before-sync", Setup::Election),
    point("vote-after-sync", Setup::Election),
    point("truncate-before-sync", Setup::Rejoin),
    point("truncate-after-sync", Setup::Rejoin),
    point("purge-before-sync", Setup::Load),
    point("purge-after-sync", Setup::Load),
    point("synced-before-write", Setup::Load),
    point("synced-after-write", Setup::Load),
    point("state-before-flush", Setup::Load),
    point("state-after-flush", Setup::Load),
    point("checkpoint-before-make", Setup::Load),
    point("checkpoint-before-publish", Setup::Load),
    point("checkpoint-after-publish", Setup::Load),
    point("install-before-flush", Setup::Install),
    point("install-before-current", Setup::Install),
    point("install-after-current", Setup::Install),
];

/// Steps that fail with EIO. A node whose disk fails must acknowledge nothing more and must end.
pub const ERRORS: &[Point] = &[
    point("log-before-sync", Setup::Load),
    point("log-after-sync", Setup::Load),
    point("vote-before-sync", Setup::Election),
    point("truncate-before-sync", Setup::Rejoin),
    point("purge-before-sync", Setup::Load),
    point("synced-before-write", Setup::Load),
    point("state-before-flush", Setup::Load),
    point("state-read", Setup::Load),
    point("install-before-current", Setup::Install),
];

/// Steps of a change of the guest before its entry is in the log, in order. Who dies there leaves
/// the old version everywhere, and the change has to be asked for again. `cargo xtask changes`
/// kills nodes there, and at the steps below.
pub const BEFORE_CHANGE: [&str; 4] = ["change-prepared", "change-marked", "rehearsal-migrated", PROPOSE];

/// The one step that the leader alone takes.
pub const PROPOSE: &str = "change-before-propose";

/// Step of a rollback before its entry is in the log: the commands since the change run once more.
pub const BEFORE_ROLLBACK: [&str; 1] = ["shadow-running"];

/// Steps of a change of the guest on every node behind its entry, in order. They end in the new
/// version.
pub const CHANGE: [&str; 4] =
    ["change-before-migrate", "change-before-commit", "change-after-commit", "change-after-switch"];

/// Steps of a rollback of a change on every node behind its entry, in order. The state of the old
/// guest is put in force as one that was sent.
pub const ROLLBACK: [&str; 5] = [
    "rollback-before-install",
    "install-before-flush",
    "install-before-current",
    "install-after-current",
    "rollback-after-install",
];

/// Points of the host that the torture does not use, each with its purpose.
pub const OTHERS: &[(&str, &str)] = &[
    ("identity-before-sync", "a first start or a join: no load is there yet"),
    ("identity-after-sync", "a first start or a join: no load is there yet"),
    ("log-read", "reads of what is no longer in memory: the store's scenarios fail them"),
    ("archive-sync", "a segment of the log archive: its scenarios"),
    ("view-read", "reads of queries: the store's scenarios fail them"),
    ("peer-append-refused", "a refused link: scenarios of changes of leader"),
    ("peer-transfer-refused", "a refused hand-over: scenarios of changes of leader"),
    ("probe-refused", "a refused probe: scenarios of changes of leader"),
    ("apply-diverge", "a state that differs: scenarios of the state hash"),
    ("guest-diverge", "a guest that differs: scenarios of the state hash"),
    ("component-before-write", "a member without room: scenarios of an upgrade"),
    ("build-differs", "another build of the engine: scenarios of the state hash"),
    ("state-cramped", "another life of a state: scenarios of equal hashes"),
    ("state-piled", "another life of a state: scenarios of equal hashes"),
    ("apply-entry", "holds apply up: scenarios of a slow guest"),
    ("membership-caught-up", "a change left half-way: scenarios of membership"),
    ("membership-before-voters", "a change left half-way: scenarios of membership"),
    ("membership-after-voters", "a change left half-way: scenarios of membership"),
    ("recover-after-identity", "an offline command: scenarios of recovery"),
    ("recover-after-vote", "an offline command: scenarios of recovery"),
    ("snapshot-send-frame", "a sender that dies: scenarios of snapshots"),
    ("snapshot-receive-frame", "a receiver that dies: scenarios of snapshots"),
    ("snapshot-install", "an install that fails: scenarios of snapshots"),
    ("raft-core", "a Raft core that stops: scenarios of the watchdog"),
    ("log-skip-sync", "planted: the log is written and not synced"),
    ("peer-skip-append", "planted: a follower says to have stored what it did not"),
    ("read-skip-index", "planted: a linearizable read asks no leader"),
];

/// Returns every step of a change with every role that takes it.
pub fn of_change() -> Vec<(&'static str, Role)> {
    steps_with_roles(BEFORE_CHANGE.iter().chain(&CHANGE))
}

/// Returns the same for a rollback.
pub fn of_rollback() -> Vec<(&'static str, Role)> {
    steps_with_roles(BEFORE_ROLLBACK.iter().chain(&ROLLBACK))
}

fn steps_with_roles<'a>(steps: impl Iterator<Item = &'a &'static str>) -> Vec<(&'static str, Role)> {
    let roles = |step: &str| if step == PROPOSE { &[Role::Leader][..] } else { &[Role::Leader, Role::Follower] };
    steps.flat_map(|step| roles(step).iter().map(|role| (*step, *role))).collect()
}

fn with_roles(points: &[Point]) -> Vec<(Point, Role)> {
    let roles = |point: &Point| match point.setup {
        Setup::Load => &[Role::Leader, Role::Follower][..],
        Setup::Rejoin => &[Role::Leader],
        Setup::Election | Setup::Install | Setup::Start => &[Role::Follower],
    };
    points.iter().flat_map(|point| roles(point).iter().map(|role| (*point, *role))).collect()
}

/// Returns every crash point with every role that can reach it.
pub fn crashes() -> Vec<(Point, Role)> {
    with_roles(CRASHES)
}

/// Returns the same for [`ERRORS`].
pub fn errors() -> Vec<(Point, Role)> {
    with_roles(ERRORS)
}
