//! The long answers to operators: connections, sessions, ephemerals, watches. They are made a piece at a time
//! between the turns of clients, so that a listing of a million watches holds nobody up; each piece is true
//! for its moment.
//!
//! Source: `StatCommand`, `ConsCommand`, `DumpCommand`, `WatchCommand`, 3.9.

use std::fmt::Write;
use std::net::IpAddr;

use oxkeeper_node::{Answer, ConnId, ConnectionReport, PeerSession, Query};
use oxkeeper_proto::SessionId;

use crate::core::Core;
use crate::{four_letter, words};

/// Lines of a list in one piece.
const LINES_AT_ONCE: usize = 1000;

/// A long answer on its way, by what comes next in it.
#[derive(Debug)]
pub(crate) enum Listing {
    /// `stat`: connections in short, then the numbers of the server.
    Clients { from: u32 },
    /// `cons`.
    Connections { from: u32 },
    /// `dump`: first the sessions.
    Sessions { sessions: Expiring<SessionId>, connections: Vec<(i64, PeerSession)> },
    /// Then their ephemerals.
    Ephemerals {
        owners: std::vec::IntoIter<SessionId>,
        of: Option<(SessionId, u32)>,
        connections: Vec<(i64, PeerSession)>,
    },
    /// Then the connections.
    Cutoffs(Expiring<PeerSession>),
    /// `wchc`, and the session that was listed last.
    WatchesBySession { from: (u32, u32), last: Option<SessionId> },
    /// `wchp`.
    WatchesByPath { from: u32 },
}

/// A list by the time at which its items expire.
#[derive(Debug)]
pub(crate) struct Expiring<T> {
    all: Vec<(i64, T)>,
    at: usize,
}

impl<T> Expiring<T> {
    fn new(all: Vec<(i64, T)>) -> Expiring<T> {
        Expiring { all, at: 0 }
    }

    /// How many different times there are, and how many items.
    fn counts(&self) -> (usize, usize) {
        (self.all.chunk_by(|a, b| a.0 == b.0).count(), self.all.len())
    }

    /// Writes the next lines; false when there are none left.
    fn write(&mut self, wall_ms: i64, out: &mut String, line: impl Fn(&T) -> String) -> bool {
        let mut before = self.at.checked_sub(1).and_then(|at| self.all.get(at)).map(|item| item.0);
        for (in_ms, item) in self.all.iter().skip(self.at).take(LINES_AT_ONCE) {
            if before != Some(*in_ms) {
                let rest = self.all.get(self.at..).unwrap_or_default();
                let together = rest.partition_point(|item| item.0 == *in_ms);
                let _ = writeln!(out, "{together} expire at {}:", words::date(wall_ms + in_ms));
                before = Some(*in_ms);
            }
            let _ = writeln!(out, "\t{}", line(item));
            self.at += 1;
        }
        self.at < self.all.len()
    }
}

impl Listing {
    /// Begins the answer to a word, if it is a long one.
    pub(crate) fn begin(word: &str, core: &mut Core, out: &mut String) -> Option<Listing> {
        Some(match word {
            "stat" => {
                let _ = writeln!(out, "Zookeeper version: {}\nClients:", words::version());
                Listing::Clients { from: 0 }
            }
            "cons" => Listing::Connections { from: 0 },
            "dump" => {
                let Some(Answer::Expiries(report)) = core.ask(Query::Expiries) else { return None };
                let sessions = Expiring::new(report.sessions);
                let (times, count) = sessions.counts();
                let _ = writeln!(out, "SessionTracker dump:\nSession Sets ({times})/({count}):");
                Listing::Sessions { sessions, connections: report.connections }
            }
            "wchc" => Listing::WatchesBySession { from: (0, 0), last: None },
            "wchp" => Listing::WatchesByPath { from: 0 },
            _ => return None,
        })
    }

    /// Writes the next piece, and tells what comes after it. `asking` is the connection that gets the answer.
    pub(crate) fn next(self, core: &mut Core, asking: ConnId, out: &mut String) -> Option<Listing> {
        match self {
            Listing::Clients { from } => {
                match connections(core, from, out, |report| client(report, asking)) {
                    Some(from) => Some(Listing::Clients { from }),
                    None => {
                        out.push('\n');
                        if let Some(Answer::Status(status)) = core.ask(Query::Status) {
                            four_letter::numbers(core, &status, out);
                        }
                        None
                    }
                }
            }
            Listing::Connections { from } => {
                let next = connections(core, from, out, |report| connection(report, asking));
                if next.is_none() {
                    out.push('\n');
                }
                next.map(|from| Listing::Connections { from })
            }
            Listing::Sessions { mut sessions, connections } => {
                if sessions.write(core.now().wall_ms, out, ToString::to_string) {
                    return Some(Listing::Sessions { sessions, connections });
                }
                let Some(Answer::EphemeralOwners(owners)) = core.ask(Query::EphemeralOwners) else {
                    return None;
                };
                let _ = writeln!(out, "ephemeral nodes dump:\nSessions with Ephemerals ({}):", owners.len());
                Some(Listing::Ephemerals { owners: owners.into_iter(), of: None, connections })
            }
            Listing::Ephemerals { owners, of, connections } => ephemerals(core, owners, of, connections, out),
            Listing::Cutoffs(mut all) => {
                let line = |(address, session): &PeerSession| {
                    format!("ip: /{} sessionId: {session}", peer(*address))
                };
                all.write(core.now().wall_ms, out, line).then_some(Listing::Cutoffs(all))
            }
            Listing::WatchesBySession { from, last } => {
                let Some(Answer::WatchesBySession(session, paths, next)) =
                    core.ask(Query::WatchesBySession { from })
                else {
                    return None;
                };
                if last != Some(session) && !paths.is_empty() {
                    let _ = writeln!(out, "{session}");
                }
                tabbed(&paths, out);
                if next.is_none() {
                    out.push('\n');
                }
                next.map(|from| Listing::WatchesBySession { from, last: Some(session) })
            }
            Listing::WatchesByPath { from } => {
                let Some(Answer::WatchesByPath(all, next)) = core.ask(Query::WatchesByPath { from }) else {
                    return None;
                };
                for (path, sessions) in &all {
                    let _ = writeln!(out, "{path}");
                    tabbed(sessions, out);
                }
                if next.is_none() {
                    out.push('\n');
                }
                next.map(|from| Listing::WatchesByPath { from })
            }
        }
    }
}

fn tabbed<T: std::fmt::Display>(lines: &[T], out: &mut String) {
    for line in lines {
        let _ = writeln!(out, "\t{line}");
    }
}

fn ephemerals(
    core: &mut Core,
    mut owners: std::vec::IntoIter<SessionId>,
    of: Option<(SessionId, u32)>,
    connections: Vec<(i64, PeerSession)>,
    out: &mut String,
) -> Option<Listing> {
    let (mut of, mut lines) = (of, 0);
    while lines < LINES_AT_ONCE {
        let (session, from) = match of.take() {
            Some(place) => place,
            None => {
                let Some(session) = owners.next() else {
                    let cutoffs = Expiring::new(connections);
                    let (times, count) = cutoffs.counts();
                    let _ = writeln!(out, "Connections dump:\nConnections Sets ({times})/({count}):");
                    return Some(Listing::Cutoffs(cutoffs));
                };
                let _ = writeln!(out, "{session}:");
                (session, 0)
            }
        };
        let Some(Answer::Ephemerals(paths, next)) = core.ask(Query::Ephemerals { session, from }) else {
            return None;
        };
        tabbed(&paths, out);
        lines += 1 + paths.len();
        of = next.map(|from| (session, from));
    }
    Some(Listing::Ephemerals { owners, of, connections })
}

/// Writes some connections; tells the slot where to go on.
fn connections(
    core: &mut Core,
    from: u32,
    out: &mut String,
    line: impl Fn(&ConnectionReport) -> String,
) -> Option<u32> {
    let Some(Answer::Connections(all)) = core.ask(Query::Connections { from }) else { return None };
    for report in &all {
        let _ = writeln!(out, "{}", line(report));
    }
    all.last().map(|report| report.conn.index + 1)
}

fn client(report: &ConnectionReport, asking: ConnId) -> String {
    format!("{})", counted(report, asking))
}

fn counted(report: &ConnectionReport, asking: ConnId) -> String {
    format!(
        " /{}[{}](queued={},recved={},sent={}",
        peer(report.peer),
        u8::from(report.conn != asking),
        report.queued,
        report.counts.received,
        report.counts.sent
    )
}

fn connection(report: &ConnectionReport, asking: ConnId) -> String {
    let counts = report.counts;
    let mut out = counted(report, asking);
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
    out.push(')');
    out
}

fn peer((address, port): (IpAddr, u16)) -> String {
    format!("{address}:{port}")
}
