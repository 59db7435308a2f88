//! Hours in which exports do not search, or less than usual.

use crate::fhir::datatypes::Millis;

/// Minutes of a day.
const DAY: u16 = 24 * 60;

/// Part of each of some days.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QuietWindow {
    /// The days on which it begins, Monday first.
    pub(crate) days: [bool; 7],
    /// Minutes after midnight.
    pub(crate) from: u16,
    /// Minutes after midnight, exclusive; on the next day if it is not later than `from`.
    pub(crate) until: u16,
    /// Searches at once within it.
    pub(crate) searches: usize,
}

/// What holds at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quiet {
    pub(crate) searches: usize,
    /// When the window ends, in minutes after midnight.
    pub(crate) until: u16,
}

/// What the windows allow at `time`, in a zone that is `offset_seconds` ahead of UTC; `None` outside of all of them.
/// Where they overlap the strictest one holds.
pub(crate) fn at(windows: &[QuietWindow], time: Millis, offset_seconds: i32) -> Option<Quiet> {
    let minutes = (time.0.div_euclid(1_000) + i64::from(offset_seconds)).div_euclid(60);
    let day = minutes.div_euclid(i64::from(DAY));
    // 1970-01-01 was a Thursday.
    let weekday = usize::try_from((day + 3).rem_euclid(7)).unwrap_or(0);
    let minute = u16::try_from(minutes.rem_euclid(i64::from(DAY))).unwrap_or(0);
    let holding = windows.iter().filter(|window| window.holds(weekday, minute));
    holding.map(|window| Quiet { searches: window.searches, until: window.until }).min_by_key(|quiet| quiet.searches)
}

impl QuietWindow {
    fn holds(&self, weekday: usize, minute: u16) -> bool {
        let began_on = |weekday: usize| self.days[weekday % 7];
        if self.from < self.until {
            began_on(weekday) && (self.from..self.until).contains(&minute)
        } else {
            began_on(weekday) && minute >= self.from || began_on(weekday + 6) && minute < self.until
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fhir::datatypes::Instant;

    const WORKDAYS: [bool; 7] = [true, true, true, true, true, false, false];

    fn window(days: [bool; 7], from: u16, until: u16, searches: usize) -> QuietWindow {
        QuietWindow { days, from: from * 60, until: until * 60, searches }
    }

    #[test]
    fn windows_hold_by_weekday_and_local_time() {
        let office = window(WORKDAYS, 7, 18, 0);
        let night = window([false, false, false, false, true, false, false], 22, 6, 2);
        let sunday = window([false, false, false, false, false, false, true], 0, 0, 1);
        let windows = [office, night, sunday];
        let hour = 3_600;
        for (time, offset, expected) in [
            // 2026-01-05 is a Monday.
            ("2026-01-05T06:59:59Z", 0, None),
            ("2026-01-05T07:00:00Z", 0, Some(0)),
            ("2026-01-05T17:59:59Z", 0, Some(0)),
            ("2026-01-05T18:00:00Z", 0, None),
            ("2026-01-05T06:00:00Z", hour, Some(0)),
            ("2026-01-05T17:00:00Z", hour, None),
            ("2026-01-05T12:30:00Z", -5 * hour - hour / 2, Some(0)),
            ("2026-01-05T12:29:59Z", -5 * hour - hour / 2, None),
            // From Friday into Saturday.
            ("2026-01-09T22:00:00Z", 0, Some(2)),
            ("2026-01-10T05:59:00Z", 0, Some(2)),
            ("2026-01-10T06:00:00Z", 0, None),
            ("2026-01-08T23:00:00Z", 0, None),
            // A whole day, whose end is the end of the day.
            ("2026-01-10T23:59:00Z", 0, None),
            ("2026-01-11T00:00:00Z", 0, Some(1)),
            ("2026-01-11T23:59:00Z", 0, Some(1)),
            ("2026-01-12T00:00:00Z", 0, None),
            // It is still Sunday there.
            ("2026-01-12T00:00:00Z", -hour, Some(1)),
        ] {
            let time = Instant::parse(time).expect("an instant");
            let quiet = at(&windows, time.floor_millis(), offset);
            assert_eq!(quiet.map(|quiet| quiet.searches), expected, "{time:?} {offset}");
        }
    }

    #[test]
    fn the_strictest_of_several_windows_holds() {
        let windows = [window([true; 7], 0, 0, 3), window([true; 7], 8, 20, 1)];
        let quiet = at(&windows, Millis(12 * 3_600_000), 0);
        assert_eq!(quiet, Some(Quiet { searches: 1, until: 20 * 60 }));
    }
}
