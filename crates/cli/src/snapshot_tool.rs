//! `oxkeeper snapshot`: looks at snapshots, Java's and ours, packed or not.
//!
//! Source: `SnapshotFormatter`, `SnapshotComparer`, `SnapshotRecursiveSummary`, 3.9.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, Subcommand};
use oxkeeper_proto::Zxid;
use oxkeeper_server::{RecoverOptions, SnapshotTail, Tree, load_snapshot};
use oxkeeper_storage::{Candidate, Compression, Disk, names};
use oxkeeper_tree::{NodeRef, OwnerRules, Rules};
use serde_json::json;

use crate::output::{Output, time};
use crate::watched_disk::WatchedDisk;

/// Looks at snapshots. Nothing is ever written.
#[derive(Debug, Args)]
pub(crate) struct SnapshotTool {
    /// One JSON object per line instead of text.
    #[arg(long, global = true)]
    json: bool,
    /// The longest field in bytes: jute.maxbuffer and its extra.
    #[arg(long, global = true, default_value_t = 2 << 20, value_name = "BYTES")]
    field_bytes_max: usize,
    #[command(subcommand)]
    command: SnapshotCommand,
}

#[derive(Debug, Subcommand)]
enum SnapshotCommand {
    /// Print every znode with its stat, and the sessions.
    Show {
        /// The snapshot.
        file: PathBuf,
        /// Print the data of znodes too, as text if it is some, otherwise in hexadecimal.
        #[arg(short, long)]
        data: bool,
    },
    /// Read everything, check every seal and the digest. Exits with 1 if something is wrong.
    Verify {
        /// The snapshot.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Print what differs between two snapshots. Exits with 1 if something does.
    Compare {
        /// The one.
        left: PathBuf,
        /// The other.
        right: PathBuf,
    },
    /// Count znodes and bytes of data by subtree.
    Summary {
        /// The snapshot.
        file: PathBuf,
        /// Where to begin.
        #[arg(default_value = "/")]
        start: String,
        /// How many levels below it to print.
        #[arg(default_value_t = 1)]
        depth: usize,
    },
}

pub(crate) fn run(tool: &SnapshotTool) -> anyhow::Result<ExitCode> {
    match &tool.command {
        SnapshotCommand::Show { file, data } => show(tool, file, *data),
        SnapshotCommand::Verify { files } => verify(tool, files),
        SnapshotCommand::Compare { left, right } => compare(tool, left, right),
        SnapshotCommand::Summary { file, start, depth } => summary(tool, file, start, *depth),
    }
}

fn load(tool: &SnapshotTool, file: &Path) -> anyhow::Result<(Tree, SnapshotTail)> {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    // A copy may have any name; then its zxid is what the file itself says.
    let (zxid, compression) = names::parse_snapshot(name).unwrap_or((Zxid::ZERO, packing(name)));
    let candidate = Candidate { zxid, compression, path: file.to_owned() };
    let disk: Arc<dyn Disk> = Arc::new(WatchedDisk);
    let owners = OwnerRules { extended_types: true, emulate_353: false };
    let options = RecoverOptions {
        rules: Rules { owners, ..Rules::DEFAULT },
        record_bytes_max: tool.field_bytes_max,
        trust_empty: false,
        seed: 0,
    };
    load_snapshot(&disk, &candidate, &options).with_context(|| format!("cannot read {}", file.display()))
}

fn packing(name: &str) -> Compression {
    match name.rsplit_once('.').map(|(_, end)| end) {
        Some("gz") => Compression::Gzip,
        Some("snappy") => Compression::Snappy,
        _ => Compression::None,
    }
}

/// Calls `each` for every znode with its path, parents before children, siblings by name.
fn walk<'t, E>(
    tree: &'t Tree,
    start: &str,
    mut each: impl FnMut(&str, NodeRef<'t>) -> Result<(), E>,
) -> Result<(), E> {
    let mut waiting = vec![start.to_owned()];
    while let Some(path) = waiting.pop() {
        let Some(node) = tree.find(&path) else { continue };
        each(&path, node)?;
        let mut names: Vec<&str> = node.children().collect();
        names.sort_unstable_by(|a, b| b.cmp(a));
        waiting.extend(names.iter().map(|name| join(&path, name)));
    }
    Ok(())
}

fn join(path: &str, name: &str) -> String {
    format!("{}/{name}", path.trim_end_matches('/'))
}

/// Data as a person can read it; control characters do not reach a terminal.
fn readable(data: &[u8]) -> String {
    match std::str::from_utf8(data) {
        Ok(text) => format!("{text:?}"),
        Err(_) => data.iter().fold("0x".to_owned(), |hex, byte| hex + &format!("{byte:02x}")),
    }
}

fn show(tool: &SnapshotTool, file: &Path, with_data: bool) -> anyhow::Result<ExitCode> {
    let (tree, tail) = load(tool, file)?;
    let mut out = Output::new(tool.json);
    out.line(
        || format!("ZNode Details (count={}):\n----", tree.len()),
        || json!({"zxid": tree.last_zxid().to_string(), "znodes": tree.len(), "digest": tree.digest()}),
    )?;
    walk(&tree, "/", |path, node| {
        let stat = node.stored_stat();
        let data = node.data();
        out.line(
            || {
                let mut text = format!(
                    "{path:?}\n  cZxid = {}\n  ctime = {}\n  mZxid = {}\n  mtime = {}\n  pZxid = {}\n  cversion = {}\n  \
                     dataVersion = {}\n  aclVersion = {}\n  ephemeralOwner = 0x{:016x}\n",
                    stat.czxid,
                    time(stat.ctime),
                    stat.mzxid,
                    time(stat.mtime),
                    stat.pzxid,
                    stat.cversion,
                    stat.version,
                    stat.aversion,
                    stat.ephemeral_owner
                );
                text += &match data {
                    Some(data) if with_data => format!("  data = {}\n----", readable(data)),
                    Some(data) => format!("  dataLength = {}\n----", data.len()),
                    None => "  no data\n----".to_owned(),
                };
                text
            },
            || {
                let mut value = json!({
                    "path": path, "czxid": stat.czxid.to_string(), "mzxid": stat.mzxid.to_string(),
                    "pzxid": stat.pzxid.to_string(), "ctime": stat.ctime, "mtime": stat.mtime,
                    "version": stat.version, "cversion": stat.cversion, "aversion": stat.aversion,
                    "owner": format!("0x{:x}", stat.ephemeral_owner), "data_bytes": data.map(<[u8]>::len),
                });
                if with_data {
                    value["data"] = data.map(readable).into();
                }
                value
            },
        )
    })?;
    let mut sessions: Vec<_> = tree.sessions().collect();
    sessions.sort_unstable();
    out.line(
        || "Session Details (sid, timeout, ephemeralCount):".to_owned(),
        || json!({"sessions": sessions.len()}),
    )?;
    for (session, timeout_ms) in sessions {
        let ephemerals = tree.ephemerals(session).count();
        out.line(
            || format!("{session}, {timeout_ms}, {ephemerals}"),
            || json!({"session": session.to_string(), "timeout": timeout_ms, "ephemerals": ephemerals}),
        )?;
    }
    if let Some((zxid, _, digest)) = tail.digest {
        out.line(
            || format!("Target zxid digest is: {zxid}, {digest}"),
            || json!({"digest_zxid": zxid.to_string(), "digest": digest}),
        )?;
    }
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}

fn verify(tool: &SnapshotTool, files: &[PathBuf]) -> anyhow::Result<ExitCode> {
    let mut out = Output::new(tool.json);
    let mut code = ExitCode::SUCCESS;
    for file in files {
        let name = file.display().to_string();
        match load(tool, file) {
            Ok((tree, tail)) => {
                // A fuzzy snapshot is finished by the log: then the digest is of a later state.
                let digest = match tail.digest {
                    Some((zxid, _, digest)) if zxid.0 != 0 && zxid == tree.last_zxid() => {
                        if digest == tree.digest() { "right" } else { "WRONG" }
                    }
                    Some((zxid, ..)) if zxid.0 == 0 => "none",
                    Some(_) => "of a later transaction",
                    None => "none",
                };
                if digest == "WRONG" {
                    code = ExitCode::FAILURE;
                }
                let state = if digest == "WRONG" { "DAMAGED" } else { "sound" };
                let (znodes, sessions) = (tree.len(), tree.sessions().count());
                out.line(
                    || format!("{name}: {state}, {znodes} znodes, {sessions} sessions, digest: {digest}"),
                    || json!({"file": name, "sound": state == "sound", "znodes": znodes, "sessions": sessions, "digest": digest}),
                )?;
            }
            Err(error) => {
                code = ExitCode::FAILURE;
                let error = format!("{error:#}");
                out.line(
                    || format!("{name}: DAMAGED: {error}"),
                    || json!({"file": name, "sound": false, "error": error}),
                )?;
            }
        }
    }
    out.finish()?;
    Ok(code)
}

fn compare(tool: &SnapshotTool, left: &Path, right: &Path) -> anyhow::Result<ExitCode> {
    let ((one, _), (other, _)) = (load(tool, left)?, load(tool, right)?);
    let mut out = Output::new(tool.json);
    let mut counts = [0_u64; 3];
    let mut tell = |kind: usize, path: &str, what: &str| {
        counts[kind] += 1;
        out.line(|| format!("{what}: {path:?}"), || json!({"path": path, "what": what}))
    };
    walk(&one, "/", |path, node| match other.find(path) {
        None => tell(0, path, "only in the first"),
        Some(twin) if node.data() != twin.data() => tell(2, path, "data differ"),
        Some(twin) if node.stored_stat() != twin.stored_stat() => tell(2, path, "stats differ"),
        Some(twin) if node.acl() != twin.acl() => tell(2, path, "access control lists differ"),
        Some(_) => Ok(()),
    })?;
    walk(
        &other,
        "/",
        |path, _| if one.find(path).is_none() { tell(1, path, "only in the second") } else { Ok(()) },
    )?;
    let [first, second, changed] = counts;
    out.line(
        || format!("{} and {} znodes; {first} only in the first, {second} only in the second, {changed} differ", one.len(), other.len()),
        || json!({"first": one.len(), "second": other.len(), "only_first": first, "only_second": second, "differ": changed}),
    )?;
    out.finish()?;
    Ok(if counts == [0; 3] { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn summary(tool: &SnapshotTool, file: &Path, start: &str, depth: usize) -> anyhow::Result<ExitCode> {
    let (tree, _) = load(tool, file)?;
    tree.find(start).with_context(|| format!("there is no {start} in {}", file.display()))?;
    let mut out = Output::new(tool.json);
    let mut waiting = vec![(start.to_owned(), 0)];
    while let Some((path, level)) = waiting.pop() {
        let Some(node) = tree.find(&path) else { continue };
        let (children, bytes) = (node.descendants_len(), node.data_bytes_below());
        out.line(
            || {
                let indent = "-- ".repeat(level);
                format!("{indent}{path:?}\n{indent}   children: {children}\n{indent}   data: {bytes}")
            },
            || json!({"path": path, "descendants": children, "data_bytes": bytes}),
        )?;
        if level < depth {
            let mut names: Vec<&str> = node.children().collect();
            names.sort_unstable_by(|a, b| b.cmp(a));
            waiting.extend(names.iter().map(|name| (join(&path, name), level + 1)));
        }
    }
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}
