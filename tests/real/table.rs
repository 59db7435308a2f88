//! The table that is printed in the end.

use std::fmt::Write as _;
use std::sync::Mutex;
use std::time::Duration;

/// One way to read a server.
pub(crate) struct Row {
    pub(crate) server: String,
    pub(crate) level: String,
    pub(crate) strategy: String,
    pub(crate) expected: usize,
    pub(crate) exported: usize,
    pub(crate) requests: usize,
    pub(crate) took: Duration,
    /// How long the server's own export of the same took, in the same run.
    pub(crate) own: Option<Duration>,
}

static ROWS: Mutex<Vec<String>> = Mutex::new(Vec::new());

impl Row {
    pub(crate) fn note(self) {
        let Self { server, level, strategy, expected, exported, requests, took, own } = self;
        let own = own.map_or_else(|| "-".to_owned(), |own| format!("{:.1}", own.as_secs_f64()));
        let mut row = format!("{server:<18} {level:<8} {strategy:<34} {expected:>8} {exported:>8} {requests:>8} ");
        // Writing to a string cannot fail.
        let _written = write!(row, "{:>9.1} {own:>9} {:>6}", took.as_secs_f64(), load());
        println!("{row}");
        ROWS.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(row);
    }
}

/// How many processes wanted a processor in the last minute.
fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}

pub(crate) fn print() {
    println!(
        "\n{:<18} {:<8} {:<34} {:>8} {:>8} {:>8} {:>9} {:>9} {:>6}",
        "server", "level", "strategy", "expected", "exported", "requests", "seconds", "own", "load"
    );
    for row in ROWS.lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter() {
        println!("{row}");
    }
}
