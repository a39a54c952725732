//! What can be said on the command line.

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::log_tool::LogTool;
use crate::snapshot_tool::SnapshotTool;
use crate::upkeep::{Digest, Initialize, Purge};

/// ZooKeeper, rebuilt: the same protocol, configuration and files, without a JVM.
#[derive(Debug, Parser)]
#[command(name = "oxkeeper", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) log: LogArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How to log. Logs go to standard error.
#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// What to log: a level (error, warn, info, debug, trace) or a filter such as `info,oxkeeper_node=debug`.
    #[arg(long, global = true, env = "OXKEEPER_LOG", default_value = "info", value_name = "FILTER")]
    pub(crate) log_level: String,
    /// The form of a log line.
    #[arg(long, global = true, env = "OXKEEPER_LOG_FORMAT", value_enum, default_value_t = LogFormat::Plain)]
    pub(crate) log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// One line for a person.
    Plain,
    /// One JSON object per line.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve clients.
    ///
    /// Without arguments: on 127.0.0.1:2181, data in ./oxkeeper-data. With the path of a zoo.cfg: as
    /// ZooKeeper would with that file. With a port and a directory: on all addresses of this host.
    Server(ConfigArgs),
    /// Do everything that a start does short of writing and serving, and say what was found.
    Check(ConfigArgs),
    /// Look at transaction logs, repair copies of them.
    Log(LogTool),
    /// Look at snapshots.
    Snapshot(SnapshotTool),
    /// Remove snapshots and logs that no recovery needs any more.
    Purge(Purge),
    /// Prepare the directories of a server that is to join an ensemble.
    Initialize(Initialize),
    /// Print the digest id of a user and password.
    Digest(Digest),
    /// Print the version that the server reports.
    Version,
    /// Print a completion script for a shell.
    Completion {
        /// Which shell.
        shell: Shell,
    },
}

/// Where the configuration comes from.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// A Java system property, as in SERVER_JVMFLAGS and JVMFLAGS, which are read too.
    #[arg(short = 'D', value_name = "KEY=VALUE")]
    pub(crate) define: Vec<String>,
    /// The path of a zoo.cfg, or a port and a data directory, then perhaps tickTime and maxClientCnxns.
    #[arg(value_name = "ZOO.CFG", num_args = 0..=4)]
    pub(crate) config: Vec<String>,
}
