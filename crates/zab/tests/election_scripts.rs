//! Elections as stories: each file of `tests/election` tells in prose what it is about, and then holds commands
//! (lines that begin with `>`), each followed by what the servers did. Setting `UPDATE_EXPECT=1` writes what
//! they do now into the files; such a change is to be reviewed like code.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use oxkeeper_proto::peer::notification::{Notification, ServerState};
use oxkeeper_proto::{DecodeError, DecodeErrorKind, EnsembleConfig, Epoch, Round, ServerId, Zxid};
use oxkeeper_zab::election::{Candidate, Decision, Election, Input, Output, Settings, Timing};
use oxkeeper_zab::{Oracle, Vote};

#[test]
fn every_script_ends_as_it_says() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/election");
    let mut scripts: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    scripts.sort();
    assert!(scripts.len() >= 20, "scripts are missing from {}", dir.display());
    for path in scripts {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# "), "{} does not say what it is about", path.display());
        let played = World::default().play(&text);
        expect_test::expect_file![path].assert_eq(&played);
    }
}

#[derive(Default)]
struct World {
    now: Duration,
    configs: BTreeMap<String, Arc<EnsembleConfig>>,
    servers: BTreeMap<i64, Election>,
    starts: u64,
    wires: BTreeMap<(i64, i64), VecDeque<Notification>>,
    trace: String,
}

/// The words of a command: some by their place, some `key=value`.
struct Words<'a>(Vec<&'a str>);

impl<'a> Words<'a> {
    fn at(&self, i: usize) -> &'a str {
        self.0
            .iter()
            .filter(|word| !word.contains('='))
            .nth(i)
            .unwrap_or_else(|| panic!("too short: {:?}", self.0))
    }

    fn id(&self, i: usize) -> i64 {
        self.at(i).parse().unwrap()
    }

    fn get(&self, key: &str) -> Option<&'a str> {
        self.0.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }

    fn has(&self, flag: &str) -> bool {
        self.0.contains(&flag)
    }

    fn epoch(&self) -> Epoch {
        Epoch(self.get("epoch").map_or(0, |text| text.parse().unwrap()))
    }

    fn zxid(&self) -> Zxid {
        let Some(text) = self.get("zxid") else { return Zxid(0) };
        match text.split_once(':') {
            Some((epoch, counter)) => Zxid::new(epoch.parse().unwrap(), counter.parse().unwrap()),
            None => Zxid(text.parse().unwrap()),
        }
    }

    fn candidate(&self) -> Candidate {
        Candidate { zxid: self.zxid(), epoch: self.epoch(), emptied: self.has("emptied") }
    }
}

fn state(text: &str) -> ServerState {
    match text {
        "looking" => ServerState::Looking,
        "following" => ServerState::Following,
        "leading" => ServerState::Leading,
        "observing" => ServerState::Observing,
        _ => panic!("no state: {text}"),
    }
}

fn show_state(state: ServerState) -> &'static str {
    match state {
        ServerState::Looking => "looking",
        ServerState::Following => "following",
        ServerState::Leading => "leading",
        ServerState::Observing => "observing",
    }
}

fn show_zxid(zxid: Zxid) -> String {
    match zxid.0 {
        i64::MIN => "min".to_owned(),
        -1 => "-1".to_owned(),
        _ => format!("{}:{}", zxid.epoch().0, zxid.counter()),
    }
}

fn show_vote(vote: Vote) -> String {
    let leader = if vote.leader == Vote::NOBODY { "nobody".to_owned() } else { vote.leader.to_string() };
    let epoch = match vote.peer_epoch.0 {
        i64::MIN => "epoch=min".to_owned(),
        epoch if vote.zxid == Zxid(-1) => {
            let has_heard_all = if epoch & 0x8000_0000 == 0 { "" } else { "!" };
            format!("marks={}/{}{has_heard_all}", epoch >> 32, epoch & 0x7fff_ffff)
        }
        epoch => format!("epoch={epoch}"),
    };
    format!("{leader} zxid={} {epoch} round={}", show_zxid(vote.zxid), vote.round.0)
}

impl World {
    fn play(mut self, text: &str) -> String {
        for line in text.lines() {
            if let Some(command) = line.strip_prefix("> ") {
                writeln!(self.trace, "{line}").unwrap();
                self.run(&Words(command.split_whitespace().collect()));
            } else if line.is_empty() || line.starts_with('#') {
                writeln!(self.trace, "{line}").unwrap();
            }
        }
        self.trace
    }

    fn run(&mut self, words: &Words<'_>) {
        match words.0[0] {
            "ensemble" => self.define("ensemble", &words.0[1..]),
            "config" => self.define(words.0[1], &words.0[2..]),
            "start" => self.start(words),
            "look" => self.step(words.id(1), Input::Look(words.candidate())),
            "crash" => {
                let id = words.id(1);
                self.servers.remove(&id);
                self.wires.retain(|(from, to), _| *from != id && *to != id);
            }
            "hear" => self.hear(words),
            "serving" => self.step(words.id(1), Input::Serving(words.epoch())),
            "handover" => {
                let vote = Vote::handed_over(ServerId(words.id(3)), words.zxid());
                self.step(words.id(1), Input::HandedOver { state: state(words.at(2)), vote });
            }
            "configure" => {
                let committed = self.configs[words.at(2)].clone();
                let seen = words.get("seen").map(|name| self.configs[name].clone());
                self.step(words.id(1), Input::Configured { committed, seen });
            }
            "oracle" => {
                let says = Oracle::Says(words.at(2) == "yes");
                self.step(words.id(1), Input::Oracle(says));
            }
            "deliver" if words.0.len() == 3 => self.deliver_one(words.id(1), words.id(2)),
            "deliver" => self.deliver_all(),
            "drop" if words.0.len() == 3 => {
                self.wires.remove(&(words.id(1), words.id(2)));
            }
            "drop" => self.wires.clear(),
            "wait" => self.wait(Duration::from_millis(words.at(1).parse().unwrap())),
            "show" => {
                let server = &self.servers[&words.id(1)];
                let vote = server.vote().map_or("nobody".to_owned(), show_vote);
                let state = show_state(server.state());
                writeln!(
                    self.trace,
                    "{state} {vote} (round {}, configuration {:x}, {} malformed)",
                    server.round().0,
                    server.config().version.0,
                    server.malformed()
                )
                .unwrap();
            }
            other => panic!("no command: {other}"),
        }
    }

    /// `1 2 3o version=5 weight.2=0 group.1=1:2`: the ids, with `o` for observers, and further entries.
    fn define(&mut self, name: &str, words: &[&str]) {
        let mut text = String::new();
        for word in words {
            match word.strip_suffix('o') {
                _ if word.contains('=') => writeln!(text, "{word}").unwrap(),
                Some(id) => writeln!(text, "server.{id}=h{id}:1:2:observer").unwrap(),
                None => writeln!(text, "server.{word}=h{word}:1:2").unwrap(),
            }
        }
        self.configs.insert(name.to_owned(), Arc::new(EnsembleConfig::parse(&text).unwrap()));
    }

    fn start(&mut self, words: &Words<'_>) {
        let id = words.id(1);
        self.starts += 1;
        let seed = self.starts * 10;
        let settings =
            Settings { me: ServerId(id), timing: Timing::DEFAULT, reconfig: !words.has("noreconfig"), seed };
        let config = self.configs[words.get("config").unwrap_or("ensemble")].clone();
        let seen = words.get("seen").map(|name| self.configs[name].clone());
        self.servers.insert(id, Election::new(settings, config, seen));
        self.step(id, Input::Look(words.candidate()));
    }

    fn hear(&mut self, words: &Words<'_>) {
        let from = ServerId(words.id(3));
        let message = if words.has("garbage") {
            Err(DecodeError { kind: DecodeErrorKind::Truncated { needed: 1 }, offset: 0 })
        } else {
            let config = match words.get("text") {
                Some(text) => text.to_owned(),
                None => self.configs[words.get("config").unwrap_or("ensemble")].to_string(),
            };
            Ok(Notification {
                state: state(words.at(4)),
                leader: ServerId(words.id(5)),
                zxid: words.zxid(),
                round: Round(words.get("round").map_or(1, |text| text.parse().unwrap())),
                peer_epoch: words.epoch(),
                version: words.get("version").map_or(2, |text| text.parse().unwrap()),
                config: Some(config.into()),
            })
        };
        self.step(words.id(1), Input::Received { from, message });
    }

    fn step(&mut self, id: i64, input: Input) {
        let mut out = Vec::new();
        let Some(server) = self.servers.get_mut(&id) else { return };
        server.step(self.now, input, &mut out);
        let mut sends: Vec<(String, Vec<String>)> = Vec::new();
        for output in out {
            match output {
                Output::Send { to, notification } => {
                    let vote = show_vote(Vote::of(&notification));
                    let version = EnsembleConfig::parse(&String::from_utf8_lossy(
                        notification.config.as_ref().unwrap(),
                    ));
                    let text = match version.unwrap().version {
                        Zxid(0) => format!("{} {vote}", show_state(notification.state)),
                        version => format!("{} {vote} config={version}", show_state(notification.state)),
                    };
                    match sends.last_mut() {
                        Some((last, receivers)) if *last == text => receivers.push(to.to_string()),
                        _ => sends.push((text, vec![to.to_string()])),
                    }
                    self.wires.entry((id, to.0)).or_default().push_back(notification);
                }
                other => {
                    self.flush(id, &mut sends);
                    self.show_output(id, &other);
                }
            }
        }
        self.flush(id, &mut sends);
    }

    fn flush(&mut self, id: i64, sends: &mut Vec<(String, Vec<String>)>) {
        for (text, receivers) in sends.drain(..) {
            writeln!(self.trace, "{id} -> {}: {text}", receivers.join(",")).unwrap();
        }
    }

    fn show_output(&mut self, id: i64, output: &Output) {
        match output {
            Output::Decided(Decision { state, vote, supporters, is_new }) => {
                let supporters: Vec<String> = supporters.iter().map(ServerId::to_string).collect();
                let how = if *is_new { "elected" } else { "found" };
                let (state, vote) = (show_state(*state), show_vote(*vote));
                writeln!(self.trace, "{id} is {state}: {how} {vote} by {}", supporters.join(",")).unwrap();
            }
            Output::Adopt(config) => {
                let ids: Vec<String> = config.members().keys().map(ServerId::to_string).collect();
                let version = config.version;
                writeln!(self.trace, "{id} adopts configuration {version}: {}", ids.join(",")).unwrap();
            }
            Output::Disloyal(voter) => writeln!(self.trace, "{id} sees that {voter} looks again").unwrap(),
            Output::Send { .. } => {}
        }
    }

    fn deliver_one(&mut self, from: i64, to: i64) {
        if let Some(notification) = self.wires.get_mut(&(from, to)).and_then(VecDeque::pop_front) {
            self.step(to, Input::Received { from: ServerId(from), message: Ok(notification) });
        }
    }

    fn deliver_all(&mut self) {
        for _ in 0..1000 {
            self.wires.retain(|_, waiting| !waiting.is_empty());
            let Some((from, to)) = self.wires.keys().next().copied() else { return };
            self.deliver_one(from, to);
        }
        writeln!(self.trace, "... and so on without end").unwrap();
    }

    /// Lets time pass, in which deadlines are met but no message arrives.
    fn wait(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let next = self.servers.iter().filter_map(|(id, server)| Some((server.deadline()?, *id))).min();
            let Some((at, id)) = next.filter(|(at, _)| *at <= end) else { break };
            self.now = self.now.max(at);
            writeln!(self.trace, "{} ms", self.now.as_millis()).unwrap();
            self.step(id, Input::Tick);
        }
        self.now = end;
    }
}

#[cfg(feature = "planted")]
#[test]
fn every_planted_fault_is_found_by_its_script() {
    use oxkeeper_planted::Fault;
    for (fault, script) in [
        (Fault::VoteIgnoresEpoch, include_str!("election/newer_epoch_beats_longer_log.txt")),
        (Fault::OldRoundCounted, include_str!("election/votes_of_an_old_round_do_not_count.txt")),
        (Fault::NotificationErrorEnds, include_str!("election/zookeeper_3769_malformed_notification.txt")),
        (Fault::WipedVotes, include_str!("election/emptied_voter_does_not_elect.txt")),
        (Fault::HalfIsQuorum, include_str!("election/half_is_no_quorum.txt")),
    ] {
        assert_eq!(World::default().play(script), script);
        let played = oxkeeper_planted::with(fault, || World::default().play(script));
        assert_ne!(played, script, "{fault:?} is not found");
    }
}
