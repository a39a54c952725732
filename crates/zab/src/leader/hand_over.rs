//! Handing leadership over: the leader offers one last transaction, which names its successor, and nothing behind it. Once
//! the successor and a quorum have it, it is final like any other; whoever applies it goes to the successor without an
//! election, and knows that whatever it had asked for and has not seen was never offered.
//!
//! A server that does not know the meaning of that transaction sees a failure that concerns nobody, then a leader that goes;
//! it looks for another one, and finds the successor.
//!
//! A leader whose epoch has no numbers left hands over to itself: the next epoch begins, and nobody elects.

use std::fmt;

use oxkeeper_proto::{ServerId, Zxid};

use super::{Leader, Outstanding, Peer, Phase, Stage};
use crate::common::{Common, EnsembleChange, Leave};
use crate::durable::LinkId;

/// Why a leader does not hand over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandOverRefused {
    /// It does not lead, or does not serve yet.
    NotLeading,
    /// It does so already.
    UnderWay,
    /// The ensemble is changing.
    Reconfiguring,
    /// A learner has joined so lately that it has not been heard of since.
    LearnerJoining,
    /// The server that was asked for has no vote, or not the chance to be elected.
    NotAVoter(ServerId),
    /// No other voter, or not the one that was asked for, is in step.
    NobodyInStep,
}

impl fmt::Display for HandOverRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HandOverRefused::NotLeading => f.write_str("this server does not lead"),
            HandOverRefused::UnderWay => f.write_str("leadership is being handed over"),
            HandOverRefused::Reconfiguring => f.write_str("a reconfiguration is on its way"),
            HandOverRefused::LearnerJoining => {
                f.write_str("a learner has just joined: try again in a moment")
            }
            HandOverRefused::NotAVoter(server) => write!(f, "server {server} cannot lead"),
            HandOverRefused::NobodyInStep => f.write_str("no voter to hand over to is in step"),
        }
    }
}

impl std::error::Error for HandOverRefused {}

impl Leader {
    pub(crate) fn was_handed_over(&self) -> bool {
        self.was_handed_over
    }

    pub(crate) fn has_link(&self, link: LinkId) -> bool {
        self.peers.contains_key(&link)
    }

    /// Who could lead next: the voter that is wanted, or of those in step one that owes the fewest acknowledgements, and
    /// among equals the one that would win an election.
    pub(crate) fn successor_now(
        &self,
        cx: &Common,
        wanted: Option<ServerId>,
    ) -> Result<ServerId, HandOverRefused> {
        self.may_hand_over(cx)?;
        let can_lead = |server: ServerId| {
            server != cx.me && cx.committed.is_voter(server) && cx.committed.weight(server) > 0
        };
        if let Some(wanted) = wanted.filter(|wanted| !can_lead(*wanted)) {
            return Err(HandOverRefused::NotAVoter(wanted));
        }
        let in_step = |peer: &&Peer| {
            peer.stage == Stage::Active
                && peer.in_step_until_ms >= cx.now_ms
                && can_lead(peer.server)
                && wanted.is_none_or(|wanted| wanted == peer.server)
        };
        let best = self.peers.values().filter(in_step).max_by_key(|peer| {
            let owes = peer.unacknowledged[0].map_or(Zxid(i64::MAX), |(zxid, _)| zxid);
            (owes, peer.server)
        });
        best.map(|peer| peer.server).ok_or(HandOverRefused::NobodyInStep)
    }

    /// Whether this leader may hand over at all, be it to itself.
    pub(crate) fn may_hand_over(&self, cx: &Common) -> Result<(), HandOverRefused> {
        if self.phase != Phase::Active {
            return Err(HandOverRefused::NotLeading);
        }
        if self.handing_over.is_some() || self.successor.is_some() {
            return Err(HandOverRefused::UnderWay);
        }
        if cx.seen.version > cx.committed.version {
            return Err(HandOverRefused::Reconfiguring);
        }
        // Until it has answered once, this leader may not know which sessions it has.
        if self.peers.values().any(|peer| peer.stage == Stage::Active && peer.answered == 0) {
            return Err(HandOverRefused::LearnerJoining);
        }
        Ok(())
    }

    /// Leaves when the others have heard who leads now; or, if the successor is lost before that is final, so that
    /// everybody elects.
    pub(crate) fn leave_when_handed_over(&self, cx: &Common) -> Result<(), Leave> {
        match (self.successor, self.handing_over) {
            (Some((successor, zxid, leave_at_ms)), handing_over) => {
                let stays =
                    |peer: &Peer| matches!(peer.stage, Stage::Synchronizing | Stage::Level | Stage::Active);
                let is_alone = !self.peers.values().any(stays);
                if cx.now_ms < leave_at_ms && !(handing_over.is_some() && is_alone) {
                    return Ok(());
                }
                let reason = format!("after {zxid} server {successor} leads");
                let is_settled = handing_over.is_some() && self.outstanding.is_empty();
                Err(Leave { reason, handed_over: Some((successor, zxid)), is_settled })
            }
            (None, Some(successor))
                if successor != cx.me && !self.peers.values().any(|peer| peer.server == successor) =>
            {
                Err(Leave::because(format!("server {successor}, which was to lead, is lost")))
            }
            _ => Ok(()),
        }
    }
}

impl Outstanding {
    /// Whom it makes the leader.
    pub(super) fn successor(&self) -> Option<ServerId> {
        match self.change {
            Some(EnsembleChange::Leader(successor)) => Some(successor),
            _ => None,
        }
    }
}
