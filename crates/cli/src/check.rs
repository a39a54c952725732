//! `oxkeeper check`: what a start would find, without a start.

use std::process::ExitCode;

use oxkeeper_server::{Recovered, inspect};

use crate::args::ConfigArgs;
use crate::{serve, source};

pub(crate) fn run(args: &ConfigArgs) -> ExitCode {
    let source = match source::read(args) {
        Ok(source) => source,
        Err(code) => return code,
    };
    println!("configuration: {}", source.name);
    for notice in &source.parsed.notices {
        let word = if notice.is_warning { "warning" } else { "note" };
        println!("  {word}: {}", notice.text);
    }
    let config = &source.parsed.config;
    println!("data directory: {}", config.data_dir.display());
    match inspect(config) {
        Ok(found) => {
            match found.snapshot {
                Some(zxid) => println!("  snapshot: {zxid}"),
                None => println!("  snapshot: none"),
            }
            println!("  transactions after it: {}", found.replayed);
            println!("  last zxid: {}", found.tree.last_zxid());
            println!("  znodes: {}", found.tree.len());
            println!("  sessions: {}", found.tree.sessions().count());
            println!("  ephemerals: {}", found.tree.ephemerals_len());
            println!("  digest: {}", found.tree.digest());
            if found.digest_mismatches > 0 {
                println!("  digest mismatches: {}", found.digest_mismatches);
            }
            println!("what differs from Java here:");
            for line in differences(&found) {
                println!("  {line}");
            }
            println!("a start would succeed");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            let problem = anyhow::Error::from(problem);
            println!("a start would fail: {problem}");
            serve::exit_code(&problem)
        }
    }
}

/// What Java would do differently with this directory, and what it would do differently with any.
fn differences(found: &Recovered) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(tear) = &found.tear {
        lines.push(format!(
            "{} ends in a torn write at offset {}: a start cuts it off; Java stops if its checksum is wrong",
            tear.path.display(),
            tear.offset
        ));
    }
    for path in found.tree.unreadable() {
        lines.push(format!("the list of {path} is lost: only a super user passes; Java does not start"));
    }
    lines.push(
        "damage or a gap in the log stops a start; Java loses the rest silently at some kinds of damage"
            .into(),
    );
    lines.push(
        "a server that cannot sync its log stops; a server that was itself held up expires no session for it"
            .into(),
    );
    lines.push("requests that make a Java server end (see docs/compatibility.md) are refused".into());
    lines
}
