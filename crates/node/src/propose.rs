//! Stages 4 and 5: a request becomes a transaction, the transaction a proposal.

use bytes::Bytes;
use oxkeeper_proto::{
    CreateMode, ErrorCode, OpCode, Put, Request, SessionId, Txn, TxnDigest, TxnHeader, Xid, Zxid, path,
};
use oxkeeper_tree::{Asker, Identity, Stamp};
use oxkeeper_zab::{Durable, EnsembleChange, Proposal};
use tracing::warn;

use crate::effects::{ConnId, Effects};
use crate::member::Order;
use crate::node::{Node, Standing, millis};

/// Who asks for a write.
pub(crate) struct Asked<'a> {
    /// The connection that waits for the outcome, if any.
    pub(crate) origin: Option<ConnId>,
    pub(crate) session: SessionId,
    pub(crate) xid: Xid,
    pub(crate) identities: &'a [Identity],
    pub(crate) standing: Standing,
}

impl Node {
    /// Makes a transaction of a request and puts it on its way. A request that fails becomes an error
    /// transaction, so that its failure has a place in the order too.
    ///
    /// # Errors
    /// What never gets a zxid: requests that are malformed as a whole.
    pub(crate) fn propose(
        &mut self,
        asked: &Asked<'_>,
        request: &Request<'_>,
        fx: &mut Effects,
    ) -> Result<Zxid, ErrorCode> {
        let stamp = Stamp { zxid: self.next_zxid()?, time_ms: self.now.wall_ms };
        let asker = Asker { session: asked.session, identities: asked.identities, standing: asked.standing };
        let mut reconfiguration = None;
        let text;
        let prepared = match request {
            Request::Reconfig(wanted) => match self.plan_reconfig(asked, wanted, stamp.zxid) {
                Ok(config) => {
                    text = config.to_string();
                    reconfiguration = Some(EnsembleChange::Members(config));
                    Ok(reconfig_txn(&text))
                }
                Err(code) => Err(code),
            },
            _ => self.pending.prepare(&self.tree, asker, stamp, request),
        };
        let mut txn = match prepared {
            Ok(txn) => txn,
            // Java takes the zxid before it reads a multi, and after it has read anything else; and it
            // trips over a null list in a multi even earlier.
            Err(ErrorCode::MARSHALLINGERROR) if !is_ordered_failure(request) => {
                return Err(ErrorCode::MARSHALLINGERROR);
            }
            Err(code) => Txn::Error { code },
        };
        self.encode(asked, stamp, &txn);
        if self.scratch.len() > self.settings.record_bytes_max {
            txn = match txn {
                // Without the list every server removes what it holds, which is the same.
                Txn::CloseSession { .. } => Txn::CloseSession { paths: None },
                _ => {
                    warn!(
                        "Refusing a {:?} of session {} whose record would take {} bytes, more than any server \
                         could read back",
                        request.op(),
                        asked.session,
                        self.scratch.len()
                    );
                    if reconfiguration.is_none() {
                        self.pending.roll_back();
                    }
                    return Err(ErrorCode::MARSHALLINGERROR);
                }
            };
            self.encode(asked, stamp, &txn);
        }
        Ok(self.put_forward(asked, stamp.zxid, reconfiguration, fx))
    }

    /// Proposes the failure of a request whose body could not even be read.
    ///
    /// # Errors
    /// This server leads no longer.
    pub(crate) fn propose_error(
        &mut self,
        asked: &Asked<'_>,
        code: ErrorCode,
        fx: &mut Effects,
    ) -> Result<Zxid, ErrorCode> {
        let stamp = Stamp { zxid: self.next_zxid()?, time_ms: self.now.wall_ms };
        self.encode(asked, stamp, &Txn::Error { code });
        Ok(self.put_forward(asked, stamp.zxid, None, fx))
    }

    /// The zxid of the next proposal. A leader whose counter is used up leaves, so that a new epoch begins.
    fn next_zxid(&mut self) -> Result<Zxid, ErrorCode> {
        match &mut self.order {
            Order::Solo(solo) => Ok(solo.next_zxid()),
            Order::Ensemble(member) => match member.agreement.next_zxid() {
                Some(zxid) => Ok(zxid),
                None => {
                    member.agreement.resign(millis(self.now.mono), "the zxids of this epoch are used up");
                    Err(ErrorCode::CONNECTIONLOSS)
                }
            },
        }
    }

    /// Puts what is encoded on its way.
    pub(crate) fn put_forward(
        &mut self,
        asked: &Asked<'_>,
        zxid: Zxid,
        change: Option<EnsembleChange>,
        fx: &mut Effects,
    ) -> Zxid {
        self.proposal_sizes.add(self.scratch.len());
        let payload = Bytes::copy_from_slice(&self.scratch);
        let proposal = Proposal { zxid, payload };
        self.origins.push_back((zxid, asked.origin));
        match &mut self.order {
            Order::Solo(solo) => {
                let ticket = solo.propose(proposal.clone());
                fx.durable.push((ticket, Durable::Append(proposal)));
            }
            Order::Ensemble(member) => {
                member.agreement.propose(proposal, change);
                self.roll_over_if_due(fx);
            }
        }
        zxid
    }

    /// Encodes the one time that a transaction is encoded.
    pub(crate) fn encode(&mut self, asked: &Asked<'_>, stamp: Stamp, txn: &Txn<'_>) {
        let out = &mut self.scratch;
        out.clear();
        let op = txn.op();
        let header =
            TxnHeader { session: asked.session, cxid: asked.xid, zxid: stamp.zxid, time: stamp.time_ms, op };
        header.encode(out);
        txn.encode(out);
        if op != OpCode::Error && self.tree.rules().digest {
            out.put_int(TxnDigest::VERSION);
            out.put_long(self.pending.digest());
        }
    }
}

/// The transaction that carries a configuration.
fn reconfig_txn(text: &str) -> Txn<'_> {
    let data = Some(text.as_bytes());
    Txn::SetData { op: OpCode::Reconfig, path: path::CONFIG.into(), data, version: -1 }
}

/// Whether a request that is malformed as a whole fails with a zxid of its own: unless the first thing wrong
/// with a multi is a null list.
fn is_ordered_failure(request: &Request<'_>) -> bool {
    let Request::Multi(ops) = request else { return false };
    for op in ops {
        let Request::Create(create) = op else { continue };
        match CreateMode::from_flags(create.flags) {
            None => return true,
            Some(_) if create.acl.is_none() && create.op != OpCode::CreateTtl => return false,
            Some(mode) if mode.ttl && create.op != OpCode::CreateTtl => return true,
            Some(_) => {}
        }
    }
    true
}
