//! The command line: the server, and the tools around it.

mod args;
mod check;
mod log_tool;
mod logging;
mod output;
mod serve;
mod snapshot_tool;
mod source;
mod upkeep;
mod watched_disk;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::args::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        Command::Server(server) => {
            logging::install(&cli.log);
            serve::run(&server)
        }
        Command::Check(check) => {
            logging::install(&cli.log);
            check::run(&check)
        }
        Command::Log(tool) => exit(log_tool::run(&tool)),
        Command::Snapshot(tool) => exit(snapshot_tool::run(&tool)),
        Command::Purge(purge) => exit(upkeep::purge(&purge)),
        Command::Initialize(initialize) => exit(upkeep::initialize(&initialize)),
        Command::Digest(digest) => exit(upkeep::digest(&digest)),
        Command::Version => {
            println!("{}", oxkeeper_server::version());
            ExitCode::SUCCESS
        }
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "oxkeeper", &mut script);
            // Whoever reads only its beginning does not want the rest.
            let _ = std::io::stdout().write_all(&script);
            ExitCode::SUCCESS
        }
    }
}

/// The exit code of a tool; what went wrong goes to standard error.
fn exit(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        // A reader that has seen enough is no failure.
        let closed = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        if closed == Some(std::io::ErrorKind::BrokenPipe) {
            return ExitCode::SUCCESS;
        }
        eprintln!("oxkeeper: {error:#}");
        ExitCode::FAILURE
    })
}
