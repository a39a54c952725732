//! The configuration of an ensemble: who belongs to it, where each is, and what makes a quorum. Its text is
//! what servers send each other and clients read from `/zookeeper/config`.
//!
//! Source: `QuorumPeer.QuorumServer`, `QuorumPeerConfig.parseDynamicConfig`, `QuorumMaj`,
//! `QuorumHierarchical`, 3.9.

use std::collections::BTreeMap;
use std::fmt;

use thiserror::Error;

use crate::address::{self, HostPort};
use crate::ids::{ServerId, Zxid};

/// The most servers that a configuration may have. The id of a server is the high byte of the sessions it
/// opens, so more than 255 make no sense anywhere.
pub const SERVERS_MAX: usize = 1024;

/// Whether a server votes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemberRole {
    /// It votes and its acknowledgements count.
    Participant,
    /// It only learns.
    Observer,
}

/// A host and its two ports for peers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerAddress {
    /// Name or address, without brackets.
    pub host: String,
    /// Where its leader listens.
    pub quorum_port: u16,
    /// Where its election listens.
    pub election_port: u16,
}

impl PeerAddress {
    /// Where a leader listens.
    #[must_use]
    pub fn quorum(&self) -> HostPort {
        HostPort::new(&*self.host, self.quorum_port)
    }

    /// Where the election listens.
    #[must_use]
    pub fn election(&self) -> HostPort {
        HostPort::new(&*self.host, self.election_port)
    }
}

/// One server of an ensemble.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Member {
    /// Its addresses in the order of their hosts; never empty. More than one only where
    /// `multiAddress.enabled` says so.
    addresses: Vec<PeerAddress>,
    /// Whether it votes.
    pub role: MemberRole,
    /// Where it serves clients, if its line says so.
    pub client: Option<HostPort>,
}

impl Member {
    /// A participant with one address and nothing said about clients.
    #[must_use]
    pub fn participant(host: &str, quorum_port: u16, election_port: u16) -> Member {
        let address = PeerAddress { host: host.to_owned(), quorum_port, election_port };
        Member { addresses: vec![address], role: MemberRole::Participant, client: None }
    }

    /// Its addresses, at least one.
    #[must_use]
    pub fn addresses(&self) -> &[PeerAddress] {
        &self.addresses
    }

    /// Reads the right side of a server line.
    ///
    /// # Errors
    /// What would be right.
    pub fn parse(line: &str) -> Result<Member, String> {
        const FORM: &str = "host:port:port[:role][|…][;[host:]port]";
        let (servers, client) = match line.split_once(';') {
            Some((servers, client)) => (servers, Some(client.trim())),
            None => (line, None),
        };
        let mut addresses = Vec::new();
        let mut role = None;
        for group in servers.split('|') {
            let (host, rest) = address::split_host(group.trim()).ok_or(FORM)?;
            let parts: Vec<&str> = rest.split(':').collect();
            let (ports, its_role) = match parts.as_slice() {
                [quorum, election] => ([*quorum, *election], None),
                [quorum, election, role] => ([*quorum, *election], Some(parse_role(role)?)),
                _ => return Err(FORM.to_owned()),
            };
            let [Some(quorum_port), Some(election_port)] = ports.map(address::parse_port) else {
                return Err(FORM.to_owned());
            };
            if quorum_port == election_port {
                return Err("two different ports for quorum and election".to_owned());
            }
            if role.is_some() && its_role.is_some() && role != its_role {
                return Err("the same role for all addresses of a server".to_owned());
            }
            role = role.or(its_role);
            addresses.push(PeerAddress { host: host.to_owned(), quorum_port, election_port });
        }
        addresses.sort();
        let client = client.map(|text| parse_client(text).ok_or(FORM)).transpose()?;
        Ok(Member { addresses, role: role.unwrap_or(MemberRole::Participant), client })
    }

    /// Every address, of which none may be another server's.
    fn all_addresses(&self) -> impl Iterator<Item = HostPort> {
        let peers = self.addresses.iter().flat_map(|address| [address.quorum(), address.election()]);
        peers.chain(self.client.clone()).filter(|address| !address.is_wildcard() && !address.is_loopback())
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, PeerAddress { host, quorum_port, election_port }) in self.addresses.iter().enumerate() {
            if i > 0 {
                f.write_str("|")?;
            }
            address::write_host(f, host)?;
            write!(f, ":{quorum_port}:{election_port}")?;
        }
        f.write_str(match self.role {
            MemberRole::Participant => ":participant",
            MemberRole::Observer => ":observer",
        })?;
        match &self.client {
            Some(client) => write!(f, ";{client}"),
            None => Ok(()),
        }
    }
}

fn parse_role(text: &str) -> Result<MemberRole, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "participant" => Ok(MemberRole::Participant),
        "observer" => Ok(MemberRole::Observer),
        _ => Err("participant or observer as role".to_owned()),
    }
}

fn parse_client(text: &str) -> Option<HostPort> {
    address::parse_port(text).map(|port| HostPort::new("0.0.0.0", port)).or_else(|| text.parse().ok())
}

/// Groups of servers that decide together: a quorum wins more than half of the groups, and within each more
/// than half of the weight.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Groups {
    /// The group of each participant.
    pub of: BTreeMap<ServerId, i64>,
    /// The weight of each participant, at least 0.
    pub weights: BTreeMap<ServerId, i64>,
}

/// A configuration. Two with the same version are the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EnsembleConfig {
    members: BTreeMap<ServerId, Member>,
    /// `None`: a majority of the participants is a quorum.
    groups: Option<Groups>,
    /// The zxid of the reconfiguration that made it, counter 0 of an epoch for the first one, 0 if it comes
    /// from a file without a version.
    pub version: Zxid,
}

/// An entry of a configuration that is wrong, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{key}={found}: expected {expected}")]
pub struct EnsembleError {
    /// The key.
    pub key: String,
    /// Its value.
    pub found: String,
    /// What would be right.
    pub expected: String,
}

impl EnsembleError {
    fn new(key: &str, found: &str, expected: impl Into<String>) -> EnsembleError {
        EnsembleError { key: key.to_owned(), found: found.to_owned(), expected: expected.into() }
    }
}

impl EnsembleConfig {
    /// A configuration in which a majority decides.
    #[must_use]
    pub fn majority(members: BTreeMap<ServerId, Member>, version: Zxid) -> EnsembleConfig {
        EnsembleConfig { members, groups: None, version }
    }

    /// Reads the text that servers send each other: entries in any order, one a line.
    ///
    /// # Errors
    /// The first entry that is wrong.
    pub fn parse(text: &str) -> Result<EnsembleConfig, EnsembleError> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let entries = lines.map(|line| line.split_once('=').unwrap_or((line, "")));
        EnsembleConfig::from_entries(entries.map(|(key, value)| (key.trim(), value.trim())))
    }

    /// Builds a configuration from keys and values, of which the last of several with the same key counts.
    ///
    /// # Errors
    /// The first entry that is wrong, or does not fit the others.
    pub fn from_entries<'a>(
        entries: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<EnsembleConfig, EnsembleError> {
        let mut members = BTreeMap::new();
        let mut groups: Option<Groups> = None;
        let mut version = Zxid::ZERO;
        for (key, value) in entries {
            let wrong = |expected: &str| EnsembleError::new(key, value, expected);
            if key == "version" {
                version = i64::from_str_radix(value, 16).map(Zxid).map_err(|_| wrong("a hex number"))?;
            } else if key.starts_with("server.") {
                let id = key_id(key).ok_or_else(|| wrong("server.N with N at least 0"))?;
                members.insert(id, Member::parse(value).map_err(|expected| wrong(&expected))?);
                if members.len() > SERVERS_MAX {
                    return Err(wrong("at most 1024 servers"));
                }
            } else if key.starts_with("group") {
                let group = key_id(key).ok_or_else(|| wrong("group.N with N at least 0"))?.0;
                let groups = groups.get_or_insert_default();
                for part in value.split(':') {
                    let id = parse_id(part).ok_or_else(|| wrong("ids of servers with : between them"))?;
                    if groups.of.insert(id, group).is_some_and(|other| other != group) {
                        return Err(wrong("each server in one group"));
                    }
                }
            } else if key.starts_with("weight") {
                let id = key_id(key).ok_or_else(|| wrong("weight.N with N at least 0"))?;
                let weight = parse_id(value).ok_or_else(|| wrong("a whole number of at least 0"))?.0;
                groups.get_or_insert_default().weights.insert(id, weight);
            } else {
                return Err(wrong("only server.N, group.N, weight.N and version"));
            }
        }
        let groups = groups.map(|groups| complete(groups, &members)).transpose()?;
        Ok(EnsembleConfig { members, groups, version })
    }

    /// The same with another version.
    #[must_use]
    pub fn with_version(self, version: Zxid) -> EnsembleConfig {
        EnsembleConfig { version, ..self }
    }

    /// All servers, in the order of their ids.
    #[must_use]
    pub fn members(&self) -> &BTreeMap<ServerId, Member> {
        &self.members
    }

    /// One server.
    #[must_use]
    pub fn member(&self, id: ServerId) -> Option<&Member> {
        self.members.get(&id)
    }

    /// The ids of those that vote, ascending.
    pub fn voters(&self) -> impl Iterator<Item = ServerId> {
        self.members.iter().filter(|(_, m)| m.role == MemberRole::Participant).map(|(id, _)| *id)
    }

    /// Whether a server votes.
    #[must_use]
    pub fn is_voter(&self, id: ServerId) -> bool {
        self.member(id).is_some_and(|member| member.role == MemberRole::Participant)
    }

    /// Whether a server is an observer here. One that is absent is not: it follows without being counted.
    #[must_use]
    pub fn is_observer(&self, id: ServerId) -> bool {
        self.member(id).is_some_and(|member| member.role == MemberRole::Observer)
    }

    /// The groups, unless a majority decides.
    #[must_use]
    pub fn groups(&self) -> Option<&Groups> {
        self.groups.as_ref()
    }

    /// What a server's voice weighs. One of weight 0 cannot lead. Without groups it is 1 for everybody.
    #[must_use]
    pub fn weight(&self, id: ServerId) -> i64 {
        self.groups.as_ref().map_or(1, |groups| groups.weights.get(&id).copied().unwrap_or(0))
    }

    /// Whether both have the same servers, roles, addresses, groups and weights, whatever their versions.
    #[must_use]
    pub fn same_servers(&self, other: &EnsembleConfig) -> bool {
        self.members == other.members && self.groups == other.groups
    }

    /// Two servers of which one listens where the other does; wildcards and loopback addresses, which every
    /// host has for itself, do not count.
    #[must_use]
    pub fn address_conflict(&self) -> Option<(ServerId, ServerId, HostPort)> {
        let mut seen: BTreeMap<HostPort, ServerId> = BTreeMap::new();
        for (id, member) in &self.members {
            for address in member.all_addresses() {
                match seen.get(&address) {
                    Some(other) if other != id => return Some((*other, *id, address)),
                    _ => {
                        seen.insert(address, *id);
                    }
                }
            }
        }
        None
    }
}

/// The canonical text: servers, groups and weights in the order of their numbers, then the version without a
/// line end.
impl fmt::Display for EnsembleConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (id, member) in &self.members {
            writeln!(f, "server.{id}={member}")?;
        }
        if let Some(groups) = &self.groups {
            let mut by_group: BTreeMap<i64, Vec<String>> = BTreeMap::new();
            for (id, group) in &groups.of {
                by_group.entry(*group).or_default().push(id.to_string());
            }
            for (group, ids) in by_group {
                writeln!(f, "group.{group}={}", ids.join(":"))?;
            }
            for (id, weight) in &groups.weights {
                writeln!(f, "weight.{id}={weight}")?;
            }
        }
        write!(f, "version={:x}", self.version.0)
    }
}

/// The number behind a key's first dot.
fn key_id(key: &str) -> Option<ServerId> {
    parse_id(key.split_once('.')?.1)
}

fn parse_id(text: &str) -> Option<ServerId> {
    text.trim().parse().ok().filter(|id| *id >= 0).map(ServerId)
}

/// Gives every participant its weight. All of them must be in a group, and nobody else: Java fails on
/// others in ways of its own.
fn complete(mut groups: Groups, members: &BTreeMap<ServerId, Member>) -> Result<Groups, EnsembleError> {
    for (id, member) in members.iter().filter(|(_, member)| member.role == MemberRole::Participant) {
        if !groups.of.contains_key(id) {
            let key = format!("server.{id}");
            return Err(EnsembleError::new(&key, &member.to_string(), "every participant in a group"));
        }
        groups.weights.entry(*id).or_insert(1);
    }
    let is_voter = |id: &ServerId| members.get(id).is_some_and(|m| m.role == MemberRole::Participant);
    if let Some((id, group)) = groups.of.iter().find(|(id, _)| !is_voter(id)) {
        let key = format!("group.{group}");
        return Err(EnsembleError::new(&key, &id.to_string(), "only participants in groups"));
    }
    // The weight of a server that has none to give is kept out, so that equal configurations are equal.
    groups.weights.retain(|id, _| is_voter(id));
    Ok(groups)
}

#[cfg(test)]
mod tests;
