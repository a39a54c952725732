//! Who belongs to the ensemble, as packets tell it: which configuration is in force, and whose acknowledgements a
//! transaction needs: a reconfiguration itself is agreed by both the old members and the new ones, what stands behind it
//! by the new ones.

use std::collections::{BTreeMap, BTreeSet};

use oxkeeper_proto::{OpCode, PeerPacket, Reader, ServerId, Txn, TxnHeader, TxnRecord, Zxid};
use oxkeeper_storage::SimDisk;

use super::Observer;
use crate::process::durable_configs;
use crate::roster::Roster;

/// What is known of the configurations.
#[derive(Debug, Default)]
pub(super) struct Members {
    /// Whether they may change at all.
    may_change: bool,
    /// In force.
    current: Option<Roster>,
    /// Proposed, and perhaps never agreed.
    under_way: Option<Roster>,
    /// Every configuration by its version: there must be one only.
    known: BTreeMap<i64, Roster>,
    /// Which quorums a transaction needs, from this one on.
    rules: BTreeMap<Zxid, Vec<Roster>>,
    /// What the first NEWLEADER of an epoch said.
    epochs: BTreeMap<i64, Roster>,
    newest_offered: Zxid,
}

/// The number of a server by its index.
pub(super) fn number(server: usize) -> i64 {
    i64::try_from(server + 1).unwrap_or(i64::MAX)
}

/// What a transaction makes of the ensemble, if it is a reconfiguration.
fn config_of(txn: &[u8]) -> Option<Roster> {
    if TxnHeader::decode(&mut Reader::new(txn)).ok()?.op != OpCode::Reconfig {
        return None;
    }
    let record = TxnRecord::decode(txn).ok()?;
    let Txn::SetData { data: Some(text), .. } = record.txn else { return None };
    Roster::parse(std::str::from_utf8(text).ok()?)
}

impl Members {
    pub(super) fn of(text: Option<&str>, may_change: bool) -> Members {
        let current = text.and_then(Roster::parse);
        let rules = BTreeMap::from([(Zxid::ZERO, current.iter().cloned().collect())]);
        let known = current.iter().cloned().map(|roster| (roster.version, roster)).collect();
        Members { may_change, current, known, rules, ..Members::default() }
    }

    fn rule(&self, zxid: Zxid) -> &[Roster] {
        self.rules.range(..=zxid).next_back().map_or(&[], |(_, rule)| rule.as_slice())
    }
}

impl Observer {
    /// The number of configurations of which these servers are no quorum, if a transaction needs them.
    pub(super) fn lacking(&self, zxid: Zxid, holders: &BTreeSet<i64>) -> usize {
        let enough =
            |roster: &&Roster| roster.is_quorum(holders) || self.is_enough_alone(roster, zxid, holders);
        self.members.rule(zxid).iter().filter(|roster| !enough(roster)).count()
    }

    /// Whether these servers are a quorum of a configuration that there ever was. Who looks for a leader goes by the one
    /// that it knows, which may be an older one.
    pub(super) fn is_quorum_of_some(&self, servers: &BTreeSet<i64>) -> bool {
        self.members.rules.values().flatten().any(|roster| roster.is_quorum(servers))
    }

    /// The servers of which something is true, by number.
    pub(super) fn numbers(&self, is_true: impl Fn(usize) -> bool) -> BTreeSet<i64> {
        (0..self.logs.len()).filter(|server| is_true(*server)).map(number).collect()
    }

    /// What a packet says of the configuration. To be told before what else follows from the packet.
    pub(super) fn members_in_packet(&mut self, server: usize, packet: &PeerPacket, is_broadcast: bool) {
        if !self.members.may_change {
            return;
        }
        match packet {
            PeerPacket::NewLeader { epoch, config: Some(text) } => {
                let Some(said) = std::str::from_utf8(text).ok().and_then(Roster::parse) else { return };
                self.first_said(epoch.0, said);
            }
            PeerPacket::Proposal { zxid, txn } if is_broadcast => self.offered(*zxid, txn),
            PeerPacket::CommitAndActivate { zxid, designated }
            | PeerPacket::InformAndActivate { zxid, designated, .. } => {
                if designated.0 != number(server) {
                    self.votes.named(*designated);
                }
                if let Some(new) = self.members.under_way.take_if(|new| new.version == zxid.0) {
                    self.in_force(new);
                }
            }
            _ => {}
        }
    }

    /// What the first NEWLEADER of an epoch says, or the disk of a leader that needs nobody else.
    fn first_said(&mut self, epoch: i64, said: Roster) {
        self.config_seen(&said);
        if self.members.epochs.contains_key(&epoch) {
            return;
        }
        let (first, current) = (said.version, self.config_version());
        self.members.epochs.insert(epoch, said);
        self.check(26, first >= current, || {
            format!("epoch {epoch} begins with configuration {first:x}, {current:x} is in force")
        });
    }

    /// A leader that needs nobody else begins with the newest configuration on its disk.
    pub(super) fn begins_with(&mut self, epoch: i64, disk: &SimDisk) {
        let (committed, seen) = durable_configs(disk);
        let found = [committed, seen].into_iter().flatten().filter_map(|text| Roster::parse(&text));
        if let Some(newest) = found.max_by_key(|roster| roster.version).filter(|_| self.members.may_change) {
            self.first_said(epoch, newest);
        }
    }

    /// Something is durable on the disk of a leader. If it is the configuration that is on its way, that is in force: where
    /// the leader needs nobody else, perhaps nobody else is told.
    pub(super) fn activated(&mut self, server: usize, disk: &SimDisk) {
        let Some(version) = self.members.under_way.as_ref().map(|new| new.version) else { return };
        if !self.leads(server) {
            return;
        }
        let committed = durable_configs(disk).0.as_deref().and_then(Roster::parse);
        if committed.is_some_and(|committed| committed.version == version)
            && let Some(new) = self.members.under_way.take()
        {
            self.in_force(new);
        }
    }

    /// A follower tells an observer which configuration is in force: one that there is.
    pub(super) fn config_told(&mut self, packet: &PeerPacket) {
        let PeerPacket::NewLeader { config: Some(text), .. } = packet else { return };
        let said = std::str::from_utf8(text).ok().and_then(Roster::parse);
        let Some(said) = said.filter(|_| self.members.may_change) else { return };
        self.config_seen(&said);
        let current = self.config_version();
        // Its leader may have had nobody to tell.
        let is_agreed = said.version <= current || self.is_with_a_quorum(Zxid(said.version));
        self.check(26, is_agreed, || {
            format!("an observer is told of configuration {:x}, and {current:x} is in force", said.version)
        });
    }

    /// A transaction is offered for the first time.
    pub(super) fn offered(&mut self, zxid: Zxid, txn: &[u8]) {
        if zxid <= self.members.newest_offered || !self.members.may_change {
            return;
        }
        self.members.newest_offered = zxid;
        if let Some(new) = config_of(txn) {
            self.config_seen(&new);
            let both = self.members.current.iter().cloned().chain([new.clone()]).collect();
            self.members.rules.insert(zxid, both);
            // What stands behind it can only be agreed after it.
            self.members.rules.insert(Zxid(zxid.0 + 1), vec![new.clone()]);
            self.members.under_way = Some(new);
        }
    }

    /// A leader serves in a new epoch for the first time; these servers have it on their disks.
    pub(super) fn epoch_began(&mut self, epoch: i64, holders: &BTreeSet<i64>) {
        let new = self.members.epochs.get(&epoch).cloned();
        let newer = new.filter(|new| new.version > self.config_version());
        let needed: Vec<&Roster> = self.members.current.iter().chain(&newer).collect();
        let start = Zxid(epoch << 32);
        let enough = needed
            .iter()
            .all(|roster| roster.is_quorum(holders) || self.is_enough_alone(roster, start, holders));
        self.check(8, enough, || format!("epoch {epoch} begins with only the servers {holders:?}"));
        if let Some(newer) = newer {
            // Its leader may not belong to it, and knows who is to follow.
            newer.voters().into_iter().for_each(|voter| self.votes.named(ServerId(voter)));
            self.in_force(newer);
        }
        self.members.under_way = None;
        let one = self.members.current.iter().cloned().collect();
        self.members.rules.insert(Zxid(epoch << 32), one);
    }

    fn in_force(&mut self, new: Roster) {
        let before = self.config_version();
        self.check(26, new.version > before, || {
            format!("configuration {:x} comes into force after {before:x}", new.version)
        });
        self.members.current = Some(new);
    }

    fn config_seen(&mut self, roster: &Roster) {
        let known = self.members.known.entry(roster.version).or_insert_with(|| roster.clone());
        let same = known == roster;
        self.check(26, same, || format!("there are two configurations {:x}", roster.version));
    }

    fn config_version(&self) -> i64 {
        self.members.current.as_ref().map_or(0, |current| current.version)
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> Option<&Roster> {
        self.members.current.as_ref()
    }

    /// The configuration in force and the one that is on its way, if there is one; none of a server of its own.
    #[must_use]
    pub fn configs(&self) -> Vec<&Roster> {
        self.members.current.iter().chain(&self.members.under_way).collect()
    }

    /// Whether a server belongs to the ensemble.
    #[must_use]
    pub fn is_member(&self, server: usize) -> bool {
        self.members.current.as_ref().is_none_or(|current| current.lines.contains_key(&number(server)))
    }

    /// What established epochs began with, each by the start of the epoch. Beside the reconfigurations among the
    /// transactions this is all that changes a configuration.
    #[must_use]
    pub fn begun_with(&self) -> BTreeMap<Zxid, Roster> {
        let established = |epoch: &&i64| self.reigns.is_established(**epoch);
        let begun = self.members.epochs.keys().filter(established);
        begun.filter_map(|epoch| Some((Zxid(epoch << 32), self.members.epochs.get(epoch)?.clone()))).collect()
    }

    /// Whether members may come and go.
    #[must_use]
    pub fn members_change(&self) -> bool {
        self.members.may_change
    }

    /// What the transactions come to is what packets said.
    pub fn check_last_config(&mut self, replayed: Option<&Roster>) {
        let same = replayed == self.members.current.as_ref();
        let (a, b) = (replayed.map(Roster::text), self.members.current.as_ref().map(Roster::text));
        self.check(26, same, || format!("the transactions come to {a:?}, but {b:?} is in force"));
    }

    /// Whether a server has the configuration that is in force on its disk.
    #[must_use]
    pub fn has_config(&self, found: Option<&str>) -> bool {
        found.map(str::to_owned) == self.members.current.as_ref().map(Roster::text)
    }

    /// In the end every member has the configuration that is in force.
    pub fn check_same_config(&mut self, server: usize, found: Option<&str>) {
        let current = self.members.current.as_ref().map(Roster::text);
        let same = self.has_config(found);
        self.check(26, same, || {
            format!("server {server} has the configuration {found:?}, {current:?} is in force")
        });
    }
}
