//! What is checked of an ensemble: epochs, quorums and acknowledgements, from packets and disks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bytes::Bytes;
use oxkeeper_node::Role;
use oxkeeper_proto::{Epoch, PeerPacket, SessionId, Zxid};
use oxkeeper_storage::{EpochFile, SimDisk};

use super::Observer;
use crate::durable::DurableLog;
use crate::network::LinkId;
use crate::queue::Nanos;

/// What was seen of a leader's reign.
#[derive(Debug, Default)]
pub(super) struct Reigns {
    /// Who sent NEWLEADER for an epoch, and the newest transaction that was durable there then.
    begun: BTreeMap<i64, (usize, Zxid)>,
    /// Epochs whose leader has told somebody that it may serve.
    established: BTreeSet<i64>,
    /// By link: the epoch, and the end of the history that its leader has sent before NEWLEADER.
    offered: BTreeMap<LinkId, Offer>,
    /// What is durable of each server's epochs: accepted and current.
    epochs: BTreeMap<usize, (i64, i64)>,
    /// Who leads, as far as its own steps show.
    leaders: BTreeMap<usize, Nanos>,
    committed: Zxid,
    /// The epoch that each server is in, as far as its own steps show.
    roles: BTreeMap<usize, i64>,
    /// Who serves, as far as its own steps show.
    serving: BTreeSet<usize>,
    /// What was durable on a disk that was emptied, and its current epoch.
    lost: BTreeMap<usize, Zxid>,
    lost_epochs: BTreeMap<usize, i64>,
}

impl Reigns {
    /// Whether the leader of an epoch has told somebody that it may serve.
    pub(super) fn is_established(&self, epoch: i64) -> bool {
        self.established.contains(&epoch)
    }
}

#[derive(Debug, Default, Clone, Copy)]
struct Offer {
    epoch: i64,
    history: Zxid,
}

impl Observer {
    /// A server is about to send a packet.
    pub fn packet_sent(&mut self, server: usize, link: LinkId, packet: &PeerPacket, disk: &SimDisk) {
        self.members_in_packet(server, packet, self.has_offered(link));
        self.check_stream(server, link, packet);
        match packet {
            PeerPacket::Diff { zxid } | PeerPacket::Snap { zxid } | PeerPacket::Trunc { zxid } => {
                self.history_offered(link, *zxid);
            }
            PeerPacket::Proposal { zxid, .. } => self.history_grows(link, *zxid),
            PeerPacket::NewLeader { epoch, .. } => self.new_leader(server, link, *epoch, disk),
            PeerPacket::UpToDate => {
                if let Some(offer) = self.reigns.offered.get(&link).copied()
                    && self.reigns.established.insert(offer.epoch)
                {
                    self.check_established(offer.epoch);
                }
            }
            PeerPacket::Ack { zxid } => self.acked(server, link, *zxid, disk),
            PeerPacket::FollowerInfo { .. } => self.follows_over(server, link),
            // What comes with the history is final only when NEWLEADER is acknowledged.
            PeerPacket::Commit { zxid }
            | PeerPacket::Inform { zxid, .. }
            | PeerPacket::CommitAndActivate { zxid, .. }
            | PeerPacket::InformAndActivate { zxid, .. }
                if self.has_offered(link) =>
            {
                self.committed(server, *zxid);
                self.check_not_alone(link, *zxid);
            }
            _ => {}
        }
    }

    /// What brings a learner level ends there, so far.
    pub(super) fn history_offered(&mut self, link: LinkId, history: Zxid) {
        self.reigns.offered.insert(link, Offer { epoch: 0, history });
    }

    /// What brings a learner level goes on.
    pub(super) fn history_grows(&mut self, link: LinkId, zxid: Zxid) {
        if let Some(offer) = self.reigns.offered.get_mut(&link).filter(|offer| offer.epoch == 0) {
            offer.history = offer.history.max(zxid);
        }
    }

    /// What brings a learner level is complete, in this epoch.
    pub(super) fn epoch_offered(&mut self, link: LinkId, epoch: Epoch) {
        self.reigns.offered.entry(link).or_default().epoch = epoch.0;
    }

    /// Whether an epoch has begun and is a server's current one on its disk.
    pub(super) fn is_established(&self, epoch: Epoch, disk: &SimDisk) -> bool {
        self.reigns.is_established(epoch.0) && durable_epochs(disk).1 == Some(epoch.0)
    }

    /// Up to where everything is agreed, as far as a server in the epoch on its disk can know.
    pub(super) fn agreed_upto(&self, disk: &SimDisk) -> Zxid {
        let (_, current) = durable_epochs(disk);
        let begun = current.filter(|epoch| self.reigns.is_established(*epoch));
        let history = begun.and_then(|epoch| self.reigns.begun.get(&epoch)).map_or(Zxid::ZERO, |(_, at)| *at);
        self.reigns.committed.max(history)
    }

    /// Whether a quorum of voters has a transaction on its disks.
    pub(super) fn is_with_a_quorum(&self, zxid: Zxid) -> bool {
        self.lacking(zxid, &self.numbers(|server| self.holds(server, zxid))) == 0
    }

    /// An epoch is established when a quorum of voters has it on its disks.
    fn check_established(&mut self, epoch: i64) {
        let holders = self.numbers(|server| {
            self.reigns.epochs.get(&server).is_some_and(|epochs| epochs.1 >= epoch)
                || self.reigns.lost_epochs.get(&server).is_some_and(|lost| *lost >= epoch)
        });
        self.epoch_began(epoch, &holders);
    }

    /// Whether NEWLEADER has gone over a link.
    pub(super) fn has_offered(&self, link: LinkId) -> bool {
        self.reigns.offered.get(&link).is_some_and(|offer| offer.epoch > 0)
    }

    /// One leader an epoch, and its history is what it had when it began.
    fn new_leader(&mut self, server: usize, link: LinkId, epoch: Epoch, disk: &SimDisk) {
        self.synced(server, disk);
        let durable = self.durable_last(server);
        let begun = *self.reigns.begun.entry(epoch.0).or_insert((server, durable));
        self.check(1, begun.0 == server, || {
            format!("servers {} and {server} both lead in epoch {}", begun.0, epoch.0)
        });
        let epochs = durable_epochs(disk);
        self.check(2, epochs.1 == Some(epoch.0), || {
            format!("server {server} leads in epoch {} with {epochs:?} on its disk", epoch.0)
        });
        let offer = self.reigns.offered.entry(link).or_default();
        offer.epoch = epoch.0;
    }

    /// What is acknowledged is durable.
    fn acked(&mut self, server: usize, link: LinkId, zxid: Zxid, disk: &SimDisk) {
        self.synced(server, disk);
        if zxid.counter() > 0 {
            let holds = self.holds(server, zxid);
            return self.check(5, holds, || {
                format!("server {server} acknowledges {zxid}, which is not on its disk")
            });
        }
        let Some(offer) = self.reigns.offered.get(&link).copied() else { return };
        let (end, last) = (self.end_of(offer.history), self.end_of(self.durable_last(server)));
        let is_there = end == Zxid::ZERO || self.holds(server, end);
        self.check(6, is_there && last >= end, || {
            format!("server {server} acknowledges NEWLEADER {zxid}; its disk ends at {last}, not {end}")
        });
        // What was never agreed is gone: it would come back as part of a later leader's history.
        let stale = self.logs.get(server).and_then(|log| log.between(end, zxid));
        self.check(6, stale.is_none(), || {
            format!(
                "server {server} acknowledges NEWLEADER {zxid}; its disk still holds {stale:?} after {end}"
            )
        });
        let (accepted, current) = durable_epochs(disk);
        let epoch = zxid.epoch().0;
        self.check(6, current == Some(epoch), || {
            format!(
                "server {server} acknowledges NEWLEADER {zxid} with current epoch {current:?} on its disk"
            )
        });
        self.check(2, accepted >= current, || {
            format!("server {server} has accepted {accepted:?} and is in {current:?}")
        });
    }

    /// Whether one of two voters has on its disk all that was agreed, and `shown`, in an epoch that is no older than the
    /// other's.
    #[must_use]
    pub fn has_all(&self, server: usize, other: usize, shown: Zxid) -> bool {
        let last = self.end_of(self.visible.max(self.reigns.committed).max(shown));
        let holds = |log: &DurableLog| last == Zxid::ZERO || log.holds(last);
        let current = |server| self.reigns.epochs.get(&server).map_or(0, |epochs| epochs.1);
        self.logs.get(server).is_some_and(holds) && current(server) >= current(other)
    }

    /// Where a history ends that is said to end at `zxid`. The start of an epoch is no transaction and stands in no log:
    /// who is there has what the epoch's leader had when it began.
    fn end_of(&self, mut zxid: Zxid) -> Zxid {
        while zxid != Zxid::ZERO
            && zxid.counter() == 0
            && let Some((_, history)) = self.reigns.begun.get(&zxid.epoch().0)
            && *history < zxid
        {
            zxid = *history;
        }
        zxid
    }

    /// What is final is durable with a quorum of voters.
    fn committed(&mut self, server: usize, zxid: Zxid) {
        if zxid <= self.reigns.committed {
            return;
        }
        let begun = self.reigns.begun.get(&zxid.epoch().0).copied();
        if let Some((leader, _)) = begun {
            self.check(4, leader == server, || {
                format!("server {server} commits {zxid} of the epoch of server {leader}")
            });
        }
        self.reigns.committed = zxid;
        self.check_quorum(zxid, "is committed");
    }

    /// A client has seen the effect of a transaction: it is durable with a quorum of voters.
    pub(super) fn check_quorum(&mut self, zxid: Zxid, what: &str) {
        if zxid.counter() == 0 {
            return;
        }
        let holders = self.numbers(|server| self.holds(server, zxid));
        let lacking = self.lacking(zxid, &holders);
        self.check(8, lacking == 0, || {
            format!("{zxid} {what} and durable only on the servers {holders:?}: no quorum")
        });
    }

    /// Whether a server has it, or had it until its disk was emptied: then it does not count for electing, so what it
    /// acknowledged before is as safe as it was.
    pub(super) fn holds(&self, server: usize, zxid: Zxid) -> bool {
        self.logs.get(server).is_some_and(|log| log.holds(zxid))
            || self.reigns.lost.get(&server).is_some_and(|lost| zxid <= *lost)
    }

    /// Whether those of some servers are a quorum that have all that a server has on its disk, in an epoch that is no older
    /// on theirs.
    #[must_use]
    pub fn is_held_by_a_quorum(&self, server: usize, others: &[usize]) -> bool {
        let last = self.end_of(self.durable_last(server));
        let epochs = |server: &usize| self.reigns.epochs.get(server).copied().unwrap_or_default();
        let (promised, current) = epochs(&server);
        let level = self.numbers(|other| {
            let holds = self.logs.get(other).is_some_and(|log| log.holds(last));
            let (others_promised, others_current) = epochs(&other);
            others.contains(&other) && holds && others_promised >= promised && others_current >= current
        });
        let configs = self.configs();
        !configs.is_empty() && configs.iter().all(|config| config.is_quorum(&level))
    }

    /// How many servers there are.
    #[must_use]
    pub fn servers(&self) -> usize {
        self.logs.len()
    }

    /// As if a server had this epoch on its disk.
    #[cfg(test)]
    pub(super) fn reigns_in(&mut self, server: usize, epoch: i64) {
        self.reigns.epochs.insert(server, (epoch, epoch));
    }

    /// Epochs on a disk never go back.
    pub(super) fn check_epochs(&mut self, server: usize, disk: &SimDisk) {
        let (accepted, current) = durable_epochs(disk);
        let now = (accepted.unwrap_or(0), current.unwrap_or(0));
        let before = self.reigns.epochs.insert(server, now).unwrap_or((0, 0));
        self.check(2, now.0 >= before.0 && now.1 >= before.1, || {
            format!("the epochs of server {server} go back from {before:?} to {now:?}")
        });
    }

    /// A server's disk was emptied: nothing on it is promised any more.
    pub fn emptied(&mut self, server: usize) {
        let last = self.durable_last(server);
        let lost = self.reigns.lost.entry(server).or_default();
        *lost = last.max(*lost);
        if let Some((_, current)) = self.reigns.epochs.remove(&server) {
            let lost = self.reigns.lost_epochs.entry(server).or_default();
            *lost = current.max(*lost);
        }
        if let Some(log) = self.logs.get_mut(server) {
            log.forget();
        }
    }

    /// A leader begins to serve. If nobody else is needed for a quorum it tells nobody so, and its disk alone shows what it
    /// begins with.
    fn leads_alone(&mut self, server: usize, epoch: i64, disk: &SimDisk) {
        let durable = self.durable_last(server);
        let begun = *self.reigns.begun.entry(epoch).or_insert((server, durable));
        self.check(1, begun.0 == server, || {
            format!("servers {} and {server} both lead in epoch {epoch}", begun.0)
        });
        if self.reigns.established.insert(epoch) {
            self.begins_with(epoch, disk);
            self.check_established(epoch);
        }
    }

    /// A server has become something else.
    pub fn role_changed(&mut self, server: usize, role: (Role, bool, Epoch), disk: &SimDisk, now: Nanos) {
        self.reigns.roles.insert(server, role.2.0);
        self.note_word(server, role.0 == Role::Leading);
        let serves = role.1;
        let served =
            if serves { !self.reigns.serving.insert(server) } else { self.reigns.serving.remove(&server) };
        if self.is_calm {
            self.check(21, serves || !served, || {
                format!("server {server} stops serving and becomes {role:?}, with nothing wrong")
            });
        }
        let leads = role.0 == Role::Leading && role.1;
        if leads {
            self.leads_alone(server, role.2.0, disk);
            // Nobody knows what its predecessor heard last: every session has its whole timeout from here on.
            self.reigns.leaders.entry(server).or_insert(now);
        } else {
            self.reigns.leaders.remove(&server);
        }
    }

    /// A server got a packet. What a leader hears of sessions keeps them alive.
    pub fn packet_came(&mut self, server: usize, _link: LinkId, packet: &PeerPacket, now: Nanos) {
        if !self.leads(server) {
            return;
        }
        match packet {
            PeerPacket::Ping { touched: Some(touched), .. } => {
                touched.iter().for_each(|(session, _)| self.touched(server, *session, now));
            }
            PeerPacket::Revalidate { session, .. } => self.touched(server, *session, now),
            // A request that is passed on is no sign of life by itself, in ZooKeeper neither: the next ping is.
            _ => {}
        }
    }

    /// In which epoch a server is, as far as its own steps show; one of its own is in every one.
    #[must_use]
    pub fn epoch_of(&self, server: usize) -> i64 {
        if self.standalone { i64::MAX } else { self.reigns.roles.get(&server).copied().unwrap_or(0) }
    }

    /// A server is gone for now, and leads no more.
    pub(super) fn down(&mut self, server: usize) {
        self.reigns.serving.remove(&server);
        self.reigns.leaders.remove(&server);
    }

    pub(super) fn leads(&self, server: usize) -> bool {
        self.standalone || self.reigns.leaders.contains_key(&server)
    }

    pub(super) fn reign_began(&self, server: usize) -> Nanos {
        self.reigns.leaders.get(&server).copied().unwrap_or(0)
    }

    pub(super) fn touched(&mut self, server: usize, session: SessionId, now: Nanos) {
        self.heard_of(session, now);
        let heard = self.heard.entry((session, server)).or_default();
        if heard.0 < now {
            heard.1 = heard.0;
        }
        heard.0 = now;
    }

    /// The one order: everything ever durable anywhere, but for what a later leader's history left out. `last` is what
    /// is applied in the end.
    #[must_use]
    pub fn final_order(&self, last: Zxid) -> BTreeMap<Zxid, Bytes> {
        if self.standalone {
            return self.agreed.clone();
        }
        let limit = |zxid: Zxid| {
            let next = self.reigns.established.range(zxid.epoch().0 + 1..).next();
            next.and_then(|epoch| self.reigns.begun.get(epoch)).map_or(last, |(_, history)| *history)
        };
        let all = self.agreed.iter().filter(|(zxid, _)| **zxid <= limit(**zxid));
        all.map(|(zxid, payload)| (*zxid, payload.clone())).collect()
    }
}

/// Accepted and current epoch as they would be found after a loss of power.
fn durable_epochs(disk: &SimDisk) -> (Option<i64>, Option<i64>) {
    let files = disk.durable_files(&Path::new(crate::process::DATA).join("version-2"));
    let read = |file: EpochFile| {
        let (_, inode, _) = files.iter().find(|(name, ..)| name == file.name())?;
        String::from_utf8(disk.durable_bytes(*inode, 0)).ok()?.trim().parse().ok()
    };
    (read(EpochFile::Accepted), read(EpochFile::Current))
}
