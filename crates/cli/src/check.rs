//! `oxkeeper check`: what a start would find, without a start.

use std::process::ExitCode;

use oxkeeper_server::inspect;

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
            if let Some(tear) = found.tear {
                println!(
                    "  torn write: {} from offset {}; a start cuts it off",
                    tear.path.display(),
                    tear.offset
                );
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
