//! Decides which request is struck by which fault; the same seed and the same requests give the same faults.

use crate::rng::Rng;
use crate::settings::{Faults, Rate};

/// What goes wrong with one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Reset,
    Error503,
    Error429,
    Error500,
    Truncate,
}

/// Counts and dice of all faults.
#[derive(Debug)]
pub(crate) struct FaultDice {
    rng: Rng,
    /// Requests so far.
    requests: u64,
}

impl FaultDice {
    pub(crate) fn new(seed: u64) -> Self {
        Self { rng: Rng::new(seed ^ 0xfa17), requests: 0 }
    }

    /// The fault of the next request.
    pub(crate) fn roll(&mut self, faults: &Faults) -> Option<Fault> {
        self.requests += 1;
        let rates = [
            (Fault::Reset, faults.reset),
            (Fault::Error503, faults.error_503),
            (Fault::Error429, faults.error_429),
            (Fault::Error500, faults.error_500),
            (Fault::Truncate, faults.truncate),
        ];
        rates.into_iter().find(|(_, rate)| self.strikes(*rate)).map(|(fault, _)| fault)
    }

    fn strikes(&mut self, rate: Rate) -> bool {
        match rate {
            Rate::Never => false,
            Rate::EveryNth(nth) => nth != 0 && self.requests.is_multiple_of(nth),
            Rate::Probability(probability) => self.rng.chance(probability),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_strike_as_often_as_they_were_set_to() {
        let faults = Faults { error_503: Rate::EveryNth(3), truncate: Rate::EveryNth(2), ..Faults::default() };
        let mut dice = FaultDice::new(1);
        let rolled: Vec<_> = (0..6).map(|_| dice.roll(&faults)).collect();
        let (t, e) = (Some(Fault::Truncate), Some(Fault::Error503));
        assert_eq!(rolled, [None, t, e, t, None, e]);
        let often = Faults { reset: Rate::Probability(0.5), ..Faults::default() };
        let struck = (0..1000).filter(|_| dice.roll(&often).is_some()).count();
        assert!((400..600).contains(&struck), "{struck} of 1000 at 0.5");
    }
}
