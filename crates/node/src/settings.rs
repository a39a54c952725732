//! What a node is told at its start. The driver makes it from the configuration.

use std::sync::Arc;

use oxkeeper_proto::{EnsembleConfig, Epoch, ServerId, SessionId};
use oxkeeper_zab::{ObserverMasters, Timing};

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
    /// Where memory has a limit: above so many bytes of waiting frames their clients are not read from.
    pub waiting_bytes_max: Option<usize>,
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

/// What a server of an ensemble is told beside [`Settings`].
#[derive(Debug, Clone)]
pub struct EnsembleSettings {
    /// Its number.
    pub me: ServerId,
    /// Whether its configuration calls it an observer; it votes otherwise, if the configuration has it at all.
    pub observer: bool,
    /// The configuration in force.
    pub committed: Arc<EnsembleConfig>,
    /// The configuration last seen, if a reconfiguration was on its way when the server stopped.
    pub seen: Option<Arc<EnsembleConfig>>,
    /// Ticks to join a leader: `initLimit`.
    pub init_limit: u32,
    /// Ticks to lag behind one: `syncLimit`.
    pub sync_limit: u32,
    /// The file `acceptedEpoch`, or the epoch of the last transaction if there is none.
    pub accepted_epoch: Epoch,
    /// The file `currentEpoch`, or the epoch of the last transaction if there is none.
    pub current_epoch: Epoch,
    /// Whether neither log nor snapshot nor epoch files were there, and no operator vouched for that: what the
    /// server may have acknowledged is lost, so it does not count for electing before one full synchronization.
    pub emptied: bool,
    /// `standaloneEnabled`: at least two voters must stay.
    pub standalone_enabled: bool,
    /// `localSessionsEnabled`.
    pub local_sessions: bool,
    /// `localSessionsUpgradingEnabled`.
    pub local_sessions_upgrade: bool,
    /// `readonlymode.enabled`.
    pub read_only: bool,
    /// `leaderServes`.
    pub leader_serves: bool,
    /// `zookeeper.forceSnapshotSync`.
    pub force_snapshot: bool,
    /// Bytes of transactions that a learner keeps until they are agreed, or until it is level.
    pub pending_bytes_max: usize,
    /// Bytes of packets that a leader holds back for a learner while it gets a snapshot. Above it the link is closed;
    /// the learner will come again and get a newer snapshot.
    pub held_bytes_max: usize,
    /// Whether followers serve observers, and observers go to them: `observerMasterPort`. The number of the port is the
    /// driver's.
    pub observer_masters: Option<ObserverMasters>,
    /// Sessions that a learner asks the leader for at once. Clients above that are let go and come again.
    pub revalidating_max: usize,
    /// How long connections of clients are kept, and what they ask is held, while leadership is handed over, in ms; 0 for
    /// not at all.
    pub hold_ms_max: i64,
    /// Requests that are held then. Whoever asks more is cut off.
    pub hold_requests_max: usize,
    /// Bytes of requests that are held then. Whoever asks more is cut off.
    pub hold_bytes_max: usize,
    /// What to do when the state is not the leader's.
    pub digest_policy: DigestPolicy,
    /// What the oracle said last, where one is configured: `oraclePath`.
    pub oracle: Option<bool>,
    /// Times of elections.
    pub timing: Timing,
    /// Below this, at least 3, the counter of an epoch stays: a leader that has used it up hands over to itself, and the next
    /// epoch begins. The
    /// highest number is never given out, so that whoever counts on has not run over into the epoch.
    pub epoch_counter_max: u32,
    /// Bytes of log that a leader reads for a learner that its memory cannot serve; 0 for none. Java's measure is
    /// `snapshotSizeFactor` times the newest snapshot's size.
    pub log_sync_bytes: u64,
}

/// What a learner does when a transaction leaves another digest than the leader computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DigestPolicy {
    /// Stop at once.
    Fatal,
    /// Leave the leader and take its whole state; stop if it happens again.
    Resync,
    /// Say so, count it, and go on, as ZooKeeper does.
    Alarm,
}

impl EnsembleSettings {
    /// A member with Java's defaults.
    #[must_use]
    pub fn standard(me: ServerId, config: Arc<EnsembleConfig>) -> EnsembleSettings {
        EnsembleSettings {
            me,
            observer: false,
            committed: config,
            seen: None,
            init_limit: 10,
            sync_limit: 5,
            accepted_epoch: Epoch(0),
            current_epoch: Epoch(0),
            emptied: false,
            standalone_enabled: true,
            oracle: None,
            local_sessions: false,
            local_sessions_upgrade: false,
            read_only: false,
            leader_serves: true,
            force_snapshot: false,
            pending_bytes_max: 1 << 30,
            held_bytes_max: 256 << 20,
            observer_masters: None,
            revalidating_max: 100_000,
            hold_ms_max: 4_000,
            hold_requests_max: 20_000,
            hold_bytes_max: 64 << 20,
            digest_policy: DigestPolicy::Fatal,
            timing: Timing::DEFAULT,
            epoch_counter_max: u32::MAX,
            log_sync_bytes: 64 << 20,
        }
    }
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
            waiting_bytes_max: None,
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
