//! How close to one another the resources of a type lie in time, as far as windows have shown.

use super::Cutting;

/// How close to one another resources lie in time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Density {
    pub(super) per_milli: f64,
    /// How far windows were off what was expected of them, as a part of it.
    error: f64,
    /// Estimates are of no use here: windows are halved by counts.
    pub(super) irregular: bool,
}

/// How far off windows are taken to be before any was read.
const FIRST_ERROR: f64 = 0.1;
/// How much of an estimate comes from the latest window.
const WEIGHT: f64 = 0.25;
/// A window is aimed to hold so many errors less than a page.
const MARGIN: f64 = 2.5;
/// No page is aimed fuller or emptier than this.
const FULLEST: f64 = 0.92;
const EMPTIEST: f64 = 0.4;
/// From this error on estimates are given up, and below the other one they are taken up again.
const IRREGULAR: f64 = 0.35;
const REGULAR: f64 = 0.12;

impl Density {
    pub(super) fn of(count: u64, millis: i64) -> Self {
        Self { per_milli: ratio(count.max(1), millis), error: FIRST_ERROR, irregular: false }
    }

    /// How many of those in `span` milliseconds are for each reader, where they are more than a page and less than one for
    /// each.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub(super) fn share(self, span: i64, cutting: Cutting) -> Option<f64> {
        let left = span as f64 * self.per_milli;
        let share = left / cutting.readers.max(1) as f64;
        let capacity = f64::from(cutting.capacity);
        (left > capacity && share < capacity).then_some(share)
    }

    /// How long a window may be to fit a page of `capacity`, and to hold no more than a `share`.
    pub(super) fn length(self, capacity: u32, share: Option<f64>) -> i64 {
        let aim = f64::from(capacity) * (1.0 - MARGIN * self.error).clamp(EMPTIEST, FULLEST);
        let aim = share.map_or(aim, |share| aim.min(share));
        #[expect(clippy::cast_possible_truncation, reason = "out of range becomes the nearest that is in it")]
        let length = (aim / self.per_milli).floor() as i64;
        length.max(1)
    }

    /// After a window of `millis` that held `count`.
    pub(super) fn learn(&mut self, count: u64, millis: i64) {
        let measured = ratio(count, millis);
        let off = ((measured - self.per_milli) / self.per_milli).abs().min(2.0);
        self.error += WEIGHT * (off - self.error);
        self.irregular = self.error > if self.irregular { REGULAR } else { IRREGULAR };
        // Where nothing can be expected the latest window tells most.
        let weight = if self.irregular { 2.0 * WEIGHT } else { WEIGHT };
        self.per_milli = (self.per_milli + weight * (measured - self.per_milli)).max(f64::MIN_POSITIVE);
    }
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
pub(super) fn ratio(count: u64, millis: i64) -> f64 {
    count as f64 / millis.max(1) as f64
}
