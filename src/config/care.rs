//! How the upstream is spared: parts of its section.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Problems, seconds};

/// How exports make way for the requests that pass through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct YieldConfig {
    /// Whether they do.
    pub enabled: bool,
    /// The part of `max_concurrent_searches` that stays free while requests pass through, but at least one.
    pub headroom_percent: u8,
    /// By how much longer than without exports those requests may take before searches make room.
    pub latency_rise_percent: u16,
    /// Searches at once that go on however slow those requests get. 0: exports stop until they are quick again.
    pub min_concurrent_searches: usize,
    /// Requests are taken to pass through for so long after the latest one.
    #[serde(rename = "memory_seconds", with = "seconds")]
    pub memory: Duration,
}

impl Default for YieldConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            headroom_percent: 10,
            latency_rise_percent: 15,
            min_concurrent_searches: 1,
            memory: Duration::from_mins(1),
        }
    }
}

/// When a server that does not answer is left alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerConfig {
    /// Failures in a row, of all searches together, after which none is begun for a while.
    pub failures: u32,
    /// The first pause. After it one search tries; the pause doubles each time that it fails too.
    #[serde(rename = "pause_seconds", with = "seconds")]
    pub pause: Duration,
    /// No pause is longer, unless the server asks for it.
    #[serde(rename = "max_pause_seconds", with = "seconds")]
    pub max_pause: Duration,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self { failures: 10, pause: Duration::from_secs(2), max_pause: Duration::from_secs(30) }
    }
}

/// Hours in which exports do not search, or less than usual.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuietHoursConfig {
    /// Whose time the windows are in.
    pub utc_offset: UtcOffset,
    /// The windows; where they overlap the strictest one holds.
    pub windows: Vec<QuietWindowConfig>,
}

/// One part of each of some days.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuietWindowConfig {
    /// The days on which it begins; all if it is left out.
    #[serde(default = "every_day")]
    pub days: Vec<Weekday>,
    /// When it begins.
    pub from: TimeOfDay,
    /// When it ends: on the next day if that is not later than `from`.
    pub until: TimeOfDay,
    /// Searches at once within it; 0 is none.
    #[serde(default)]
    pub max_concurrent_searches: usize,
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "they are days")]
pub enum Weekday {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

/// A time of day as `HH:MM`, from `00:00` to `24:00`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeOfDay {
    /// Minutes after midnight.
    pub minutes: u16,
}

/// `local`, this machine's zone with its daylight saving, or an offset from UTC such as `+01:00` all the year round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum UtcOffset {
    /// As this machine is set.
    #[default]
    Local,
    /// Seconds ahead of UTC.
    Fixed(i32),
}

/// The text is none of what is expected.
#[derive(Debug, thiserror::Error)]
pub enum NotATime {
    /// For a time of day.
    #[error("`{0}` is no time of day such as 07:30")]
    TimeOfDay(String),
    /// For an offset.
    #[error("`{0}` is neither local nor an offset from UTC such as +01:00")]
    Offset(String),
}

fn every_day() -> Vec<Weekday> {
    use Weekday::{Fri, Mon, Sat, Sun, Thu, Tue, Wed};
    vec![Mon, Tue, Wed, Thu, Fri, Sat, Sun]
}

/// `HH:MM` as minutes.
fn minutes(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |text: &str| {
        let is_number = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        if is_number { text.parse::<u16>().ok() } else { None }
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    (minutes < 60 && hours * 60 + minutes <= 24 * 60).then_some(hours * 60 + minutes)
}

impl FromStr for TimeOfDay {
    type Err = NotATime;

    fn from_str(text: &str) -> Result<Self, NotATime> {
        let minutes = minutes(text).ok_or_else(|| NotATime::TimeOfDay(text.to_owned()))?;
        Ok(Self { minutes })
    }
}

impl FromStr for UtcOffset {
    type Err = NotATime;

    fn from_str(text: &str) -> Result<Self, NotATime> {
        let fixed =
            |sign, text| Some(Self::Fixed(sign * 60 * i32::from(minutes(text).filter(|most| *most <= 14 * 60)?)));
        let read = match text.split_at_checked(1) {
            _ if text == "local" => Some(Self::Local),
            _ if text == "Z" => Some(Self::Fixed(0)),
            Some(("+", text)) => fixed(1, text),
            Some(("-", text)) => fixed(-1, text),
            Some(_) | None => None,
        };
        read.ok_or_else(|| NotATime::Offset(text.to_owned()))
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.minutes / 60, self.minutes % 60)
    }
}

impl fmt::Display for UtcOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("local"),
            Self::Fixed(seconds) => {
                let (sign, minutes) = (if *seconds < 0 { '-' } else { '+' }, seconds.abs() / 60);
                write!(f, "{sign}{:02}:{:02}", minutes / 60, minutes % 60)
            }
        }
    }
}

impl TryFrom<String> for TimeOfDay {
    type Error = NotATime;

    fn try_from(text: String) -> Result<Self, NotATime> {
        text.parse()
    }
}

impl TryFrom<String> for UtcOffset {
    type Error = NotATime;

    fn try_from(text: String) -> Result<Self, NotATime> {
        text.parse()
    }
}

impl From<TimeOfDay> for String {
    fn from(time: TimeOfDay) -> Self {
        time.to_string()
    }
}

impl From<UtcOffset> for String {
    fn from(offset: UtcOffset) -> Self {
        offset.to_string()
    }
}

impl YieldConfig {
    pub(super) fn check(&self, ceiling: usize, problems: &mut Problems) {
        let mut add = |option: &str, problem: &str| problems.add(&format!("yield_to_live_traffic.{option}"), problem);
        if self.headroom_percent > 90 {
            add("headroom_percent", "is more than 90, which leaves next to nothing to exports");
        }
        if !(1..=1_000).contains(&self.latency_rise_percent) {
            add("latency_rise_percent", "is not between 1 and 1000");
        }
        if self.min_concurrent_searches > ceiling {
            add("min_concurrent_searches", "is more than max_concurrent_searches");
        }
        if self.memory.is_zero() || self.memory > Duration::from_hours(1) {
            add("memory_seconds", "is not between 1 and 3600");
        }
    }
}

impl BreakerConfig {
    pub(super) fn check(&self, problems: &mut Problems) {
        let mut add = |option: &str, problem: &str| problems.add(&format!("circuit_breaker.{option}"), problem);
        if self.failures == 0 {
            add("failures", "is 0, so nothing could ever be asked");
        }
        if self.pause.is_zero() {
            add("pause_seconds", "is 0, which is no pause");
        }
        if self.max_pause < self.pause || self.max_pause > Duration::from_mins(10) {
            add("max_pause_seconds", "is less than pause_seconds or more than 600");
        }
    }
}

impl QuietHoursConfig {
    pub(super) fn check(&self, problems: &mut Problems) {
        const DAY: usize = 24 * 60;
        let mut silent = vec![false; 7 * DAY];
        for window in &self.windows {
            if window.days.is_empty() {
                problems.add("quiet_hours.windows", "has a window without days, which never holds");
            }
            let (from, until) = (usize::from(window.from.minutes), usize::from(window.until.minutes));
            if from == DAY {
                problems.add("quiet_hours.windows", "has a window from 24:00; that is 00:00 of the next day");
            }
            let until = if until > from { until } else { until + DAY };
            for day in window.days.iter().filter(|_| window.max_concurrent_searches == 0) {
                (from..until).for_each(|minute| silent[(*day as usize * DAY + minute) % (7 * DAY)] = true);
            }
        }
        if silent.iter().all(|silent| *silent) {
            problems.add("quiet_hours.windows", "leave no minute of the week in which an export may search");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_offsets_are_read_back_from_their_own_text_and_from_nothing_else() {
        for (text, expected) in [("00:00", 0), ("07:30", 450), ("23:59", 1_439), ("24:00", 1_440)] {
            let time: TimeOfDay = text.parse().expect(text);
            assert_eq!((time.minutes, time.to_string()), (expected, text.to_owned()));
        }
        for text in ["", "7:30", "07:60", "24:01", "0730", "07:30:00", "-1:00", "07:+1"] {
            assert!(text.parse::<TimeOfDay>().is_err(), "{text}");
        }
        for (text, expected) in [
            ("local", UtcOffset::Local),
            ("+00:00", UtcOffset::Fixed(0)),
            ("+05:30", UtcOffset::Fixed(19_800)),
            ("-03:30", UtcOffset::Fixed(-12_600)),
        ] {
            let offset: UtcOffset = text.parse().expect(text);
            assert_eq!((offset, offset.to_string()), (expected, text.to_owned()));
        }
        for text in ["", "Local", "Europe/Berlin", "1", "+1", "+15:00", "01:00"] {
            assert!(text.parse::<UtcOffset>().is_err(), "{text}");
        }
    }
}
