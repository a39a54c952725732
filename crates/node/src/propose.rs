//! Stages 4 and 5: a request becomes a transaction, the transaction a proposal.

use bytes::Bytes;
use oxkeeper_proto::{
    CreateMode, ErrorCode, OpCode, Put, Request, SessionId, Txn, TxnDigest, TxnHeader, Xid, Zxid,
};
use oxkeeper_tree::{Asker, Identity, Stamp};
use oxkeeper_zab::{Durable, Proposal};
use tracing::warn;

use crate::effects::{ConnId, Effects};
use crate::node::{Node, Standing};

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
        let stamp = Stamp { zxid: self.solo.next_zxid(), time_ms: self.now.wall_ms };
        let asker = Asker { session: asked.session, identities: asked.identities, standing: asked.standing };
        let prepared = match request {
            Request::Reconfig(_) if !self.settings.reconfig => Err(ErrorCode::RECONFIGDISABLED),
            // There is no ensemble to reconfigure.
            Request::Reconfig(_) => Err(ErrorCode::UNIMPLEMENTED),
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
                    self.pending.roll_back();
                    return Err(ErrorCode::MARSHALLINGERROR);
                }
            };
            self.encode(asked, stamp, &txn);
        }
        Ok(self.put_forward(asked, stamp.zxid, fx))
    }

    /// Proposes the failure of a request whose body could not even be read.
    pub(crate) fn propose_error(&mut self, asked: &Asked<'_>, code: ErrorCode, fx: &mut Effects) -> Zxid {
        let stamp = Stamp { zxid: self.solo.next_zxid(), time_ms: self.now.wall_ms };
        self.encode(asked, stamp, &Txn::Error { code });
        self.put_forward(asked, stamp.zxid, fx)
    }

    /// Puts what is encoded on its way.
    fn put_forward(&mut self, asked: &Asked<'_>, zxid: Zxid, fx: &mut Effects) -> Zxid {
        self.proposal_sizes.add(self.scratch.len());
        let payload = Bytes::copy_from_slice(&self.scratch);
        let proposal = Proposal { zxid, payload };
        let ticket = self.solo.propose(proposal.clone());
        self.origins.push_back((zxid, asked.origin));
        fx.durable.push((ticket, Durable::Append(proposal)));
        zxid
    }

    /// Encodes the one time that a transaction is encoded.
    fn encode(&mut self, asked: &Asked<'_>, stamp: Stamp, txn: &Txn<'_>) {
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
