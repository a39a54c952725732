//! What is checked of what a leader sends to one learner: nothing is missing in it, and nothing is agreed that was not
//! offered before.

use std::collections::{BTreeMap, BTreeSet};

use oxkeeper_proto::{PeerPacket, Zxid};

use super::Observer;
use crate::network::LinkId;

/// How far what went over a link leads.
#[derive(Debug, Clone, Copy)]
struct Stream {
    /// The newest transaction that the learner has by it; `None` while that depends on what it had before.
    last: Option<Zxid>,
    /// Where the history ends that was announced first.
    announced: Zxid,
}

#[derive(Debug, Default)]
pub(super) struct Streams {
    /// By link, as its leader sends.
    by_link: BTreeMap<LinkId, Stream>,
    /// Links of observers.
    observers: BTreeSet<LinkId>,
}

/// Whether `next` can come right after `last`: the next of its epoch, or the first of a later one.
fn follows(last: Zxid, next: Zxid) -> bool {
    next.0 == last.0 + 1 || next.epoch() > last.epoch() && next.counter() == 1
}

impl Observer {
    /// A packet is about to be sent between a leader and a learner.
    pub(super) fn check_stream(&mut self, server: usize, link: LinkId, packet: &PeerPacket) {
        let plan = |last, announced| Stream { last, announced };
        match packet {
            PeerPacket::ObserverInfo { .. } => {
                self.streams.observers.insert(link);
            }
            // An observer that is to vote is told so by what it does not take: it gets it again when it is agreed.
            PeerPacket::Proposal { .. }
                if self.has_offered(link) && self.streams.observers.contains(&link) => {}
            PeerPacket::Diff { zxid } => {
                self.streams.by_link.insert(link, plan(None, *zxid));
            }
            PeerPacket::Trunc { zxid } | PeerPacket::Snap { zxid } => {
                self.streams.by_link.insert(link, plan(Some(*zxid), *zxid));
            }
            PeerPacket::Proposal { zxid, .. }
            | PeerPacket::Inform { zxid, .. }
            | PeerPacket::InformAndActivate { zxid, .. } => self.check_next(server, link, *zxid),
            PeerPacket::Commit { zxid } | PeerPacket::CommitAndActivate { zxid, .. } => {
                let Some(stream) = self.streams.by_link.get(&link).copied() else { return };
                let offered = stream.last.is_some_and(|last| *zxid <= last);
                self.check(4, offered, || {
                    format!("server {server} tells a learner that {zxid} is agreed and has not sent it")
                });
            }
            _ => {}
        }
    }

    fn check_next(&mut self, server: usize, link: LinkId, zxid: Zxid) {
        let Some(stream) = self.streams.by_link.get_mut(&link) else { return };
        let last = if zxid > stream.announced {
            // What was announced is there by now, whether the learner had it or was sent it.
            Some(stream.last.unwrap_or(stream.announced).max(stream.announced))
        } else {
            stream.last
        };
        stream.last = Some(zxid);
        self.check(4, last.is_none_or(|last| follows(last, zxid)), || {
            format!("server {server} sends {zxid} to a learner that has only {last:?} by then")
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violated(packets: &[PeerPacket]) -> bool {
        let mut observer = Observer::of_voters(3);
        for packet in packets {
            observer.check_stream(0, LinkId(1), packet);
        }
        observer.violation.is_some_and(|violation| violation.invariant == 4)
    }

    fn proposal(epoch: u32, counter: u32) -> PeerPacket {
        PeerPacket::Proposal { zxid: Zxid::new(epoch, counter), txn: bytes::Bytes::new() }
    }

    #[test]
    fn what_is_sent_has_no_hole_and_is_sent_before_it_is_agreed() {
        let commit = |epoch, counter| PeerPacket::Commit { zxid: Zxid::new(epoch, counter) };
        let diff = |epoch, counter| PeerPacket::Diff { zxid: Zxid::new(epoch, counter) };
        let trunc = |epoch, counter| PeerPacket::Trunc { zxid: Zxid::new(epoch, counter) };
        assert!(!violated(&[diff(1, 5), proposal(1, 4), commit(1, 4), proposal(1, 5), proposal(2, 1)]));
        assert!(!violated(&[diff(1, 5), proposal(1, 6), commit(1, 6), proposal(1, 7)]));
        assert!(!violated(&[trunc(2, 0), proposal(2, 1)]));
        assert!(violated(&[diff(1, 5), proposal(1, 7)]), "one is missing behind what was announced");
        assert!(violated(&[diff(1, 5), proposal(1, 3), proposal(1, 5)]), "one is missing within");
        assert!(violated(&[trunc(1, 2), proposal(1, 4)]));
        assert!(violated(&[trunc(1, 2), proposal(1, 3), commit(1, 4)]), "agreed and not sent");
    }
}
