//! Sessions that not every server knows: what may be answered without a place in the order, and who may write.

use oxkeeper_proto::{CreateMode, ErrorCode, OpCode, Request, Txn};

use super::Replay;
use crate::history::{Call, Told};

impl Replay<'_> {
    /// Whether a write may have been answered so although it is not in the order.
    pub(super) fn needs_no_place(&self, call: &Call, told: &Told) -> bool {
        // Known to one server only, all its life.
        let is_local = (self.rules.local_sessions.is_some() || call.read_only)
            && !self.created.contains(&call.session.0);
        match told.err {
            // It makes no sense, or the epoch of its leader holds no more.
            ErrorCode::MARSHALLINGERROR | ErrorCode::UNIMPLEMENTED | ErrorCode::CONNECTIONLOSS => true,
            ErrorCode::NOTREADONLY => call.read_only || self.rules.short_of_disk,
            ErrorCode::OK => call.op == OpCode::CloseSession && is_local,
            ErrorCode::EPHEMERALONLOCALSESSION => {
                self.rules.local_sessions == Some(false)
                    && is_local
                    && call.request().is_some_and(|request| makes_ephemeral(&request))
            }
            _ => false,
        }
    }

    /// What is wrong with a session that writes, if anything. A leader cannot tell the local session of another server
    /// from one that is over; whoever makes an ephemeral must be known to all.
    pub(super) fn standing(
        &self,
        session: i64,
        request: &Request<'_>,
        was_over: bool,
    ) -> Result<(), ErrorCode> {
        let is_over = match self.may_be_anothers(session) {
            true => makes_ephemeral(request) || was_over,
            false => !self.model.sessions.contains_key(&session),
        };
        if is_over { Err(ErrorCode::SESSIONEXPIRED) } else { Ok(()) }
    }

    /// Whether a leader may take a session for the local one of another server, because it does not know it.
    pub(super) fn may_be_anothers(&self, session: i64) -> bool {
        self.rules.local_sessions.is_some() && !self.model.sessions.contains_key(&session)
    }
}

/// Whether a transaction is the refusal of a session that is over; of a list, its first failure says so.
pub(super) fn says_over(txn: &Txn<'_>) -> bool {
    match txn {
        Txn::Error { code } => *code == ErrorCode::SESSIONEXPIRED,
        Txn::Multi(all) => all.iter().any(says_over),
        _ => false,
    }
}

fn makes_ephemeral(request: &Request<'_>) -> bool {
    match request {
        Request::Create(create) => {
            matches!(create.op, OpCode::Create | OpCode::Create2)
                && CreateMode::from_flags(create.flags).is_some_and(|mode| mode.ephemeral)
        }
        Request::Multi(ops) => ops.iter().any(makes_one),
        _ => false,
    }
}

/// Lists are one deep.
fn makes_one(request: &Request<'_>) -> bool {
    matches!(request, Request::Create(_)) && makes_ephemeral(request)
}
