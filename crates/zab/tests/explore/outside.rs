//! An explored world as those see it who take the same steps with other means.

use oxkeeper_proto::peer::notification::{Notification, ServerState};
use oxkeeper_proto::{Epoch, PeerPacket, ServerId, Zxid};
use oxkeeper_zab::LinkId;

use super::{Item, Server, VOTERS, World, id};

/// What the others must say for a server to believe that a quorum wants this leader, which may be itself.
pub(crate) fn votes_for(world: &World, server: usize, leader: usize) -> Vec<(ServerId, Notification)> {
    let Some(mine) = &world.servers[server].vote else { return Vec::new() };
    let says = |other: usize, state| {
        if leader == server {
            return (id(other), Notification { state, ..mine.clone() });
        }
        // A vote that is better than any other, so that this server casts it too.
        let (zxid, peer_epoch) = (Zxid(i64::MAX), Epoch(99));
        (id(other), Notification { state, leader: id(leader), zxid, peer_epoch, ..mine.clone() })
    };
    // Without the word of an oracle the others are enough.
    let alone = world.chosen.filter(|chosen| *chosen == server && leader == server);
    let myself = alone.map(|server| says(server, ServerState::Looking)).into_iter();
    let its_own = |state| (leader != server).then(|| says(leader, state));
    let others = (0..VOTERS).filter(|other| *other != server && *other != leader);
    let following = others.map(|other| says(other, ServerState::Following));
    let looking = its_own(ServerState::Looking).into_iter();
    myself.chain(looking).chain(following).chain(its_own(ServerState::Leading)).collect()
}

/// What a server has come to, for those who take the same steps with other means.
#[derive(Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "read by the simulator, which replays explored steps")]
pub(crate) struct Reached {
    /// What it is, and whether it serves; `None` while it is down.
    pub(crate) role: Option<(ServerState, bool)>,
    /// The accepted and the current epoch on its disk.
    pub(crate) epochs: (Epoch, Epoch),
    /// The newest transaction on its disk.
    pub(crate) last: Zxid,
    /// The transactions in its log.
    pub(crate) logged: Vec<Zxid>,
}

/// What arrives next at an end of a link.
#[derive(Debug, Clone)]
#[allow(dead_code, reason = "read by the simulator, which replays explored steps")]
pub(crate) enum Arriving {
    Packet(PeerPacket),
    State,
    Closed,
}

#[allow(dead_code, reason = "read by the simulator, which replays explored steps")]
impl World {
    pub(crate) fn reached(&self, server: usize) -> Reached {
        let Server { agreement, disk, in_role, .. } = &*self.servers[server];
        Reached {
            role: agreement.as_ref().map(|agreement| (agreement.state(), *in_role)),
            epochs: (disk.accepted, disk.current),
            last: disk.last(),
            logged: disk.log().iter().map(|record| record.zxid).collect(),
        }
    }

    pub(crate) fn arriving(&self, link: LinkId, to_leader: bool) -> Option<Arriving> {
        Some(match self.links.get(&link)?.queues[usize::from(to_leader)].front()? {
            Item::Packet(packet) => Arriving::Packet(packet.clone()),
            Item::State(_) => Arriving::State,
            Item::Closed => Arriving::Closed,
        })
    }

    /// The leader that a server dials.
    pub(crate) fn dialled(&self, server: usize) -> Option<usize> {
        self.servers[server].dial.map(|(leader, _)| leader)
    }

    pub(crate) fn newest_link(&self) -> LinkId {
        LinkId(self.next_link)
    }

    /// Learner and leader.
    pub(crate) fn ends(&self, link: LinkId) -> Option<[usize; 2]> {
        self.links.get(&link).map(|link| link.ends)
    }
}
