//! Four-letter words: a connection that begins with one gets a text and is closed.
//!
//! Source: `FourLetterCommands` and the commands beside it, 3.9.

use std::fmt::Write;
use std::net::IpAddr;

use oxkeeper_node::{Answer, Query, Status};
use tracing::info;

use crate::conn::ConnIo;
use crate::core::Core;
use crate::words;

/// What the first four bytes of a connection are.
pub(crate) enum Verdict {
    /// The length of a frame.
    Frame,
    /// A word that more bytes belong to.
    Incomplete,
    /// A word, answered.
    Answered,
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
    let text = if !core.config.four_letter_words.allow(word) {
        format!("{word} is not executed because it is not in the whitelist.\n")
    } else if word == "stmk" {
        let Some(mask) = rest.first_chunk::<8>() else { return Verdict::Incomplete };
        core.trace_mask = i64::from_be_bytes(*mask);
        core.trace_mask.to_string()
    } else {
        text(core, conn, word)
    };
    core.write(conn.id, text.as_bytes());
    Verdict::Answered
}

fn text(core: &mut Core, conn: &ConnIo, word: &str) -> String {
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
        "stat" => stat(core, conn, &status),
        "conf" => words::configuration(&core.config, core.sizes()),
        "cons" => cons(core, conn),
        "crst" => {
            core.ask(Query::ResetConnections);
            "Connection stats reset.\n".to_owned()
        }
        "srst" => {
            core.ask(Query::ResetServer);
            "Server stats reset.\n".to_owned()
        }
        "dump" => dump(core),
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
        "wchc" => match core.ask(Query::WatchesBySession) {
            Some(Answer::WatchesBySession(all)) => {
                words::grouped(all.iter().map(|(session, paths)| (session.to_string(), paths.clone())))
            }
            _ => String::new(),
        },
        "wchp" => match core.ask(Query::WatchesByPath) {
            Some(Answer::WatchesByPath(all)) => words::grouped(
                all.iter().map(|(path, ids)| (path.clone(), ids.iter().map(ToString::to_string).collect())),
            ),
            _ => String::new(),
        },
        "hash" => match core.ask(Query::Digests) {
            Some(Answer::Digests(all)) => all
                .iter()
                .fold(String::new(), |text, entry| text + &format!("{:x}: {}\n", entry.zxid.0, entry.digest)),
            _ => String::new(),
        },
        "mntr" => words::monitor(&status, core.connections(), core.fsync_warnings),
        _ => String::new(),
    }
}

fn srvr(core: &Core, status: &Status) -> String {
    let mut out = format!("Zookeeper version: {}\n", words::version());
    body(core, status, &mut out);
    out
}

fn body(core: &Core, status: &Status, out: &mut String) {
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

fn stat(core: &mut Core, conn: &ConnIo, status: &Status) -> String {
    let mut out = format!("Zookeeper version: {}\nClients:\n", words::version());
    if let Some(Answer::Connections(all)) = core.ask(Query::Connections) {
        for report in all {
            let _ = writeln!(
                out,
                " /{}[{}](queued={},recved={},sent={})",
                peer(report.peer),
                u8::from(report.conn != conn.id),
                report.queued,
                report.counts.received,
                report.counts.sent
            );
        }
    }
    out.push('\n');
    body(core, status, &mut out);
    out
}

fn cons(core: &mut Core, conn: &ConnIo) -> String {
    let mut out = String::new();
    let Some(Answer::Connections(all)) = core.ask(Query::Connections) else { return out };
    for report in all {
        let counts = report.counts;
        let asking = u8::from(report.conn != conn.id);
        let _ = write!(
            out,
            " /{}[{asking}](queued={},recved={},sent={}",
            peer(report.peer),
            report.queued,
            counts.received,
            counts.sent
        );
        if let Some(session) = report.session {
            let _ = write!(
                out,
                ",sid={session},lop={},est={},to={}",
                report.last_op, report.established_ms, report.timeout_ms
            );
            if report.last_cxid >= 0 {
                let _ = write!(out, ",lcxid=0x{:x}", report.last_cxid);
            }
            let average = counts.latency_sum_ms.checked_div(counts.answered).unwrap_or(0);
            let _ = write!(
                out,
                ",lzxid=0x{:x},lresp={},llat={},minlat={},avglat={average},maxlat={}",
                report.last_zxid,
                report.last_response_ms,
                report.last_latency_ms,
                counts.latency_min_ms,
                counts.latency_max_ms
            );
        }
        out.push_str(")\n");
    }
    out.push('\n');
    out
}

fn dump(core: &mut Core) -> String {
    let wall_ms = core.now().wall_ms;
    let Some(Answer::Dump(report)) = core.ask(Query::Dump) else { return String::new() };
    let sessions: usize = report.expiries.iter().map(|(_, ids)| ids.len()).sum();
    let mut out = format!("SessionTracker dump:\nSession Sets ({})/({sessions}):\n", report.expiries.len());
    for (in_ms, ids) in &report.expiries {
        let _ = writeln!(out, "{} expire at {}:", ids.len(), words::date(wall_ms + in_ms));
        for id in ids {
            let _ = writeln!(out, "\t{id}");
        }
    }
    let _ = writeln!(out, "ephemeral nodes dump:\nSessions with Ephemerals ({}):", report.ephemerals.len());
    for (id, paths) in &report.ephemerals {
        let _ = writeln!(out, "{id}:");
        for path in paths {
            let _ = writeln!(out, "\t{path}");
        }
    }
    let connections: usize = report.connections.iter().map(|(_, all)| all.len()).sum();
    let _ =
        writeln!(out, "Connections dump:\nConnections Sets ({})/({connections}):", report.connections.len());
    for (in_ms, all) in &report.connections {
        let _ = writeln!(out, "{} expire at {}:", all.len(), words::date(wall_ms + in_ms));
        for (address, session) in all {
            let _ = writeln!(out, "\tip: /{} sessionId: {session}", peer(*address));
        }
    }
    out
}

fn peer((address, port): (IpAddr, u16)) -> String {
    format!("{address}:{port}")
}
