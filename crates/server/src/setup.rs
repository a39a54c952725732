//! From the configuration to what the node, the log and recovery want to know.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oxkeeper_config::{Config, ConnectionThrottle};
use oxkeeper_node::{DigestAlgorithm, OwnerRules, Reap, Rules, Schemes, Settings, ThrottleSettings};
use oxkeeper_proto::SessionId;
use oxkeeper_storage::{Compression, LogOptions};

/// Server id in the session ids of a standalone server, as in Java.
const STANDALONE_ID: i64 = 1;

pub(crate) fn rules(config: &Config) -> Rules {
    Rules {
        owners: OwnerRules { extended_types: config.extended_types, emulate_353: config.emulate_353 },
        schemes: Schemes { ip: true, digest: config.digest_auth },
        skip_acl: config.skip_acl,
        enforce_quota: config.enforce_quota,
        digest: config.digest,
        list_closed: config.list_closed,
    }
}

pub(crate) fn record_bytes_max(config: &Config) -> usize {
    config.frame_bytes_max.saturating_add(config.frame_extra_bytes).min(i32::MAX as usize)
}

pub(crate) fn settings(config: &Config, seed: u64) -> Settings {
    Settings {
        seed,
        tick_ms: millis(config.tick),
        session_timeout_min_ms: i32::try_from(config.session_timeout_min.as_millis()).unwrap_or(i32::MAX),
        session_timeout_max_ms: i32::try_from(config.session_timeout_max.as_millis()).unwrap_or(i32::MAX),
        first_session: first_session(wall_ms()),
        sessionless_ms: millis(config.sessionless_timeout),
        outstanding_max: config.outstanding_max,
        throttle_requests: config.throttle_requests,
        throttle_connections: throttle(&config.throttle_connections),
        large_bytes: config.large_request_bytes,
        large_bytes_max: config.large_requests_bytes_max,
        waiting_bytes_max: config.memory_max.map(|max| usize::try_from(max / 16).unwrap_or(usize::MAX)),
        record_bytes_max: record_bytes_max(config),
        digest_algorithm: match &*config.digest_algorithm {
            "SHA-256" => DigestAlgorithm::Sha256,
            "SHA-384" => DigestAlgorithm::Sha384,
            "SHA-512" => DigestAlgorithm::Sha512,
            _ => DigestAlgorithm::Sha1,
        },
        super_digest: config.super_digest.clone(),
        enforced_schemes: config.enforced_schemes.clone(),
        ensemble_names: config.ensemble_names.clone(),
        reconfig: config.reconfig,
        reap: Reap {
            interval_ms: millis(config.container_check),
            per_minute_max: config.containers_per_minute.into(),
            never_used_ms: millis(config.container_never_used),
        },
    }
}

fn throttle(config: &ConnectionThrottle) -> ThrottleSettings {
    ThrottleSettings {
        tokens: config.tokens,
        fill_ms: config.fill_ms,
        fill_count: config.fill_count,
        freeze_ms: (config.freeze_ms >= 0).then_some(config.freeze_ms),
        drop_increase: config.drop_increase,
        drop_decrease: config.drop_decrease,
        decrease_ratio: config.decrease_ratio,
        new_weight: config.new_weight,
        renew_weight: config.renew_weight,
    }
}

/// The server's id in the top byte, then 40 bits of a millisecond clock, then 16 zero bits.
///
/// Source: `SessionTrackerImpl.initializeNextSessionId`.
fn first_session(clock_ms: i64) -> SessionId {
    let clock = (clock_ms << 24).cast_unsigned() >> 8;
    SessionId(clock.cast_signed() | STANDALONE_ID << 56)
}

pub(crate) fn log_options(config: &Config) -> LogOptions {
    LogOptions {
        prepare_bytes: config.prepare_bytes,
        sync: config.force_sync,
        file_bytes_max: config.log_file_bytes_max,
    }
}

pub(crate) fn compression(config: &Config) -> Compression {
    match &*config.snapshot_compression {
        "gz" => Compression::Gzip,
        "snappy" => Compression::Snappy,
        _ => Compression::None,
    }
}

pub(crate) fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    millis(since)
}

pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_ids_are_laid_out_like_javas() {
        let id = first_session(0x12_3456_789a_bcde).0;
        assert_eq!(id, 0x0156_789a_bcde_0000);
    }
}
