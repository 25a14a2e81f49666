//! The crash points of the host that torture strikes, and what it takes to reach each. The names are the host's
//! (`host/src/faults.rs`); a test holds that both lists agree.

/// What makes a node pass a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setup {
    /// Load is enough; snapshots and purges come with it.
    Load,
    /// An election: the leader is killed.
    Election,
    /// A snapshot from the leader: the node was away until its log was gone.
    Install,
    /// The leader wrote alone and comes back to another one: what nobody else has is cut off.
    Rejoin,
    /// A start.
    Start,
}

/// A step at which the node ends as by `kill -9`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// The host's name for it.
    pub name: &'static str,
    /// What it takes.
    pub setup: Setup,
}

/// Which node is struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The leader.
    Leader,
    /// One that follows.
    Follower,
}

const fn point(name: &'static str, setup: Setup) -> Point {
    Point { name, setup }
}

/// Before and after each durable step.
pub const CRASHES: &[Point] = &[point("log-before-sync", Setup::Load), point("log-after-sync", Setup::Load)];

/// Steps that fail with EIO: a node that cannot sync must acknowledge nothing more and end.
pub const ERRORS: &[Point] = &[point("log-before-sync", Setup::Load)];

/// Points of the host that are no crash points, with what they are for.
pub const OTHERS: &[(&str, &str)] = &[
    ("log-skip-sync", "planted: the log is written and not synced"),
    ("peer-skip-append", "planted: a follower says to have stored what it did not"),
    ("read-skip-index", "planted: a linearizable read asks no leader"),
];

fn with_roles(points: &[Point]) -> Vec<(Point, Role)> {
    let roles = |point: &Point| match point.setup {
        Setup::Load => &[Role::Leader, Role::Follower][..],
        Setup::Rejoin => &[Role::Leader],
        Setup::Election | Setup::Install | Setup::Start => &[Role::Follower],
    };
    points.iter().flat_map(|point| roles(point).iter().map(|role| (*point, *role))).collect()
}

/// Every crash point with every role that can reach it.
pub fn crashes() -> Vec<(Point, Role)> {
    with_roles(CRASHES)
}

/// The same for [`ERRORS`].
pub fn errors() -> Vec<(Point, Role)> {
    with_roles(ERRORS)
}
