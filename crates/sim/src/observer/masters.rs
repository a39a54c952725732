//! What is checked of what a follower says to the observers that it serves: it tells only what is agreed, without a hole, in
//! an epoch that has begun and that is on its disk.

use oxkeeper_proto::{Epoch, PeerPacket, Zxid};
use oxkeeper_storage::SimDisk;

use super::Observer;
use crate::network::LinkId;

impl Observer {
    /// A follower is about to send a packet to an observer.
    pub fn told_observer(&mut self, server: usize, link: LinkId, packet: &PeerPacket, disk: &SimDisk) {
        self.check_stream(server, link, packet);
        match packet {
            PeerPacket::Diff { zxid } | PeerPacket::Snap { zxid } | PeerPacket::Trunc { zxid } => {
                self.history_offered(link, *zxid);
                self.check_agreed(server, *zxid, disk);
            }
            // It is told to come as a voter, and takes it from its leader then.
            PeerPacket::Proposal { .. } if self.has_offered(link) => {}
            PeerPacket::Proposal { zxid, .. } => {
                self.history_grows(link, *zxid);
                self.check_agreed(server, *zxid, disk);
            }
            PeerPacket::Inform { zxid, .. }
            | PeerPacket::InformAndActivate { zxid, .. }
            | PeerPacket::Commit { zxid } => self.check_agreed(server, *zxid, disk),
            PeerPacket::NewLeader { epoch, .. } => {
                self.config_told(packet);
                self.check_epoch(server, link, *epoch, disk);
            }
            _ => {}
        }
    }

    /// What observers are told is agreed: some leader has said so, or the epoch that its follower is in began with it, or a
    /// quorum has it, and there was nobody left whom its leader could have told.
    fn check_agreed(&mut self, server: usize, zxid: Zxid, disk: &SimDisk) {
        let agreed = self.agreed_upto(disk).max(zxid.epoch().start());
        let is_agreed = zxid <= agreed || self.is_with_a_quorum(zxid);
        self.check(4, is_agreed, || {
            format!("server {server} tells an observer of {zxid}, and only {agreed} is agreed")
        });
    }

    fn check_epoch(&mut self, server: usize, link: LinkId, epoch: Epoch, disk: &SimDisk) {
        let is_current = self.is_established(epoch, disk);
        self.check(2, is_current, || {
            format!(
                "server {server} tells an observer of epoch {}, which has not begun or is not on its disk",
                epoch.0
            )
        });
        self.epoch_offered(link, epoch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn violated(packets: &[PeerPacket]) -> Option<u8> {
        let mut observer = Observer::of_voters(3);
        let disk = SimDisk::quiet();
        for packet in packets {
            observer.told_observer(0, LinkId(1), packet, &disk);
        }
        observer.violation.map(|violation| violation.invariant)
    }

    #[test]
    fn what_is_not_agreed_is_not_told() {
        let inform = PeerPacket::Inform { zxid: Zxid::new(1, 1), txn: Bytes::new() };
        assert_eq!(violated(&[PeerPacket::Diff { zxid: Zxid::ZERO }]), None);
        assert_eq!(violated(&[PeerPacket::Diff { zxid: Zxid::ZERO }, inform]), Some(4));
        assert_eq!(violated(&[PeerPacket::Snap { zxid: Zxid::new(1, 7) }]), Some(4));
        let new_leader = PeerPacket::NewLeader { epoch: Epoch(1), config: None };
        assert_eq!(violated(&[PeerPacket::Diff { zxid: Zxid::ZERO }, new_leader]), Some(2));
    }
}
