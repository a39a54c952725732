//! One server among others, as stories: each file of `tests/agreement` tells in prose what it is about, and then holds
//! commands (lines that begin with `>`), each followed by what the server wanted done. Setting `UPDATE_EXPECT=1`
//! writes what it does now into the files; such a change is to be reviewed like code.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::sync::Arc;

use bytes::Bytes;
use oxkeeper_proto::ensemble::Member;
use oxkeeper_proto::peer::LearnerInfo;
use oxkeeper_proto::peer::notification::{NOTIFICATION_VERSION, Notification, ServerState};
use oxkeeper_proto::{EnsembleConfig, Epoch, PeerPacket, Round, ServerId, SessionId, Zxid};
use oxkeeper_zab::{
    Action, Agreement, Durable, EnsembleChange, Limits, LinkId, ObserverMasters, PeerPort, Proposal, Setup,
    Ticket, Timing,
};

#[test]
fn every_script_ends_as_it_says() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/agreement");
    let mut scripts: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    scripts.sort();
    assert!(scripts.len() >= 20, "scripts are missing from {}", dir.display());
    for path in scripts {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# "), "{} does not say what it is about", path.display());
        expect_test::expect_file![path].assert_eq(&play(&text));
    }
}

/// A server, the links that it has, and what its disk has not done yet.
struct Stage {
    server: Agreement,
    config: Arc<EnsembleConfig>,
    now_ms: i64,
    /// Links by name.
    links: BTreeMap<String, LinkId>,
    dial: u64,
    task: u64,
    elections: i64,
    disk: VecDeque<(Ticket, String)>,
    trace: String,
}

/// The words of a command: some by their place, some `key=value`.
struct Words<'a>(Vec<&'a str>);

impl<'a> Words<'a> {
    fn at(&self, i: usize) -> &'a str {
        let plain = self.0.iter().filter(|word| !word.contains('=')).nth(i);
        plain.unwrap_or_else(|| panic!("too short: {:?}", self.0))
    }

    fn get(&self, key: &str) -> Option<&'a str> {
        self.0.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }

    fn has(&self, flag: &str) -> bool {
        self.0.contains(&flag)
    }

    fn number(&self, key: &str) -> i64 {
        self.get(key).map_or(0, |text| text.parse().unwrap())
    }
}

fn zxid(text: &str) -> Zxid {
    match text.split_once(':') {
        Some((epoch, counter)) => Zxid::new(epoch.parse().unwrap(), counter.parse().unwrap()),
        None => Zxid(text.parse().unwrap()),
    }
}

fn show(zxid: Zxid) -> String {
    if zxid.0 < 0 { zxid.0.to_string() } else { format!("{}:{}", zxid.epoch().0, zxid.counter()) }
}

/// `1:3..1:5`, or single ones with commas between.
fn proposals(text: &str) -> Vec<Proposal> {
    let mut all = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once("..").unwrap_or((part, part));
        for number in zxid(first).0..=zxid(last).0 {
            all.push(Proposal { zxid: Zxid(number), payload: Bytes::new() });
        }
    }
    all
}

fn config(voters: &str, observers: &str) -> Arc<EnsembleConfig> {
    let mut members = BTreeMap::new();
    for (ids, role) in [(voters, "participant"), (observers, "observer")] {
        for id in ids.split(',').filter(|id| !id.is_empty()) {
            let member = Member::parse(&format!("h{id}:2888:3888:{role};h{id}:2181")).unwrap();
            members.insert(ServerId(id.parse().unwrap()), member);
        }
    }
    Arc::new(EnsembleConfig::majority(members, Zxid::ZERO))
}

fn play(text: &str) -> String {
    let mut stage: Option<Stage> = None;
    let mut trace = String::new();
    for line in text.lines() {
        if line.starts_with('#') || line.is_empty() {
            let _ = writeln!(trace, "{line}");
        } else if let Some(command) = line.strip_prefix("> ") {
            let _ = writeln!(trace, "{line}");
            let words = Words(command.split_whitespace().collect());
            if words.at(0) == "server" {
                stage = Some(start(&words));
            }
            let stage = stage.as_mut().expect("a server comes first");
            if words.at(0) != "server" {
                stage.run(&words);
            }
            stage.show_actions();
            trace.push_str(&std::mem::take(&mut stage.trace));
        }
    }
    trace
}

fn start(words: &Words<'_>) -> Stage {
    let config = config(words.get("voters").unwrap_or("1,2,3"), words.get("observers").unwrap_or(""));
    let log = proposals(words.get("log").unwrap_or(""));
    let last = words.get("last").map(zxid).or(log.last().map(|last| last.zxid)).unwrap_or(Zxid::ZERO);
    let mut server = Agreement::new(Setup {
        me: ServerId(words.at(1).parse().unwrap()),
        observes: false,
        committed: Arc::clone(&config),
        seen: None,
        reconfig: words.has("reconfig"),
        limits: Limits {
            tick_ms: 1000,
            init: 10,
            sync: 5,
            pending_bytes: words.get("keeps").map_or(1 << 20, |n| n.parse().unwrap()),
            counter_max: words.get("counter_max").map_or(u32::MAX, |n| n.parse().unwrap()),
        },
        timing: Timing::DEFAULT,
        accepted: Epoch(words.number("accepted")),
        current: Epoch(words.number("current")),
        last,
        recent: log,
        emptied: words.has("emptied"),
        force_snapshot: words.has("force_snapshot"),
        may_read_log: true,
        observer_masters: words.get("masters").map(|bytes| ObserverMasters {
            bytes_max: bytes.parse().unwrap(),
            reconnect_ms: words.number("reconnect"),
        }),
        seed: 1,
    });
    server.start(0);
    let (links, disk) = (BTreeMap::new(), VecDeque::new());
    Stage { server, config, now_ms: 0, links, dial: 0, task: 0, elections: 0, disk, trace: String::new() }
}

impl Stage {
    fn run(&mut self, words: &Words<'_>) {
        let now_ms = self.now_ms;
        match words.at(0) {
            "elected" => self.elect(words.at(1).parse().unwrap()),
            "reached" => {
                let link = self.new_link("leader");
                self.server.link_opened(now_ms, link, Some(self.dial));
            }
            "unreachable" => self.server.dial_failed(now_ms, self.dial),
            "link" => {
                let link = self.new_link(words.at(1));
                self.server.link_opened(now_ms, link, None);
            }
            "observer_link" => {
                let link = self.new_link(words.at(1));
                self.server.observer_link_opened(now_ms, link);
            }
            "observer_links" => {
                for n in 0..words.at(1).parse().unwrap() {
                    let link = self.new_link(&format!("n{n}"));
                    self.server.observer_link_opened(now_ms, link);
                }
            }
            "closed" => self.server.link_closed(now_ms, self.links[words.at(1)]),
            "disk" => self.do_disk(words),
            "wait" => {
                let end_ms = now_ms + words.at(1).parse::<i64>().unwrap();
                while self.now_ms < end_ms {
                    self.now_ms = self.server.deadline_ms().clamp(self.now_ms + 1, end_ms);
                    self.server.tick(self.now_ms);
                }
            }
            "propose" => self.propose(words),
            "hand_over" => self.hand_over(words),
            "looks" => {
                let notification = Notification {
                    state: ServerState::Looking,
                    leader: ServerId(words.at(1).parse().unwrap()),
                    zxid: Zxid::new(1, 1),
                    round: Round(1),
                    peer_epoch: Epoch(1),
                    version: NOTIFICATION_VERSION,
                    config: None,
                };
                self.server.notification(now_ms, notification.leader, Ok(notification));
            }
            "quorum" => {
                let has_quorum = self.server.has_quorum_of(&config(words.get("members").unwrap(), ""));
                let _ = writeln!(
                    self.trace,
                    "{}",
                    if has_quorum { "a quorum is in step" } else { "no quorum is in step" }
                );
            }
            "oracle" => self.server.oracle(now_ms, words.at(1) == "yes"),
            "distrust" => self.server.take_whole_state(now_ms, "the state differs from the leader's"),
            "uncuttable" => self.server.cannot_truncate(now_ms, zxid(words.at(1))),
            "sync" => self.server.sync_here(words.at(1).parse().unwrap()),
            "streams" => self.server.snapshot_begins(self.links[words.at(1)], zxid(words.at(2))),
            "loaded" => {
                let wanted = self.server.takes_snapshot(now_ms, self.links["leader"]);
                assert!(wanted.is_some());
                self.server.snapshot_loaded(now_ms);
            }
            "reloaded" => {
                let recent = proposals(words.get("log").unwrap_or(""));
                let last = words.get("last").map(zxid).or(recent.last().map(|last| last.zxid));
                self.server.reloaded(now_ms, self.task, last.unwrap_or(Zxid::ZERO), recent);
            }
            "log" => {
                let records = proposals(words.get("holds").unwrap_or(""));
                self.server.log_read(now_ms, self.task, Some(&records));
            }
            from => {
                let packet = packet(&Words(words.0[1..].to_vec()), &self.config);
                let members = words.get("members").map(|voters| {
                    let zxid = zxid(words.at(2));
                    let config = EnsembleConfig::clone(&config(voters, "")).with_version(zxid);
                    EnsembleChange::Members(Arc::new(config))
                });
                let leads =
                    words.get("leads").map(|id| EnsembleChange::Leader(ServerId(id.parse().unwrap())));
                self.server.packet(now_ms, self.links[from], packet, members.or(leads));
            }
        }
    }

    fn new_link(&mut self, name: &str) -> LinkId {
        let link = LinkId(self.links.len() as u64 + 1 + 100 * self.now_ms.unsigned_abs());
        self.links.insert(name.to_owned(), link);
        link
    }

    /// Lets the election end as wanted.
    fn elect(&mut self, leader: i64) {
        let leader = ServerId(leader);
        let others: Vec<ServerId> = self.config.voters().filter(|voter| Some(*voter) != self.me()).collect();
        let is_me = self.me() == Some(leader);
        self.elections += 1;
        for from in others {
            let state = match (is_me, from == leader) {
                (true, _) => ServerState::Looking,
                (false, true) => ServerState::Leading,
                (false, false) => ServerState::Following,
            };
            let notification = Notification {
                state,
                leader,
                zxid: if is_me { self.server.last_logged() } else { Zxid(1) },
                // Newer than any that the server has held by itself.
                round: Round(100 * self.elections),
                peer_epoch: if is_me { self.server.epochs().1 } else { Epoch(1) },
                version: NOTIFICATION_VERSION,
                config: None,
            };
            self.server.notification(self.now_ms, from, Ok(notification));
        }
        if is_me {
            self.now_ms += 200;
            self.server.tick(self.now_ms);
        }
    }

    fn me(&self) -> Option<ServerId> {
        Some(self.server.me())
    }

    fn do_disk(&mut self, words: &Words<'_>) {
        let most = words.0.get(1).map_or(usize::MAX, |count| count.parse().unwrap());
        let mut done = None;
        for _ in 0..most.min(self.disk.len()) {
            done = self.disk.pop_front();
        }
        if let Some((ticket, _)) = done {
            self.server.persisted(self.now_ms, ticket);
        }
    }

    fn propose(&mut self, words: &Words<'_>) {
        let Some(zxid) = self.server.next_zxid() else {
            self.trace.push_str("no zxid\n");
            return self.server.resign(self.now_ms, "the zxids of this epoch are used up");
        };
        let new = words.get("members").map(|voters| {
            let observers = words.get("observers").unwrap_or("");
            let config = EnsembleConfig::clone(&config(voters, observers)).with_version(zxid);
            EnsembleChange::Members(Arc::new(config))
        });
        self.server.propose(Proposal { zxid, payload: Bytes::new() }, new);
        if self.server.rolls_over() {
            let zxid = self.server.last_zxid().unwrap();
            let change = EnsembleChange::Leader(self.server.me());
            self.server.propose(Proposal { zxid, payload: Bytes::new() }, Some(change));
        }
    }

    /// Offers the transaction that names the next leader, if there can be one.
    fn hand_over(&mut self, words: &Words<'_>) {
        let wanted = words.get("to").map(|id| ServerId(id.parse().unwrap()));
        match self.server.successor(wanted) {
            Ok(successor) => {
                let zxid = self.server.last_zxid().unwrap();
                let change = EnsembleChange::Leader(successor);
                self.server.propose(Proposal { zxid, payload: Bytes::new() }, Some(change));
            }
            Err(refused) => self.trace.push_str(&format!("refused: {refused}\n")),
        }
    }

    fn show_actions(&mut self) {
        while let Some(action) = self.server.next_action() {
            let line = match action {
                Action::Notify(..) | Action::ConfigsChanged | Action::LearnerGone(_) => continue,
                Action::Dial { server, port, dial } => {
                    self.dial = dial;
                    let by = if port == PeerPort::ObserverMaster { " for observers" } else { "" };
                    format!("dial {server}{by}")
                }
                Action::ListenForObservers(open) => format!("listen for observers {open}"),
                Action::Send(link, packet) => format!("-> {}: {}", self.name(link), show_packet(&packet)),
                Action::Close(link) => format!("close {}", self.name(link)),
                Action::Listen(open) => format!("listen {open}"),
                Action::Durable(ticket, work) => {
                    let line = show_work(&work);
                    self.disk.push_back((ticket, line.clone()));
                    format!("to disk: {line}")
                }
                Action::ReadLog { task, from } => {
                    self.task = task;
                    format!("read the log from {}", show(from))
                }
                Action::Reload { task } => {
                    self.task = task;
                    "read the state from the disk".into()
                }
                Action::StreamSnapshot(link) => format!("stream a snapshot to {}", self.name(link)),
                Action::LoadSnapshot(zxid) => format!("load a snapshot to {}", show(zxid)),
                Action::InstallSnapshot(zxid) => format!("write the snapshot {}", show(zxid)),
                Action::Apply(proposal) => format!("apply {}", show(proposal.zxid)),
                Action::ApplyOverSnapshot(proposal) => {
                    format!("apply {} over a snapshot", show(proposal.zxid))
                }
                Action::Ended { is_settled: false } => "the role is over".into(),
                Action::Ended { is_settled: true } => "the role is over, and nothing is in doubt".into(),
                Action::Looking => format!(
                    "look, with {} of epoch {}",
                    show(self.server.last_logged()),
                    self.server.epochs().1.0
                ),
                Action::Lead(epoch) => format!("lead in epoch {}", epoch.0),
                Action::Serve(epoch) => format!("serve in epoch {}", epoch.0),
                Action::SyncDone(number) => format!("sync {number} is done"),
                Action::Pinged(zxid) => format!("pinged with {}", show(zxid)),
                Action::Synced => "a sync was answered".into(),
                other => format!("{other:?}"),
            };
            let _ = writeln!(self.trace, "{line}");
        }
    }

    fn name(&self, link: LinkId) -> &str {
        self.links.iter().find(|(_, id)| **id == link).map_or("?", |(name, _)| name)
    }
}

fn show_work(work: &Durable) -> String {
    match work {
        Durable::Append(proposal) => format!("append {}", show(proposal.zxid)),
        Durable::Truncate(zxid) => format!("truncate to {}", show(*zxid)),
        Durable::AcceptedEpoch(epoch) => format!("accepted epoch {}", epoch.0),
        Durable::CurrentEpoch(epoch) => format!("current epoch {}", epoch.0),
        Durable::InstallSnapshot(zxid) => format!("snapshot {}", show(*zxid)),
        Durable::Config { committed, config } => {
            format!(
                "{} configuration {}",
                if *committed { "committed" } else { "seen" },
                show(config.version)
            )
        }
    }
}

fn show_packet(packet: &PeerPacket) -> String {
    match packet {
        PeerPacket::FollowerInfo { accepted, learner } => {
            format!("follower {} accepted={}", learner.id.unwrap(), accepted.0)
        }
        PeerPacket::ObserverInfo { accepted, learner } => {
            format!("observer {} accepted={}", learner.id.unwrap(), accepted.0)
        }
        PeerPacket::LeaderInfo { epoch, .. } => format!("leaderinfo {}", epoch.0),
        PeerPacket::AckEpoch { last, current } => {
            let current = current.map_or("-".into(), |current| current.0.to_string());
            format!("ackepoch {} current={current}", show(*last))
        }
        PeerPacket::Diff { zxid } => format!("diff {}", show(*zxid)),
        PeerPacket::Trunc { zxid } => format!("trunc {}", show(*zxid)),
        PeerPacket::Snap { zxid } => format!("snap {}", show(*zxid)),
        PeerPacket::Proposal { zxid, .. } => format!("proposal {}", show(*zxid)),
        PeerPacket::Commit { zxid } => format!("commit {}", show(*zxid)),
        PeerPacket::Inform { zxid, .. } => format!("inform {}", show(*zxid)),
        PeerPacket::CommitAndActivate { zxid, designated } => {
            format!("activate {} leader={designated}", show(*zxid))
        }
        PeerPacket::InformAndActivate { zxid, designated, .. } => {
            format!("inform and activate {} leader={designated}", show(*zxid))
        }
        PeerPacket::NewLeader { epoch, .. } => format!("newleader {}", epoch.0),
        PeerPacket::UpToDate => "uptodate".into(),
        PeerPacket::Ack { zxid } => format!("ack {}", show(*zxid)),
        PeerPacket::Ping { zxid, .. } => format!("ping {}", show(*zxid)),
        PeerPacket::Sync => "sync".into(),
        other => format!("{other:?}"),
    }
}

fn packet(words: &Words<'_>, config: &EnsembleConfig) -> PeerPacket {
    let txn = Bytes::new();
    let learner = || LearnerInfo::new(ServerId(words.at(1).parse().unwrap()), Zxid(words.number("config")));
    let accepted = Epoch(words.number("accepted"));
    let first = || zxid(words.at(1));
    let designated = || ServerId(words.number("leader"));
    match words.at(0) {
        "follower" => PeerPacket::FollowerInfo { accepted, learner: learner() },
        "observer" => PeerPacket::ObserverInfo { accepted, learner: learner() },
        "leaderinfo" => {
            PeerPacket::LeaderInfo { epoch: Epoch(words.at(1).parse().unwrap()), protocol_version: 0x10000 }
        }
        "ackepoch" => {
            let current =
                words.get("current").filter(|text| *text != "-").map(|text| Epoch(text.parse().unwrap()));
            PeerPacket::AckEpoch { last: first(), current }
        }
        "diff" => PeerPacket::Diff { zxid: first() },
        "trunc" => PeerPacket::Trunc { zxid: first() },
        "snap" => PeerPacket::Snap { zxid: first() },
        "proposal" => PeerPacket::Proposal { zxid: first(), txn },
        "commit" => PeerPacket::Commit { zxid: first() },
        "inform" => PeerPacket::Inform { zxid: first(), txn },
        "inform_activate" => PeerPacket::InformAndActivate { zxid: first(), designated: designated(), txn },
        "revalidate" => {
            PeerPacket::Revalidate { session: SessionId(words.number("session")), timeout_ms: 4000 }
        }
        "activate" => PeerPacket::CommitAndActivate { zxid: first(), designated: designated() },
        "newleader" => {
            let epoch = Epoch(words.at(1).parse().unwrap());
            let told = words.get("config").map(|version| {
                Bytes::from(EnsembleConfig::clone(config).with_version(zxid(version)).to_string())
            });
            PeerPacket::NewLeader { epoch, config: told }
        }
        "uptodate" => PeerPacket::UpToDate,
        "ack" => PeerPacket::Ack { zxid: first() },
        "ping" => PeerPacket::Ping { zxid: first(), touched: Some(Vec::new()) },
        "sync" => PeerPacket::Sync,
        other => panic!("unknown packet {other}"),
    }
}

/// Each fault that can be planted in this crate's roles changes the story that is about it.
#[cfg(feature = "planted")]
#[test]
fn every_planted_fault_is_found_by_its_script() {
    use oxkeeper_planted::Fault;
    let found_by = [
        (Fault::AckBeforeSync, "zookeeper_3023_acknowledged_once_durable"),
        (Fault::NewLeaderBeforeHistory, "zookeeper_3911_newleader_acknowledged_once_history_is_durable"),
        (Fault::EpochBeforeHistory, "zookeeper_4643_history_before_epoch"),
        (Fault::EpochAfterAck, "zookeeper_4643_history_before_epoch"),
        (Fault::AcceptedEpochUnsynced, "promise_durable_before_it_is_spoken"),
        (Fault::PartialSnapshotKept, "zookeeper_3642_link_lost_within_a_snapshot"),
        (Fault::HistoryHole, "zookeeper_4925_history_without_a_hole"),
        (Fault::CommitInSyncDropped, "zookeeper_4394_commit_between_newleader_and_uptodate"),
        (Fault::LearnerAddedLate, "learner_gets_what_is_on_its_way"),
        (Fault::UncommittedKept, "zookeeper_2845_vote_tells_the_log"),
        (Fault::ObserverCounted, "observer_never_counts"),
        (Fault::JointQuorumSkipped, "reconfiguration_needs_both_quorums"),
        (Fault::SyncWithoutQuorum, "sync_waits_for_a_quorum"),
        (Fault::OldTimerSurvives, "old_timer_does_not_act"),
        (Fault::WipedVotes, "emptied_voter_does_not_promise"),
        (Fault::InformBeforeCommit, "observer_of_a_follower_is_told_what_is_agreed"),
        (Fault::CandidatesForgotten, "zookeeper_5088_observer_master_after_proposals"),
    ];
    for (fault, script) in found_by {
        let path = format!("{}/tests/agreement/{script}.txt", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(play(&text), text, "{script}");
        let played = std::panic::catch_unwind(|| oxkeeper_planted::with(fault, || play(&text)));
        assert!(
            played.is_err() || played.is_ok_and(|played| played != text),
            "{fault:?} is not found by {script}"
        );
    }
}
