//! A snapshot of the tree at one transaction, taken while the tree changes.
//!
//! The tree is written out slot by slot in bounded slices. A znode that is about to change before its turn
//! is written out first, with the ancestors it needs, so the snapshot shows exactly the state at which it
//! began and no write waits for more than one znode.

use oxkeeper_proto::{Put, Zxid};

use crate::acl;
use crate::nodes::Slot;
use crate::tree::Tree;

/// A snapshot under way.
#[derive(Debug)]
pub(crate) struct View {
    zxid: Zxid,
    digest: i64,
    next: u32,
    /// Slots from here on were taken after the snapshot began.
    end: u32,
    /// One bit per slot: written, or not part of the snapshot.
    done: Vec<u64>,
    out: Vec<u8>,
}

/// A part of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// The bytes to append.
    pub bytes: Vec<u8>,
    /// Whether the end marker is in it.
    pub last: bool,
}

/// What a snapshot that begins now will show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotStart {
    /// The last transaction in it.
    pub zxid: Zxid,
    /// The digest of the tree, if digests are on.
    pub digest: Option<i64>,
}

impl View {
    fn is_done(&self, slot: Slot) -> bool {
        slot.0 >= self.end
            || self.done.get(slot.0 as usize / 64).is_none_or(|bits| bits >> (slot.0 % 64) & 1 != 0)
    }

    /// Leaves a slot out: its znode came after the snapshot began.
    pub(crate) fn skip(&mut self, slot: Slot) {
        if slot.0 < self.end
            && let Some(bits) = self.done.get_mut(slot.0 as usize / 64)
        {
            *bits |= 1 << (slot.0 % 64);
        }
    }
}

impl Tree {
    /// Begins a snapshot of the present state: sessions and access control lists are written at once, the
    /// znodes by [`Tree::next_slice`]. `None` while another one is under way.
    pub fn begin_snapshot(&mut self) -> Option<SnapshotStart> {
        if self.view.is_some() {
            return None;
        }
        let mut out = Vec::new();
        let mut sessions: Vec<_> = self.sessions().collect();
        sessions.sort_unstable();
        out.put_length(sessions.len());
        for (id, timeout_ms) in sessions {
            out.put_long(id.0);
            out.put_int(timeout_ms);
        }
        let lists = self.acls.sorted();
        out.put_length(lists.len());
        for (id, list) in lists {
            out.put_long(i64::from(id));
            list.encode(&mut out);
        }
        let end = self.nodes.high_water();
        let done = vec![0; (end as usize).div_ceil(64)];
        let (zxid, digest) = (self.last_zxid, self.digest());
        self.view = Some(View { zxid, digest, next: 0, end, done, out });
        Some(SnapshotStart { zxid, digest: self.rules.digest.then_some(digest) })
    }

    /// What the snapshot under way shows.
    #[must_use]
    pub fn snapshot_under_way(&self) -> Option<SnapshotStart> {
        let view = self.view.as_ref()?;
        Some(SnapshotStart { zxid: view.zxid, digest: self.rules.digest.then_some(view.digest) })
    }

    /// Writes on, until about `bytes_max` are gathered or all is written.
    pub fn next_slice(&mut self, bytes_max: usize) -> Option<Slice> {
        loop {
            let view = self.view.as_ref()?;
            if view.next >= view.end || view.out.len() >= bytes_max {
                break;
            }
            let slot = Slot(view.next);
            if self.nodes.live(slot).is_some() {
                self.freeze(slot);
            }
            if let Some(view) = &mut self.view {
                view.next += 1;
            }
        }
        let view = self.view.as_mut()?;
        let last = view.next >= view.end;
        let mut bytes = std::mem::take(&mut view.out);
        if last {
            bytes.put_string("/");
            self.view = None;
        }
        Some(Slice { bytes, last })
    }

    /// Gives up the snapshot under way.
    pub fn abandon_snapshot(&mut self) {
        self.view = None;
    }

    /// Writes a znode into the snapshot under way if its turn has not come yet. Called before every change.
    #[inline]
    pub(crate) fn freeze(&mut self, slot: Slot) {
        if let Some(view) = &self.view
            && !view.is_done(slot)
        {
            self.write_with_ancestors(slot);
        }
    }

    #[cold]
    fn write_with_ancestors(&mut self, slot: Slot) {
        let Some(mut view) = self.view.take() else { return };
        let mut chain = vec![slot];
        let mut at = slot;
        while at != Slot::ROOT {
            at = self.nodes.get(at).parent();
            if view.is_done(at) {
                break;
            }
            chain.push(at);
        }
        for slot in chain.into_iter().rev() {
            self.write_node(slot, &mut view.out);
            view.skip(slot);
        }
        self.view = Some(view);
    }

    fn write_node(&self, slot: Slot, out: &mut Vec<u8>) {
        let at = out.len();
        out.put_int(0);
        self.nodes.write_path(slot, out);
        let len = (out.len() - at - 4) as u32;
        if let Some(prefix) = out.get_mut(at..at + 4) {
            prefix.copy_from_slice(&len.to_be_bytes());
        }
        let node = self.nodes.get(slot);
        out.put_buffer(node.data());
        out.put_long(if node.acl == acl::OPEN { -1 } else { i64::from(node.acl) });
        self.stored_stat(slot).encode(out);
    }
}
