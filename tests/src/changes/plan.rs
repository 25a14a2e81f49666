//! The legs of a cluster and where a node dies in each: a pure function of the seed.

use crate::torture::plan::{Bag, Random};
use crate::torture::points::{Role, of_change, of_rollback};

/// One of so many legs has no kill, so that its pause can be told from that of an election.
const CALM_ONE_OF: u64 = 4;

/// The versions that run one after the other, and how the cluster comes to them. The first one is
/// version 1.
const COURSE: [(Step, u32); 10] = [
    (Step::Change, 2),
    (Step::Rollback, 1),
    (Step::Change, 2),
    (Step::Rollback, 1),
    (Step::Change, 2),
    (Step::Change, 3),
    (Step::Rollback, 2),
    (Step::Change, 3),
    (Step::Rollback, 2),
    (Step::Change, 3),
];

/// What an operator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// `lockstep upgrade`.
    Change,
    /// `lockstep rollback`.
    Rollback,
}

/// One change or rollback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leg {
    /// What is done.
    pub step: Step,
    /// The version that runs afterwards.
    pub version: u32,
    /// The failpoint at which a node dies, and the role that it has when it is chosen.
    pub kill: Option<(&'static str, Role)>,
    /// Number that chooses among the nodes with the role.
    pub draw: u64,
}

/// The endless sequence of the legs of clusters. Every step is drawn with every role before one
/// comes again.
#[derive(Clone, Debug)]
pub struct Plan {
    random: Random,
    changes: Bag<(&'static str, Role)>,
    rollbacks: Bag<(&'static str, Role)>,
}

impl Plan {
    /// Makes the plan of a seed.
    pub fn new(seed: u64) -> Plan {
        Plan { random: Random::new(seed), changes: Bag::new(of_change()), rollbacks: Bag::new(of_rollback()) }
    }

    /// Returns the legs of the next cluster.
    pub fn cluster(&mut self) -> Vec<Leg> {
        COURSE.into_iter().map(|(step, version)| self.leg(step, version)).collect()
    }

    fn leg(&mut self, step: Step, version: u32) -> Leg {
        let bag = match step {
            Step::Change => &mut self.changes,
            Step::Rollback => &mut self.rollbacks,
        };
        let is_calm = self.random.below(CALM_ONE_OF) == 0;
        let kill = if is_calm { None } else { bag.draw(&mut self.random) };
        Leg { step, version, kill, draw: self.random.draw() }
    }
}

/// Returns the legs of a cluster whose pauses are measured: two changes, and no kill.
pub fn calm() -> Vec<Leg> {
    [2, 3].map(|version| Leg { step: Step::Change, version, kill: None, draw: 0 }).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn legs(seed: u64, clusters: usize) -> Vec<Leg> {
        let mut plan = Plan::new(seed);
        (0..clusters).flat_map(|_| plan.cluster()).collect()
    }

    #[test]
    fn the_same_seed_is_the_same_plan() {
        assert_eq!(legs(7, 20), legs(7, 20));
        assert_ne!(legs(7, 20), legs(8, 20));
    }

    #[test]
    fn every_step_comes_up_with_every_role() {
        let legs = legs(1, 12);
        for (step, kills) in [(Step::Change, of_change()), (Step::Rollback, of_rollback())] {
            for kill in kills {
                assert!(legs.iter().any(|leg| leg.step == step && leg.kill == Some(kill)), "{kill:?}");
            }
        }
        assert!(legs.iter().any(|leg| leg.kill.is_none()));
    }

    #[test]
    fn a_rollback_only_takes_back_the_change_before_it() {
        let mut before = Vec::from([1]);
        for (step, version) in COURSE {
            match step {
                Step::Change => before.push(version),
                Step::Rollback => {
                    before.pop();
                    assert_eq!(before.last(), Some(&version));
                }
            }
        }
        assert_eq!(before, [1, 2, 3]);
    }
}
