//! How near a limit is: how much of it is in use, and how much there may be. Operators see it. It
//! refuses nothing, and knows no limit by its name.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// How near one limit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What is limited, with its unit, as the label of a metric names it.
    pub name: &'static str,
    /// How much is in use now.
    pub used: u64,
    /// How much there may be.
    pub max: u64,
}

impl Limit {
    /// Makes one of sizes or counts of this process.
    pub fn new(name: &'static str, used: usize, max: usize) -> Limit {
        Limit { name, used: used as u64, max: max as u64 }
    }
}

/// The counters of many things that come and go, such as connections. Each is gone when its last
/// owner drops it.
#[derive(Debug)]
pub struct Many<C>(Mutex<Vec<Weak<C>>>);

impl<C> Default for Many<C> {
    fn default() -> Many<C> {
        Many(Mutex::default())
    }
}

impl<C> Many<C> {
    /// Adds the counter of something new.
    pub fn add(&self, counter: &Arc<C>) {
        let mut all = self.0.lock();
        if all.len() == all.capacity() {
            all.retain(|one| one.strong_count() > 0);
        }
        all.push(Arc::downgrade(counter));
    }

    /// Returns the most that any of them has; 0 if there is none.
    pub fn most(&self, of: impl Fn(&C) -> u64) -> u64 {
        self.0.lock().iter().filter_map(Weak::upgrade).map(|one| of(&one)).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_is_of_those_that_are_there_and_the_others_are_forgotten() {
        let many = Many::default();
        let kept: Vec<_> = [3, 7, 5].map(Arc::new).into();
        for number in 0..1_000 {
            many.add(&Arc::new(100 + number));
        }
        kept.iter().for_each(|one| many.add(one));
        assert_eq!(many.most(|number| *number), 7);
        assert!(many.0.lock().capacity() < 100, "what is gone leaves nothing");
        drop(kept);
        assert_eq!(many.most(|number| *number), 0);
    }
}
