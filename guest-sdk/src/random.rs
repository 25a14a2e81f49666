//! Numbers that look random and are the same on every node: SplitMix64, seeded with the position of
//! the command in the log. Anyone who knows that position can predict them, so they are no secrets.

use std::cell::Cell;

/// State of the sequence of one command.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    state: Cell<u64>,
}

/// The step of SplitMix64: 2^64 divided by the golden ratio, odd.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

impl Sequence {
    /// Starts the sequence of the command at (index, position).
    pub(crate) fn at(index: u64, position: u32) -> Self {
        // The seed is mixed twice, so that neighbouring commands do not draw shifted copies of one
        // sequence.
        let state = mix(mix(index.wrapping_add(STEP)) ^ u64::from(position).wrapping_mul(STEP));
        Self { state: Cell::new(state) }
    }

    pub(crate) fn next(&self) -> u64 {
        let state = self.state.get().wrapping_add(STEP);
        self.state.set(state);
        mix(state)
    }

    /// Returns a number below `bound`. Each number is equally likely.
    pub(crate) fn below(&self, bound: u64) -> u64 {
        assert!(bound > 0, "there is no number below 0");
        // Numbers above the last whole multiple of the bound would make small results more likely.
        let most = u64::MAX - (u64::MAX % bound + 1) % bound;
        loop {
            let drawn = self.next();
            if drawn <= most {
                return drawn % bound;
            }
        }
    }
}

/// The output function of SplitMix64.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The first outputs of SplitMix64 from state 0, as published.
    #[test]
    fn it_is_splitmix64() {
        let sequence = Sequence { state: Cell::new(0) };
        assert_eq!(sequence.next(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(sequence.next(), 0x6e78_9e6a_a1b9_65f4);
    }

    #[test]
    fn neighbours_draw_other_numbers() {
        let mut seen = BTreeSet::new();
        for index in 1..=100 {
            for position in 0..100 {
                let sequence = Sequence::at(index, position);
                assert!(seen.insert(sequence.next()) && seen.insert(sequence.next()), "({index}, {position})");
            }
        }
        assert_eq!(Sequence::at(7, 3).next(), Sequence::at(7, 3).next());
    }

    #[test]
    fn numbers_below_a_bound_are_spread_evenly() {
        let sequence = Sequence::at(1, 0);
        let mut counts = [0_u32; 6];
        for _ in 0..6000 {
            counts[sequence.below(6) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
        assert_eq!(sequence.below(1), 0);
        let upper_half = (0..1000).filter(|_| sequence.below(u64::MAX) > u64::MAX / 2).count();
        assert!((400..600).contains(&upper_half), "{upper_half}");
    }
}
