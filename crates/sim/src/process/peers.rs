//! A server's peers: links of the quorum port, and votes over the election port.
//!
//! A vote goes over a connection of the sender's own, dialled when there is something to say: what is lost on the way
//! the election sends again.

use std::collections::BTreeMap;

use oxkeeper_node::{Input, LinkEffect, LinkId as PeerLink, PeerInput, PeerPort};
use oxkeeper_proto::peer::initial::InitialMessage;
use oxkeeper_proto::peer::notification::{ElectionItem, ElectionStream, Notification};
use oxkeeper_proto::peer::stream::{PeerItem, PeerStream};
use oxkeeper_proto::{PeerPacket, ServerId};

use super::{Incoming, Server};
use crate::boot::RECORD_BYTES_MAX;
use crate::manners::{Came, Dialogue, Manners, Progress};
use crate::network::{Arrival, Host, LinkId, Port, Side};
use crate::world::Stage;

/// A link to another server.
#[derive(Debug)]
struct QuorumLink {
    side: Side,
    port: Port,
    /// The number of the dial that is not answered yet.
    dial: Option<u64>,
    stream: PeerStream,
    out: Vec<u8>,
    /// Whether the node waits for room to send the next slice of a snapshot.
    wants_room: bool,
}

/// An election connection that came in.
#[derive(Debug)]
struct Listened {
    from: Option<ServerId>,
    stream: ElectionStream,
}

/// An election connection that goes out.
#[derive(Debug, Default)]
struct Spoken {
    link: Option<LinkId>,
    is_open: bool,
    /// What waits for the connection to open: the newest vote only.
    waiting: Option<Vec<u8>>,
}

/// Everything about the other servers.
#[derive(Debug, Default)]
pub(super) struct Peers {
    links: BTreeMap<LinkId, QuorumLink>,
    listened: BTreeMap<LinkId, Listened>,
    spoken: BTreeMap<usize, Spoken>,
    /// Of servers that have manners of their own.
    dialogues: BTreeMap<LinkId, Dialogue>,
    progress: Progress,
}

/// Bytes that may wait for a peer before the next slice of a snapshot does.
const SLICE_ROOM: usize = 64 << 10;

impl Peers {
    /// Links that this server has asked for, those that came to its quorum port, and those of observers that it serves. A
    /// dial that is not answered yet is no link: when it is, the node closes it.
    pub(super) fn counts(&self) -> [usize; 3] {
        let open = || self.links.values().filter(|link| link.dial.is_none());
        let accepted = |port| open().filter(|link| link.side == Side::Acceptor && link.port == port).count();
        let dialled = open().filter(|link| link.side == Side::Dialler).count();
        [dialled, accepted(Port::Quorum), accepted(Port::ObserverMaster)]
    }

    pub(super) fn has(&self, link: LinkId) -> bool {
        self.links.contains_key(&link)
            || self.listened.contains_key(&link)
            || self.spoken.values().any(|spoken| spoken.link == Some(link))
    }

    /// Whether a snapshot is on its way in, of which a part has not come yet.
    #[cfg(test)]
    pub(super) fn awaits_snapshot(&self, link: LinkId) -> bool {
        self.links.get(&link).is_some_and(|known| known.stream.in_snapshot())
    }
}

fn index_of(server: ServerId) -> usize {
    usize::try_from(server.0 - 1).unwrap_or(usize::MAX)
}

impl Server {
    /// Something arrived on a connection to another server.
    pub(super) fn take_in_peer(&mut self, stage: &mut Stage, link: LinkId, side: Side, arrival: Arrival) {
        let Some(process) = &mut self.process else { return };
        if let Arrival::Accepted { port: Port::Election, .. } = arrival {
            let listened = Listened { from: None, stream: ElectionStream::accepted() };
            process.peers.listened.insert(link, listened);
        } else if let Arrival::Accepted { port, .. } = arrival {
            let opened = QuorumLink {
                side,
                port,
                dial: None,
                stream: PeerStream::from_learner(RECORD_BYTES_MAX),
                out: Vec::new(),
                wants_room: false,
            };
            process.peers.links.insert(link, opened);
            let link = PeerLink(link.0);
            let came = match port {
                Port::ObserverMaster => PeerInput::ObserverLinkOpened { link },
                _ => PeerInput::LinkOpened { link, dial: None },
            };
            self.step(stage, Input::Peer(came));
        } else if process.peers.links.contains_key(&link) {
            self.on_quorum_link(stage, link, arrival);
        } else if process.peers.listened.contains_key(&link) {
            self.on_listened(stage, link, arrival);
        } else {
            self.on_spoken(stage, link, &arrival);
        }
    }

    fn on_quorum_link(&mut self, stage: &mut Stage, link: LinkId, arrival: Arrival) {
        let Some(process) = &mut self.process else { return };
        let Some(known) = process.peers.links.get_mut(&link) else { return };
        let name = PeerLink(link.0);
        match arrival {
            Arrival::Connected => {
                let Some(dial) = known.dial.take() else { return };
                self.step(stage, Input::Peer(PeerInput::LinkOpened { link: name, dial: Some(dial) }));
            }
            Arrival::Refused | Arrival::Closed => {
                let dial = known.dial;
                process.peers.links.remove(&link);
                process.peers.dialogues.remove(&link);
                let input = match dial {
                    Some(dial) => PeerInput::DialFailed { dial },
                    None => PeerInput::LinkClosed { link: name },
                };
                self.step(stage, Input::Peer(input));
            }
            Arrival::Bytes(bytes) => {
                known.stream.push(&bytes);
                self.read_packets(stage, link);
            }
            Arrival::Room => self.flush_link(stage, link),
            Arrival::Accepted { .. } => {}
        }
    }

    fn read_packets(&mut self, stage: &mut Stage, link: LinkId) {
        loop {
            let Some(process) = &mut self.process else { return };
            let Some(known) = process.peers.links.get_mut(&link) else { return };
            let name = PeerLink(link.0);
            match known.stream.next_item() {
                Ok(Some(PeerItem::Packet(packet))) => {
                    let now = stage.queue.now();
                    stage.trace.note(now, || format!("server {} <- {link:?} {}", self.index, brief(&packet)));
                    if !self.meets_manners(stage, link, &packet) {
                        continue;
                    }
                    stage.observer.packet_came(self.index, link, &packet, now);
                    self.step(stage, Input::Peer(PeerInput::Packet { link: name, packet }));
                }
                Ok(Some(PeerItem::Snapshot(item))) => {
                    self.step(stage, Input::Peer(PeerInput::Snapshot { link: name, item }));
                }
                Ok(None) => return,
                Err(error) => {
                    // Nothing in the simulated network changes bytes.
                    return stage.violate(4, format!("server {} cannot read a packet: {error}", self.index));
                }
            }
            // What one packet leads to may be a close: that is carried out before the next one is looked at.
            self.carry_out_links(stage);
        }
    }

    fn on_listened(&mut self, stage: &mut Stage, link: LinkId, arrival: Arrival) {
        let Some(process) = &mut self.process else { return };
        let bytes = match arrival {
            Arrival::Bytes(bytes) => bytes,
            Arrival::Closed => {
                process.peers.listened.remove(&link);
                return;
            }
            _ => return,
        };
        if let Some(known) = process.peers.listened.get_mut(&link) {
            known.stream.push(&bytes);
        }
        loop {
            let Some(process) = &mut self.process else { return };
            let Some(known) = process.peers.listened.get_mut(&link) else { return };
            match known.stream.next_item() {
                Ok(Some(ElectionItem::Initial(initial))) => known.from = Some(initial.id()),
                Ok(Some(ElectionItem::Notification(message))) => {
                    let Some(from) = known.from else { continue };
                    self.step(stage, Input::Notification { from, message });
                }
                Ok(None) => return,
                Err(_) => {
                    process.peers.listened.remove(&link);
                    return stage.net.close(&mut stage.queue, link, Side::Acceptor);
                }
            }
        }
    }

    fn on_spoken(&mut self, stage: &mut Stage, link: LinkId, arrival: &Arrival) {
        let Some(process) = &mut self.process else { return };
        let Some(spoken) = process.peers.spoken.values_mut().find(|spoken| spoken.link == Some(link)) else {
            return;
        };
        match arrival {
            Arrival::Connected => {
                spoken.is_open = true;
                let host = format!("server{}", self.index + 1);
                let address = oxkeeper_proto::HostPort { host, port: 3888 };
                let mut out = InitialMessage::new(Server::id(self.index), address).to_vec();
                out.extend(spoken.waiting.take().unwrap_or_default());
                stage.net.send(&mut stage.queue, link, Side::Dialler, &out);
            }
            Arrival::Refused | Arrival::Closed => *spoken = Spoken::default(),
            _ => {}
        }
    }

    fn notify(&mut self, stage: &mut Stage, to: ServerId, notification: &Notification) {
        let Some(process) = &mut self.process else { return };
        stage.observer.notified(self.index, notification);
        let (now, index) = (stage.queue.now(), self.index);
        stage.trace.note(now, || {
            let Notification { state, leader, zxid, round, peer_epoch, .. } = notification;
            format!("server {index} tells {to}: {state:?}, {leader} with {zxid} of epoch {peer_epoch:?} in {round:?}")
        });
        let bytes = self.manners.write_vote(notification, &mut self.chance);
        if index_of(to) == self.index {
            // What a server tells itself it hears at once.
            let message = Ok(notification.clone());
            process.inbox.push_back(Incoming::Vote(to, message));
            return self.plan_turn(stage);
        }
        let spoken = process.peers.spoken.entry(index_of(to)).or_default();
        match spoken.link {
            Some(link) if spoken.is_open => {
                stage.net.send(&mut stage.queue, link, Side::Dialler, &bytes);
            }
            Some(_) => spoken.waiting = Some(bytes),
            None => {
                spoken.waiting = Some(bytes);
                let (from, to) = (Host::Server(self.index), Host::Server(index_of(to)));
                spoken.link = Some(stage.net.dial(&mut stage.queue, from, to, Port::Election));
            }
        }
    }

    /// Does what the node wants done about the other servers.
    pub(super) fn carry_out_peers(&mut self, stage: &mut Stage) {
        let Some(process) = &mut self.process else { return };
        if let Some(listens) = process.fx.peers.listen.take() {
            stage.net.listen(Host::Server(self.index), Port::Quorum, listens);
        }
        if let Some(listens) = process.fx.peers.listen_for_observers.take() {
            stage.net.listen(Host::Server(self.index), Port::ObserverMaster, listens);
        }
        // The configuration does not change here.
        process.fx.peers.members = None;
        for (to, notification) in std::mem::take(&mut process.fx.peers.notifications) {
            self.notify(stage, to, &notification);
        }
        self.carry_out_links(stage);
    }

    fn carry_out_links(&mut self, stage: &mut Stage) {
        let Some(process) = &mut self.process else { return };
        for effect in std::mem::take(&mut process.fx.peers.links) {
            self.link_effect(stage, effect);
        }
    }

    fn link_effect(&mut self, stage: &mut Stage, effect: LinkEffect) {
        let Some(process) = &mut self.process else { return };
        match effect {
            LinkEffect::Dial { server, port, dial } => {
                let older: Vec<LinkId> =
                    process.peers.links.iter().filter(|(_, l)| l.dial.is_some()).map(|(id, _)| *id).collect();
                for link in older {
                    process.peers.links.remove(&link);
                    stage.net.close(&mut stage.queue, link, Side::Dialler);
                }
                let (from, to) = (Host::Server(self.index), Host::Server(index_of(server)));
                let port = match port {
                    PeerPort::Quorum => Port::Quorum,
                    PeerPort::ObserverMaster => Port::ObserverMaster,
                };
                let link = stage.net.dial(&mut stage.queue, from, to, port);
                let dialled = QuorumLink {
                    side: Side::Dialler,
                    port,
                    dial: Some(dial),
                    stream: PeerStream::from_leader(RECORD_BYTES_MAX),
                    out: Vec::new(),
                    wants_room: false,
                };
                process.peers.links.insert(link, dialled);
            }
            LinkEffect::Send(name, packet) => self.send(stage, LinkId(name.0), packet),
            LinkEffect::Snapshot(name, bytes) => {
                let link = LinkId(name.0);
                if let Some(known) = process.peers.links.get_mut(&link) {
                    known.out.extend(bytes);
                    known.wants_room = true;
                }
                self.flush_link(stage, link);
            }
            LinkEffect::Close(name) => {
                let link = LinkId(name.0);
                let dialogue = process.peers.dialogues.remove(&link);
                if let Some(last) = dialogue.and_then(|dialogue| dialogue.leaves(&self.manners)) {
                    self.say(stage, link, &last);
                }
                let Some(process) = &mut self.process else { return };
                if let Some(known) = process.peers.links.remove(&link) {
                    stage.net.close(&mut stage.queue, link, known.side);
                }
            }
        }
    }

    /// What a server's manners make of a packet that came; false if it does not see it.
    fn meets_manners(&mut self, stage: &mut Stage, link: LinkId, packet: &PeerPacket) -> bool {
        let Some(process) = self.process.as_mut().filter(|_| self.manners != Manners::OURS) else {
            return true;
        };
        let peers = &mut process.peers;
        let came = peers.dialogues.entry(link).or_default().came(&self.manners, &peers.progress, packet);
        match came {
            Came::Passes => true,
            Came::Taken(answer) => {
                if let Some(answer) = answer {
                    self.say(stage, link, &answer);
                }
                false
            }
            Came::PassesAnd(lie) => {
                if let Some(known) = peers.links.get_mut(&link) {
                    lie.encode(&mut known.out);
                }
                self.flush_link(stage, link);
                true
            }
        }
    }

    fn send(&mut self, stage: &mut Stage, link: LinkId, packet: PeerPacket) {
        let Some(process) = &mut self.process else { return };
        if self.manners == Manners::OURS {
            return self.say(stage, link, &packet);
        }
        let peers = &mut process.peers;
        let dialogue = peers.dialogues.entry(link).or_default();
        for packet in dialogue.goes(&self.manners, &mut peers.progress, packet) {
            self.say(stage, link, &packet);
        }
    }

    fn say(&mut self, stage: &mut Stage, link: LinkId, packet: &PeerPacket) {
        let Some(process) = &mut self.process else { return };
        let Some(known) = process.peers.links.get_mut(&link) else { return };
        let now = stage.queue.now();
        stage.trace.note(now, || format!("server {} -> {link:?} {}", self.index, brief(packet)));
        match (known.side, known.port) {
            (Side::Acceptor, Port::ObserverMaster) => {
                stage.observer.told_observer(self.index, link, packet, &self.disk);
            }
            _ => stage.observer.packet_sent(self.index, link, packet, &self.disk),
        }
        packet.encode(&mut known.out);
        self.flush_link(stage, link);
    }

    /// Writes what waits for a link, as far as the network takes it.
    fn flush_link(&mut self, stage: &mut Stage, link: LinkId) {
        let Some(process) = &mut self.process else { return };
        let Some(known) = process.peers.links.get_mut(&link) else { return };
        let taken = stage.net.send(&mut stage.queue, link, known.side, &known.out);
        known.out.drain(..taken);
        if known.out.len() < SLICE_ROOM && std::mem::take(&mut known.wants_room) {
            process.inbox.push_back(Incoming::LinkRoom(link));
            self.plan_turn(stage);
        }
    }

    /// The next slice of a snapshot may go.
    pub(super) fn link_has_room(&mut self, stage: &mut Stage, link: LinkId) {
        let is_there = self.process.as_ref().is_some_and(|process| process.peers.links.contains_key(&link));
        if is_there {
            self.step(stage, Input::Peer(PeerInput::LinkWritable { link: PeerLink(link.0) }));
        }
    }
}

/// A packet without its content.
fn brief(packet: &PeerPacket) -> String {
    let text = format!("{packet:?}");
    text.chars().take(110).collect()
}
