//! Runs tests on components that a script has started, one after another, and says of each how it went.

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::time::Instant;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

/// A test of a component.
pub(crate) type Test<T> = for<'a> fn(&'a T) -> LocalBoxFuture<'a, anyhow::Result<()>>;
/// Which components a test is about.
pub(crate) type Where<T> = fn(&T) -> bool;

/// Runs those of the tests that the arguments of this process name a part of, or all, on every component. `called` is how a
/// test of a component is called.
pub(crate) fn run<T>(
    components: impl IntoIterator<Item = T>,
    tests: &[(&str, Where<T>, Test<T>)],
    called: impl Fn(&str, &T) -> String,
) -> ExitCode {
    let wanted: Vec<_> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (mut passed, mut failed) = (0, Vec::new());
    for component in components {
        for (test, is_about, run) in tests {
            let called = called(test, &component);
            let is_wanted = wanted.is_empty() || wanted.iter().any(|wanted| called.contains(wanted));
            if !is_wanted || !is_about(&component) {
                continue;
            }
            let began = Instant::now();
            let verdict = match runtime.block_on(AssertUnwindSafe(run(&component)).catch_unwind()) {
                Ok(Ok(())) => {
                    passed += 1;
                    "ok".to_owned()
                }
                Ok(Err(error)) => {
                    failed.push(called.clone());
                    format!("FAILED\n{error:#}\n")
                }
                Err(_) => {
                    failed.push(called.clone());
                    "FAILED: it panicked".to_owned()
                }
            };
            println!("test {called} ... {verdict} ({:.1} s)", began.elapsed().as_secs_f32());
        }
    }
    println!("\n{passed} passed, {} failed", failed.len());
    for name in &failed {
        println!("    {name}");
    }
    // Nothing run is nothing proven.
    if failed.is_empty() && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
