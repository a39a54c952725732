//! What operators do around a server: `oxkeeper purge`, `oxkeeper initialize`, `oxkeeper digest`.
//!
//! Source: `PurgeTxnLog`, `zkServer-initialize.sh`, `DigestAuthenticationProvider.main`, 3.9.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use oxkeeper_server::{DigestAlgorithm, digest_id};
use oxkeeper_storage::{Directories, RealDisk, purge};
use serde_json::json;

use crate::args::ConfigArgs;
use crate::output::Output;
use crate::source;

/// Removes snapshots and logs that no recovery needs any more.
#[derive(Debug, Args)]
pub(crate) struct Purge {
    /// dataLogDir, where the logs are.
    data_log_dir: PathBuf,
    /// dataDir, where the snapshots are, if that is another one.
    data_dir: Option<PathBuf>,
    /// How many snapshots to keep, at least 3.
    #[arg(short = 'n', long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(3..))]
    count: u64,
    /// Only print what would go.
    #[arg(long)]
    dry_run: bool,
    /// One JSON object per line instead of text.
    #[arg(long)]
    json: bool,
}

/// Prepares the directories of a server that is to join an ensemble for the first time.
#[derive(Debug, Args)]
pub(crate) struct Initialize {
    /// The server's zoo.cfg.
    #[arg(long, value_name = "ZOO.CFG")]
    configfile: String,
    /// The server's number in the ensemble, 1 to 255.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..))]
    myid: Option<u8>,
    /// Remove what is there.
    #[arg(long)]
    force: bool,
}

/// Prints the id of the digest scheme for a user, as access control lists and superDigest hold it.
#[derive(Debug, Args)]
pub(crate) struct Digest {
    /// USER:PASSWORD.
    #[arg(required = true)]
    users: Vec<String>,
    /// DigestAuthenticationProvider.digestAlg of the servers.
    #[arg(long, value_enum, default_value_t = Algorithm::Sha1)]
    algorithm: Algorithm,
    /// One JSON object per line instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Algorithm {
    #[value(name = "SHA1")]
    Sha1,
    #[value(name = "SHA-256")]
    Sha256,
    #[value(name = "SHA-384")]
    Sha384,
    #[value(name = "SHA-512")]
    Sha512,
}

pub(crate) fn purge(args: &Purge) -> anyhow::Result<ExitCode> {
    let data_dir = args.data_dir.as_ref().unwrap_or(&args.data_log_dir);
    let dirs = Directories::new(Arc::new(RealDisk), data_dir, &args.data_log_dir);
    for dir in [&dirs.logs, &dirs.snapshots] {
        if !dir.is_dir() {
            bail!("{} is no directory", dir.display());
        }
    }
    let files = purge::plan(&dirs, usize::try_from(args.count).unwrap_or(usize::MAX))?;
    let mut out = Output::new(args.json);
    for file in &files {
        let name = file.display().to_string();
        let word = if args.dry_run { "Would remove" } else { "Removing" };
        out.line(|| format!("{word} file: {name}"), || json!({"file": name, "removed": !args.dry_run}))?;
    }
    if !args.dry_run {
        purge::remove(&dirs, &files)?;
    }
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn initialize(args: &Initialize) -> anyhow::Result<ExitCode> {
    let source = match source::read(&ConfigArgs { define: Vec::new(), config: vec![args.configfile.clone()] })
    {
        Ok(source) => source,
        Err(code) => return Ok(code),
    };
    let config = &source.parsed.config;
    let dirs = Directories::new(Arc::new(RealDisk), &config.data_dir, &config.data_log_dir);
    let existing: Vec<&Path> =
        [&dirs.snapshots, &dirs.logs].into_iter().filter(|dir| dir.exists()).map(PathBuf::as_path).collect();
    if !existing.is_empty() && !args.force {
        bail!("Data directories already exist, use --force to re-create: {}", existing[0].display());
    }
    for dir in existing.iter().filter(|dir| dir.exists()) {
        fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    dirs.create(true)?;
    let myid = config.data_dir.join("myid");
    match args.myid {
        Some(id) => {
            println!("Using myid of {id}");
            fs::write(&myid, format!("{id}\n"))
                .with_context(|| format!("cannot write {}", myid.display()))?;
        }
        None => {
            println!("No myid provided, be sure to specify it in {} if using non-standalone", myid.display())
        }
    }
    let mark = config.data_dir.join("initialize");
    fs::write(&mark, b"").with_context(|| format!("cannot write {}", mark.display()))?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn digest(args: &Digest) -> anyhow::Result<ExitCode> {
    let algorithm = match args.algorithm {
        Algorithm::Sha1 => DigestAlgorithm::Sha1,
        Algorithm::Sha256 => DigestAlgorithm::Sha256,
        Algorithm::Sha384 => DigestAlgorithm::Sha384,
        Algorithm::Sha512 => DigestAlgorithm::Sha512,
    };
    let mut out = Output::new(args.json);
    for user in &args.users {
        if !user.contains(':') {
            bail!("{user} has no password: USER:PASSWORD is needed");
        }
        let id = digest_id(user.as_bytes(), algorithm);
        out.line(|| format!("{user}->{id}"), || json!({"id": id}))?;
    }
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}
