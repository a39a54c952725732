//! Dynamic configuration files: the servers of an ensemble, apart from `zoo.cfg` so that they can change.
//!
//! `zoo.cfg.dynamic.<version>` holds the configuration in force, its version in its name; `zoo.cfg.dynamic.next`
//! one that was proposed, its version inside. `zoo.cfg` only points to the former.
//!
//! Source: `QuorumPeerConfig`, 3.9.

use oxkeeper_proto::{EnsembleConfig, MemberRole, Zxid};

use crate::properties::{self, Property};
use crate::text::{ConfigError, ConfigErrors};

/// What a configuration may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// `standaloneEnabled`: a single participant serves alone.
    pub standalone: bool,
    /// `multiAddress.enabled`: a server may have several addresses.
    pub multi_address: bool,
}

impl Rules {
    /// Whether a server with this configuration is to serve alone.
    #[must_use]
    pub fn is_alone(&self, config: &EnsembleConfig) -> bool {
        self.standalone && config.voters().count() <= 1
    }

    /// What is wrong with a configuration whose entries are right one by one.
    pub(crate) fn check(
        &self,
        file: &str,
        config: &EnsembleConfig,
        entries: &[Property],
    ) -> Vec<ConfigError> {
        let mut wrong = Vec::new();
        let line_of = |key: &str| entries.iter().find(|entry| entry.key == key);
        let mut add = |key: &str, expected: &str| {
            let entry = line_of(key);
            wrong.push(ConfigError {
                file: file.to_owned(),
                line: entry.map_or(0, |entry| entry.line),
                key: key.to_owned(),
                found: entry.map(|entry| entry.value.clone()),
                expected: expected.to_owned(),
            });
        };
        let observer = config.members().iter().find(|(_, member)| member.role == MemberRole::Observer);
        match (config.voters().count(), observer) {
            (0, Some((id, _))) => add(&format!("server.{id}"), "at least one participant beside observers"),
            (0, None) if !self.standalone => {
                add("server.N", "at least one participant, since standaloneEnabled is false");
            }
            (1, Some((id, _))) if self.standalone => {
                add(&format!("server.{id}"), "more than one participant beside observers");
            }
            _ => {}
        }
        for (id, member) in config.members() {
            if member.addresses().len() > 1 && !self.multi_address {
                add(&format!("server.{id}"), "one address, since multiAddress.enabled is not true");
            }
        }
        wrong
    }
}

/// Builds a configuration from properties, in whatever order.
pub(crate) fn from_properties(file: &str, entries: &[Property]) -> Result<EnsembleConfig, ConfigError> {
    let pairs = entries.iter().map(|entry| (entry.key.trim(), entry.value.trim()));
    EnsembleConfig::from_entries(pairs).map_err(|error| ConfigError {
        file: file.to_owned(),
        line: entries.iter().rfind(|entry| entry.key.trim() == error.key).map_or(0, |entry| entry.line),
        key: error.key,
        found: Some(error.found),
        expected: error.expected,
    })
}

/// Reads a file that holds the configuration in force. Its version is that of its name.
///
/// # Errors
/// What is wrong, with its line.
pub fn parse(file_name: &str, bytes: &[u8], rules: Rules) -> Result<EnsembleConfig, ConfigErrors> {
    let entries = properties::parse(bytes);
    if let Some(version) = entries.iter().find(|entry| entry.key.trim() == "version") {
        return Err(ConfigErrors(vec![ConfigError {
            file: file_name.to_owned(),
            line: version.line,
            key: version.key.clone(),
            found: Some(version.value.clone()),
            expected: "no version here, since the name of the file tells it".to_owned(),
        }]));
    }
    let config = parse_entries(file_name, &entries, rules)?;
    Ok(config.with_version(version_of(file_name)))
}

/// Reads `zoo.cfg.dynamic.next`, which holds its version.
///
/// # Errors
/// What is wrong, with its line.
pub fn parse_next(file_name: &str, bytes: &[u8], rules: Rules) -> Result<EnsembleConfig, ConfigErrors> {
    parse_entries(file_name, &properties::parse(bytes), rules)
}

fn parse_entries(file: &str, entries: &[Property], rules: Rules) -> Result<EnsembleConfig, ConfigErrors> {
    let config = from_properties(file, entries).map_err(|error| ConfigErrors(vec![error]))?;
    let wrong = rules.check(file, &config, entries);
    if wrong.is_empty() { Ok(config) } else { Err(ConfigErrors(wrong)) }
}

/// The version in a file's name: the hex digits behind its last dot, else 0.
#[must_use]
pub fn version_of(file_name: &str) -> Zxid {
    let suffix = file_name.rsplit_once('.').map_or("", |(_, suffix)| suffix);
    let is_hex = !suffix.is_empty() && suffix.bytes().all(|b| b.is_ascii_hexdigit());
    Zxid(if is_hex { i64::from_str_radix(suffix, 16).unwrap_or(0) } else { 0 })
}

/// The name of the file for the configuration in force, beside a `zoo.cfg` of this name.
#[must_use]
pub fn file_name(static_file: &str, version: Zxid) -> String {
    format!("{static_file}.dynamic.{:x}", version.0)
}

/// The content of a file for the configuration in force.
#[must_use]
pub fn text(config: &EnsembleConfig) -> String {
    sorted(config, |line| !line.starts_with("version="))
}

/// The content of `zoo.cfg.dynamic.next`.
#[must_use]
pub fn next_text(config: &EnsembleConfig) -> String {
    sorted(config, |_| true)
}

fn sorted(config: &EnsembleConfig, keep: impl Fn(&str) -> bool) -> String {
    let text = config.to_string();
    let mut lines: Vec<&str> = text.lines().filter(|line| keep(line)).collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// What becomes of `zoo.cfg` when a configuration comes into force: all that the dynamic file says now leaves
/// it, and a line points to that file. The client port leaves it too if this server's line has a client
/// address. Comments go, as with Java.
#[must_use]
pub fn static_text(static_file: &[u8], dynamic_file: &str, has_client_address: bool) -> String {
    let mut prefixes = vec!["server.", "group", "weight", "dynamicConfigFile", "peerType"];
    if has_client_address {
        prefixes.push("clientPort");
    }
    let mut out = String::new();
    for Property { key, value, .. } in properties::parse(static_file) {
        if !prefixes.iter().any(|prefix| key.trim().starts_with(prefix)) {
            out += &format!("{}={}\n", escaped(&key), escaped(&value));
        }
    }
    out + &format!("dynamicConfigFile={}\n", escaped(dynamic_file))
}

/// Backslashes doubled: in a property they would quote what follows.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { standalone: true, multi_address: false };

    #[test]
    fn a_file_of_3_8_is_read_and_written_as_it_was() {
        let file = "server.1=127.0.0.1:31281:31381:participant;127.0.0.1:31181\n\
                    server.2=127.0.0.1:31282:31382:participant;127.0.0.1:31182";
        let config = parse("zoo.cfg.dynamic.100000019", file.as_bytes(), RULES).unwrap();
        assert_eq!(config.version, Zxid::new(1, 0x19));
        assert_eq!(text(&config), file);
        assert_eq!(next_text(&config), format!("{file}\nversion=100000019"));
        assert_eq!(parse_next("zoo.cfg.dynamic.next", next_text(&config).as_bytes(), RULES).unwrap(), config);
        assert_eq!(file_name("zoo.cfg", config.version), "zoo.cfg.dynamic.100000019");
    }

    #[test]
    fn lines_are_sorted_as_text() {
        let config = EnsembleConfig::parse("server.2=b:1:2\nserver.10=a:1:2\ngroup.1=2:10").unwrap();
        let text = text(&config);
        let keys: Vec<&str> = text.lines().map(|line| line.split('=').next().unwrap()).collect();
        assert_eq!(keys, ["group.1", "server.10", "server.2", "weight.10", "weight.2"]);
    }

    #[test]
    fn names_tell_versions() {
        for (name, version) in [
            ("zoo.cfg.dynamic.100000019", 0x1_0000_0019),
            ("zoo.cfg.dynamic", 0),
            ("zoo.cfg.dynamic.next", 0),
            ("servers", 0),
            ("servers.", 0),
            ("a.+5", 0),
            ("a.ffffffffffffffffff", 0),
        ] {
            assert_eq!(version_of(name), Zxid(version), "{name}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let wrong = |text: &str, rules: Rules| parse("dyn", text.as_bytes(), rules).unwrap_err().to_string();
        assert_eq!(
            wrong("\nserver.1=a:1\n", RULES),
            "dyn:2: server.1=a:1: expected host:port:port[:role][|…][;[host:]port]"
        );
        assert_eq!(
            wrong("server.1=a:1:2\nversion=5", RULES),
            "dyn:2: version=5: expected no version here, since the name of the file tells it"
        );
        assert_eq!(
            wrong("server.1=a:1:2\nserver.2=b:1:2:observer", RULES),
            "dyn:2: server.2=b:1:2:observer: expected more than one participant beside observers"
        );
        assert_eq!(
            wrong("server.2=b:1:2:observer", RULES),
            "dyn:1: server.2=b:1:2:observer: expected at least one participant beside observers"
        );
        assert_eq!(
            wrong("", Rules { standalone: false, ..RULES }),
            "dyn: server.N is missing: expected at least one participant, since standaloneEnabled is false"
        );
        assert_eq!(
            wrong("server.1=a:1:2|b:1:2\nserver.2=b:1:4\ntickTime=5", RULES),
            "dyn:3: tickTime=5: expected only server.N, group.N, weight.N and version"
        );
        assert_eq!(
            wrong("server.1=a:1:2|b:1:2\nserver.2=b:1:4", RULES),
            "dyn:1: server.1=a:1:2|b:1:2: expected one address, since multiAddress.enabled is not true"
        );
    }

    #[test]
    fn a_static_file_is_left_with_what_is_its_own() {
        let before = "# words\ntickTime=2000\nserver.1=a:1:2\ngroup.1=1\nweight.1=1\npeerType=observer\n\
                      dataDir=C:\\\\data\nclientPort=2181\nclientPortAddress=h\ndynamicConfigFile=/old\n";
        assert_eq!(
            static_text(before.as_bytes(), "/conf/zoo.cfg.dynamic.5", true),
            "tickTime=2000\ndataDir=C:\\\\data\ndynamicConfigFile=/conf/zoo.cfg.dynamic.5\n"
        );
        let kept = static_text(before.as_bytes(), "/n", false);
        assert!(kept.contains("clientPort=2181\nclientPortAddress=h\n"), "{kept}");
        assert_eq!(static_text(kept.as_bytes(), "/n", false), kept);
    }
}
