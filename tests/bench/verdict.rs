//! How a benchmark ends.

use std::process::ExitCode;

/// Successfully, if all that has to hold was seen to.
pub(crate) fn ended(held: anyhow::Result<bool>) -> ExitCode {
    match held {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("could not measure: {error:#}");
            ExitCode::FAILURE
        }
    }
}
