//! Arguments, command, exit code; nothing else.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    offtake::cli::Cli::parse().run()
}
