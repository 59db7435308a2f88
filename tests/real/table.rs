//! The table that is printed in the end.

use std::sync::{Mutex, MutexGuard, PoisonError};
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
}

/// Rows, each with what else the machine did, and what is to be said of them.
static ROWS: Mutex<Vec<(Row, String)>> = Mutex::new(Vec::new());
static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());
/// How long the server's own export of the same took, in the same run.
static OWN: Mutex<Vec<(String, String, Duration)>> = Mutex::new(Vec::new());

impl Row {
    pub(crate) fn note(self) {
        let load = load();
        println!("{}", self.line(&load));
        locked(&ROWS).push((self, load));
    }

    fn line(&self, load: &str) -> String {
        let Self { server, level, strategy, expected, exported, requests, took } = self;
        let own = locked(&OWN).iter().find(|(name, of, _)| (name, of) == (server, level)).map(|(.., own)| *own);
        let own = own.map_or_else(|| "-".to_owned(), |own| format!("{:.1}", own.as_secs_f64()));
        let took = took.as_secs_f64();
        format!(
            "{server:<18} {level:<8} {strategy:<34} {expected:>8} {exported:>8} {requests:>8} {took:>9.1} {own:>9} {load:>6}"
        )
    }
}

/// Notes how long a server's own export took.
pub(crate) fn own(server: &str, level: &str, took: Duration) {
    locked(&OWN).push((server.to_owned(), level.to_owned(), took));
}

/// Says something now and again below the table.
pub(crate) fn say(what: String) {
    println!("    {what}");
    locked(&SAID).push(what);
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
    for (row, load) in locked(&ROWS).iter() {
        println!("{}", row.line(load));
    }
    for said in locked(&SAID).iter() {
        println!("{said}");
    }
}
