//! The values that a benchmark writes: text without a pattern, because stores compress, and a value
//! of one repeated letter would hardly reach the disk. This file knows no call.

use super::keys::Random;

/// Values are parts of a text of this length, so that two values are seldom alike.
const POOL_BYTES: usize = 1 << 20;
const SEED: u64 = 1;
/// Letters that need no escape in any text.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Values of one length.
pub(super) struct Values {
    pool: Vec<u8>,
    value_bytes: usize,
}

impl Values {
    pub(super) fn new(value_bytes: usize) -> Values {
        let mut random = Random::new(SEED);
        let letter = |_| ALPHABET[random.below(ALPHABET.len() as u64) as usize];
        Values { pool: (0..POOL_BYTES + value_bytes).map(letter).collect(), value_bytes }
    }

    /// Returns a value. It costs no copy.
    pub(super) fn draw(&self, random: &mut Random) -> &[u8] {
        let from = random.below(POOL_BYTES as u64) as usize;
        &self.pool[from..from + self.value_bytes]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_length_and_differ() {
        for value_bytes in [0, 1, 256, 2 * POOL_BYTES] {
            let values = Values::new(value_bytes);
            assert_eq!(values.draw(&mut Random::new(3)).len(), value_bytes);
        }
        let values = Values::new(256);
        let mut random = Random::new(3);
        let first = values.draw(&mut random).to_vec();
        assert_ne!(first, values.draw(&mut random));
        assert!(first.iter().all(|letter| ALPHABET.contains(letter)));
    }
}
