//! What a node is told at its start. The driver makes it from the configuration.

use oxkeeper_proto::SessionId;

use crate::throttle::ThrottleSettings;

/// The settings of a node. All times are milliseconds.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Orders the node's maps; any number, another one for every node.
    pub seed: u64,
    /// The unit of expiry: `tickTime`.
    pub tick_ms: i64,
    /// The shortest session timeout that is granted.
    pub session_timeout_min_ms: i32,
    /// The longest.
    pub session_timeout_max_ms: i32,
    /// The id of the first session opened here.
    pub first_session: SessionId,
    /// Connections without a session are closed after this.
    pub sessionless_ms: i64,
    /// Above this many waiting requests clients with requests of their own waiting are not read from:
    /// `globalOutstandingLimit`.
    pub outstanding_max: usize,
    /// Above this many waiting requests nobody is read from; 0 for no such limit:
    /// `request_throttle_max_requests`.
    pub throttle_requests: usize,
    /// `connection_throttle_*`.
    pub throttle_connections: ThrottleSettings,
    /// Frames above this count as large: `largeRequestThreshold`.
    pub large_bytes: Option<usize>,
    /// Large frames on their way in all: `largeRequestMaxBytes`.
    pub large_bytes_max: usize,
    /// The longest record that Java could read back from the log, in bytes.
    pub record_bytes_max: usize,
    /// `DigestAuthenticationProvider.digestAlg`.
    pub digest_algorithm: DigestAlgorithm,
    /// `DigestAuthenticationProvider.superDigest`.
    pub super_digest: Option<String>,
    /// `enforce.auth.schemes`, if `enforce.auth.enabled`; also `sasl` if sessions have to use it.
    pub enforced_schemes: Option<Vec<String>>,
    /// `ensembleAuthName`, split at commas.
    pub ensemble_names: Vec<String>,
    /// Whether `reconfig` is allowed at all.
    pub reconfig: bool,
    /// The reaper of containers and TTL znodes.
    pub reap: Reap,
}

/// How the digest scheme hashes passwords. All servers and all stored ids must agree on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum DigestAlgorithm {
    Sha1,
    Sha256,
    Sha384,
    Sha512,
}

/// How containers and TTL znodes are reaped.
#[derive(Debug, Clone, Copy)]
pub struct Reap {
    /// `znode.container.checkIntervalMs`.
    pub interval_ms: i64,
    /// `znode.container.maxPerMinute`.
    pub per_minute_max: i64,
    /// `znode.container.maxNeverUsedIntervalMs`, 0 for never.
    pub never_used_ms: i64,
}

impl Settings {
    /// Java's defaults for a tick of 3 seconds.
    #[must_use]
    pub fn standard(seed: u64) -> Settings {
        Settings {
            seed,
            tick_ms: 3000,
            session_timeout_min_ms: 6000,
            session_timeout_max_ms: 60_000,
            first_session: SessionId(1 << 56),
            sessionless_ms: 10_000,
            outstanding_max: 1000,
            throttle_requests: 0,
            throttle_connections: ThrottleSettings::OFF,
            large_bytes: None,
            large_bytes_max: 100 << 20,
            record_bytes_max: 2 * oxkeeper_proto::wire::JUTE_MAXBUFFER,
            digest_algorithm: DigestAlgorithm::Sha1,
            super_digest: None,
            enforced_schemes: None,
            ensemble_names: Vec::new(),
            reconfig: false,
            reap: Reap { interval_ms: 60_000, per_minute_max: 10_000, never_used_ms: 0 },
        }
    }
}
