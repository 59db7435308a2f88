//! How many searches at once the server bears, learnt from its answers: one more for each round that it answers well,
//! a part of them less when it does not. It begins at the ceiling, so that a healthy server is read at full speed at once.
//!
//! How long searches take plays no part: pages of one type take a hundred times as long as those of another. What
//! tells whether we are in somebody's way is how long *their* requests take (`yielding`).

use std::time::Duration;

/// The adaptive limit.
#[derive(Debug, Clone)]
pub(crate) struct Aimd {
    ceiling: f64,
    limit: f64,
    /// Searches begun before then were begun under another limit: what becomes of them says nothing about this one.
    cut_at: Duration,
}

/// What a failure says about the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The server said that it is asked too much.
    Told,
    /// It may be asked too much: nothing came, or the connection broke.
    Guessed,
}

impl Aimd {
    pub(crate) fn new(ceiling: usize) -> Self {
        let ceiling = as_f64(ceiling.max(1));
        Self { ceiling, limit: ceiling, cut_at: Duration::ZERO }
    }

    /// Searches that may be under way at once; at least one.
    pub(crate) fn searches(&self) -> usize {
        as_usize(self.limit)
    }

    /// A search was answered well.
    pub(crate) fn grow(&mut self) {
        self.limit = (self.limit + 1.0 / self.limit).min(self.ceiling);
    }

    /// A search that began at `began` failed at `now`; `true` if the limit was cut. Those that were under way together
    /// cut it once.
    pub(crate) fn cut(&mut self, cut: Cut, began: Duration, now: Duration) -> bool {
        if began < self.cut_at {
            return false;
        }
        self.cut_at = now;
        let part = match cut {
            Cut::Told => 0.5,
            Cut::Guessed => 0.75,
        };
        self.limit = (self.limit * part).max(1.0);
        true
    }
}

#[expect(clippy::cast_precision_loss, reason = "a few hundred at most")]
pub(super) fn as_f64(number: usize) -> f64 {
    number as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between zero and a few hundred")]
pub(super) fn as_usize(number: f64) -> usize {
    // Sums of parts may lie just below the whole.
    (number + 1e-6) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_healthy_server_is_asked_at_the_ceiling_from_the_first_search_on() {
        for ceiling in [1, 4, 16, 256] {
            let mut limit = Aimd::new(ceiling);
            assert_eq!(limit.searches(), ceiling);
            (0..1_000).for_each(|_| limit.grow());
            assert_eq!(limit.searches(), ceiling);
        }
    }

    #[test]
    fn failures_cut_and_answers_grow() {
        for (name, ceiling, cuts, expected) in [
            ("told once", 16, vec![Cut::Told], 8),
            ("guessed once", 16, vec![Cut::Guessed], 12),
            ("told and told", 16, vec![Cut::Told, Cut::Told], 4),
            ("never to nothing", 4, vec![Cut::Told; 9], 1),
            ("nothing to cut", 1, vec![Cut::Told], 1),
        ] {
            let mut limit = Aimd::new(ceiling);
            let mut now = SECOND;
            for cut in cuts {
                assert!(limit.cut(cut, now, now), "{name}");
                now += SECOND;
            }
            assert_eq!(limit.searches(), expected, "{name}");
        }
        // From 1 to 16: a round for each step, 1 + 2 + … + 15 answers and a few.
        let mut limit = Aimd::new(16);
        (1..9).for_each(|second| assert!(limit.cut(Cut::Told, SECOND * second, SECOND * second)));
        for _ in 0..150 {
            limit.grow();
        }
        assert_eq!(limit.searches(), 16);
    }

    #[test]
    fn what_fails_together_cuts_once() {
        let mut limit = Aimd::new(16);
        assert!(limit.cut(Cut::Told, SECOND, 3 * SECOND));
        assert!(!limit.cut(Cut::Told, 2 * SECOND, 4 * SECOND), "it was under way when the limit was cut");
        assert_eq!(limit.searches(), 8);
        assert!(limit.cut(Cut::Told, 3 * SECOND, 5 * SECOND));
        assert_eq!(limit.searches(), 4);
    }

    /// One failure in twenty by chance leaves a few searches at once.
    #[test]
    fn failures_by_chance_do_not_bring_it_to_a_stop() {
        let mut limit = Aimd::new(8);
        let mut sum = 0;
        for number in 1..=2_000_u32 {
            let now = SECOND * number;
            if number % 20 == 0 {
                limit.cut(if number % 40 == 0 { Cut::Told } else { Cut::Guessed }, now, now);
            } else {
                limit.grow();
            }
            sum += limit.searches();
        }
        assert!(sum / 2_000 >= 4, "{} on the average", sum / 2_000);
    }
}
