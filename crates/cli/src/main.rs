//! The command line: `oxkeeper server`, `oxkeeper check`, `oxkeeper version`.

mod args;
mod check;
mod logging;
mod serve;
mod source;

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
