//! Four-letter words: a connection that begins with one gets a text and is closed.
//!
//! Source: `FourLetterCommands` and the commands beside it, 3.9.

use std::fmt::Write;

use oxkeeper_node::{Answer, Input, Query, Status};
use tracing::info;

use crate::conn::ConnIo;
use crate::core::Core;
use crate::listing::Listing;
use crate::words;

/// What the first four bytes of a connection are.
pub(crate) enum Verdict {
    /// The length of a frame.
    Frame,
    /// A word that more bytes belong to.
    Incomplete,
    /// A word, answered.
    Answered,
    /// A word whose answer is long and comes piece by piece.
    Listing(Listing),
}

const WORDS: [&str; 18] = [
    "conf", "cons", "crst", "dirs", "dump", "envi", "gtmk", "ruok", "stmk", "srvr", "srst", "stat", "wchc",
    "wchp", "wchs", "mntr", "isro", "hash",
];
/// What a telnet client sends when it is interrupted.
const TELNET_CLOSE: [u8; 4] = [0xff, 0xf4, 0xff, 0xfd];
const NOT_SERVING: &str = "This ZooKeeper instance is not currently serving requests\n";

/// Looks at the first bytes of a connection.
pub(crate) fn answer(core: &mut Core, conn: &ConnIo, first: [u8; 4], rest: &[u8]) -> Verdict {
    if first == TELNET_CLOSE {
        return Verdict::Answered;
    }
    let Some(word) = WORDS.into_iter().find(|word| word.as_bytes() == first) else { return Verdict::Frame };
    info!("Processing {word} command from {}:{}", conn.peer.0, conn.peer.1);
    core.step(Input::Word { conn: conn.id });
    let text = if !core.config.four_letter_words.allow(word) {
        format!("{word} is not executed because it is not in the whitelist.\n")
    } else if word == "stmk" {
        let Some(mask) = rest.first_chunk::<8>() else { return Verdict::Incomplete };
        core.trace_mask = i64::from_be_bytes(*mask);
        core.trace_mask.to_string()
    } else {
        let mut text = String::new();
        if core.node.is_some()
            && let Some(listing) = Listing::begin(word, core, &mut text)
        {
            core.write(conn.id, text.as_bytes());
            return Verdict::Listing(listing);
        }
        short(core, word)
    };
    core.write(conn.id, text.as_bytes());
    Verdict::Answered
}

fn short(core: &mut Core, word: &str) -> String {
    match word {
        "ruok" => return "imok".to_owned(),
        "gtmk" => return core.trace_mask.to_string(),
        "envi" => return words::environment(),
        "isro" => return if core.node.is_some() { "rw".to_owned() } else { "null".to_owned() },
        _ => {}
    }
    let Some(Answer::Status(status)) = core.ask(Query::Status) else { return NOT_SERVING.to_owned() };
    match word {
        "srvr" => srvr(core, &status),
        "conf" => words::configuration(&core.config, core.sizes()),
        "crst" => {
            core.ask(Query::ResetConnections);
            "Connection stats reset.\n".to_owned()
        }
        "srst" => {
            core.ask(Query::ResetServer);
            "Server stats reset.\n".to_owned()
        }
        "dirs" => {
            let (data, logs) = core.sizes();
            format!("datadir_size: {data}\nlogdir_size: {logs}\n")
        }
        "wchs" => match core.ask(Query::WatchSummary) {
            Some(Answer::WatchSummary(sum)) => format!(
                "{} connections watching {} paths\nTotal watches:{}\n",
                sum.connections, sum.paths, sum.total
            ),
            _ => String::new(),
        },
        "hash" => match core.ask(Query::Digests) {
            Some(Answer::Digests(all)) => all
                .iter()
                .fold(String::new(), |text, entry| text + &format!("{:x}: {}\n", entry.zxid.0, entry.digest)),
            _ => String::new(),
        },
        "mntr" => words::monitor(&status, core.connections(), &core.memory),
        _ => String::new(),
    }
}

fn srvr(core: &Core, status: &Status) -> String {
    let mut out = format!("Zookeeper version: {}\n", words::version());
    numbers(core, status, &mut out);
    out
}

/// What `srvr` and `stat` have in common.
pub(crate) fn numbers(core: &Core, status: &Status, out: &mut String) {
    let counts = &status.counts;
    let _ = writeln!(
        out,
        "Latency min/avg/max: {}/{}/{}",
        counts.latency_min_ms,
        words::average(counts.latency_sum_ms, counts.answered),
        counts.latency_max_ms
    );
    let _ = writeln!(out, "Received: {}", counts.received);
    let _ = writeln!(out, "Sent: {}", counts.sent);
    let _ = writeln!(out, "Connections: {}", core.connections());
    let _ = writeln!(out, "Outstanding: {}", status.outstanding);
    let _ = writeln!(out, "Zxid: {}", status.last_zxid);
    let _ = writeln!(out, "Mode: standalone");
    // Java counts the root under both of its names.
    let _ = writeln!(out, "Node count: {}", status.znodes + 1);
}
