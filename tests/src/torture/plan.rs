//! The faults and their order: a pure function of the seed. This file owns the random numbers and
//! the list of faults. It applies no fault.

use std::time::Duration;

use super::points::{self, Point, Role};

/// A stream of numbers that follows from a seed (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts the stream of a seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// Returns the next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `end`, which must not be 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.draw() % end
    }

    /// Puts the items into another order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for n in (1..items.len()).rev() {
            items.swap(n, self.below(n as u64 + 1) as usize);
        }
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }
}

/// Kinds of faults, as the command line names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// SIGKILL of the leader.
    KillLeader,
    /// SIGKILL of a follower.
    KillFollower,
    /// SIGKILL of every node at once.
    KillAll,
    /// SIGKILL of every node at once, with the loss of everything that was not synced.
    CutPower,
    /// SIGKILL of any node, and of another one while the first one starts.
    KillTwo,
    /// SIGTERM of the leader, which must end with exit code 0.
    StopLeader,
    /// SIGSTOP of the leader for seconds.
    PauseLeader,
    /// SIGSTOP of a follower for seconds.
    PauseFollower,
    /// A follower is down until the log that it misses is purged, so that it gets a snapshot.
    FallBehind,
    /// A node is added under load and removed again.
    GrowAndShrink,
    /// The leader is cut off from the others, in both directions, for seconds.
    CutOffLeader,
    /// A follower is cut off from the others, in both directions, for seconds.
    CutOffFollower,
    /// Messages of one node to the others are lost, or messages of the others to it.
    CutOneWay,
    /// The node crashes at a point before or after a durable step.
    Crash,
    /// A durable step fails with EIO, so the node must end itself and say why.
    SyncError,
}

impl FaultKind {
    /// All kinds.
    pub const ALL: [FaultKind; 15] = [
        FaultKind::KillLeader,
        FaultKind::KillFollower,
        FaultKind::KillAll,
        FaultKind::CutPower,
        FaultKind::KillTwo,
        FaultKind::StopLeader,
        FaultKind::PauseLeader,
        FaultKind::PauseFollower,
        FaultKind::FallBehind,
        FaultKind::GrowAndShrink,
        FaultKind::CutOffLeader,
        FaultKind::CutOffFollower,
        FaultKind::CutOneWay,
        FaultKind::Crash,
        FaultKind::SyncError,
    ];

    /// Tells whether it needs a network whose links can be cut.
    pub fn needs_network(self) -> bool {
        matches!(self, FaultKind::CutOffLeader | FaultKind::CutOffFollower | FaultKind::CutOneWay)
    }

    /// Tells whether it lasts for seconds, which is long enough for an election.
    fn lasts(self) -> bool {
        self.needs_network() || matches!(self, FaultKind::PauseLeader | FaultKind::PauseFollower)
    }

    /// Returns how often it is drawn in a round. There are many crash points, so a crash is drawn
    /// more often.
    pub fn weight(self) -> usize {
        match self {
            FaultKind::Crash => 3,
            _ => 1,
        }
    }

    /// Returns its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            FaultKind::KillLeader => "kill-leader",
            FaultKind::KillFollower => "kill-follower",
            FaultKind::KillAll => "kill-all",
            FaultKind::CutPower => "cut-power",
            FaultKind::KillTwo => "kill-two",
            FaultKind::StopLeader => "stop-leader",
            FaultKind::PauseLeader => "pause-leader",
            FaultKind::PauseFollower => "pause-follower",
            FaultKind::FallBehind => "fall-behind",
            FaultKind::GrowAndShrink => "grow-and-shrink",
            FaultKind::CutOffLeader => "cut-off-leader",
            FaultKind::CutOffFollower => "cut-off-follower",
            FaultKind::CutOneWay => "cut-one-way",
            FaultKind::Crash => "crash",
            FaultKind::SyncError => "sync-error",
        }
    }

    /// Returns the kind with this name.
    pub fn named(name: &str) -> Option<FaultKind> {
        FaultKind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// One fault, without the node that it hits: which node has a role is known only from the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Kind of the fault.
    pub kind: FaultKind,
    /// Number that chooses among the nodes with the role.
    pub draw: u64,
    /// Time under load before the fault.
    pub lead: Duration,
    /// Duration of the fault, where it can be chosen.
    pub hold: Duration,
    /// The point and the role of the node. For `crash` and `sync-error` only.
    pub point: Option<(Point, Role)>,
}

/// The endless sequence of faults of a run.
///
/// Every kind is drawn in each round, as often as its weight, in an order that the seed decides.
/// The crash points are drawn in the same way.
#[derive(Clone, Debug)]
pub struct Plan {
    random: Random,
    kinds: Vec<FaultKind>,
    round: Vec<FaultKind>,
    crashes: Bag<(Point, Role)>,
    errors: Bag<(Point, Role)>,
}

/// Things in an order that the seed decides, repeated without end.
#[derive(Clone, Debug)]
pub(crate) struct Bag<T> {
    all: Vec<T>,
    left: Vec<T>,
}

impl<T: Clone> Bag<T> {
    pub(crate) fn new(all: Vec<T>) -> Bag<T> {
        Bag { all, left: Vec::new() }
    }

    /// Returns the next one, or `None` if there is nothing at all.
    pub(crate) fn draw(&mut self, random: &mut Random) -> Option<T> {
        if self.left.is_empty() {
            self.left.clone_from(&self.all);
            random.shuffle(&mut self.left);
        }
        self.left.pop()
    }
}

impl Plan {
    /// Makes the plan of a seed over these kinds.
    pub fn new(seed: u64, kinds: &[FaultKind]) -> Plan {
        assert!(!kinds.is_empty(), "a plan has faults");
        Plan {
            random: Random::new(seed),
            kinds: kinds.iter().flat_map(|kind| std::iter::repeat_n(*kind, kind.weight())).collect(),
            round: Vec::new(),
            crashes: Bag::new(points::crashes()),
            errors: Bag::new(points::errors()),
        }
    }
}

impl Iterator for Plan {
    type Item = Fault;

    fn next(&mut self) -> Option<Fault> {
        if self.round.is_empty() {
            self.round.clone_from(&self.kinds);
            self.random.shuffle(&mut self.round);
        }
        let kind = self.round.pop()?;
        let point = match kind {
            FaultKind::Crash => self.crashes.draw(&mut self.random),
            FaultKind::SyncError => self.errors.draw(&mut self.random),
            _ => None,
        };
        let (from, to) = if kind.lasts() { (2_000, 5_000) } else { (0, 1_000) };
        let hold = self.random.millis(from, to);
        Some(Fault { kind, draw: self.random.draw(), lead: self.random.millis(0, 500), hold, point })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_is_the_same_plan() {
        let plan = |seed| Plan::new(seed, &FaultKind::ALL).take(300).collect::<Vec<_>>();
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7), plan(8));
    }

    #[test]
    fn every_fault_and_every_point_comes_up() {
        let crashes = points::crashes();
        let rounds = crashes.len().max(1);
        let round: usize = FaultKind::ALL.into_iter().map(FaultKind::weight).sum();
        let faults: Vec<Fault> = Plan::new(1, &FaultKind::ALL).take(rounds * round).collect();
        for kind in FaultKind::ALL {
            let count = faults.iter().filter(|fault| fault.kind == kind).count();
            assert_eq!(count, rounds * kind.weight(), "{}", kind.name());
        }
        for point in crashes {
            assert!(
                faults.iter().any(|fault| fault.kind == FaultKind::Crash && fault.point == Some(point)),
                "{point:?}"
            );
        }
    }

    #[test]
    fn names_are_read_back() {
        for kind in FaultKind::ALL {
            assert_eq!(FaultKind::named(kind.name()), Some(kind));
        }
        assert_eq!(FaultKind::named("kill"), None);
    }
}
