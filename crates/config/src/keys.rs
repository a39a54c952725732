//! Every key that ZooKeeper 3.9 knows, and what becomes of it here.

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It does what it does in Java.
    Honoured,
    /// It only makes sense in a JVM, or in Java's way of dividing work among threads.
    JavaOnly,
    /// It belongs to a feature that this version does not serve.
    Later(Feature),
    /// Java takes it only as `-D`; in a file it is ignored, by both.
    CommandLineOnly,
}

/// Features that are configured in the same file and not served by this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    /// TLS for clients and peers.
    Tls,
    /// SASL for clients and peers.
    Sasl,
    /// The AdminServer.
    Admin,
    /// Metrics over HTTP.
    Metrics,
    /// The audit log.
    Audit,
    /// Being one of several servers.
    Ensemble,
}

impl Feature {
    /// As it is called in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Feature::Tls => "TLS",
            Feature::Sasl => "SASL authentication",
            Feature::Admin => "the AdminServer",
            Feature::Metrics => "the metrics provider",
            Feature::Audit => "the audit log",
            Feature::Ensemble => "ensembles",
        }
    }
}

use Fate::{CommandLineOnly, Honoured, JavaOnly, Later};
use Feature::{Admin, Audit, Ensemble, Metrics, Sasl, Tls};

/// Keys by their name in `zoo.cfg`. A name that ends in `.` stands for all that begin with it.
pub const KEYS: &[(&str, Fate)] = &[
    ("dataDir", Honoured),
    ("dataLogDir", Honoured),
    ("clientPort", Honoured),
    ("clientPortAddress", Honoured),
    ("tickTime", Honoured),
    ("minSessionTimeout", Honoured),
    ("maxSessionTimeout", Honoured),
    ("maxClientCnxns", Honoured),
    ("maxCnxns", Honoured),
    ("clientPortListenBacklog", Honoured),
    ("autopurge.snapRetainCount", Honoured),
    ("autopurge.purgeInterval", Honoured),
    ("snapCount", Honoured),
    ("snapSizeLimitInKb", Honoured),
    ("txnLogSizeLimitInKb", Honoured),
    ("preAllocSize", Honoured),
    ("fsync.warningthresholdms", Honoured),
    ("forceSync", Honoured),
    ("snapshot.compression.method", Honoured),
    ("snapshot.trust.empty", Honoured),
    ("datadir.autocreate", Honoured),
    ("digest.enabled", Honoured),
    ("closeSessionTxn.enabled", Honoured),
    ("serializeLastProcessedZxid.enabled", Honoured),
    ("extendedTypesEnabled", Honoured),
    ("emulate353TTLNodes", Honoured),
    ("globalOutstandingLimit", Honoured),
    ("memoryLimitInMb", Honoured),
    ("enforceQuota", Honoured),
    ("skipACL", Honoured),
    ("4lw.commands.whitelist", Honoured),
    ("nio.sessionlessCnxnTimeout", Honoured),
    ("clientTcpKeepAlive", Honoured),
    ("DigestAuthenticationProvider.enabled", Honoured),
    ("DigestAuthenticationProvider.superDigest", Honoured),
    ("enforce.auth.enabled", Honoured),
    ("enforce.auth.schemes", Honoured),
    ("sessionRequireClientSASLAuth", Honoured),
    ("ensembleAuthName", Honoured),
    ("DigestAuthenticationProvider.digestAlg", Honoured),
    ("largeRequestThreshold", Honoured),
    ("largeRequestMaxBytes", Honoured),
    ("request_throttle_max_requests", Honoured),
    ("connection_throttle_tokens", Honoured),
    ("connection_throttle_fill_time", Honoured),
    ("connection_throttle_fill_count", Honoured),
    ("connection_throttle_freeze_time", Honoured),
    ("connection_throttle_drop_increase", Honoured),
    ("connection_throttle_drop_decrease", Honoured),
    ("connection_throttle_decrease_ratio", Honoured),
    ("connection_throttle_weight_enabled", Honoured),
    ("connection_throttle_global_session_weight", Honoured),
    ("connection_throttle_renew_session_weight", Honoured),
    ("reconfigEnabled", Honoured),
    ("standaloneEnabled", Honoured),
    ("electionAlg", Honoured),
    ("jute.maxbuffer", CommandLineOnly),
    ("jute.maxbuffer.extrasize", Honoured),
    ("znode.container.checkIntervalMs", CommandLineOnly),
    ("znode.container.maxPerMinute", CommandLineOnly),
    ("znode.container.maxNeverUsedIntervalMs", CommandLineOnly),
    ("readonlymode.enabled", CommandLineOnly),
    ("follower.nodelay", CommandLineOnly),
    ("leader.nodelay", CommandLineOnly),
    ("java.security.auth.login.config", CommandLineOnly),
    // The batches of the log follow from what gathers while the disk syncs.
    ("flushDelay", JavaOnly),
    ("maxWriteQueuePollTime", JavaOnly),
    ("maxBatchSize", JavaOnly),
    ("serverCnxnFactory", JavaOnly),
    ("nio.", JavaOnly),
    ("netty.", JavaOnly),
    ("commitProcessor.", JavaOnly),
    ("watchManagerName", JavaOnly),
    ("watcherCleanThreadsNum", JavaOnly),
    ("watcherCleanThreshold", JavaOnly),
    ("watcherCleanIntervalInSeconds", JavaOnly),
    ("maxInProcessingDeadWatchers", JavaOnly),
    ("bitHashCacheSize", JavaOnly),
    ("intBufferStartingSizeBytes", JavaOnly),
    ("messageTracker.", JavaOnly),
    ("pathStats.", JavaOnly),
    ("jvm.pause.", JavaOnly),
    ("maxResponseCacheSize", JavaOnly),
    ("maxGetChildrenResponseCacheSize", JavaOnly),
    ("jmx.", JavaOnly),
    // Requests that are too many wait in their client's socket: nothing here waits or gets stale.
    ("request_throttle_stall_time", JavaOnly),
    ("request_throttle_drop_stale", JavaOnly),
    ("request_stale_latency_check", JavaOnly),
    ("request_stale_connection_check", JavaOnly),
    ("request_throttler.shutdownTimeout", JavaOnly),
    ("throttled_op_wait_time", JavaOnly),
    ("connection_throttle_local_session_weight", JavaOnly),
    ("server.", Later(Ensemble)),
    ("group.", Later(Ensemble)),
    ("weight.", Later(Ensemble)),
    ("initLimit", Later(Ensemble)),
    ("syncLimit", Later(Ensemble)),
    ("connectToLearnerMasterLimit", Later(Ensemble)),
    ("peerType", Later(Ensemble)),
    ("dynamicConfigFile", Later(Ensemble)),
    ("db.autocreate", Later(Ensemble)),
    ("commitLogCount", Later(Ensemble)),
    ("snapshotSizeFactor", Later(Ensemble)),
    ("enableEagerACLCheck", Later(Ensemble)),
    ("leaderServes", Later(Ensemble)),
    ("leader.", Later(Ensemble)),
    ("learner.", Later(Ensemble)),
    ("forward_learner_requests_to_commit_processor_disabled", Later(Ensemble)),
    ("follower.", Later(Ensemble)),
    ("leaderConnectDelayDuringRetryMs", Later(Ensemble)),
    ("observer.", Later(Ensemble)),
    ("observerMaster.", Later(Ensemble)),
    ("observerMasterPort", Later(Ensemble)),
    ("fastleader.", Later(Ensemble)),
    ("cnxTimeout", Later(Ensemble)),
    ("quorumCnxnTimeoutMs", Later(Ensemble)),
    ("electionPortBindRetry", Later(Ensemble)),
    ("tcpKeepAlive", Later(Ensemble)),
    ("forceSnapshotSync", Later(Ensemble)),
    ("quorumListenOnAllIPs", Later(Ensemble)),
    ("syncEnabled", Later(Ensemble)),
    ("localSessionsEnabled", Later(Ensemble)),
    ("localSessionsUpgradingEnabled", Later(Ensemble)),
    ("multiAddress.", Later(Ensemble)),
    ("oraclePath", Later(Ensemble)),
    ("portUnification", Later(Tls)),
    ("secureClientPort", Later(Tls)),
    ("secureClientPortAddress", Later(Tls)),
    ("sslQuorum", Later(Tls)),
    ("sslQuorumReloadCertFiles", Later(Tls)),
    ("ssl.", Later(Tls)),
    ("client.portUnification", Later(Tls)),
    ("client.certReload", Later(Tls)),
    ("X509AuthenticationProvider.", Later(Tls)),
    ("fips-mode", Later(Tls)),
    ("quorum.", Later(Sasl)),
    ("superUser", Later(Sasl)),
    ("superUser.", Later(Sasl)),
    ("allowSaslFailedClients", Later(Sasl)),
    ("sasl.", Later(Sasl)),
    ("kerberos.", Later(Sasl)),
    ("security.auth_to_local", Later(Sasl)),
    ("authProvider.", Later(Sasl)),
    ("admin.", Later(Admin)),
    ("IPAuthenticationProvider.usexforwardedfor", Later(Admin)),
    ("metricsProvider.", Later(Metrics)),
    ("audit.", Later(Audit)),
];

/// What becomes of a key, if ZooKeeper knows it.
#[must_use]
pub fn fate(key: &str) -> Option<Fate> {
    let exact = KEYS.iter().find(|(name, _)| *name == key);
    let family = |(name, _): &&(&str, Fate)| name.ends_with('.') && key.starts_with(name);
    exact.or_else(|| KEYS.iter().find(family)).map(|(_, fate)| *fate)
}

/// The known key that looks most like an unknown one.
#[must_use]
pub fn nearest(key: &str) -> Option<&'static str> {
    let most = 1 + key.len() / 4;
    let lower = key.to_lowercase();
    let distance = |name: &str| edits(&lower, &name.to_lowercase());
    // Names that differ more in length alone need no comparing, however long a key somebody writes.
    let letters = lower.chars().count();
    let like = KEYS.iter().filter(|(name, _)| name.len().abs_diff(letters) <= most);
    let best = like.map(|(name, _)| (distance(name), *name)).min()?;
    (best.0 <= most).then_some(best.1)
}

/// The number of letters to change, insert or remove to make `b` of `a`.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut corner = i;
        let mut left = i + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (to, place) in b.iter().zip(row.iter_mut().skip(1)) {
            let above = *place;
            left = (corner + usize::from(from != *to)).min(above + 1).min(left + 1);
            corner = above;
            *place = left;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_names_are_found() {
        assert_eq!(edits("kitten", "sitting"), 3);
        assert_eq!(nearest("tickTme"), Some("tickTime"));
        assert_eq!(nearest("maxclientcnxns"), Some("maxClientCnxns"));
        assert_eq!(nearest("somethingElse"), None);
        assert_eq!(nearest(&"dataDir".repeat(1000)), None);
    }

    #[test]
    fn families_and_exact_names() {
        assert_eq!(fate("ssl.keyStore.location"), Some(Later(Tls)));
        assert_eq!(fate("nio.sessionlessCnxnTimeout"), Some(Honoured));
        assert_eq!(fate("nio.numWorkerThreads"), Some(JavaOnly));
        assert_eq!(fate("connection_throttle_tokens"), Some(Honoured));
        assert_eq!(fate("nothing"), None);
    }
}
