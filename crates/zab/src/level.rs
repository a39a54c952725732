//! What a learner is sent first, whoever brings it level: a leader, or a follower that serves observers.

use oxkeeper_proto::{PeerPacket, Zxid};

use crate::common::{Action, Common};
use crate::durable::{LinkId, Proposal};
use crate::history::SyncPlan;

/// How far that has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beginning {
    /// It was sent what it lacks, up to this transaction.
    Sent(Zxid),
    /// A snapshot is to be streamed to it.
    AwaitsSnapshot,
    /// The log is to be read for it, by this task.
    LogRead(u64),
}

/// Carries out the plan by which a learner is brought level.
pub(crate) fn begin(cx: &mut Common, link: LinkId, plan: SyncPlan) -> Beginning {
    let (first, txns, upto) = match plan {
        SyncPlan::Diff { upto, txns } => (PeerPacket::Diff { zxid: upto }, txns, upto),
        SyncPlan::Trunc { to, txns } => {
            let upto = txns.last().map_or(to, |last| last.zxid);
            (PeerPacket::Trunc { zxid: to }, txns, upto)
        }
        SyncPlan::Snap => {
            cx.out.push_back(Action::StreamSnapshot(link));
            return Beginning::AwaitsSnapshot;
        }
        SyncPlan::ReadLog { from } => {
            let task = cx.next_task();
            cx.out.push_back(Action::ReadLog { task, from });
            return Beginning::LogRead(task);
        }
    };
    cx.send(link, first);
    send_agreed(cx, link, txns);
    Beginning::Sent(upto)
}

/// Sends transactions as agreed ones.
pub(crate) fn send_agreed(cx: &mut Common, link: LinkId, txns: Vec<Proposal>) {
    for txn in txns {
        cx.send(link, txn.offer());
        cx.send(link, PeerPacket::Commit { zxid: txn.zxid });
    }
}

/// A plan in a few words.
pub(crate) fn describe(plan: &SyncPlan) -> String {
    match plan {
        SyncPlan::Diff { upto, txns } => format!("DIFF to {upto}, {} transactions", txns.len()),
        SyncPlan::Trunc { to, txns } => format!("TRUNC to {to}, {} transactions", txns.len()),
        SyncPlan::Snap => "SNAP".into(),
        SyncPlan::ReadLog { from } => format!("the log is read from {from} on"),
    }
}
