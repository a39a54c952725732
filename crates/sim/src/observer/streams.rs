//! What is checked of what a leader sends to one learner: nothing is missing in it, and nothing is agreed that was not
//! offered before.

use std::collections::BTreeMap;

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

/// By link, as its leader sends.
#[derive(Debug, Default)]
pub(super) struct Streams(BTreeMap<LinkId, Stream>);

/// Whether `next` can come right after `last`: the next of its epoch, or the first of a later one.
fn follows(last: Zxid, next: Zxid) -> bool {
    next.0 == last.0 + 1 || next.epoch() > last.epoch() && next.counter() == 1
}

impl Observer {
    /// A leader is about to send a packet to a learner.
    pub(super) fn check_stream(&mut self, server: usize, link: LinkId, packet: &PeerPacket) {
        let plan = |last, announced| Stream { last, announced };
        match packet {
            PeerPacket::Diff { zxid } => {
                self.streams.0.insert(link, plan(None, *zxid));
            }
            PeerPacket::Trunc { zxid } | PeerPacket::Snap { zxid } => {
                self.streams.0.insert(link, plan(Some(*zxid), *zxid));
            }
            PeerPacket::Proposal { zxid, .. }
            | PeerPacket::Inform { zxid, .. }
            | PeerPacket::InformAndActivate { zxid, .. } => self.check_next(server, link, *zxid),
            PeerPacket::Commit { zxid } | PeerPacket::CommitAndActivate { zxid, .. } => {
                let Some(stream) = self.streams.0.get(&link).copied() else { return };
                let offered = stream.last.is_some_and(|last| *zxid <= last);
                self.check(4, offered, || {
                    format!("server {server} tells a learner that {zxid} is agreed and has not sent it")
                });
            }
            _ => {}
        }
    }

    fn check_next(&mut self, server: usize, link: LinkId, zxid: Zxid) {
        let Some(stream) = self.streams.0.get_mut(&link) else { return };
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
