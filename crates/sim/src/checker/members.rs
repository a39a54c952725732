//! The history of the ensemble's members: at each transaction there is one configuration, which the last
//! reconfiguration before it made, or the epoch began with.

use oxkeeper_proto::{ErrorCode, Reconfig, Reply, Txn, Zxid};

use super::{Replay, violation};
use crate::history::Call;
use crate::model::Writer;
use crate::observer::Violation;
use crate::queue::Nanos;

/// A reconfiguration in the order.
pub(super) struct Reconfigured {
    zxid: Zxid,
    /// When its client was told, if it was.
    told: Option<Nanos>,
}

impl Replay<'_> {
    /// Puts in force what the epochs up to a transaction began with.
    pub(super) fn begin_epochs(&mut self, upto: Zxid) -> Result<(), Violation> {
        while let Some((start, roster)) = self.begin_with.next_if(|(start, _)| **start <= upto) {
            let current = self.model.roster().map_or(0, |current| current.version);
            if roster.version < current || roster.version == current && self.model.roster() != Some(roster) {
                let what = format!("epoch {} begins with {roster:?} after {current:x}", start.epoch().0);
                return Err(violation(26, what));
            }
            if roster.version > current {
                self.model.begin_with(roster.clone());
            }
        }
        Ok(())
    }

    /// A reconfiguration has its place: it must have come to what the configuration before it allows.
    pub(super) fn reconfigure(
        &mut self,
        writer: Writer<'_>,
        (index, call): (usize, &Call),
        wanted: &Reconfig<'_>,
        txn: &Txn<'_>,
    ) -> Result<(), Violation> {
        let zxid = writer.zxid;
        let refused = if let Txn::Error { code } = txn { Some(*code) } else { None };
        let may_be_asked = self.model.may_reconfigure(writer);
        if refused == Some(ErrorCode::RECONFIGINPROGRESS) && may_be_asked.is_ok() {
            self.check_under_way(zxid, call)?;
            self.model.changes.clear();
            return self.settle(zxid, index, call, Err(ErrorCode::RECONFIGINPROGRESS));
        }
        let planned = may_be_asked.and_then(|()| self.model.reconfigured(writer, wanted));
        // Only the leader knew how many servers were in step.
        if refused == Some(ErrorCode::NEWCONFIGNOQUORUM) && planned.is_ok() {
            self.model.changes.clear();
            return self.settle(zxid, index, call, Err(ErrorCode::NEWCONFIGNOQUORUM));
        }
        let done = planned.and_then(|new| self.model.reconfigure(writer, new));
        if done.as_ref().err().copied() != refused {
            let what = format!("{zxid} came to {refused:?}, the model says {done:?} of {wanted:?}");
            return Err(violation(26, what));
        }
        match done {
            Ok((text, stat)) => {
                if !matches!(txn, Txn::SetData { data: Some(data), .. } if *data == text.as_bytes()) {
                    return Err(violation(26, format!("{zxid} makes {txn:?}, the model {text}")));
                }
                self.reconfigured = Some(Reconfigured { zxid, told: call.told().map(|told| told.at) });
                let reply = Reply::Data(Some(text.as_bytes()), stat);
                self.settle(zxid, index, call, Ok(&reply))
            }
            Err(code) => {
                self.model.changes.clear();
                self.settle(zxid, index, call, Err(code))
            }
        }
    }

    /// Another one was under way: it stands before this one in the same epoch, and was not answered before this one
    /// was asked for.
    fn check_under_way(&self, zxid: Zxid, call: &Call) -> Result<(), Violation> {
        let can_be = self.reconfigured.as_ref().is_some_and(|last| {
            last.zxid.epoch() == zxid.epoch() && last.told.is_none_or(|told| told >= call.invoked)
        });
        if can_be {
            return Ok(());
        }
        Err(violation(26, format!("{zxid} was refused for another reconfiguration, and there is none")))
    }
}
