//! What happens when the disk or the memory runs short: what would grow is refused, everything else goes on.
//!
//! Deletes, data that gets no longer, the ends of sessions, reads, pings and reconnects are served as ever, so that
//! clients can make room. What is refused is answered with NOTREADONLY (-119) and takes no zxid; who would open a
//! session finds the connection closed, and tries another server.

use oxkeeper_proto::{ErrorCode, OpCode, Request};
use oxkeeper_tree::Tree;
use tracing::{info, warn};

use crate::effects::Effects;
use crate::node::Node;

/// What a server runs short of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scarcity {
    /// The disk is full: what is logged now is logged at the cost of a reserve.
    pub disk: bool,
    /// Memory.
    pub memory: Memory,
}

/// How much memory there is left, where its use has a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Memory {
    /// Enough.
    #[default]
    Ample,
    /// Little: nothing may grow.
    Low,
    /// Hardly any: who asks for growth in a way that has no answer for it is cut off.
    Critical,
}

impl Scarcity {
    /// Whether what grows is refused.
    #[must_use]
    pub fn refuses_growth(&self) -> bool {
        self.disk || self.memory >= Memory::Low
    }
}

impl Node {
    /// Hears what there is too little of.
    pub(crate) fn hear_scarcity(&mut self, scarcity: Scarcity, fx: &mut Effects) {
        let before = std::mem::replace(&mut self.scarcity, scarcity);
        if before.refuses_growth() != scarcity.refuses_growth() {
            if scarcity.refuses_growth() {
                let what = if scarcity.disk { "disk space" } else { "memory" };
                warn!(
                    "Short of {what}: what would grow is refused with NOTREADONLY (-119), all else goes on"
                );
            } else {
                info!("There is room again: everything is served");
            }
        }
        if scarcity.disk && !before.disk {
            if let Some(member) = self.as_member() {
                member.stays = false;
            }
            self.hand_over_if_short(fx);
        }
        // What changes under a snapshot is copied for it, and there is no room for copies.
        if scarcity.memory == Memory::Critical && self.writes_snapshot() && !self.installs_snapshot() {
            warn!("Giving up the snapshot under way: it takes memory that is not there");
            self.abandon_snapshot(fx);
        }
    }

    /// Refuses what would grow while there is no room for it.
    pub(crate) fn check_room(&self, request: &Request<'_>) -> Result<(), ErrorCode> {
        if self.scarcity.refuses_growth() && grows(request, &self.tree) {
            return Err(ErrorCode::NOTREADONLY);
        }
        Ok(())
    }

    /// Whether a read is refused for the watch that it would leave.
    pub(crate) fn has_no_room_for_watch(&self, request: &Request<'_>) -> bool {
        self.scarcity.memory >= Memory::Low
            && matches!(
                request,
                Request::GetData { watch: true, .. }
                    | Request::Exists { watch: true, .. }
                    | Request::GetChildren { watch: true, .. }
                    | Request::GetChildren2 { watch: true, .. }
                    | Request::AddWatch { .. }
            )
    }

    /// Whether watches may be set again by a client that comes back. It had them before, but who lies about that
    /// must not get around the limit.
    pub(crate) fn has_no_room_to_return(&self, op: OpCode) -> bool {
        self.scarcity.memory == Memory::Critical && matches!(op, OpCode::SetWatches | OpCode::SetWatches2)
    }
}

/// Whether the state is larger after the request.
fn grows(request: &Request<'_>, tree: &Tree) -> bool {
    match request {
        Request::Create(_)
        | Request::SetAcl { .. }
        | Request::Reconfig(_)
        | Request::CreateSession { .. } => true,
        Request::SetData { path, data, .. } => {
            let now = tree.find(path).and_then(|node| node.data().map(<[u8]>::len)).unwrap_or(0);
            data.map_or(0, <[u8]>::len) > now
        }
        Request::Multi(ops) => ops.iter().any(|op| grows(op, tree)),
        _ => false,
    }
}
