//! Peers that are not ours: where the protocol leaves room, servers of other makes and versions do what they do, and
//! hostile ones what they like. A layer between a server and its network says some things in their way.
//!
//! Everything that a peer with manners acknowledges is on its disk: the layer repeats, delays and leaves out, but does
//! not lie. Hostile manners do not count for what is checked of them.
//!
//! Source: `QuorumCnxManager`, `FastLeaderElection`, `Learner`, `LearnerHandler`, 3.5 to 3.9.

use std::collections::VecDeque;
use std::time::Duration;

use oxkeeper_node::Timing;
use oxkeeper_proto::peer::notification::Notification;
use oxkeeper_proto::peer::{ForwardedRequest, LearnerInfo};
use oxkeeper_proto::{OpCode, PeerPacket, Zxid};

use crate::chance::Chance;

/// When a learner acknowledges the transactions that brought it level, each by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RangeAcks {
    /// Never: 3.9, and ours.
    Never,
    /// Some before NEWLEADER, as in a race, the others after UPTODATE: 3.8.0.
    Around,
    /// All before NEWLEADER.
    Before,
    /// All right after the second acknowledgement of NEWLEADER: the latest 3.8.
    After,
}

/// How a server's votes are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Voice {
    /// With its configuration: 3.5 and later.
    WithConfig,
    /// Without: 3.4.6 and later.
    WithoutConfig,
    /// Before there were versions.
    Old,
}

/// How a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manners {
    /// How it writes votes.
    pub voice: Voice,
    /// How a learner acknowledges what brought it level.
    pub range_acks: RangeAcks,
    /// A learner acknowledges everything twice, as one does whose batches overlap.
    pub repeats_acks: bool,
    /// A learner that leaves repeats its last acknowledgement, as one does whose log is drained at its end.
    pub last_word: bool,
    /// A learner does not say which configuration it knows.
    pub short_info: bool,
    /// A leader sends NEWLEADER without its configuration.
    pub plain_new_leader: bool,
    /// A leader pings before a learner has acknowledged NEWLEADER.
    pub pings_early: bool,
    /// A leader answers learners' syncs without asking whether it still leads.
    pub syncs_alone: bool,
    /// A leader sends its whole state to every learner.
    pub sends_snapshots: bool,
    /// Its elections wait up to a minute.
    pub backs_off: bool,
    /// Hostile: what should be votes makes no sense.
    pub babbles: bool,
    /// Hostile: an observer acknowledges what it is told of, and what is still to come.
    pub acks_informs: bool,
}

impl Manners {
    /// Those of our own servers.
    pub const OURS: Manners = Manners {
        voice: Voice::WithConfig,
        range_acks: RangeAcks::Never,
        repeats_acks: false,
        last_word: false,
        short_info: false,
        plain_new_leader: false,
        pings_early: false,
        syncs_alone: false,
        sends_snapshots: false,
        backs_off: false,
        babbles: false,
        acks_informs: false,
    };

    /// Those of some other server.
    #[must_use]
    pub fn draw(chance: &mut Chance) -> Manners {
        let voices = [Voice::WithConfig, Voice::WithConfig, Voice::WithoutConfig, Voice::Old];
        let acks = [RangeAcks::Never, RangeAcks::Around, RangeAcks::Before, RangeAcks::After];
        let mut sometimes = |probability| chance.happens(probability);
        let drawn = Manners {
            repeats_acks: sometimes(0.3),
            last_word: sometimes(0.5),
            short_info: sometimes(0.3),
            plain_new_leader: sometimes(0.3),
            pings_early: sometimes(0.5),
            syncs_alone: sometimes(0.5),
            sends_snapshots: sometimes(0.3),
            backs_off: sometimes(0.3),
            ..Manners::OURS
        };
        let voice = chance.pick(&voices).copied().unwrap_or(Voice::WithConfig);
        let range_acks = chance.pick(&acks).copied().unwrap_or(RangeAcks::Never);
        Manners { voice, range_acks, ..drawn }
    }

    /// Times of its elections.
    #[must_use]
    pub fn timing(&self) -> Timing {
        let interval_max =
            if self.backs_off { Duration::from_secs(60) } else { Timing::DEFAULT.interval_max };
        Timing { interval_max, ..Timing::DEFAULT }
    }

    /// A vote as it goes out, with its frame.
    pub(crate) fn write_vote(&self, vote: &Notification, chance: &mut Chance) -> Vec<u8> {
        let mut out = Vec::new();
        if self.babbles {
            babble(&mut out, chance);
        }
        let version = match self.voice {
            Voice::WithConfig => return [out, encoded(vote)].concat(),
            Voice::WithoutConfig => 1,
            Voice::Old => 0,
        };
        out.extend(encoded(&Notification { version, config: None, ..vote.clone() }));
        out
    }
}

fn encoded(vote: &Notification) -> Vec<u8> {
    let mut out = Vec::new();
    vote.encode(&mut out);
    out
}

/// Frames that hold no vote: too short, of no known state, with a configuration that ends nowhere.
fn babble(out: &mut Vec<u8>, chance: &mut Chance) {
    let len = 1 + chance.index(60);
    let mut body = vec![0; len];
    for (place, byte) in body.iter_mut().enumerate() {
        // State 0 to 3, or none; and what follows is anything.
        *byte = if place < 3 { 0 } else { chance.bits().to_le_bytes()[0] };
    }
    if len >= 40 {
        if let Some(length) = body.get_mut(36..40) {
            length.copy_from_slice(&2i32.to_be_bytes());
        }
        body.truncate(43);
    }
    out.extend(i32::try_from(body.len()).unwrap_or(0).to_be_bytes());
    out.extend(body);
}

/// What a leader with manners knows of its own order.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Progress {
    proposed: Zxid,
    agreed: Zxid,
}

/// What has passed over one link of a server with manners.
#[derive(Debug, Default)]
pub(crate) struct Dialogue {
    /// Of a learner: what brought it level, until NEWLEADER.
    range: Vec<Zxid>,
    has_new_leader: bool,
    /// Acknowledgements of NEWLEADER.
    level: u32,
    last_ack: Option<Zxid>,
    /// Of a leader: what must be agreed before each sync of this learner is answered.
    syncs: VecDeque<Zxid>,
}

/// What becomes of a packet that came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Came {
    /// The server sees it.
    Passes,
    /// The server sees it, and this is said as well; no check is made of it.
    PassesAnd(PeerPacket),
    /// The layer has taken it, and says this if anything.
    Taken(Option<PeerPacket>),
}

impl Dialogue {
    /// A packet came.
    pub(crate) fn came(&mut self, manners: &Manners, progress: &Progress, packet: &PeerPacket) -> Came {
        match packet {
            PeerPacket::Proposal { zxid, .. } if !self.has_new_leader => self.range.push(*zxid),
            PeerPacket::NewLeader { .. } => self.has_new_leader = true,
            PeerPacket::Inform { zxid, .. } if manners.acks_informs && self.level > 0 => {
                // And what it has not been told of yet.
                return Came::PassesAnd(PeerPacket::Ack { zxid: Zxid(zxid.0 + 8) });
            }
            PeerPacket::Request(ForwardedRequest { op, .. })
                if manners.syncs_alone && *op == OpCode::Sync.number() =>
            {
                if self.syncs.is_empty() && progress.agreed >= progress.proposed {
                    return Came::Taken(Some(PeerPacket::Sync));
                }
                self.syncs.push_back(progress.proposed);
                return Came::Taken(None);
            }
            _ => {}
        }
        Came::Passes
    }

    /// What goes out for a packet of the server's.
    pub(crate) fn goes(
        &mut self,
        manners: &Manners,
        progress: &mut Progress,
        packet: PeerPacket,
    ) -> Vec<PeerPacket> {
        match packet {
            PeerPacket::Ack { zxid } if zxid.counter() == 0 => self.level_ack(manners, zxid),
            PeerPacket::Ack { zxid } => {
                self.last_ack = Some(zxid);
                vec![packet; 1 + usize::from(manners.repeats_acks)]
            }
            PeerPacket::FollowerInfo { accepted, learner } => {
                vec![PeerPacket::FollowerInfo { accepted, learner: info(manners, learner) }]
            }
            PeerPacket::ObserverInfo { accepted, learner } => {
                vec![PeerPacket::ObserverInfo { accepted, learner: info(manners, learner) }]
            }
            PeerPacket::NewLeader { epoch, config } => {
                let config = config.filter(|_| !manners.plain_new_leader);
                let mut all = vec![PeerPacket::NewLeader { epoch, config }];
                if manners.pings_early {
                    all.push(PeerPacket::Ping { zxid: progress.proposed.max(epoch.start()), touched: None });
                }
                all
            }
            PeerPacket::Proposal { zxid, .. } => {
                progress.proposed = progress.proposed.max(zxid);
                vec![packet]
            }
            PeerPacket::Commit { zxid } | PeerPacket::Inform { zxid, .. } => {
                progress.agreed = progress.agreed.max(zxid);
                let mut all = vec![packet];
                while self.syncs.front().is_some_and(|after| *after <= zxid) {
                    self.syncs.pop_front();
                    all.push(PeerPacket::Sync);
                }
                all
            }
            other => vec![other],
        }
    }

    /// NEWLEADER is acknowledged, for the first time or the second.
    fn level_ack(&mut self, manners: &Manners, zxid: Zxid) -> Vec<PeerPacket> {
        let ack = |zxid: &Zxid| PeerPacket::Ack { zxid: *zxid };
        self.level += 1;
        let before = match manners.range_acks {
            RangeAcks::Never if self.level == 1 => {
                self.range.clear();
                0
            }
            RangeAcks::Around => self.range.len() / 2,
            RangeAcks::Before => self.range.len(),
            RangeAcks::Never | RangeAcks::After => 0,
        };
        let mut all = Vec::new();
        if self.level == 1 {
            all.extend(self.range.drain(..before).map(|zxid| PeerPacket::Ack { zxid }));
            all.push(ack(&zxid));
        } else {
            all.push(ack(&zxid));
            all.extend(self.range.drain(..).map(|zxid| PeerPacket::Ack { zxid }));
        }
        all
    }

    /// The server leaves a link.
    pub(crate) fn leaves(&self, manners: &Manners) -> Option<PeerPacket> {
        let zxid = self.last_ack.filter(|_| manners.last_word)?;
        Some(PeerPacket::Ack { zxid })
    }
}

fn info(manners: &Manners, learner: LearnerInfo) -> LearnerInfo {
    LearnerInfo { config_version: learner.config_version.filter(|_| !manners.short_info), ..learner }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use oxkeeper_proto::Epoch;
    use oxkeeper_proto::peer::notification::{ElectionItem, ElectionStream};

    use super::*;

    fn ack(epoch: u32, counter: u32) -> PeerPacket {
        PeerPacket::Ack { zxid: Zxid::new(epoch, counter) }
    }

    fn proposal(counter: u32) -> PeerPacket {
        PeerPacket::Proposal { zxid: Zxid::new(1, counter), txn: Bytes::new() }
    }

    /// What a learner says from NEWLEADER to UPTODATE, and at its end.
    fn said(range_acks: RangeAcks) -> Vec<PeerPacket> {
        let manners = Manners { range_acks, last_word: true, ..Manners::OURS };
        let (mut dialogue, mut progress) = (Dialogue::default(), Progress::default());
        for counter in 1..=4 {
            assert_eq!(dialogue.came(&manners, &progress, &proposal(counter)), Came::Passes);
        }
        let new_leader = PeerPacket::NewLeader { epoch: Epoch(2), config: None };
        assert_eq!(dialogue.came(&manners, &progress, &new_leader), Came::Passes);
        dialogue.came(&manners, &progress, &proposal(5));
        let mut all = dialogue.goes(&manners, &mut progress, ack(2, 0));
        all.extend(dialogue.goes(&manners, &mut progress, ack(2, 0)));
        all.extend(dialogue.goes(&manners, &mut progress, ack(2, 1)));
        all.extend(dialogue.leaves(&manners));
        all
    }

    #[test]
    fn each_style_acknowledges_the_range_in_its_place() {
        let end = [ack(2, 1), ack(2, 1)];
        let of = |before: &[u32], after: &[u32]| {
            let acks = |counters: &[u32]| counters.iter().map(|c| ack(1, *c)).collect::<Vec<_>>();
            [acks(before), vec![ack(2, 0), ack(2, 0)], acks(after), end.to_vec()].concat()
        };
        assert_eq!(said(RangeAcks::Never), of(&[], &[]));
        assert_eq!(said(RangeAcks::Around), of(&[1, 2], &[3, 4]));
        assert_eq!(said(RangeAcks::Before), of(&[1, 2, 3, 4], &[]));
        assert_eq!(said(RangeAcks::After), of(&[], &[1, 2, 3, 4]));
    }

    #[test]
    fn a_leader_that_asks_nobody_answers_syncs_behind_what_was_on_its_way() {
        let manners = Manners { syncs_alone: true, ..Manners::OURS };
        let (mut dialogue, mut progress) = (Dialogue::default(), Progress::default());
        let op = OpCode::Sync.number();
        let xid = oxkeeper_proto::Xid(1);
        let session = oxkeeper_proto::SessionId(1);
        let sync = PeerPacket::Request(ForwardedRequest { session, xid, op, body: Bytes::new(), auth: None });
        assert_eq!(dialogue.came(&manners, &progress, &sync), Came::Taken(Some(PeerPacket::Sync)));
        dialogue.goes(&manners, &mut progress, proposal(1));
        assert_eq!(dialogue.came(&manners, &progress, &sync), Came::Taken(None));
        let commit = PeerPacket::Commit { zxid: Zxid::new(1, 1) };
        let said = dialogue.goes(&manners, &mut progress, commit.clone());
        assert_eq!(said, [commit, PeerPacket::Sync]);
    }

    #[test]
    fn what_babblers_say_is_no_vote_and_what_follows_is_one() {
        let mut chance = Chance::new(1);
        let vote = Notification {
            state: oxkeeper_proto::peer::notification::ServerState::Looking,
            leader: oxkeeper_proto::ServerId(1),
            zxid: Zxid(5),
            round: oxkeeper_proto::Round(1),
            peer_epoch: Epoch(0),
            version: 2,
            config: Some(Bytes::new()),
        };
        let manners = Manners { babbles: true, ..Manners::OURS };
        let (mut good, mut bad) = (0, 0);
        let mut stream = ElectionStream::dialled();
        for _ in 0..200 {
            stream.push(&manners.write_vote(&vote, &mut chance));
            while let Some(item) = stream.next_item().unwrap() {
                match item {
                    ElectionItem::Notification(Ok(heard)) if heard == vote => good += 1,
                    ElectionItem::Notification(Err(_)) => bad += 1,
                    _ => {}
                }
            }
        }
        assert!(good == 200 && bad > 100, "{good} votes, {bad} others");
    }
}
