//! Which faults, in which order: a pure function of the seed. Owns the random numbers and the list of faults; does nothing to anyone.

use std::time::Duration;

use super::points::{self, Point, Role};

/// A stream of numbers that a seed decides (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.draw() % end
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
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
    /// The same, and with it everything that was not synced is lost.
    CutPower,
    /// SIGKILL of any node, and of another while the first one starts.
    KillTwo,
    /// SIGTERM of the leader, which must end with exit code 0.
    StopLeader,
    /// SIGSTOP of the leader for seconds.
    PauseLeader,
    /// SIGSTOP of a follower for seconds.
    PauseFollower,
    /// A follower is away until the log that it misses is gone: it gets a snapshot.
    FallBehind,
    /// A node is added under load, and removed again.
    GrowAndShrink,
    /// The leader is cut off from the others, both ways, for seconds.
    CutOffLeader,
    /// The same for a follower.
    CutOffFollower,
    /// What one node sends to the others is lost, or what they send to it.
    CutOneWay,
    /// A crash at a point before or after a durable step.
    Crash,
    /// A durable step fails with EIO: the node ends itself and says why.
    SyncError,
}

impl FaultKind {
    /// All of them.
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

    /// Whether it takes a network that can be cut.
    pub fn needs_network(self) -> bool {
        matches!(self, FaultKind::CutOffLeader | FaultKind::CutOffFollower | FaultKind::CutOneWay)
    }

    /// Whether it lasts for seconds: long enough for an election.
    fn lasts(self) -> bool {
        self.needs_network() || matches!(self, FaultKind::PauseLeader | FaultKind::PauseFollower)
    }

    /// How often it comes up in a round: crash points are many.
    pub fn weight(self) -> usize {
        match self {
            FaultKind::Crash => 3,
            _ => 1,
        }
    }

    /// As the command line names it.
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

    /// The kind of a name.
    pub fn named(name: &str) -> Option<FaultKind> {
        FaultKind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// One fault, all but which node has the role: that only the cluster knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What happens.
    pub kind: FaultKind,
    /// Chooses among the nodes that fit.
    pub draw: u64,
    /// Load before it.
    pub lead: Duration,
    /// How long it lasts, where that is a choice.
    pub hold: Duration,
    /// Where a crash or an error strikes, and whom; for `crash` and `sync-error` only.
    pub point: Option<(Point, Role)>,
}

/// The faults of a run, without end. Every kind comes up in each round, as often as its weight says, in an order that the seed decides;
/// the crash points take turns likewise.
#[derive(Clone, Debug)]
pub struct Plan {
    random: Random,
    kinds: Vec<FaultKind>,
    round: Vec<FaultKind>,
    crashes: Bag,
    errors: Bag,
}

/// Points in an order that the seed decides, again and again.
#[derive(Clone, Debug)]
struct Bag {
    all: Vec<(Point, Role)>,
    left: Vec<(Point, Role)>,
}

impl Bag {
    fn new(all: Vec<(Point, Role)>) -> Bag {
        Bag { all, left: Vec::new() }
    }

    fn draw(&mut self, random: &mut Random) -> Option<(Point, Role)> {
        if self.left.is_empty() {
            self.left.clone_from(&self.all);
            random.shuffle(&mut self.left);
        }
        self.left.pop()
    }
}

impl Plan {
    /// The plan of a seed over these kinds.
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
