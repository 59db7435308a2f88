//! A test that hangs ends the whole run, by its name: nothing else would before whoever waits for the run loses patience.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::Write;
use std::process;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

/// Many times as long as the slowest test takes on a machine that is busy with other things.
const MOST: Duration = Duration::from_mins(15);
const PAUSE: Duration = Duration::from_secs(5);

/// The tests that run, by their threads: each has one of its own, which bears its name.
static RUNNING: LazyLock<Mutex<HashMap<ThreadId, (String, Instant)>>> = LazyLock::new(|| {
    thread::spawn(watch);
    Mutex::default()
});

thread_local! {
    static WATCHED: RefCell<Option<Watched>> = const { RefCell::new(None) };
}

/// Goes with its thread.
struct Watched(ThreadId);

impl Drop for Watched {
    fn drop(&mut self) {
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

/// Looks after the test that this is called in. One that has no thread of its own is not looked after.
pub(crate) fn look_after_this_test() {
    let current = thread::current();
    let Some(name) = current.name().filter(|name| name.contains("::")) else { return };
    WATCHED.with_borrow_mut(|watched| {
        watched.get_or_insert_with(|| {
            let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
            running.insert(current.id(), (name.to_owned(), Instant::now()));
            Watched(current.id())
        });
    });
}

#[expect(clippy::disallowed_methods, reason = "the thread that hangs can be ended in no other way")]
fn watch() {
    loop {
        thread::sleep(PAUSE);
        let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((name, _)) = running.values().find(|(_, since)| since.elapsed() > MOST) {
            // Not by `eprintln`: what threads of a test print that way is kept until the test ends.
            drop(writeln!(std::io::stderr(), "test {name} has not ended within {MOST:?}: FAILED"));
            process::exit(101);
        }
    }
}
