//! Logging, and what may never be recorded: no bodies, no ids, no query strings, no tokens (SEC-41).

use std::any::Any;
use std::error::Error;
use std::fmt::Write as _;
use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::config::{LogFormat, LogLevel, TelemetryConfig};

/// Longest text of an error, in bytes.
const LONGEST: usize = 1_000;

/// Begins to log to standard error; a second call does nothing.
pub(crate) fn init(config: &TelemetryConfig) {
    let level = match config.log_level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // Below `info` the libraries log headers and addresses: whatever is set, that stays off.
    let libraries = level.min(LevelFilter::INFO);
    let filter = EnvFilter::builder().parse_lossy(format!("{libraries},offtake={level}"));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // In a journal or a file the codes for colours are noise.
    let subscriber = subscriber.with_ansi(std::io::stderr().is_terminal());
    // An embedding program may have set up its own already.
    let _already_set = match config.log_format {
        LogFormat::Text => subscriber.try_init(),
        LogFormat::Json => subscriber.json().try_init(),
    };
}

/// Has panics told without what they speak of, which may be anything: where they were, and what stands in the source itself.
pub(crate) fn tell_panics() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, said = said_by(info.payload()), "a panic: please report it");
    }));
}

/// What a panic says, if that is a text of the source and holds no value.
fn said_by(payload: &(dyn Any + Send)) -> &'static str {
    payload.downcast_ref::<&'static str>().copied().unwrap_or("what it says may hold a value and is not told")
}

/// The one function that prints a chain of errors: each cause after a colon, without URL queries and control
/// characters, and bounded.
pub(crate) fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some libraries print their source themselves.
        if !text.ends_with(&cause_text) {
            write!(text, ": {cause_text}").expect("a String takes all that is written");
        }
        source = cause.source();
    }
    let mut clean = String::with_capacity(text.len().min(LONGEST));
    let mut in_query = false;
    for character in text.chars() {
        in_query = match character {
            '?' => true,
            ' ' | ')' | '"' | '\'' | '`' | ',' => false,
            _ => in_query,
        };
        if clean.len() >= LONGEST {
            break;
        }
        if !in_query && !character.is_control() {
            clean.push(character);
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SEC-42: what failed to be parsed, say, stands in the text of its panic.
    #[test]
    fn a_panic_tells_no_value() {
        let values = ["canary".parse::<u32>().map(drop)];
        for (panics, expected) in
            [(true, "a text of the source"), (false, "what it says may hold a value and is not told")]
        {
            let caught = std::panic::catch_unwind(|| {
                assert!(!panics, "a text of the source");
                values[0].clone().expect("a number");
            });
            assert_eq!(said_by(&*caught.expect_err("it panics")), expected);
        }
    }

    #[derive(Debug, thiserror::Error)]
    #[error("could not fetch http://h/fhir/Patient?identifier=secret (status 500)\n")]
    struct Outer(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("because `{}`", "x".repeat(5_000))]
    struct Inner;

    #[test]
    fn a_chain_is_bounded_and_has_no_queries() {
        let text = error_chain(&Outer(Inner));
        assert!(text.starts_with("could not fetch http://h/fhir/Patient (status 500): because `xxx"), "{text}");
        assert!(text.len() <= LONGEST && !text.contains("secret") && !text.contains('\n'));
    }
}
