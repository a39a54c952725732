//! Snapshots: to the disk, to learners, and from a leader.
//!
//! The tree shows one snapshot at a time, so one that is wanted while another is taken waits for its end. All learners
//! that wait then get the same one. What else is for such a learner is held back here until the stream is over.

use std::collections::BTreeMap;

use oxkeeper_proto::peer::snapshot::{SIGNATURE, SnapshotItem};
use oxkeeper_proto::{PeerPacket, Put, Zxid};
use oxkeeper_tree::{LoadError, Loader, Pending, Tree};
use oxkeeper_zab::LinkId;
use tracing::{info, warn};

use crate::effects::{Effects, SnapshotStep};
use crate::member::Order;
use crate::node::{Node, millis};
use crate::peers::{LinkEffect, Recovered};

/// Bytes of a snapshot that are gathered at once: a fraction of a millisecond's work.
const SLICE_BYTES: usize = 256 * 1024;

/// What a packet counts for beside its contents.
const PACKET_BYTES: usize = 64;

/// Where the snapshot under way goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Target {
    /// There is none.
    #[default]
    Nowhere,
    Disk,
    Learners,
}

/// A learner that gets a snapshot.
#[derive(Debug, Default)]
struct Held {
    packets: Vec<PeerPacket>,
    bytes: usize,
    /// Whether it has taken the last slice.
    is_ready: bool,
}

/// Snapshots on their way between servers.
#[derive(Debug, Default)]
pub(crate) struct Transfers {
    target: Target,
    /// Of a snapshot for the disk: its end and its last bytes, which wait for the log.
    last_slice: Option<(Zxid, Vec<u8>)>,
    /// Learners that are to get one.
    wanted: Vec<LinkId>,
    /// Learners that get one.
    held: BTreeMap<LinkId, Held>,
}

impl Transfers {
    /// Whether no learner gets or waits for one.
    pub(crate) fn are_none(&self) -> bool {
        self.wanted.is_empty() && self.held.is_empty() && self.target != Target::Learners
    }

    pub(crate) fn clear(&mut self) {
        self.wanted.clear();
        self.held.clear();
        if self.target == Target::Learners {
            self.target = Target::Nowhere;
        }
    }
}

impl Node {
    fn transfers(&mut self) -> Option<&mut Transfers> {
        self.as_member().map(|member| &mut member.transfers)
    }

    fn aim(&mut self, target: Target) {
        if let Some(transfers) = self.transfers() {
            transfers.target = target;
        }
    }

    pub(crate) fn take_snapshot(&mut self, fx: &mut Effects) {
        // While the log is cut, or a snapshot comes, there is nothing to show.
        let is_loading = self.as_member().is_some_and(|member| !member.agreement.is_state_whole());
        let is_busy = self.transfers().is_some_and(|transfers| transfers.target != Target::Nowhere);
        match if is_loading || is_busy { None } else { self.tree.begin_snapshot() } {
            Some(start) => {
                self.aim(Target::Disk);
                fx.snapshot.push(SnapshotStep::Begin(start));
                self.next_slice(fx);
            }
            None => warn!("Too busy to snap, skipping"),
        }
    }

    /// The disk has taken a slice.
    pub(crate) fn slice_written(&mut self, fx: &mut Effects) {
        // What was on its way when a snapshot was abandoned asks for nothing any more.
        let is_for_disk = self.transfers().is_none_or(|transfers| transfers.target == Target::Disk);
        if is_for_disk {
            self.next_slice(fx);
        }
    }

    fn next_slice(&mut self, fx: &mut Effects) {
        let Some(start) = self.tree.snapshot_under_way() else { return };
        let Some(slice) = self.tree.next_slice(SLICE_BYTES) else { return };
        if let Order::Ensemble(member) = &mut self.order
            && slice.last
        {
            member.transfers.last_slice = Some((start.zxid, slice.bytes));
            return self.end_snapshot(fx);
        }
        fx.snapshot.push(SnapshotStep::Slice { bytes: slice.bytes, last: slice.last });
    }

    /// Completes a snapshot on the disk, as soon as everything in it is in the log. Before that a crash would leave a
    /// snapshot that hides a hole in the log.
    pub(crate) fn end_snapshot(&mut self, fx: &mut Effects) {
        let Order::Ensemble(member) = &mut self.order else { return };
        let is_logged = |(zxid, _): &mut (Zxid, Vec<u8>)| !member.agreement.is_appending(*zxid);
        if let Some((_, bytes)) = member.transfers.last_slice.take_if(is_logged) {
            member.transfers.target = Target::Nowhere;
            fx.snapshot.push(SnapshotStep::Slice { bytes, last: true });
        }
    }

    pub(crate) fn snapshot_failed(&mut self) {
        let now_ms = millis(self.now.mono);
        self.tree.abandon_snapshot();
        self.aim(Target::Nowhere);
        if let Some(transfers) = self.transfers() {
            transfers.last_slice = None;
        }
        if let Some(member) = self.as_member() {
            member.agreement.snapshot_broken(now_ms, "the snapshot could not be written");
        }
    }

    /// Whether a snapshot is under way to the disk.
    pub(crate) fn writes_snapshot(&mut self) -> bool {
        match self.transfers() {
            Some(transfers) => transfers.target == Target::Disk,
            None => self.tree.snapshot_under_way().is_some(),
        }
    }

    /// Whether the snapshot under way is one that a leader has sent: what else is on the disk goes for its sake.
    pub(crate) fn installs_snapshot(&mut self) -> bool {
        self.as_member().is_some_and(|member| member.agreement.is_installing())
    }

    /// Gives up the snapshot under way.
    pub(crate) fn abandon_snapshot(&mut self, fx: &mut Effects) {
        if self.writes_snapshot() {
            fx.snapshot.push(SnapshotStep::Abandon);
            self.aim(Target::Nowhere);
            if let Some(transfers) = self.transfers() {
                transfers.last_slice = None;
            }
        }
        self.tree.abandon_snapshot();
    }

    /// A learner is to get a snapshot.
    pub(crate) fn want_stream(&mut self, link: LinkId) {
        if let Some(transfers) = self.transfers() {
            transfers.wanted.push(link);
        }
    }

    /// Begins a snapshot for all learners that wait for one, unless another one is under way.
    pub(crate) fn begin_transfers(&mut self, fx: &mut Effects) {
        let Order::Ensemble(member) = &mut self.order else { return };
        if member.transfers.wanted.is_empty() || member.transfers.target != Target::Nowhere {
            return;
        }
        let Some(start) = self.tree.begin_snapshot() else { return };
        member.transfers.target = Target::Learners;
        for link in std::mem::take(&mut member.transfers.wanted) {
            fx.peers.links.push(LinkEffect::Send(link, PeerPacket::Snap { zxid: start.zxid }));
            member.transfers.held.insert(link, Held::default());
            member.agreement.snapshot_begins(link, start.zxid);
        }
        self.stream_slice(fx);
    }

    /// Sends the next slice to every learner that gets a snapshot.
    fn stream_slice(&mut self, fx: &mut Effects) {
        let Some(slice) = self.tree.next_slice(SLICE_BYTES) else { return };
        let Order::Ensemble(member) = &mut self.order else { return };
        let mut bytes = slice.bytes;
        if slice.last {
            bytes.put_string(SIGNATURE);
        }
        for (link, held) in &mut member.transfers.held {
            held.is_ready = false;
            fx.peers.links.push(LinkEffect::Snapshot(*link, bytes.clone()));
        }
        if slice.last {
            member.transfers.target = Target::Nowhere;
            for (link, held) in std::mem::take(&mut member.transfers.held) {
                member.agreement.snapshot_sent(link);
                fx.peers.links.extend(held.packets.into_iter().map(|packet| LinkEffect::Send(link, packet)));
            }
        }
    }

    /// A learner has taken its slice. The next one goes out when all have.
    pub(crate) fn link_writable(&mut self, link: LinkId, fx: &mut Effects) {
        let Some(transfers) = self.transfers() else { return };
        let Some(held) = transfers.held.get_mut(&link) else { return };
        held.is_ready = true;
        self.stream_on(fx);
    }

    fn stream_on(&mut self, fx: &mut Effects) {
        let Some(transfers) = self.transfers() else { return };
        if transfers.target == Target::Learners && transfers.held.values().all(|held| held.is_ready) {
            self.stream_slice(fx);
        }
    }

    /// A link is gone, or about to be.
    pub(crate) fn link_gone(&mut self, link: LinkId, fx: &mut Effects) {
        let Some(transfers) = self.transfers() else { return };
        transfers.wanted.retain(|wanted| *wanted != link);
        if transfers.held.remove(&link).is_none() {
            return;
        }
        if transfers.held.is_empty() {
            transfers.target = Target::Nowhere;
            self.tree.abandon_snapshot();
        } else {
            self.stream_on(fx);
        }
    }

    /// Sends a packet, or holds it back behind a snapshot.
    pub(crate) fn send(&mut self, link: LinkId, packet: PeerPacket, fx: &mut Effects) {
        let held = self.as_member().and_then(|member| {
            let bytes_max = member.settings.held_bytes_max;
            member.transfers.held.get_mut(&link).map(|held| (held, bytes_max))
        });
        let Some((held, bytes_max)) = held else {
            return fx.peers.links.push(LinkEffect::Send(link, packet));
        };
        held.bytes += PACKET_BYTES;
        if let PeerPacket::Proposal { txn, .. }
        | PeerPacket::Inform { txn, .. }
        | PeerPacket::InformAndActivate { txn, .. } = &packet
        {
            held.bytes += txn.len();
        }
        held.packets.push(packet);
        if held.bytes > bytes_max {
            self.cut_off(link, "too much happens while it gets a snapshot", fx);
        }
    }

    /// A snapshot comes: what was there before is not needed any more.
    pub(crate) fn begin_load(&mut self, fx: &mut Effects) {
        self.abandon_snapshot(fx);
        let (seed, rules) = (self.settings.seed, *self.tree.rules());
        self.tree = Tree::new(seed, rules);
        if let Some(member) = self.as_member() {
            member.loader = Some(Loader::new(seed, rules));
        }
    }

    /// A part of a snapshot came.
    pub(crate) fn snapshot_item(&mut self, link: LinkId, item: SnapshotItem) {
        let now_ms = millis(self.now.mono);
        let Order::Ensemble(member) = &mut self.order else { return };
        let Some(zxid) = member.agreement.takes_snapshot(now_ms, link) else { return };
        let Some(loader) = &mut member.loader else { return };
        let loaded: Result<(), LoadError> = match item {
            SnapshotItem::Session { id, timeout_ms } => {
                loader.session(id, timeout_ms);
                Ok(())
            }
            SnapshotItem::Acl { id, list } => loader.acl(id, &list),
            SnapshotItem::Node { path, data, acl, stat } => {
                loader.node(&String::from_utf8_lossy(&path), data.as_deref(), acl, &stat)
            }
            SnapshotItem::End => {
                let Some(loader) = member.loader.take() else { return };
                self.tree = loader.finish(zxid);
                info!("The leader's snapshot is loaded: {} znodes at {zxid}", self.tree.len());
                member.agreement.snapshot_loaded(now_ms);
                return self.refresh_config();
            }
        };
        if let Err(error) = loaded {
            warn!("The leader's snapshot cannot be loaded: {error}");
            member.agreement.snapshot_broken(now_ms, "its snapshot cannot be loaded");
        }
    }

    /// The state that came is written to the disk.
    pub(crate) fn install_snapshot(&mut self, fx: &mut Effects) {
        self.take_snapshot(fx);
    }

    /// The state was read from the disk again.
    pub(crate) fn reloaded(&mut self, task: u64, state: Recovered) {
        let now_ms = millis(self.now.mono);
        let Order::Ensemble(member) = &mut self.order else { return };
        if !member.agreement.awaits_reload(task) {
            return;
        }
        self.tree = state.tree;
        self.pending = Pending::new(self.settings.seed ^ 2, &self.tree);
        let last = self.tree.last_zxid();
        member.agreement.reloaded(now_ms, task, last, state.recent);
        self.refresh_config();
    }
}
