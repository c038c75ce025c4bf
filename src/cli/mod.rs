//! The command line: `zmigrate` and `zmigrated`.
//!
//! stdout carries the result, stderr everything else; the exit code says what the whole amounts to (docs/exit-codes.md).

mod args;
mod ca;
mod check;
mod config;
mod cutover;
mod cutover_args;
mod doctor;
#[cfg(test)]
mod documents_tests;
mod history;
mod job;
mod job_args;
mod join;
pub mod output;
mod probe;
mod progress;
mod prune;
mod replicate;
mod state;
mod status;
mod stream;
mod verify;

use std::{process::ExitCode, time::Duration};

use clap::{CommandFactory, Parser};

use self::args::{Cli, Command, Daemon, OutputFormat};
use self::job_args::JobCommand;
use self::output::Output;
use crate::{
    daemon::{self, Sources},
    types::Failure,
};

/// Runs `zmigrate`.
pub fn zmigrate() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // To a monitoring system 2 says CRITICAL, and that nothing is known is another thing.
        Err(e) if e.use_stderr() && std::env::args().nth(1).is_some_and(|first| first == "check") => {
            let _ = e.print();
            return ExitCode::from(check::not_known(&e.kind(), &Output::new(OutputFormat::Text, false)));
        }
        Err(e) => e.exit(),
    };
    let output = Output::new(cli.global.output, cli.global.quiet);
    // From cron, what went wrong and then well is no reason for a mail.
    let cron = matches!(&cli.command, Command::Job(JobCommand::Run { cron: true, .. })) && cli.global.verbose == 0;
    output::log_to_stderr(cli.global.verbose, cli.global.quiet || cron, false);
    let result = match cli.command {
        Command::Push(args) => replicate::push(&cli.global, args, &output),
        Command::Pull(args) => replicate::pull(&cli.global, args, &output),
        Command::Cutover(command) => cutover::run(&cli.global, command, &output),
        Command::Verify(args) => verify::run(&cli.global, args, &output),
        Command::Probe(args) => probe::run(&cli.global, args, &output),
        Command::Stream(command) => stream::run(command, &output),
        Command::Ca(command) => ca::run(&cli.global, command, &output),
        Command::Join(args) => join::run(&cli.global, args, &output),
        Command::Config(command) => config::run(&cli.global, command, &output),
        Command::Doctor { peer } => doctor::run(&cli.global, peer, &output),
        Command::State(command) => state::run(&cli.global, command, &output),
        Command::Job(command) => job::run(&cli.global, command, &output),
        Command::Prune(args) => prune::run(&cli.global, &args, &output),
        Command::History(args) => history::run(&cli.global, &args, &output),
        Command::Status(args) => status::run(&cli.global, &args, &output),
        Command::Check(args) => check::run(&cli.global, &args, &output),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "zmigrate", &mut std::io::stdout());
            Ok(0)
        }
        Command::Man { dir } => man(&dir),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            output.failure(&failure);
            ExitCode::from(failure.class.exit_code())
        }
    }
}

/// Runs `zmigrated`.
pub fn zmigrated() -> ExitCode {
    let args = Daemon::parse();
    output::log_to_stderr(args.verbose, false, args.log_json);
    let sources = Sources { config: args.config, identity_dir: args.identity_dir };
    let result = output::runtime().and_then(|runtime| {
        let result = runtime.block_on(daemon::run(sources));
        // A thread that hangs in a write to a suspended pool must not keep the daemon.
        runtime.shutdown_timeout(Duration::from_secs(3));
        result
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::print_failure(&failure);
            ExitCode::from(failure.class.exit_code())
        }
    }
}

/// Writes the man pages of both programs and all commands.
fn man(dir: &std::path::Path) -> Result<u8, Failure> {
    let usage = |e: std::io::Error| {
        Failure::new(crate::types::FailureClass::Usage, format!("cannot write man pages to {}: {e}", dir.display()))
    };
    std::fs::create_dir_all(dir).map_err(usage)?;
    clap_mangen::generate_to(Cli::command(), dir).map_err(usage)?;
    clap_mangen::generate_to(Daemon::command(), dir).map_err(usage)?;
    Ok(0)
}
