//! Invariants, computed from outside the servers: from what is durable on their disks, from what passes over the
//! network, and from what clients see. What a server believes about itself counts for nothing here.

use std::collections::BTreeMap;

use bytes::Bytes;
use oxkeeper_node::{Node, OUTBOX_BYTES, Proposal, Role};
use oxkeeper_proto::{
    ConnectRequest, ConnectResponse, OpCode, Reader, ReplyHeader, RequestHeader, SessionId, TxnHeader, Zxid,
};
use oxkeeper_storage::SimDisk;

mod lateness;
mod masters;
mod members;
mod quorum;
mod streams;
mod votes;
mod word;

use lateness::Lateness;
use members::Members;
use quorum::Reigns;
use streams::Streams;
use votes::Votes;
use word::Word;

use crate::durable::DurableLog;
use crate::network::LinkId;
use crate::queue::{MS, Nanos};

/// A statement that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The number of the invariant in the test programme.
    pub invariant: u8,
    /// What was seen.
    pub what: String,
}

/// What is known of a session from outside.
#[derive(Debug, Clone, Copy)]
pub struct SessionFacts {
    /// Whose it is.
    pub client: usize,
    /// Its timeout.
    pub timeout: Nanos,
    /// When it was asked for.
    pub begun: Nanos,
    /// The connection that it is served on.
    pub link: LinkId,
}

/// What holds even if an oracle lets one of two go on that lacks something.
const HASTY: [u8; 11] = [0, 1, 2, 4, 5, 6, 10, 11, 20, 21, 23];

/// How much a run checked, by invariant.
pub type Checked = [u64; 32];

/// The one who watches.
#[derive(Debug)]
pub struct Observer {
    /// What did not hold, first of all.
    pub violation: Option<Violation>,
    logs: Vec<DurableLog>,
    /// Every transaction that was ever durable anywhere, or, of a standalone server, is now.
    pub agreed: BTreeMap<Zxid, Bytes>,
    /// When each was proposed.
    pub proposed: BTreeMap<Zxid, Nanos>,
    applied: BTreeMap<Zxid, i64>,
    /// The hash of the whole state at some of these, sessions and access control lists included.
    hashes: BTreeMap<Zxid, u64>,
    last_applied: Vec<Zxid>,
    /// The newest transaction that any client has seen the effect of.
    pub visible: Zxid,
    /// By session.
    pub sessions: BTreeMap<SessionId, SessionFacts>,
    /// By connection, its session.
    by_link: BTreeMap<LinkId, SessionId>,
    /// When a server was asked for a session on a connection that has none yet. A session's time runs from there.
    asked: BTreeMap<LinkId, Nanos>,
    /// Sessions that servers proposed to end, by transaction: what was wrong with that, if anything.
    expiries: BTreeMap<Zxid, Option<String>>,
    /// By session and server: when one that leads heard of it last, and the time before that.
    heard: BTreeMap<(SessionId, usize), (Nanos, Nanos)>,
    /// How often each invariant was put to the test.
    pub checked: Checked,
    standalone: bool,
    members: Members,
    reigns: Reigns,
    word: Option<Word>,
    streams: Streams,
    votes: Votes,
    lateness: Lateness,
    /// The unit of expiry.
    pub tick: Nanos,
    /// Below this the counter of an epoch stays.
    pub counter_max: u32,
    /// Whether an oracle lets one of two go on that lacks something: then no history of clients makes sense.
    pub is_hasty: bool,
    /// The whole state is compared at one of so many transactions: it costs as much as the state is large.
    pub hashed_every: i64,
    /// Whether nothing at all goes wrong in the run, so that nobody has a reason to leave a role.
    pub is_calm: bool,
}

impl Observer {
    /// One who watches so many servers: an ensemble that begins with a configuration, which may change, or else a
    /// server of its own.
    #[must_use]
    pub fn new(servers: usize, ensemble: Option<&str>, may_change: bool) -> Observer {
        Observer {
            violation: None,
            logs: (0..servers).map(|_| DurableLog::default()).collect(),
            agreed: BTreeMap::new(),
            proposed: BTreeMap::new(),
            applied: BTreeMap::new(),
            hashes: BTreeMap::new(),
            last_applied: vec![Zxid::ZERO; servers],
            visible: Zxid::ZERO,
            sessions: BTreeMap::new(),
            by_link: BTreeMap::new(),
            asked: BTreeMap::new(),
            expiries: BTreeMap::new(),
            heard: BTreeMap::new(),
            checked: [0; 32],
            standalone: ensemble.is_none(),
            members: Members::of(ensemble, may_change),
            reigns: Reigns::default(),
            word: None,
            streams: Streams::default(),
            votes: Votes::default(),
            lateness: Lateness::default(),
            tick: 0,
            counter_max: u32::MAX,
            is_hasty: false,
            hashed_every: 8,
            is_calm: false,
        }
    }

    /// One who watches so many voters.
    #[cfg(test)]
    pub(crate) fn of_voters(count: usize) -> Observer {
        let line = |number| format!("server.{number}={}\n", crate::admin::line(number, "participant"));
        let text: String = (1..=count).map(line).collect();
        Observer::new(count, Some(&text), false)
    }

    /// Notes that something did not hold. Only the first counts: what follows may be its consequence.
    pub fn violate(&mut self, invariant: u8, what: String) {
        if self.is_hasty && !HASTY.contains(&invariant) {
            return;
        }
        self.violation.get_or_insert(Violation { invariant, what });
    }

    fn check(&mut self, invariant: u8, holds: bool, what: impl FnOnce() -> String) {
        if let Some(count) = self.checked.get_mut(usize::from(invariant)) {
            *count += 1;
        }
        if !holds {
            self.violate(invariant, what());
        }
    }

    /// A server has started on its disk and has applied everything up to `last`.
    pub fn booted(&mut self, server: usize, disk: &SimDisk, last: Zxid, mismatches: u64) {
        self.check(11, mismatches == 0, || {
            format!("server {server} starts with {mismatches} digests that do not fit")
        });
        if self.standalone {
            let visible = self.visible;
            self.check(7, last >= visible, || {
                format!("server {server} starts at {last}, but {visible} was acknowledged")
            });
            // What was on its way and got lost was never promised to anybody.
            self.agreed.split_off(&Zxid(last.0 + 1));
            self.applied.split_off(&Zxid(last.0 + 1));
            self.hashes.split_off(&Zxid(last.0 + 1));
            self.expiries.split_off(&Zxid(last.0 + 1));
            self.forget_late_after(last);
        }
        if let Some(known) = self.last_applied.get_mut(server) {
            *known = last;
        }
        if let Some(log) = self.logs.get_mut(server) {
            log.forget();
        }
        self.synced(server, disk);
    }

    /// What was at rest on a server's disk has changed.
    pub fn spoilt(&mut self, server: usize, disk: &SimDisk) {
        if let Some(log) = self.logs.get_mut(server) {
            log.forget();
        }
        self.synced(server, disk);
    }

    /// A server is gone for now.
    pub fn went_down(&mut self, server: usize) {
        self.down(server);
        if let Some(known) = self.last_applied.get_mut(server) {
            *known = Zxid::ZERO;
        }
    }

    /// Something has become durable on a server's disk.
    pub fn synced(&mut self, server: usize, disk: &SimDisk) {
        let Some(log) = self.logs.get_mut(server) else { return };
        let fresh = log.refresh(disk);
        if !self.standalone {
            self.check_epochs(server, disk);
            self.activated(server, disk);
        }
        for (zxid, payload) in fresh {
            let known = self.agreed.entry(zxid).or_insert_with(|| payload.clone());
            let same = *known == payload;
            let has_number = zxid.counter() < self.counter_max;
            self.check(4, has_number, || format!("{zxid} on server {server} is beyond the end of its epoch"));
            self.check(4, same, || {
                format!("two different transactions {zxid}, one of them on server {server}")
            });
        }
    }

    /// A transaction is handed to the log of a server whose clock runs at this rate.
    pub fn logged(&mut self, server: usize, proposal: &Proposal, now: Nanos, rate: f64) {
        let (zxid, payload) = (proposal.zxid, &proposal.payload);
        // Learners log what their leader has decided before.
        let is_new = self.standalone || !self.proposed.contains_key(&zxid);
        match TxnHeader::decode(&mut Reader::new(payload)) {
            Ok(header) if is_new && header.op == OpCode::CreateSession => self.opened(header.session, now),
            Ok(header) if is_new && header.op == OpCode::CloseSession && header.cxid.0 == 0 => {
                self.expired(server, zxid, header.session, now, rate);
                self.check_lateness(server, zxid, header.session, now, rate);
            }
            _ => {}
        }
        if self.leads(server) && is_new {
            self.offered(zxid, payload);
        }
        if self.standalone {
            self.proposed.insert(zxid, now);
        } else {
            self.proposed.entry(zxid).or_insert(now);
        }
    }

    /// The newest transaction that is durable on a server's disk.
    #[must_use]
    pub fn durable_last(&self, server: usize) -> Zxid {
        self.logs.get(server).map_or(Zxid::ZERO, DurableLog::last)
    }

    /// A server has sent a frame to a client: a reply or an event.
    pub fn replied(&mut self, server: usize, disk: &SimDisk, frame: &[u8]) {
        let Ok(header) = ReplyHeader::decode(&mut Reader::new(frame)) else { return };
        if header.zxid.0 <= 0 {
            return;
        }
        if header.zxid > self.visible {
            self.visible = header.zxid;
            if !self.standalone {
                self.check_quorum(header.zxid, "was shown to a client");
            }
        }
        if self.standalone {
            if self.durable_last(server) < header.zxid {
                self.synced(server, disk);
            }
            let durable = self.durable_last(server);
            self.check(5, durable >= header.zxid, || {
                format!("server {server} shows {} when only {durable} is durable", header.zxid)
            });
        }
    }

    /// A server without a leader has sent a frame to a client that only reads: what it shows is on its own disk.
    pub fn shown_to_reader(&mut self, server: usize, disk: &SimDisk, frame: &[u8]) {
        let Ok(header) = ReplyHeader::decode(&mut Reader::new(frame)) else { return };
        if header.zxid.0 <= 0 || header.zxid.counter() == 0 {
            return;
        }
        self.synced(server, disk);
        let durable = self.durable_last(server);
        self.check(28, durable >= header.zxid, || {
            format!("server {server} shows {} to one who only reads, and {durable} is durable", header.zxid)
        });
    }

    /// A server has become something else, with or without links and an open port of what it was.
    pub fn check_role(&mut self, server: usize, role: Role, is_clean: bool) {
        self.check(21, is_clean, || format!("server {server} is {role:?} and keeps links of what it was"));
    }

    /// A server took a step: what it has applied must be what others have.
    pub fn applied(&mut self, server: usize, node: &Node) {
        let last = node.last_zxid();
        let Some(known) = self.last_applied.get_mut(server) else { return };
        if *known == last {
            return;
        }
        let before = std::mem::replace(known, last);
        // A member may have to give back what was never agreed.
        let forward = last > before || !self.standalone;
        self.check(4, forward, || format!("server {server} goes back from {before} to {last}"));
        let digest = node.digest();
        let agreed = *self.applied.entry(last).or_insert(digest);
        self.check(10, agreed == digest, || {
            format!("server {server} has digest {digest} at {last}, another one has {agreed}")
        });
        // Before a snapshot that came is loaded there is nothing.
        if last.0 % self.hashed_every == 0 && last.counter() > 0 {
            self.hashed(server, last, node.state_hash());
        }
    }

    fn hashed(&mut self, server: usize, zxid: Zxid, hash: u64) {
        let agreed = *self.hashes.entry(zxid).or_insert(hash);
        self.check(10, agreed == hash, || {
            format!("server {server} has another state at {zxid}, although the digests are the same")
        });
    }

    /// The digest of the state at a transaction, if any server was seen to have it.
    #[must_use]
    pub fn digest_at(&self, zxid: Zxid) -> Option<i64> {
        self.applied.get(&zxid).copied()
    }

    /// Counts a check of a server's files at the end of a run, and notes what is wrong.
    pub fn check_files(&mut self, holds: Result<(), String>) {
        self.check(11, holds.is_ok(), || holds.clone().err().unwrap_or_default());
    }

    /// Every server's log is a part of the one order, as far as that goes.
    pub fn check_logs(&mut self, order: &BTreeMap<Zxid, Bytes>) {
        let last = order.keys().next_back().copied().unwrap_or(Zxid::ZERO);
        // One that belongs to no ensemble any more may not have heard yet what was never agreed.
        for server in (0..self.logs.len()).filter(|server| self.is_member(*server)).collect::<Vec<usize>>() {
            let strange = self
                .logs
                .get(server)
                .and_then(|log| log.all().find(|zxid| **zxid <= last && !order.contains_key(zxid)).copied());
            self.check(3, strange.is_none(), || {
                format!("the log of server {server} holds {strange:?}, which was never agreed")
            });
        }
    }

    /// So many bytes wait for a client.
    pub fn waits(&mut self, server: usize, bytes: usize) {
        // One reply may exceed the bound, the sixteen reads before a write of the client's own are answered whatever
        // room there is, and events are not held back. The largest reply of a run has 40 kB.
        let most = OUTBOX_BYTES + (1 << 20);
        self.check(20, bytes <= most, || format!("{bytes} bytes wait for a client of server {server}"));
    }

    /// A server heard a client on a connection. Only the one that its session is served on keeps the session alive.
    pub fn heard(&mut self, server: usize, link: LinkId, frame: &[u8], now: Nanos) {
        // Auth packets are no sign of life, in ZooKeeper neither.
        let op = RequestHeader::decode(&mut Reader::new(frame)).ok().map(|header| header.op);
        if op == Some(OpCode::Auth.number()) || op == Some(OpCode::Sasl.number()) {
            return;
        }
        let session = self.by_link.get(&link).copied();
        if let Some(session) = session {
            self.heard_of(session, now);
        }
        match session {
            None => {
                let is_first = !self.asked.contains_key(&link);
                self.asked.entry(link).or_insert(now);
                // Taking a session up is a sign of its life, also if the answer is never seen.
                if let Ok(request) = ConnectRequest::decode(frame)
                    && is_first
                {
                    self.heard_of(request.session_id, now);
                }
            }
            // What a learner hears its leader does not know yet.
            Some(session)
                if self.leads(server) && self.sessions.get(&session).is_some_and(|f| f.link == link) =>
            {
                self.touched(server, session, now);
            }
            Some(_) => {}
        }
    }

    /// A server has told a client which session its connection has.
    pub fn greeted(&mut self, server: usize, client: usize, link: LinkId, frame: &[u8], now: Nanos) {
        let Ok(response) = ConnectResponse::decode(frame) else { return };
        let session = response.session_id;
        // What only reads is no session that anybody else knows.
        if session == SessionId::NONE || response.read_only == Some(true) {
            return;
        }
        let timeout = u64::try_from(response.timeout_ms).unwrap_or(0) * MS;
        self.by_link.insert(link, session);
        let begun = self.asked.remove(&link).unwrap_or(now);
        let facts = SessionFacts { client, timeout, begun, link };
        self.heard_of(session, now);
        let leads = self.leads(server);
        let known = self.sessions.entry(session).or_insert(facts);
        let whose = known.client;
        (known.timeout, known.link) = (timeout, link);
        if leads {
            self.heard.insert((session, server), (begun, begun));
        }
        self.check(13, whose == client, || {
            format!("{session} belongs to client {whose} and was given to client {client}")
        });
    }

    /// The whole history was checked and holds: counts what that was.
    pub fn books_hold(&mut self, replayed: &crate::checker::Replayed, events: u64) {
        let agreed = self.agreed.len() as u64;
        let counts = [(4, agreed), (7, replayed.compared), (9, replayed.compared), (10, agreed)];
        let more = [(12, replayed.compared), (13, agreed), (16, events), (17, events), (18, events)];
        let more = more.into_iter().chain([(28, replayed.read_only)]);
        for (invariant, count) in counts.into_iter().chain(more) {
            if let Some(checked) = self.checked.get_mut(invariant) {
                *checked += count;
            }
        }
    }

    /// A server proposed to end a session by itself; `rate` is its clock's. If that was too early it is an offence once
    /// it is agreed: one who leads no more may propose what he likes.
    fn expired(&mut self, server: usize, zxid: Zxid, session: SessionId, now: Nanos, rate: f64) {
        let Some(facts) = self.sessions.get(&session).copied() else { return };
        let last = self.heard.get(&(session, server)).copied().unwrap_or_default();
        // What a turn takes in after it has ended the session came too late.
        let heard = if last.0 == now { last.1 } else { last.0 };
        let heard = heard.max(facts.begun).max(self.reign_began(server));
        let silence = (now.saturating_sub(heard)) as f64 * rate;
        let early = (silence < facts.timeout as f64).then(|| {
            format!(
                "{session} expires by {zxid} after {} ms of silence, its timeout is {} ms",
                silence as u64 / MS,
                facts.timeout / MS
            )
        });
        self.expiries.insert(zxid, early);
    }

    /// Looks at the expiries that were agreed.
    pub fn check_expiries(&mut self, order: &BTreeMap<Zxid, Bytes>) {
        for (zxid, early) in std::mem::take(&mut self.expiries) {
            if order.contains_key(&zxid) {
                self.check(14, early.is_none(), || early.clone().unwrap_or_default());
            }
        }
    }
}
