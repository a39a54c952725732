//! Changing who belongs to the ensemble: from a client's request to a configuration.
//!
//! Source: `PrepRequestProcessor`, `ReconfigCommand`, 3.9.

use std::collections::BTreeMap;
use std::sync::Arc;

use oxkeeper_proto::{
    EnsembleConfig, ErrorCode, Member as Server, OpCode, PeerPacket, Reconfig, ServerId, Txn, TxnRecord,
    Zxid, path, perms,
};
use oxkeeper_zab::EnsembleChange;

use crate::hand_over;
use crate::member::Order;
use crate::node::Node;
use crate::propose::Asked;

impl Node {
    /// The configuration that a request asks for, if everything speaks for it. Its version is the transaction's zxid.
    ///
    /// # Errors
    /// What the client gets. The order of the checks is ZooKeeper's.
    pub(crate) fn plan_reconfig(
        &self,
        asked: &Asked<'_>,
        wanted: &Reconfig<'_>,
        zxid: Zxid,
    ) -> Result<Arc<EnsembleConfig>, ErrorCode> {
        if !self.settings.reconfig {
            return Err(ErrorCode::RECONFIGDISABLED);
        }
        asked.standing?;
        // Alone there is nothing to change.
        let Order::Ensemble(member) = &self.order else { return Err(ErrorCode::UNIMPLEMENTED) };
        let (committed, seen) = (member.agreement.committed(), member.agreement.seen());
        if seen.version != committed.version {
            return Err(ErrorCode::RECONFIGINPROGRESS);
        }
        if wanted.from_config != -1 && wanted.from_config != seen.version.0 {
            return Err(ErrorCode::BADVERSION);
        }
        let new = match wanted.new_members.as_deref() {
            Some(members) => {
                EnsembleConfig::parse(&members.replace(',', "\n")).map_err(|_| ErrorCode::BADARGUMENTS)?
            }
            None => incremental(seen, wanted)?,
        };
        let new = new.with_version(zxid);
        let voters_min = if member.settings.standalone_enabled { 2 } else { 1 };
        if new.voters().count() < voters_min {
            return Err(ErrorCode::BADARGUMENTS);
        }
        if !member.agreement.has_quorum_of(&new) {
            return Err(ErrorCode::NEWCONFIGNOQUORUM);
        }
        let may_write =
            self.tree.find(path::CONFIG).is_some_and(|node| node.allows(perms::WRITE, asked.identities));
        if may_write { Ok(Arc::new(new)) } else { Err(ErrorCode::NOAUTH) }
    }
}

/// Leaving goes first; who joins under an id that is there takes its place.
fn incremental(seen: &EnsembleConfig, wanted: &Reconfig<'_>) -> Result<EnsembleConfig, ErrorCode> {
    if seen.groups().is_some() {
        return Err(ErrorCode::BADARGUMENTS);
    }
    let parts = |list: &Option<std::borrow::Cow<'_, str>>| -> Vec<String> {
        let list = list.as_deref().unwrap_or_default();
        list.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
    };
    let mut members: BTreeMap<ServerId, Server> = seen.members().clone();
    for id in parts(&wanted.leaving) {
        let id = id.parse().map_err(|_| ErrorCode::MARSHALLINGERROR)?;
        members.remove(&ServerId(id));
    }
    for line in parts(&wanted.joining) {
        let (key, value) = line.split_once('=').ok_or(ErrorCode::BADARGUMENTS)?;
        let id = key.trim().strip_prefix("server.").and_then(|id| id.parse().ok());
        let id = id.filter(|id| *id >= 0).ok_or(ErrorCode::BADARGUMENTS)?;
        let server = Server::parse(value.trim()).map_err(|_| ErrorCode::BADARGUMENTS)?;
        if server.client.is_none() {
            return Err(ErrorCode::BADARGUMENTS);
        }
        members.insert(ServerId(id), server);
    }
    let new = EnsembleConfig::majority(members, Zxid::ZERO);
    if new.address_conflict().is_some() { Err(ErrorCode::BADARGUMENTS) } else { Ok(new) }
}

/// What the transaction in a packet changes of the ensemble, if anything.
pub(crate) fn change_of(packet: &PeerPacket) -> Option<EnsembleChange> {
    let (PeerPacket::Proposal { txn, .. }
    | PeerPacket::Inform { txn, .. }
    | PeerPacket::InformAndActivate { txn, .. }) = packet
    else {
        return None;
    };
    // The kind stands behind session, cxid, zxid and time; most are looked at no further.
    let kind = txn.get(28..32)?;
    let is_reconfig = kind == OpCode::Reconfig.number().to_be_bytes();
    if !is_reconfig && kind != OpCode::Error.number().to_be_bytes() {
        return None;
    }
    let record = TxnRecord::decode(txn).ok()?;
    if !is_reconfig {
        return hand_over::successor_in(&record).map(EnsembleChange::Leader);
    }
    let Txn::SetData { data: Some(text), .. } = record.txn else { return None };
    let config = EnsembleConfig::parse(std::str::from_utf8(text).ok()?).ok()?;
    Some(EnsembleChange::Members(Arc::new(config)))
}
