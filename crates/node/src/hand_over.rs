//! Handing leadership over to another voter: because an operator asks, or because this leader is short of disk space.
//!
//! The transaction that says so is one of a kind that every server knows, a failure, but of no session and with the code
//! of success; where a client's number would stand is that of the successor. Java's servers log it, and it concerns nobody.

use oxkeeper_proto::{ErrorCode, ServerId, SessionId, Txn, TxnRecord, Xid};
use oxkeeper_tree::Stamp;
use oxkeeper_zab::{EnsembleChange, HandOverRefused};
use tracing::{info, warn};

use crate::effects::Effects;
use crate::member::{Duty, Order};
use crate::node::Node;
use crate::propose::Asked;

/// The successor that a transaction names, if it hands leadership over.
pub(crate) fn successor_in(record: &TxnRecord<'_>) -> Option<ServerId> {
    let hands_over = record.header.session == SessionId::NONE
        && matches!(record.txn, Txn::Error { code } if code == ErrorCode::OK);
    hands_over.then_some(ServerId(record.header.cxid.0.into()))
}

impl Node {
    /// Begins to hand over. From now on nothing else is proposed.
    pub(crate) fn hand_over(
        &mut self,
        to: Option<ServerId>,
        fx: &mut Effects,
    ) -> Result<ServerId, HandOverRefused> {
        let Order::Ensemble(member) = &self.order else { return Err(HandOverRefused::NotLeading) };
        let successor = member.agreement.successor(to)?;
        self.name_successor(successor, fx)
    }

    /// Hands over to itself if the counter of its epoch will soon be used up. If that may not be now, it will be tried again;
    /// and once there is but one number left, everything else waits for that.
    pub(crate) fn roll_over_if_due(&mut self, fx: &mut Effects) {
        let Order::Ensemble(member) = &mut self.order else { return };
        let can_name = match member.duty {
            Duty::Decides => true,
            Duty::HandsOver => member.agreement.last_zxid().is_some(),
            _ => false,
        };
        if can_name && member.agreement.rolls_over() {
            let me = member.settings.me;
            info!("The zxids of this epoch will soon be used up: the next one begins");
            let _ = self.name_successor(me, fx);
        } else if member.duty == Duty::Decides
            && member.agreement.next_zxid().is_none()
            && member.agreement.last_zxid().is_some()
        {
            member.duty = Duty::HandsOver;
            self.reaping = None;
        }
    }

    /// Proposes the last transaction.
    fn name_successor(&mut self, successor: ServerId, fx: &mut Effects) -> Result<ServerId, HandOverRefused> {
        let Order::Ensemble(member) = &mut self.order else { return Err(HandOverRefused::NotLeading) };
        let number = i32::try_from(successor.0).map_err(|_| HandOverRefused::NotAVoter(successor))?;
        let zxid = member.agreement.last_zxid().ok_or(HandOverRefused::NotLeading)?;
        member.duty = Duty::HandsOver;
        info!("Handing leadership over to server {successor}");
        let asked = Asked {
            origin: None,
            session: SessionId::NONE,
            xid: Xid(number),
            identities: &[],
            standing: Ok(()),
        };
        self.encode(&asked, Stamp { zxid, time_ms: self.now.wall_ms }, &Txn::Error { code: ErrorCode::OK });
        self.put_forward(&asked, zxid, Some(EnsembleChange::Leader(successor)), fx);
        // The next leader looks for what may go.
        self.reaping = None;
        Ok(successor)
    }

    /// Hands over if this leader is short of disk space, and tries again with each tick. But who was handed the leadership
    /// in that state keeps it: two servers that are both short must not pass it to and fro.
    pub(crate) fn hand_over_if_short(&mut self, fx: &mut Effects) {
        let leads =
            matches!(&self.order, Order::Ensemble(member) if member.duty == Duty::Decides && !member.stays);
        if !leads || !self.scarcity.disk {
            return;
        }
        match self.hand_over(None, fx) {
            Ok(successor) => warn!("Short of disk space: server {successor} is to lead"),
            Err(refused) => info!("Short of disk space, but still leading: {refused}"),
        }
    }
}
