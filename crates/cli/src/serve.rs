//! `oxkeeper server`: runs until a signal ends it, or a failure does.

use std::process::ExitCode;

use anyhow::Context;
use oxkeeper_server::{Config, Server, ServerError, Storage};
use oxkeeper_storage::StorageError;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};

use crate::args::ConfigArgs;
use crate::source;

/// A file grew beyond the limit of the process. The same number on all Linux systems that Rust knows but MIPS.
const SIGXFSZ: i32 = 25;

/// Java's exit code for a data directory that cannot be used.
const DATADIR: u8 = 3;

pub(crate) fn run(args: &ConfigArgs) -> ExitCode {
    let source = match source::read(args) {
        Ok(source) => source,
        Err(code) => return code,
    };
    source::log_notices(&source);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let served =
        runtime.context("cannot start").and_then(|runtime| runtime.block_on(serve(source.parsed.config)));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            let code = exit_code(&problem);
            error!("{problem}");
            error!("Unexpected exception, exiting abnormally");
            code
        }
    }
}

pub(crate) fn exit_code(problem: &anyhow::Error) -> ExitCode {
    match problem.downcast_ref::<ServerError>() {
        Some(ServerError::Storage(StorageError::Directory(_))) => ExitCode::from(DATADIR),
        _ => ExitCode::FAILURE,
    }
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    // Where files may only grow so far, the signal would end the process before the write can say so.
    let _file_too_large = signal(SignalKind::from_raw(SIGXFSZ))?;
    let data = std::path::absolute(&config.data_dir).unwrap_or(config.data_dir.clone());
    let mut server = Server::start(config, Storage::Disk).await?;
    let address = server.address();
    let reach = if address.ip().is_unspecified() {
        format!("127.0.0.1:{}", address.port())
    } else {
        address.to_string()
    };
    println!(
        "oxkeeper {} listens on {address}, keeps its data in {}; connect with: zkCli.sh -server {reach}",
        env!("CARGO_PKG_VERSION"),
        data.display()
    );
    let name = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
        _ = hang_up.recv() => "SIGHUP",
        ended = server.ended() => return Ok(ended?),
    };
    info!("{name}: stopping; sessions live on until they are taken up or time out");
    server.shutdown().await?;
    Ok(())
}
