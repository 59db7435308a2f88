//! The command line: types, and one call for each command.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::app::{self, Examined, Replacing};
use crate::clock::{self, SystemClock};
use crate::config::{self, Config};
use crate::doctor::storage::Storage;
use crate::fhir::datatypes::{Instant, ParseInstantError};
use crate::telemetry;

/// Gives any FHIR server the Bulk Data `$export` operation.
#[derive(Debug, Parser)]
#[command(name = "offtake", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves exports, and passes every other request on to the FHIR server.
    Serve {
        /// The configuration, a YAML file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Asks the FHIR server what exports would rely on, tries the storage of their files, and says what that means.
    Doctor {
        /// The configuration, a YAML file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Looks at the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Looks after the exports while no process serves them.
    #[command(subcommand)]
    Jobs(JobsCommand),
    /// Makes and replaces keys.
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Reads the ledger: who was given what.
    #[command(subcommand)]
    Ledger(LedgerCommand),
    /// Says something of the clock.
    #[command(subcommand)]
    Clock(ClockCommand),
}

#[derive(Debug, Subcommand)]
enum ClockCommand {
    /// Says that the clock is right as it is now, to a process that does not believe it: it takes that up within a minute.
    Confirm {
        /// The configuration, a YAML file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum LedgerCommand {
    /// Prints every record as a FHIR `AuditEvent` on a line, up to the first that is not as it was written.
    Export {
        /// The configuration, a YAML file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Only records from this instant on, such as 2026-01-31T12:00:00Z.
        #[arg(long, value_name = "INSTANT", value_parser = instant)]
        since: Option<Instant>,
        /// Only records before this instant.
        #[arg(long, value_name = "INSTANT", value_parser = instant)]
        until: Option<Instant>,
    },
    /// Tells whether the ledger is as it was written: no record changed, none missing.
    Verify {
        /// The configuration, a YAML file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Tells who was given data of a patient, and when.
    Who {
        /// The configuration, a YAML file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The patient's logical id.
        #[arg(long, value_name = "ID")]
        patient: String,
    },
}

fn instant(text: &str) -> Result<Instant, ParseInstantError> {
    Instant::parse(text)
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Makes a key pair for a client: the private JWK goes into a file, the public JWK Set to standard output.
    Generate {
        /// What it signs by.
        #[arg(long, value_parser = ["ES384", "RS384"], default_value = "ES384")]
        alg: String,
        /// The file of the private key, which must not be there yet. It is readable by nobody else.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Replaces the keys that sign access tokens and links: what the old ones have signed is good until it expires.
    Rotate {
        /// The configuration, a YAML file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Replaces the keys that sign access tokens and links: what the old ones have signed is good no more.
    Revoke {
        /// The configuration, a YAML file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum JobsCommand {
    /// Rebuilds a lost job store from what lies beside the output, and tells what was found.
    Recover {
        /// The configuration, a YAML file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Whose exports: the name of a folder in the output.
        #[arg(long, value_name = "ID")]
        instance: String,
        /// A copy of `checkpoint.key`, if that was lost with the store.
        #[arg(long, value_name = "FILE")]
        key_file: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Tells all that is wrong with a configuration.
    Check {
        /// The configuration, a YAML file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Prints every option as it is with a configuration: as JSON, which is YAML too. Secrets are not shown.
    Print {
        /// The configuration, a YAML file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Prints every option at its default.
    Reference,
}

/// The configuration cannot be used.
const BAD_CONFIG: u8 = 2;

impl Cli {
    /// Does what the arguments say; what went wrong is told on standard error.
    #[must_use]
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Serve { config } => match Config::from_file(&config) {
                Ok(good) => serve(good, config),
                Err(error) => refuse(&error),
            },
            Command::Doctor { config } => match Config::from_file(&config) {
                Ok(config) => doctor(&config),
                Err(error) => refuse(&error),
            },
            Command::Jobs(JobsCommand::Recover { config, instance, key_file }) => match Config::from_file(&config) {
                Ok(config) => recover(&config, &instance, key_file.as_deref()),
                Err(error) => refuse(&error),
            },
            Command::Keys(KeysCommand::Rotate { config }) => replace_keys(&config, Replacing::Rotate),
            Command::Keys(KeysCommand::Revoke { config }) => replace_keys(&config, Replacing::Revoke),
            Command::Keys(KeysCommand::Generate { alg, out }) => match app::generate_keys(&alg, &out) {
                Ok(public) => {
                    println!("{public}");
                    ExitCode::SUCCESS
                }
                Err(error) => {
                    eprintln!("no keys were made: {}", telemetry::error_chain(&*error));
                    ExitCode::FAILURE
                }
            },
            Command::Ledger(command) => ledger(command),
            Command::Clock(ClockCommand::Confirm { config }) => match Config::from_file(&config) {
                Ok(config) => confirm_clock(&config),
                Err(error) => refuse(&error),
            },
            Command::Config(ConfigCommand::Check { config }) => match Config::from_file(&config) {
                Ok(good) => match app::check(&good) {
                    Ok(()) => {
                        println!("{} is good", config.display());
                        ExitCode::SUCCESS
                    }
                    Err(error) => {
                        eprintln!("{}", telemetry::error_chain(&*error));
                        ExitCode::from(BAD_CONFIG)
                    }
                },
                Err(error) => refuse(&error),
            },
            Command::Config(ConfigCommand::Print { config }) => match Config::from_file(&config) {
                Ok(config) => print(&config),
                Err(error) => refuse(&error),
            },
            Command::Config(ConfigCommand::Reference) => {
                print!("{}", config::REFERENCE);
                ExitCode::SUCCESS
            }
        }
    }
}

fn print(config: &Config) -> ExitCode {
    match serde_json::to_string_pretty(config) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("could not print it: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(config: Config, file: PathBuf) -> ExitCode {
    telemetry::init(&config.telemetry);
    telemetry::tell_panics();
    write_for_nobody_else();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("could not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(app::serve(config, file)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("could not serve: {}", telemetry::error_chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn doctor(config: &Config) -> ExitCode {
    // Nor is anybody to read what it tries the output with.
    write_for_nobody_else();
    let examined = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime.block_on(app::examine(config)),
        Err(error) => {
            eprintln!("could not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let Examined { anonymity, own_exports, upstream, storage, files, expiries, issuer } = examined;
    let mut is_fit = true;
    match anonymity {
        Ok(anonymity) => {
            is_fit &= anonymity.is_fit();
            print!("{anonymity}");
        }
        Err(error) => {
            is_fit = false;
            eprintln!("{}", telemetry::error_chain(&*error));
        }
    }
    // Why it could not be tried is told by what follows.
    if let Ok(own_exports) = &own_exports {
        print!("{own_exports}");
    }
    if let Some(alarm) = storage.as_ref().ok().and_then(Storage::alarm) {
        println!("{alarm}\n");
    }
    match upstream {
        Ok(report) => print!("{report}"),
        Err(error) => {
            is_fit = false;
            eprintln!("{}", telemetry::error_chain(&*error));
        }
    }
    is_fit &= files.are_fit();
    print!("{files}{expiries}");
    match issuer {
        None => {}
        Some(Ok(line)) => print!("{line}"),
        Some(Err(error)) => {
            is_fit = false;
            eprintln!("{}", telemetry::error_chain(&*error));
        }
    }
    match storage {
        Ok(report) => {
            is_fit &= report.is_fit();
            print!("{report}");
        }
        Err(error) => {
            is_fit = false;
            eprintln!("{}", telemetry::error_chain(&*error));
        }
    }
    if is_fit { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn recover(config: &Config, instance: &str, key_file: Option<&Path>) -> ExitCode {
    telemetry::init(&config.telemetry);
    telemetry::tell_panics();
    write_for_nobody_else();
    let recovered = tokio::runtime::Runtime::new()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(app::recover(config, instance, key_file)));
    match recovered {
        Ok(report) => {
            print!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("nothing was rebuilt: {}", telemetry::error_chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn ledger(command: LedgerCommand) -> ExitCode {
    let (LedgerCommand::Export { config, .. } | LedgerCommand::Verify { config } | LedgerCommand::Who { config, .. }) =
        &command;
    let config = match Config::from_file(config) {
        Ok(config) => config,
        Err(error) => return refuse(&error),
    };
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let done = match command {
        LedgerCommand::Export { since, until, .. } => app::ledger_commands::export(&config, since, until, &mut out),
        LedgerCommand::Who { patient, .. } => app::ledger_commands::who(&config, &patient, &mut out),
        LedgerCommand::Verify { .. } => return verify_ledger(&config),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", telemetry::error_chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn replace_keys(file: &Path, how: Replacing) -> ExitCode {
    let config = match Config::from_file(file) {
        Ok(config) => config,
        Err(error) => return refuse(&error),
    };
    write_for_nobody_else();
    match app::replace_keys(&config, how, clock::now(&SystemClock)) {
        Ok(()) => {
            println!("there are new keys, and a process that serves goes by them");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{}", telemetry::error_chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn confirm_clock(config: &Config) -> ExitCode {
    match app::confirm_clock(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", telemetry::error_chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn verify_ledger(config: &Config) -> ExitCode {
    let verified = tokio::runtime::Runtime::new()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(app::ledger_commands::verify(config)));
    match verified {
        Ok(findings) => {
            print!("{findings}");
            if findings.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("{}", telemetry::error_chain(&*error));
            ExitCode::FAILURE
        }
    }
}

/// SEC-40: what we write is for nobody else, whatever the shell allows, and no core file is written.
fn write_for_nobody_else() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    // A limit can always be lowered; where it cannot be set at all, the unit's holds.
    let _set = rustix::process::setrlimit(rustix::process::Resource::Core, none);
}

fn refuse(error: &config::ConfigError) -> ExitCode {
    eprintln!("{error}");
    if let Some(cause) = std::error::Error::source(error) {
        eprintln!("{cause}");
    }
    ExitCode::from(BAD_CONFIG)
}
