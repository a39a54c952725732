//! What a standalone server is told, as types.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use crate::keys::{self, Fate, Feature};
use crate::properties::{self, Property};
use crate::text::{ConfigError, ConfigErrors, Notice};

/// The least limit on memory that makes sense, in MB.
const MEMORY_MB_MIN: i64 = 64;

/// The configuration of a standalone server, with Java's defaults where a file says nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `dataDir`.
    pub data_dir: PathBuf,
    /// `dataLogDir`, by default `dataDir`.
    pub data_log_dir: PathBuf,
    /// `clientPort`; 0 lets the system choose.
    pub client_port: u16,
    /// `clientPortAddress`: a name or an address; `None` for all of this host's.
    pub client_address: Option<String>,
    /// `tickTime`.
    pub tick: Duration,
    /// `minSessionTimeout`, by default 2 ticks.
    pub session_timeout_min: Duration,
    /// `maxSessionTimeout`, by default 20 ticks.
    pub session_timeout_max: Duration,
    /// `maxClientCnxns`: connections from one address, 0 for no limit.
    pub connections_per_address_max: usize,
    /// `maxCnxns`: connections in all, 0 for no limit.
    pub connections_max: usize,
    /// `clientPortListenBacklog`, -1 for the system's.
    pub listen_backlog: i32,
    /// `clientTcpKeepAlive`.
    pub tcp_keep_alive: bool,
    /// `autopurge.snapRetainCount`.
    pub purge_keep: usize,
    /// `autopurge.purgeInterval`; `None` for never.
    pub purge_interval: Option<Duration>,
    /// `snapCount`.
    pub snap_count: u64,
    /// `snapSizeLimitInKb`, in bytes; `None` if switched off.
    pub snap_bytes: Option<u64>,
    /// `txnLogSizeLimitInKb`, in bytes; 0 for none.
    pub log_file_bytes_max: u64,
    /// `preAllocSize`, in bytes; 0 for none.
    pub prepare_bytes: u64,
    /// `fsync.warningthresholdms`.
    pub fsync_warning: Duration,
    /// `forceSync`: whether a write is on disk before it counts.
    pub force_sync: bool,
    /// `snapshot.compression.method`: empty, `gz` or `snappy`.
    pub snapshot_compression: String,
    /// `snapshot.trust.empty`.
    pub trust_empty: bool,
    /// `datadir.autocreate`.
    pub create_directories: bool,
    /// `digest.enabled`.
    pub digest: bool,
    /// `closeSessionTxn.enabled`.
    pub list_closed: bool,
    /// `serializeLastProcessedZxid.enabled`.
    pub snapshot_last_zxid: bool,
    /// `extendedTypesEnabled`.
    pub extended_types: bool,
    /// `emulate353TTLNodes`.
    pub emulate_353: bool,
    /// `globalOutstandingLimit`.
    pub outstanding_max: usize,
    /// `memoryLimitInMb`, in bytes; `None` for no limit. Java knows no such key.
    pub memory_max: Option<u64>,
    /// `largeRequestThreshold`: frames above this count as large; `None` if none does.
    pub large_request_bytes: Option<usize>,
    /// `largeRequestMaxBytes`: large frames on their way in all.
    pub large_requests_bytes_max: usize,
    /// `request_throttle_max_requests`, 0 for no limit.
    pub throttle_requests: usize,
    /// `connection_throttle_*`.
    pub throttle_connections: ConnectionThrottle,
    /// `enforceQuota`.
    pub enforce_quota: bool,
    /// `skipACL`.
    pub skip_acl: bool,
    /// `4lw.commands.whitelist`.
    pub four_letter_words: FourLetterWords,
    /// `nio.sessionlessCnxnTimeout`.
    pub sessionless_timeout: Duration,
    /// `DigestAuthenticationProvider.enabled`.
    pub digest_auth: bool,
    /// `DigestAuthenticationProvider.digestAlg`: SHA1, SHA-256, SHA-384 or SHA-512.
    pub digest_algorithm: String,
    /// `DigestAuthenticationProvider.superDigest`.
    pub super_digest: Option<String>,
    /// `enforce.auth.schemes`, if `enforce.auth.enabled`; `sasl` if `sessionRequireClientSASLAuth`.
    pub enforced_schemes: Option<Vec<String>>,
    /// `ensembleAuthName`.
    pub ensemble_names: Vec<String>,
    /// `reconfigEnabled`.
    pub reconfig: bool,
    /// `jute.maxbuffer`: the longest frame.
    pub frame_bytes_max: usize,
    /// `zookeeper.jute.maxbuffer.extrasize`.
    pub frame_extra_bytes: usize,
    /// `znode.container.checkIntervalMs`.
    pub container_check: Duration,
    /// `znode.container.maxPerMinute`.
    pub containers_per_minute: u32,
    /// `znode.container.maxNeverUsedIntervalMs`; zero for never.
    pub container_never_used: Duration,
}

/// How many sessions may be opened or taken up per time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ConnectionThrottle {
    /// `connection_throttle_tokens`; 0 switches it off.
    pub tokens: i64,
    /// `connection_throttle_fill_time`.
    pub fill_ms: i64,
    /// `connection_throttle_fill_count`.
    pub fill_count: i64,
    /// `connection_throttle_freeze_time`; -1 for no random refusals.
    pub freeze_ms: i64,
    /// `connection_throttle_drop_increase`.
    pub drop_increase: f64,
    /// `connection_throttle_drop_decrease`.
    pub drop_decrease: f64,
    /// `connection_throttle_decrease_ratio`.
    pub decrease_ratio: f64,
    /// Tokens that a new session takes.
    pub new_weight: i64,
    /// Tokens that a session taken up again takes.
    pub renew_weight: i64,
}

impl ConnectionThrottle {
    /// Java's defaults: switched off.
    pub const OFF: ConnectionThrottle = ConnectionThrottle {
        tokens: 0,
        fill_ms: 1,
        fill_count: 1,
        freeze_ms: -1,
        drop_increase: 0.02,
        drop_decrease: 0.002,
        decrease_ratio: 0.0,
        new_weight: 1,
        renew_weight: 1,
    };
}

/// Which four-letter words are answered, besides `srvr`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FourLetterWords {
    /// `*`.
    All,
    /// These.
    Some(BTreeSet<String>),
}

impl FourLetterWords {
    /// Whether a word is answered.
    #[must_use]
    pub fn allow(&self, word: &str) -> bool {
        word == "srvr"
            || match self {
                FourLetterWords::All => true,
                FourLetterWords::Some(words) => words.contains(word),
            }
    }
}

/// A configuration, and what there is to say about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    /// What was understood.
    pub config: Config,
    /// What an operator should know.
    pub notices: Vec<Notice>,
}

impl Config {
    /// Java's defaults, for a server that keeps its data in `data_dir` and listens on `client_port`.
    #[must_use]
    pub fn standalone(data_dir: impl Into<PathBuf>, client_port: u16) -> Config {
        let data_dir = data_dir.into();
        Config {
            data_log_dir: data_dir.clone(),
            data_dir,
            client_port,
            client_address: None,
            tick: Duration::from_millis(3000),
            session_timeout_min: Duration::from_millis(6000),
            session_timeout_max: Duration::from_millis(60_000),
            connections_per_address_max: 60,
            connections_max: 0,
            listen_backlog: -1,
            tcp_keep_alive: false,
            purge_keep: 3,
            purge_interval: None,
            snap_count: 100_000,
            snap_bytes: Some(4_194_304 << 10),
            log_file_bytes_max: 0,
            prepare_bytes: 65_536 << 10,
            fsync_warning: Duration::from_millis(1000),
            force_sync: true,
            snapshot_compression: String::new(),
            trust_empty: false,
            create_directories: true,
            digest: true,
            list_closed: true,
            snapshot_last_zxid: true,
            extended_types: false,
            emulate_353: false,
            outstanding_max: 1000,
            memory_max: None,
            large_request_bytes: None,
            large_requests_bytes_max: 100 << 20,
            throttle_requests: 0,
            throttle_connections: ConnectionThrottle::OFF,
            enforce_quota: false,
            skip_acl: false,
            four_letter_words: FourLetterWords::Some(BTreeSet::from(["srvr".to_owned()])),
            sessionless_timeout: Duration::from_millis(10_000),
            digest_auth: true,
            digest_algorithm: "SHA1".to_owned(),
            super_digest: None,
            enforced_schemes: None,
            ensemble_names: Vec::new(),
            reconfig: false,
            frame_bytes_max: 0xf_ffff,
            frame_extra_bytes: 0xf_ffff,
            container_check: Duration::from_millis(60_000),
            containers_per_minute: 10_000,
            container_never_used: Duration::ZERO,
        }
    }

    /// Reads a configuration: the bytes of `zoo.cfg`, then definitions of the command line (`-Dkey=value`)
    /// and of `SERVER_JVMFLAGS` and `JVMFLAGS`. As in Java a key of the file wins over a definition.
    ///
    /// # Errors
    /// Everything that is wrong, each with its line. Java's exit code for it is 2.
    pub fn parse(file_name: &str, bytes: &[u8], definitions: &[Property]) -> Result<Parsed, ConfigErrors> {
        Reading::new(file_name, properties::parse(bytes), definitions).config()
    }
}

/// The values under their names in `zoo.cfg`, and what is found on the way.
pub(crate) struct Reading<'a> {
    pub(crate) file: &'a str,
    pub(crate) values: BTreeMap<String, Property>,
    /// Definitions without the prefix `zookeeper.`.
    bare: BTreeMap<String, Property>,
    pub(crate) errors: Vec<ConfigError>,
    notices: Vec<Notice>,
}

impl<'a> Reading<'a> {
    pub(crate) fn new(
        file: &'a str,
        file_properties: Vec<Property>,
        definitions: &[Property],
    ) -> Reading<'a> {
        let mut reading = Reading {
            file,
            values: BTreeMap::new(),
            bare: BTreeMap::new(),
            errors: Vec::new(),
            notices: Vec::new(),
        };
        for definition in definitions {
            match definition.key.strip_prefix("zookeeper.") {
                Some(key) => {
                    reading.values.insert(key.to_owned(), definition.clone());
                }
                None => {
                    reading.bare.insert(definition.key.clone(), definition.clone());
                }
            }
        }
        let mut features: BTreeMap<Feature, String> = BTreeMap::new();
        for property in file_properties {
            reading.note_fate(&property, &mut features);
            if matches!(keys::fate(&property.key), Some(Fate::CommandLineOnly)) {
                continue;
            }
            let key = property.key.clone();
            let line = property.line;
            if let Some(before) = reading.values.insert(key.clone(), property)
                && before.line > 0
            {
                let text =
                    format!("{key} is given twice, on lines {} and {line}; the last one counts", before.line);
                reading.notices.push(Notice::warning(line, &key, text));
            }
        }
        for (feature, key) in features {
            let text = format!("{} is configured ({key}) but not served by this version", feature.name());
            reading.notices.push(Notice::warning(0, &key, text));
        }
        reading
    }

    fn note_fate(&mut self, property: &Property, features: &mut BTreeMap<Feature, String>) {
        let Property { key, line, .. } = property;
        match keys::fate(key) {
            Some(Fate::Honoured) => {}
            Some(Fate::JavaOnly) => {
                let text = format!("{key} only makes sense in Java; it is ignored");
                self.notices.push(Notice::info(*line, key, text));
            }
            Some(Fate::CommandLineOnly) => {
                let text = format!(
                    "{key} is ignored in a file, as Java does: give it as -D{key}=… on the command line or in \
                     SERVER_JVMFLAGS"
                );
                self.notices.push(Notice::warning(*line, key, text));
            }
            Some(Fate::Later(feature)) => {
                features.entry(feature).or_insert_with(|| key.clone());
            }
            None => {
                let hint =
                    keys::nearest(key).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
                self.notices.push(Notice::warning(*line, key, format!("{key} is no key of ZooKeeper{hint}")));
            }
        }
    }

    pub(crate) fn error(&mut self, property: &Property, expected: impl Into<String>) {
        self.errors.push(ConfigError {
            file: self.file.to_owned(),
            line: property.line,
            key: property.key.clone(),
            found: Some(property.value.clone()),
            expected: expected.into(),
        });
    }

    pub(crate) fn missing(&mut self, key: &str, expected: &str) {
        self.errors.push(ConfigError {
            file: self.file.to_owned(),
            line: 0,
            key: key.to_owned(),
            found: None,
            expected: expected.to_owned(),
        });
    }

    pub(crate) fn text(&self, key: &str) -> Option<Property> {
        self.values.get(key).cloned()
    }

    /// A whole number from `min` to `max`, or what `default` says.
    pub(crate) fn number(&mut self, key: &str, default: i64, min: i64, max: i64) -> i64 {
        let property = self.values.get(key).or_else(|| self.bare.get(key)).cloned();
        let Some(property) = property else { return default };
        match property.value.parse::<i64>() {
            Ok(value) if (min..=max).contains(&value) => value,
            _ => {
                let expected = match (min, max) {
                    (i64::MIN, _) => "a whole number".to_owned(),
                    (_, i64::MAX) => format!("a whole number of at least {min}"),
                    _ => format!("a whole number from {min} to {max}"),
                };
                self.error(&property, expected);
                default
            }
        }
    }

    pub(crate) fn size(&mut self, key: &str, default: usize) -> usize {
        let default = i64::try_from(default).unwrap_or(i64::MAX);
        usize::try_from(self.number(key, default, 0, i32::MAX.into())).unwrap_or(usize::MAX)
    }

    pub(crate) fn millis(&mut self, key: &str, default_ms: i64, min_ms: i64) -> Duration {
        Duration::from_millis(self.number(key, default_ms, min_ms, i32::MAX.into()).unsigned_abs())
    }

    /// A named key of Java's configuration: anything but true and false is an error.
    pub(crate) fn strict_bool(&mut self, key: &str, default: bool) -> bool {
        let Some(property) = self.text(key) else { return default };
        match property.value.to_lowercase().as_str() {
            "true" => true,
            "false" => false,
            _ => {
                self.error(&property, "true or false");
                default
            }
        }
    }

    /// A system property in Java: anything but true is false.
    pub(crate) fn property_bool(&self, key: &str, default: bool) -> bool {
        self.values.get(key).map_or(default, |property| property.value.eq_ignore_ascii_case("true"))
    }

    fn config(mut self) -> Result<Parsed, ConfigErrors> {
        self.check_ensemble();
        let data_dir = match self.text("dataDir") {
            Some(property) if !property.value.is_empty() => PathBuf::from(property.value),
            Some(property) => {
                self.error(&property, "the directory that holds the snapshots");
                PathBuf::new()
            }
            None => {
                self.missing("dataDir", "the directory that holds the snapshots");
                PathBuf::new()
            }
        };
        let port = self.client_port();
        let mut config = Config::standalone(data_dir, port);
        self.addresses(&mut config);
        self.sessions(&mut config);
        self.storage(&mut config);
        self.limits(&mut config);
        self.authentication(&mut config);
        if self.errors.is_empty() {
            Ok(Parsed { config, notices: self.notices })
        } else {
            Err(ConfigErrors(self.errors))
        }
    }

    fn check_ensemble(&mut self) {
        let servers: Vec<Property> = self
            .values
            .iter()
            .filter(|(key, _)| key.starts_with("server."))
            .map(|(_, p)| p.clone())
            .collect();
        let standalone = self.strict_bool("standaloneEnabled", true);
        if let Some(property) = self.text("electionAlg")
            && property.value != "3"
        {
            self.error(&property, "3, the only election that is left");
        }
        let (first, dynamic) = (servers.first().cloned(), self.text("dynamicConfigFile"));
        match (first, dynamic) {
            (Some(property), _) if servers.len() > 1 || !standalone => {
                self.error(
                    &property,
                    "no server lines, or one with standaloneEnabled=true: this version serves \
                                       alone, not in an ensemble",
                );
            }
            (_, Some(property)) => {
                self.error(&property, "no dynamicConfigFile: this version serves alone, not in an ensemble");
            }
            _ => {}
        }
    }

    fn client_port(&mut self) -> u16 {
        if self.text("clientPort").is_none() {
            let needed = if self.text("secureClientPort").is_some() {
                "a port: this version does not serve TLS, so secureClientPort alone would serve nobody"
            } else {
                "the port that clients connect to"
            };
            self.missing("clientPort", needed);
        }
        u16::try_from(self.number("clientPort", 2181, 0, 65_535)).unwrap_or(2181)
    }

    fn addresses(&mut self, config: &mut Config) {
        config.data_log_dir = self.text("dataLogDir").map_or(config.data_dir.clone(), |p| p.value.into());
        let relative = [("dataDir", &config.data_dir), ("dataLogDir", &config.data_log_dir)];
        for (key, dir) in relative {
            let line = self.values.get(key).map(|property| property.line);
            if let Some(line) = line.filter(|_| dir.is_relative()) {
                let text = format!("{} is relative. Prepend ./ to indicate that you're sure!", dir.display());
                if !dir.starts_with(".") {
                    self.notices.push(Notice::warning(line, key, text));
                }
            }
        }
        config.client_address =
            self.text("clientPortAddress").map(|property| without_brackets(&property.value).to_owned());
        config.listen_backlog =
            i32::try_from(self.number("clientPortListenBacklog", -1, -1, 65_535)).unwrap_or(-1);
        config.tcp_keep_alive = self.property_bool("clientTcpKeepAlive", false);
    }

    fn sessions(&mut self, config: &mut Config) {
        config.tick = self.millis("tickTime", 3000, 1);
        let tick_ms = i64::try_from(config.tick.as_millis()).unwrap_or(3000);
        let timeout = |reading: &mut Self, key: &str, ticks: i64| {
            let value = reading.number(key, -1, -1, i32::MAX.into());
            let value = if value == -1 { tick_ms.saturating_mul(ticks).min(i32::MAX.into()) } else { value };
            Duration::from_millis(value.unsigned_abs())
        };
        config.session_timeout_min = timeout(self, "minSessionTimeout", 2);
        config.session_timeout_max = timeout(self, "maxSessionTimeout", 20);
        if config.session_timeout_min > config.session_timeout_max {
            let max = config.session_timeout_max.as_millis();
            let given = self.text("minSessionTimeout").or_else(|| self.text("maxSessionTimeout"));
            match given {
                Some(property) => self.error(&property, format!("at most maxSessionTimeout, which is {max}")),
                None => self.missing("minSessionTimeout", "at most maxSessionTimeout"),
            }
        }
        config.sessionless_timeout = self.millis("nio.sessionlessCnxnTimeout", 10_000, 1);
    }

    fn storage(&mut self, config: &mut Config) {
        let keep = self.number("autopurge.snapRetainCount", 3, i64::MIN, i64::MAX);
        if keep < 3 {
            let line = self.values.get("autopurge.snapRetainCount").map_or(0, |property| property.line);
            let text = format!("Invalid autopurge.snapRetainCount: {keep}. Defaulting to 3");
            self.notices.push(Notice::warning(line, "autopurge.snapRetainCount", text));
        }
        config.purge_keep = usize::try_from(keep.max(3)).unwrap_or(3);
        let hours = self.number("autopurge.purgeInterval", 0, i64::MIN, i32::MAX.into());
        config.purge_interval = (hours > 0).then(|| Duration::from_secs(hours.unsigned_abs() * 3600));
        config.snap_count = self.number("snapCount", 100_000, i64::MIN, i64::MAX).max(2).unsigned_abs();
        let snap_kb = self.number("snapSizeLimitInKb", 4_194_304, i64::MIN, i64::MAX >> 10);
        config.snap_bytes = (snap_kb > 0).then(|| snap_kb.unsigned_abs() << 10);
        let log_kb = self.number("txnLogSizeLimitInKb", -1, -1, i64::MAX >> 10);
        config.log_file_bytes_max = if log_kb > 0 { log_kb.unsigned_abs() << 10 } else { 0 };
        let prepare_kb = self.number("preAllocSize", 65_536, i64::MIN, i64::MAX >> 10);
        config.prepare_bytes = if prepare_kb > 0 { prepare_kb.unsigned_abs() << 10 } else { 0 };
        config.fsync_warning = self.millis("fsync.warningthresholdms", 1000, 0);
        config.force_sync = self.text("forceSync").is_none_or(|property| property.value != "no");
        let method =
            self.text("snapshot.compression.method").map(|property| property.value).unwrap_or_default();
        config.snapshot_compression =
            if matches!(&*method, "gz" | "snappy") { method } else { String::new() };
        config.trust_empty = self.property_bool("snapshot.trust.empty", false);
        config.create_directories = self.property_bool("datadir.autocreate", true);
        config.digest = self.property_bool("digest.enabled", true);
        config.list_closed = self.property_bool("closeSessionTxn.enabled", true);
        config.snapshot_last_zxid = self.property_bool("serializeLastProcessedZxid.enabled", true);
        config.extended_types = self.property_bool("extendedTypesEnabled", false);
        config.emulate_353 = self.property_bool("emulate353TTLNodes", false);
    }

    fn limits(&mut self, config: &mut Config) {
        config.connections_per_address_max = self.size("maxClientCnxns", 60);
        config.connections_max = self.size("maxCnxns", 0);
        config.outstanding_max = self.size("globalOutstandingLimit", 1000);
        config.memory_max = self.memory_limit();
        let threshold = self.number("largeRequestThreshold", -1, i64::MIN, i32::MAX.into());
        config.large_request_bytes = usize::try_from(threshold).ok().filter(|bytes| *bytes > 0);
        config.large_requests_bytes_max = self.size("largeRequestMaxBytes", 100 << 20);
        config.throttle_requests = self.size("request_throttle_max_requests", 0);
        config.throttle_connections = self.connection_throttle();
        config.enforce_quota = self.property_bool("enforceQuota", false);
        config.skip_acl = self.text("skipACL").is_some_and(|property| property.value == "yes");
        let words = self.text("4lw.commands.whitelist").map_or("srvr".to_owned(), |property| property.value);
        config.four_letter_words = if words.trim() == "*" {
            FourLetterWords::All
        } else {
            FourLetterWords::Some(words.split(',').map(|word| word.trim().to_owned()).collect())
        };
        config.frame_bytes_max = self.size("jute.maxbuffer", 0xf_ffff);
        config.frame_extra_bytes = self.size("jute.maxbuffer.extrasize", config.frame_bytes_max.max(1024));
        config.container_check = self.millis("znode.container.checkIntervalMs", 60_000, 1);
        config.containers_per_minute =
            u32::try_from(self.number("znode.container.maxPerMinute", 10_000, 1, i32::MAX.into()))
                .unwrap_or(1);
        config.container_never_used = self.millis("znode.container.maxNeverUsedIntervalMs", 0, 0);
        config.reconfig = self.strict_bool("reconfigEnabled", false);
    }

    fn memory_limit(&mut self) -> Option<u64> {
        let megabytes = self.number("memoryLimitInMb", 0, 0, i64::MAX >> 20);
        if (1..MEMORY_MB_MIN).contains(&megabytes)
            && let Some(property) = self.text("memoryLimitInMb")
        {
            self.error(&property, "0 for no limit, or at least 64: the server itself takes some");
        }
        (megabytes > 0).then(|| megabytes.unsigned_abs() << 20)
    }

    /// With weights, tokens are counted in those of a new session.
    fn connection_throttle(&mut self) -> ConnectionThrottle {
        let off = ConnectionThrottle::OFF;
        let int = i64::from(i32::MAX);
        let weighted = self.property_bool("connection_throttle_weight_enabled", false);
        let new_weight = self.number("connection_throttle_global_session_weight", 3, 1, int);
        let renew_weight = self.number("connection_throttle_renew_session_weight", 2, 1, int);
        let (new_weight, renew_weight) = if weighted { (new_weight, renew_weight) } else { (1, 1) };
        ConnectionThrottle {
            tokens: self.number("connection_throttle_tokens", off.tokens, 0, int) * new_weight,
            fill_ms: self.number("connection_throttle_fill_time", off.fill_ms, 1, int),
            fill_count: self.number("connection_throttle_fill_count", off.fill_count, 0, int) * new_weight,
            freeze_ms: self.number("connection_throttle_freeze_time", off.freeze_ms, -1, int),
            drop_increase: self.fraction("connection_throttle_drop_increase", off.drop_increase),
            drop_decrease: self.fraction("connection_throttle_drop_decrease", off.drop_decrease),
            decrease_ratio: self.fraction("connection_throttle_decrease_ratio", off.decrease_ratio),
            new_weight,
            renew_weight,
        }
    }

    pub(crate) fn fraction(&mut self, key: &str, default: f64) -> f64 {
        let Some(property) = self.text(key) else { return default };
        match property.value.parse::<f64>() {
            Ok(value) if (0.0..=1.0).contains(&value) => value,
            _ => {
                self.error(&property, "a number from 0 to 1");
                default
            }
        }
    }

    fn authentication(&mut self, config: &mut Config) {
        config.digest_auth = self.property_bool("DigestAuthenticationProvider.enabled", true);
        config.super_digest =
            self.text("DigestAuthenticationProvider.superDigest").map(|property| property.value);
        if let Some(property) = self.text("DigestAuthenticationProvider.digestAlg") {
            if !["SHA1", "SHA-256", "SHA-384", "SHA-512"].contains(&&*property.value) {
                self.error(&property, "SHA1, SHA-256, SHA-384 or SHA-512");
            }
            config.digest_algorithm = property.value;
        }
        config.ensemble_names = self.list("ensembleAuthName");
        if self.property_bool("sessionRequireClientSASLAuth", false) {
            config.enforced_schemes = Some(vec!["sasl".to_owned()]);
        } else if self.property_bool("enforce.auth.enabled", false) {
            let schemes = self.list("enforce.auth.schemes");
            if schemes.is_empty() {
                self.missing(
                    "enforce.auth.schemes",
                    "at least one scheme, since enforce.auth.enabled is true",
                );
            }
            for scheme in &schemes {
                let known = ["ip", "digest", "sasl", "x509"].contains(&&**scheme);
                if let Some(property) = self.text("enforce.auth.schemes").filter(|_| !known) {
                    self.error(&property, format!("known schemes; {scheme} is none"));
                }
            }
            config.enforced_schemes = Some(schemes);
        }
        let unserved = |scheme: &&String| ["sasl", "x509"].contains(&scheme.as_str());
        if let Some(scheme) = config.enforced_schemes.iter().flatten().find(unserved) {
            let text = format!(
                "clients must authenticate by {scheme}, which this version does not serve: none gets in"
            );
            self.notices.push(Notice::warning(0, "enforce.auth.schemes", text));
        }
    }

    fn list(&self, key: &str) -> Vec<String> {
        let text = self.values.get(key).map(|property| property.value.as_str()).unwrap_or_default();
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
    }
}

/// An address of IPv6 may stand in one pair of brackets.
fn without_brackets(text: &str) -> &str {
    let within = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    within.filter(|within| !within.is_empty()).unwrap_or(text)
}

/// The address to bind, as text for whoever resolves names: all of this host's if none is given, and the loopback
/// address for an empty name, as Java resolves it.
///
/// Source: `InetAddress.getByName`.
#[must_use]
pub fn bind_address(config: &Config) -> String {
    match config.client_address.as_deref() {
        None => Ipv6Addr::UNSPECIFIED.to_string(),
        Some("") => Ipv4Addr::LOCALHOST.to_string(),
        Some(name) => name.to_owned(),
    }
}
