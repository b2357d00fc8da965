//! A seed -> the same numbers on every machine: a test that picks at random must be repeatable.

/// SplitMix64 (Steele, Lea, Flood 2014): one word of state, every seed is good.
pub struct Random(u64);

impl Random {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which is not 0; the bias of the remainder does not matter here.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.bits() % limit as u64) as usize
    }

    /// Another order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sequence is part of what a seed means: the first number is that of the published algorithm.
    #[test]
    fn is_the_published_sequence() {
        assert_eq!(Random::new(0).bits(), 0xe220_a839_7b1d_cdaf);
        let mut items = [1, 2, 3, 4, 5];
        Random::new(7).shuffle(&mut items);
        let again = items;
        items.sort_unstable();
        assert_eq!(items, [1, 2, 3, 4, 5]);
        let mut twice = [1, 2, 3, 4, 5];
        Random::new(7).shuffle(&mut twice);
        assert_eq!(twice, again);
    }
}
