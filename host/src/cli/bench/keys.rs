//! Which keys the calls of a benchmark take, and where its random numbers come from. Runs with the
//! same flags draw the same numbers. This file knows no call.

/// The skew of `zipf`: that of the YCSB benchmarks, in which a tenth of a thousand keys gets about
/// two thirds of the calls.
const ZIPF_SKEW: f64 = 0.99;

/// How the keys of calls are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Distribution {
    /// Every key as often as every other one
    Uniform,
    /// A few keys very often, and most of them seldom
    Zipf,
    /// One key after the other, and the first one again behind the last
    Sequential,
    /// The same key each time
    One,
}

/// The keys of a benchmark: the numbers from 0.
#[derive(Debug)]
pub(super) struct Keys {
    count: u64,
    draw: Draw,
}

#[derive(Debug)]
enum Draw {
    Uniform,
    Zipf(Zipf),
    Sequential,
    One,
}

impl Keys {
    /// Creates `count` keys, at least one.
    pub(super) fn new(count: u64, distribution: Distribution) -> Keys {
        let count = count.max(1);
        let draw = match distribution {
            Distribution::Uniform => Draw::Uniform,
            Distribution::Zipf => Draw::Zipf(Zipf::new(count)),
            Distribution::Sequential => Draw::Sequential,
            Distribution::One => Draw::One,
        };
        Keys { count, draw }
    }

    /// Returns how many different keys calls may take.
    pub(super) fn span(&self) -> u64 {
        if matches!(self.draw, Draw::One) { 1 } else { self.count }
    }

    /// Returns a key. `turn` counts the keys that were drawn in the whole run.
    pub(super) fn draw(&self, turn: u64, random: &mut Random) -> u64 {
        match &self.draw {
            Draw::Uniform => random.below(self.count),
            Draw::Zipf(zipf) => zipf.rank(random.share()),
            Draw::Sequential => turn % self.count,
            Draw::One => 0,
        }
    }
}

/// Zipf's law over `count` ranks, drawn in constant time. The method is that of "Quickly Generating
/// Billion-Record Synthetic Databases" (Gray et al., 1994), which YCSB uses, too.
#[derive(Debug)]
struct Zipf {
    count: u64,
    /// Sum of the weights of all ranks. The first rank has the weight 1.
    weights: f64,
    exponent: f64,
    eta: f64,
}

impl Zipf {
    fn new(count: u64) -> Zipf {
        let weight = |rank: u64| (rank as f64).powf(-ZIPF_SKEW);
        let weights: f64 = (1..=count).map(weight).sum();
        let tail = 1.0 - (2.0 / count as f64).powf(1.0 - ZIPF_SKEW);
        let eta = tail / (1.0 - (1.0 + weight(2)) / weights);
        Zipf { count, weights, exponent: 1.0 / (1.0 - ZIPF_SKEW), eta }
    }

    /// Returns the rank, from 0, for a number from 0 to below 1.
    fn rank(&self, share: f64) -> u64 {
        let weight = share * self.weights;
        if weight < 1.0 {
            return 0;
        }
        if weight < 1.0 + 2f64.powf(-ZIPF_SKEW) {
            return 1;
        }
        let rank = self.count as f64 * (self.eta * share - self.eta + 1.0).powf(self.exponent);
        (rank as u64).min(self.count - 1)
    }
}

/// Pseudo-random numbers: splitmix64. They are cheap, and the same for the same seed.
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        let mut random = Random(seed);
        // Seeds that follow each other would otherwise share most of their numbers.
        random.0 = random.draw();
        random
    }

    pub(super) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `count`, or 0 if that is 0.
    pub(super) fn below(&mut self, count: u64) -> u64 {
        ((u128::from(self.draw()) * u128::from(count)) >> 64) as u64
    }

    /// Returns a number from 0 to below 1.
    pub(super) fn share(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const DRAWS: u64 = 100_000;

    fn counts(keys: u64, distribution: Distribution) -> Vec<u64> {
        let drawn = Keys::new(keys, distribution);
        let mut random = Random::new(7);
        let mut counts = vec![0; keys as usize];
        (0..DRAWS).for_each(|turn| counts[drawn.draw(turn, &mut random) as usize] += 1);
        counts
    }

    #[test]
    fn uniform_and_sequential_take_every_key_alike() {
        let uniform = counts(100, Distribution::Uniform);
        assert!(uniform.iter().all(|&count| (800..1200).contains(&count)), "{uniform:?}");
        assert!(counts(100, Distribution::Sequential).iter().all(|&count| count == 1000));
        assert_eq!(counts(5, Distribution::One), [DRAWS, 0, 0, 0, 0]);
    }

    #[test]
    fn zipf_takes_keys_by_their_weights() {
        let counts = counts(1000, Distribution::Zipf);
        let weight = |rank: u64| (rank as f64).powf(-ZIPF_SKEW);
        let weights: f64 = (1..=1000).map(weight).sum();
        // The first two ranks are exact, the others are close.
        for (rank, tolerance) in [(1u64, 0.05), (2, 0.05), (10, 0.25), (100, 0.35)] {
            let expected = DRAWS as f64 * weight(rank) / weights;
            let drawn = counts[rank as usize - 1] as f64;
            assert!((drawn - expected).abs() < expected * tolerance, "rank {rank}: {drawn}, expected {expected}");
        }
        let first: u64 = counts[..100].iter().sum();
        assert!((DRAWS * 6 / 10..DRAWS * 75 / 100).contains(&first), "{first}");
    }

    #[test]
    fn zipf_of_few_keys_stays_among_them() {
        for keys in 1..=3 {
            assert_eq!(counts(keys, Distribution::Zipf).iter().sum::<u64>(), DRAWS);
            let zipf = Zipf::new(keys);
            assert!(zipf.rank(0.0) == 0 && zipf.rank(1.0 - f64::EPSILON) < keys);
        }
    }

    #[test]
    fn the_same_seed_draws_the_same_numbers() {
        let draws = |seed| {
            let mut random = Random::new(seed);
            [random.draw(), random.below(1000), (random.share() * 1000.0) as u64]
        };
        assert_eq!(draws(3), draws(3));
        assert_ne!(draws(3), draws(4));
        assert_eq!(Random::new(1).below(0), 0);
    }
}
