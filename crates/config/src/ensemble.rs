//! What a server is told of the ensemble that it belongs to.

use std::path::PathBuf;
use std::time::Duration;

use oxkeeper_proto::{EnsembleConfig, MemberRole};

use crate::config::Reading;
use crate::dynamic::{self, Rules};
use crate::properties::{self, Property};
use crate::text::ConfigErrors;

/// The keys of `zoo.cfg` that matter in an ensemble, with Java's defaults where the file says nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct EnsembleSettings {
    /// The servers, or the file that names them.
    pub servers: Servers,
    /// What a configuration may hold.
    pub rules: Rules,
    /// `initLimit`: ticks to connect, to agree on an epoch, and to be brought level.
    pub init_limit: u32,
    /// `syncLimit`: ticks to lag.
    pub sync_limit: u32,
    /// `connectToLearnerMasterLimit`: ticks to connect to the leader, by default [`Self::init_limit`].
    pub connect_limit: u32,
    /// `peerType`, which the list of servers overrules.
    pub peer_type: Option<MemberRole>,
    /// `quorumListenOnAllIPs`.
    pub listen_on_all: bool,
    /// `syncEnabled`: whether an observer keeps a log.
    pub sync_enabled: bool,
    /// `observerMasterPort`: where followers serve observers; `None` if they do not.
    pub observer_master_port: Option<u16>,
    /// `observerMaster.sizeLimit`, in bytes.
    pub observer_master_bytes_max: usize,
    /// `localSessionsEnabled`.
    pub local_sessions: bool,
    /// `localSessionsUpgradingEnabled`.
    pub local_sessions_upgrading: bool,
    /// `oraclePath`.
    pub oracle: Option<PathBuf>,
    /// `db.autocreate`: whether an empty directory may become a server's without a file `initialize`.
    pub create_database: bool,
    /// `leaderServes`: whether the leader serves clients.
    pub leader_serves: bool,
    /// Times and bounds between peers.
    pub peers: PeerSettings,
    /// How learners are brought level.
    pub sync: SyncSettings,
}

/// Where the servers are named.
#[derive(Debug, Clone, PartialEq)]
pub enum Servers {
    /// In `zoo.cfg` itself.
    Here(EnsembleConfig),
    /// In this file: `dynamicConfigFile`.
    In(PathBuf),
}

/// Times and bounds of the connections between servers.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerSettings {
    /// `fastleader.minNotificationInterval`.
    pub notification_min: Duration,
    /// `fastleader.maxNotificationInterval`.
    pub notification_max: Duration,
    /// `cnxTimeout`: to connect to an election port.
    pub connect_timeout: Duration,
    /// `quorumCnxnTimeoutMs`: for the first message on an election port; `None` for a sync limit.
    pub handshake_timeout: Option<Duration>,
    /// `electionPortBindRetry`: tries to bind, `None` without end.
    pub bind_tries: Option<u32>,
    /// `tcpKeepAlive`.
    pub keep_alive: bool,
    /// `leaderConnectDelayDuringRetryMs`.
    pub leader_retry_delay: Duration,
    /// `observer.election.DelayMs`: an observer waits up to this long before it looks again.
    pub observer_delay_max: Duration,
    /// `observer.reconnectDelayMs`.
    pub observer_reconnect_delay: Duration,
    /// `leader.maxTimeToWaitForEpoch`: `None` for the whole of the init limit.
    pub epoch_wait_max: Option<Duration>,
}

/// How learners are brought level.
#[derive(Debug, Clone, PartialEq)]
pub struct SyncSettings {
    /// `commitLogCount`: transactions kept in memory for it, at least 500.
    pub history: usize,
    /// `snapshotSizeFactor`: the log is sent up to this part of the snapshot's size; `None`: never.
    pub log_factor: Option<f64>,
    /// `forceSnapshotSync`.
    pub force_snapshot: bool,
    /// `leader.maxConcurrentSnapSyncs`.
    pub snapshots_max: usize,
    /// `leader.maxConcurrentDiffSyncs`.
    pub diffs_max: usize,
}

impl EnsembleSettings {
    /// Reads `zoo.cfg` and definitions as [`Config::parse`](crate::Config::parse) does. `None`: the server is to
    /// serve alone, since it is told of no other voter and `standaloneEnabled` is not switched off. A
    /// `dynamicConfigFile` has to be read to know; [`Rules::is_alone`] tells then.
    ///
    /// # Errors
    /// Everything that is wrong with the keys of an ensemble.
    pub fn parse(
        file_name: &str,
        bytes: &[u8],
        definitions: &[Property],
    ) -> Result<Option<EnsembleSettings>, ConfigErrors> {
        let mut reading = Reading::new(file_name, properties::parse(bytes), definitions);
        let rules = Rules {
            standalone: reading.strict_bool("standaloneEnabled", true),
            multi_address: reading.property_bool("multiAddress.enabled", false),
        };
        let servers = reading.servers(rules);
        if let Some(Servers::Here(config)) = &servers
            && rules.is_alone(config)
            && reading.errors.is_empty()
        {
            return Ok(None);
        }
        let settings = servers.map(|servers| reading.ensemble(servers, rules));
        if reading.errors.is_empty() { Ok(settings) } else { Err(ConfigErrors(reading.errors)) }
    }
}

impl Reading<'_> {
    fn servers(&mut self, rules: Rules) -> Option<Servers> {
        let is_member_key =
            |key: &str| key.starts_with("server.") || key.starts_with("group") || key.starts_with("weight");
        let entries: Vec<Property> = self
            .values
            .iter()
            .filter(|(key, property)| property.line > 0 && is_member_key(key))
            .map(|(_, property)| property.clone())
            .collect();
        if let Some(dynamic) = self.text("dynamicConfigFile") {
            for property in &entries {
                let expected = "no servers here, since dynamicConfigFile names a file that lists them";
                self.error(property, expected);
            }
            return Some(Servers::In(PathBuf::from(dynamic.value)));
        }
        match dynamic::from_properties(self.file, &entries) {
            Ok(config) => {
                self.errors.extend(rules.check(self.file, &config, &entries));
                Some(Servers::Here(config))
            }
            Err(error) => {
                self.errors.push(error);
                None
            }
        }
    }

    fn ensemble(&mut self, servers: Servers, rules: Rules) -> EnsembleSettings {
        if let Some(property) = self.text("electionAlg")
            && property.value != "3"
        {
            self.error(&property, "3, the only election that is left");
        }
        let init_limit = self.limit("initLimit", "ticks that a server may take to join its leader");
        let sync_limit = self.limit("syncLimit", "ticks that a server may lag behind its leader");
        let connect = self.number("connectToLearnerMasterLimit", 0, 0, i32::MAX.into());
        EnsembleSettings {
            servers,
            rules,
            init_limit,
            sync_limit,
            connect_limit: u32::try_from(connect).ok().filter(|n| *n > 0).unwrap_or(init_limit),
            peer_type: self.peer_type(),
            listen_on_all: self.strict_bool("quorumListenOnAllIPs", false),
            sync_enabled: self.strict_bool("syncEnabled", true),
            observer_master_port: self.port("observerMasterPort"),
            observer_master_bytes_max: self.size("observerMaster.sizeLimit", 32 << 20),
            local_sessions: self.strict_bool("localSessionsEnabled", false),
            local_sessions_upgrading: self.strict_bool("localSessionsUpgradingEnabled", false),
            oracle: self.text("oraclePath").map(|property| property.value.into()),
            create_database: self.property_bool("db.autocreate", true),
            leader_serves: self.text("leaderServes").is_none_or(|property| property.value != "no"),
            peers: self.peers(),
            sync: self.sync(),
        }
    }

    fn limit(&mut self, key: &str, meaning: &str) -> u32 {
        if self.text(key).is_none() {
            self.missing(key, meaning);
            return 1;
        }
        u32::try_from(self.number(key, 1, 1, i32::MAX.into())).unwrap_or(1)
    }

    fn peer_type(&mut self) -> Option<MemberRole> {
        let property = self.text("peerType")?;
        match property.value.to_ascii_lowercase().as_str() {
            "participant" => Some(MemberRole::Participant),
            "observer" => Some(MemberRole::Observer),
            _ => {
                self.error(&property, "participant or observer");
                None
            }
        }
    }

    fn port(&mut self, key: &str) -> Option<u16> {
        u16::try_from(self.number(key, 0, 0, 65_535)).ok().filter(|port| *port > 0)
    }

    fn peers(&mut self) -> PeerSettings {
        let handshake = self.number("quorumCnxnTimeoutMs", -1, i64::MIN, i32::MAX.into());
        let bind_tries = u32::try_from(self.number("electionPortBindRetry", 3, 0, i32::MAX.into()));
        let epoch_wait = self.number("leader.maxTimeToWaitForEpoch", -1, i64::MIN, i32::MAX.into());
        let if_positive = |ms: i64| (ms > 0).then(|| Duration::from_millis(ms.unsigned_abs()));
        PeerSettings {
            notification_min: self.millis("fastleader.minNotificationInterval", 200, 1),
            notification_max: self.millis("fastleader.maxNotificationInterval", 60_000, 1),
            connect_timeout: self.millis("cnxTimeout", 5000, 1),
            handshake_timeout: if_positive(handshake),
            bind_tries: bind_tries.ok().filter(|tries| *tries > 0),
            keep_alive: self.property_bool("tcpKeepAlive", false),
            leader_retry_delay: self.millis("leaderConnectDelayDuringRetryMs", 100, 0),
            observer_delay_max: self.millis("observer.election.DelayMs", 200, 0),
            observer_reconnect_delay: self.millis("observer.reconnectDelayMs", 0, 0),
            epoch_wait_max: if_positive(epoch_wait),
        }
    }

    fn sync(&mut self) -> SyncSettings {
        let log_factor = match self.text("snapshotSizeFactor") {
            None => Some(0.33),
            Some(property) => match property.value.parse::<f64>() {
                Ok(factor) if factor.is_finite() => (factor >= 0.0).then_some(factor),
                _ => {
                    self.error(&property, "a number; a negative one never sends the log");
                    None
                }
            },
        };
        SyncSettings {
            history: self.size("commitLogCount", 500).max(500),
            log_factor,
            force_snapshot: self.property_bool("forceSnapshotSync", false),
            snapshots_max: self.size("leader.maxConcurrentSnapSyncs", 10),
            diffs_max: self.size("leader.maxConcurrentDiffSyncs", 100),
        }
    }
}
