//! Reproducible pseudo-randomness (splitmix64): the same seed gives the same data, faults and writes.

/// A seeded generator. Not for secrets.
#[derive(Debug, Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 when `bound` is 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let drawn = usize::try_from(self.next() >> 1).unwrap_or(usize::MAX >> 1);
        drawn.checked_rem(bound).unwrap_or(0)
    }

    /// True with this probability.
    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        f64::from((self.next() >> 32) as u32) < probability * 4_294_967_296.0
    }

    /// One of `choices`, which must not be empty.
    pub(crate) fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    /// Brings `items` into a random order.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let (mut one, mut other) = (Rng::new(7), Rng::new(7));
        let draws: Vec<_> = (0..9).map(|_| one.below(100)).collect();
        assert_eq!(draws, (0..9).map(|_| other.below(100)).collect::<Vec<_>>());
        assert!(draws.iter().any(|draw| draw != &draws[0]), "the numbers vary");
    }

    #[test]
    fn a_chance_holds_over_many_draws() {
        let mut rng = Rng::new(1);
        let struck = (0..10_000).filter(|_| rng.chance(0.25)).count();
        assert!((2_300..2_700).contains(&struck), "{struck} of 10,000 at 0.25");
    }
}
