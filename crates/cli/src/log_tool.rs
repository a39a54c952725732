//! `oxkeeper log`: looks at transaction logs, Java's and ours, and makes repaired copies.
//!
//! Source: `TxnLogToolkit`, 3.9.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use oxkeeper_proto::{OpCode, Txn, TxnRecord, Zxid};
use oxkeeper_storage::rawlog::{self, RawItem, RawRecord};
use serde_json::{Value, json};

use crate::output::{Output, time};

/// Looks at transaction logs, and makes repaired copies of them. The files themselves are never written.
#[derive(Debug, Args)]
pub(crate) struct LogTool {
    /// One JSON object per line instead of text.
    #[arg(long, global = true)]
    json: bool,
    /// The longest record in bytes: jute.maxbuffer and its extra.
    #[arg(long, global = true, default_value_t = 2 << 20, value_name = "BYTES")]
    record_bytes_max: usize,
    #[command(subcommand)]
    command: LogCommand,
}

#[derive(Debug, Subcommand)]
enum LogCommand {
    /// Print every transaction.
    Show {
        /// The log.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Check every seal and the order of zxids. Exits with 1 if something is wrong.
    Verify {
        /// The log.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Copy a log up to a transaction, that one included.
    Chop {
        /// The log.
        file: PathBuf,
        /// The last zxid to keep: hexadecimal behind 0x, or decimal.
        zxid: String,
        /// Where to write the copy; next to the log, as FILE.choppedZXID, if not given.
        #[arg(short, long)]
        output: Option<PathBuf>,
    },
    /// Copy every transaction that can be read, with seals made anew. Ends at what cannot be read.
    Repair {
        /// The log.
        file: PathBuf,
        /// Where to write the copy; next to the log, as FILE.fixed, if not given.
        #[arg(short, long)]
        output: Option<PathBuf>,
    },
}

pub(crate) fn run(tool: &LogTool) -> anyhow::Result<ExitCode> {
    match &tool.command {
        LogCommand::Show { files } => show(tool, files),
        LogCommand::Verify { files } => verify(tool, files),
        LogCommand::Chop { file, zxid, output } => {
            let last = parse_zxid(zxid)?;
            let output = output.clone().unwrap_or_else(|| beside(file, &format!(".chopped{}", last.0)));
            copy(tool, file, &output, Some(last))
        }
        LogCommand::Repair { file, output } => {
            let output = output.clone().unwrap_or_else(|| beside(file, ".fixed"));
            copy(tool, file, &output, None)
        }
    }
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

fn show(tool: &LogTool, files: &[PathBuf]) -> anyhow::Result<ExitCode> {
    let mut out = Output::new(tool.json);
    let mut code = ExitCode::SUCCESS;
    for file in files {
        let bytes = read(file)?;
        for item in rawlog::items(&bytes, tool.record_bytes_max) {
            match item {
                RawItem::Record(record) => out.line(|| text(&record), || value(&record))?,
                RawItem::End { .. } => {}
                RawItem::Broken { offset, what } => {
                    code = ExitCode::FAILURE;
                    let name = file.display().to_string();
                    out.line(
                        || format!("{name}: broken at offset {offset}: {what}"),
                        || json!({"file": name, "offset": offset, "broken": what}),
                    )?;
                }
            }
        }
    }
    out.finish()?;
    Ok(code)
}

/// What verifying one log found.
#[derive(Debug, Default)]
struct Found {
    records: u64,
    first: Option<Zxid>,
    last: Option<Zxid>,
    /// Offset and what is wrong there.
    wrong: Vec<(usize, String)>,
    zeros: usize,
}

fn examine(bytes: &[u8], record_bytes_max: usize, out: &mut Output) -> Found {
    let mut found = Found::default();
    for item in rawlog::items(bytes, record_bytes_max) {
        match item {
            RawItem::End { zeros, .. } => found.zeros = zeros,
            RawItem::Broken { offset, what } => {
                let behind = bytes.len() - bytes.iter().rev().take_while(|b| **b == 0).count();
                let more = behind.saturating_sub(offset);
                found.wrong.push((offset, format!("{what}; {more} bytes lie there and behind")));
            }
            RawItem::Record(record) => {
                out.progress(record.offset as u64, bytes.len() as u64);
                if !record.is_checksum_right {
                    found.wrong.push((record.offset, format!("{}: the checksum is wrong", record.zxid)));
                } else if let Err(error) = TxnRecord::decode(record.payload) {
                    found.wrong.push((record.offset, format!("{}: {error}", record.zxid)));
                }
                if !record.is_end_marked {
                    found.wrong.push((record.offset, format!("{}: the end mark is wrong", record.zxid)));
                }
                if let Some(before) = found.last
                    && record.zxid.0 != before.0 + 1
                    && record.zxid.epoch() <= before.epoch()
                {
                    found.wrong.push((record.offset, format!("{} follows {before}", record.zxid)));
                }
                found.first.get_or_insert(record.zxid);
                found.last = Some(record.zxid);
                found.records += 1;
            }
        }
    }
    found
}

fn verify(tool: &LogTool, files: &[PathBuf]) -> anyhow::Result<ExitCode> {
    let mut out = Output::new(tool.json);
    let mut code = ExitCode::SUCCESS;
    for file in files {
        let bytes = read(file)?;
        let found = examine(&bytes, tool.record_bytes_max, &mut out);
        if !found.wrong.is_empty() {
            code = ExitCode::FAILURE;
        }
        let name = file.display().to_string();
        let range = match (found.first, found.last) {
            (Some(first), Some(last)) => format!("{first} to {last}"),
            _ => "none".to_owned(),
        };
        out.line(
            || {
                let state = if found.wrong.is_empty() { "sound" } else { "DAMAGED" };
                let mut text = format!(
                    "{name}: {state}, {} transactions, {range}, {} bytes of padding",
                    found.records, found.zeros
                );
                for (offset, what) in &found.wrong {
                    text += &format!("\n  at offset {offset}: {what}");
                }
                text
            },
            || {
                let wrong: Vec<Value> = found
                    .wrong
                    .iter()
                    .map(|(offset, what)| json!({"offset": offset, "what": what}))
                    .collect();
                json!({
                    "file": name, "transactions": found.records, "first": found.first.map(|z| z.to_string()),
                    "last": found.last.map(|z| z.to_string()), "padding": found.zeros, "wrong": wrong,
                })
            },
        )?;
    }
    out.finish()?;
    Ok(code)
}

/// Copies records up to `last`, or up to what cannot be read.
fn copy(tool: &LogTool, file: &Path, output: &Path, last: Option<Zxid>) -> anyhow::Result<ExitCode> {
    let bytes = read(file)?;
    let mut kept: Vec<RawRecord<'_>> = Vec::new();
    let (mut resealed, mut ended, mut is_reached) = (0, None, false);
    for item in rawlog::items(&bytes, tool.record_bytes_max) {
        match item {
            RawItem::Record(record) => {
                if last.is_some_and(|last| record.zxid > last) {
                    is_reached = true;
                    break;
                }
                let sound = record.is_checksum_right && record.is_end_marked;
                if !sound && last.is_some() {
                    bail!("{} is damaged at offset {}: repair it first", file.display(), record.offset);
                }
                if TxnRecord::decode(record.payload).is_err() {
                    ended = Some((record.offset, "a transaction that cannot be read"));
                    break;
                }
                resealed += usize::from(!sound);
                is_reached |= last == Some(record.zxid);
                kept.push(record);
            }
            RawItem::End { .. } => break,
            RawItem::Broken { offset, what } => ended = Some((offset, what)),
        }
    }
    if let Some(last) = last.filter(|_| !is_reached) {
        bail!("{} does not reach {last}", file.display());
    }
    let copied = rawlog::build(kept.iter().map(|record| record.payload));
    let mut to = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(output)
        .with_context(|| format!("cannot write {}", output.display()))?;
    to.write_all(&copied)?;
    to.sync_all()?;
    let mut out = Output::new(tool.json);
    out.line(
        || {
            let mut text = format!("{} transactions written to {}", kept.len(), output.display());
            if resealed > 0 {
                text += &format!(", {resealed} of them with new seals");
            }
            if let Some((offset, what)) = ended {
                text += &format!("; ended at offset {offset}: {what}");
            }
            text
        },
        || {
            json!({
                "output": output.display().to_string(), "transactions": kept.len(), "resealed": resealed,
                "ended_at": ended.map(|(offset, _)| offset), "ended_by": ended.map(|(_, what)| what),
            })
        },
    )?;
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn parse_zxid(text: &str) -> anyhow::Result<Zxid> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => i64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map(Zxid).with_context(|| format!("{text} is no zxid: hexadecimal behind 0x, or decimal"))
}

fn text(record: &RawRecord<'_>) -> String {
    let seal = match (record.is_checksum_right, record.is_end_marked) {
        (true, true) => "",
        (false, _) => " CRC ERROR",
        (true, false) => " END MARK ERROR",
    };
    match TxnRecord::decode(record.payload) {
        Ok(found) => {
            let header = found.header;
            let digest = found.digest.map_or_else(String::new, |digest| format!(" digest {}", digest.digest));
            format!(
                "{} session {} cxid 0x{:x} zxid {} {}{digest}{seal}",
                time(header.time),
                header.session,
                header.cxid.0,
                header.zxid,
                what(&found.txn)
            )
        }
        Err(error) => format!("zxid {} at offset {}: {error}{seal}", record.zxid, record.offset),
    }
}

/// What kinds of transactions are called.
fn word(op: OpCode) -> &'static str {
    match op {
        OpCode::Create => "create",
        OpCode::Create2 => "create2",
        OpCode::CreateContainer => "createContainer",
        OpCode::CreateTtl => "createTTL",
        OpCode::Delete => "delete",
        OpCode::DeleteContainer => "deleteContainer",
        OpCode::SetData => "setData",
        OpCode::Reconfig => "reconfig",
        _ => "unknown",
    }
}

/// A transaction in words. Control characters in paths do not reach a terminal.
fn what(txn: &Txn<'_>) -> String {
    let bytes = |data: &Option<&[u8]>| data.map_or("null".to_owned(), |data| format!("{} bytes", data.len()));
    match txn {
        Txn::CreateSession { timeout_ms } => format!("createSession timeout {timeout_ms}"),
        Txn::CloseSession { paths: Some(paths) } => format!("closeSession {paths:?}"),
        Txn::CloseSession { paths: None } => "closeSession".to_owned(),
        Txn::Error { code } => format!("error {}", code.0),
        Txn::Create(create) => {
            let kind = if create.ephemeral { " ephemeral" } else { "" };
            let ttl = if create.ttl > 0 { format!(" ttl {}", create.ttl) } else { String::new() };
            format!(
                "{} {:?}{kind}{ttl} {}, parent's cversion {}",
                word(create.op),
                create.path,
                bytes(&create.data),
                create.parent_cversion
            )
        }
        Txn::Delete { op, path } => format!("{} {path:?}", word(*op)),
        Txn::SetData { op, path, data, version } => {
            format!("{} {path:?} {}, version {version}", word(*op), bytes(data))
        }
        Txn::SetAcl { path, version, .. } => format!("setACL {path:?}, aversion {version}"),
        Txn::Check { path, version } => format!("check {path:?}, version {version}"),
        Txn::Multi(txns) => {
            let all: Vec<String> = txns.iter().map(what).collect();
            format!("multi [{}]", all.join("; "))
        }
    }
}

fn value(record: &RawRecord<'_>) -> Value {
    let mut value = json!({
        "offset": record.offset, "zxid": record.zxid.to_string(), "checksum": record.is_checksum_right,
        "end_mark": record.is_end_marked,
    });
    match TxnRecord::decode(record.payload) {
        Ok(found) => {
            value["session"] = found.header.session.to_string().into();
            value["cxid"] = found.header.cxid.0.into();
            value["time"] = time(found.header.time).into();
            value["txn"] = txn_value(&found.txn);
            value["digest"] = found.digest.map(|digest| digest.digest).into();
        }
        Err(error) => value["error"] = error.to_string().into(),
    }
    value
}

fn txn_value(txn: &Txn<'_>) -> Value {
    match txn {
        Txn::CreateSession { timeout_ms } => json!({"type": "createSession", "timeout": timeout_ms}),
        Txn::CloseSession { paths } => json!({"type": "closeSession", "paths": paths}),
        Txn::Error { code } => json!({"type": "error", "code": code.0}),
        Txn::Create(create) => json!({
            "type": word(create.op), "path": create.path, "data_bytes": create.data.map(<[u8]>::len),
            "ephemeral": create.ephemeral, "parent_cversion": create.parent_cversion, "ttl": create.ttl,
        }),
        Txn::Delete { op, path } => json!({"type": word(*op), "path": path}),
        Txn::SetData { op, path, data, version } => {
            json!({"type": word(*op), "path": path, "data_bytes": data.map(<[u8]>::len), "version": version})
        }
        Txn::SetAcl { path, version, .. } => json!({"type": "setACL", "path": path, "aversion": version}),
        Txn::Check { path, version } => json!({"type": "check", "path": path, "version": version}),
        Txn::Multi(txns) => json!({"type": "multi", "txns": txns.iter().map(txn_value).collect::<Vec<_>>()}),
    }
}
