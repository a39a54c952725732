//! The settings of an ensemble as operators write them.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::PathBuf;
use std::time::Duration;

use expect_test::expect;
use oxkeeper_config::dynamic::Rules;
use oxkeeper_config::{Config, EnsembleSettings, Servers, properties};
use oxkeeper_proto::{MemberRole, ServerId};
use proptest::prelude::*;

fn parse(text: &str, flags: &str) -> Result<Option<EnsembleSettings>, String> {
    let definitions = properties::from_jvm_flags(flags);
    EnsembleSettings::parse("zoo.cfg", text.as_bytes(), &definitions).map_err(|errors| errors.to_string())
}

const THREE: &str = "initLimit=10\nsyncLimit=5\nserver.1=a:1:2\nserver.2=b:1:2\nserver.3=c:1:2\n";

#[test]
fn three_servers_make_an_ensemble_with_javas_defaults() {
    let settings = parse(THREE, "").unwrap().unwrap();
    let Servers::Here(config) = &settings.servers else { panic!("{settings:?}") };
    assert_eq!(config.voters().collect::<Vec<_>>(), [1, 2, 3].map(ServerId));
    assert_eq!((settings.init_limit, settings.sync_limit, settings.connect_limit), (10, 5, 10));
    assert!(settings.sync_enabled && settings.create_database && settings.leader_serves);
    assert_eq!(settings.rules, Rules { standalone: true, multi_address: false });
    assert_eq!(settings.peers.notification_min, Duration::from_millis(200));
    assert_eq!(settings.peers.bind_tries, Some(3));
    assert_eq!((settings.sync.history, settings.sync.log_factor), (500, Some(0.33)));
    assert_eq!(settings.observer_master_port, None);
}

#[test]
fn keys_are_read() {
    let text = format!(
        "{THREE}connectToLearnerMasterLimit=7\npeerType=Observer\nobserverMasterPort=2191\n\
         electionPortBindRetry=0\ncommitLogCount=9\nsnapshotSizeFactor=-1\nleaderServes=no\noraclePath=/o\n\
         fastleader.maxNotificationInterval=9000\nlocalSessionsEnabled=true\nleader.maxTimeToWaitForEpoch=50\n\
         server.4=[::1]:5:6:observer|d:5:6:observer;7\n"
    );
    let settings = parse(&text, "-Dzookeeper.multiAddress.enabled=true").unwrap().unwrap();
    assert_eq!(settings.connect_limit, 7);
    assert_eq!(settings.peer_type, Some(MemberRole::Observer));
    assert_eq!(settings.observer_master_port, Some(2191));
    assert_eq!((settings.sync.history, settings.sync.log_factor), (500, None));
    assert_eq!((settings.leader_serves, settings.local_sessions), (false, true));
    assert_eq!(settings.oracle, Some(PathBuf::from("/o")));
    assert_eq!(settings.peers.bind_tries, None);
    assert_eq!(settings.peers.notification_max, Duration::from_secs(9));
    assert_eq!(settings.peers.epoch_wait_max, Some(Duration::from_millis(50)));
}

#[test]
fn one_server_serves_alone_unless_that_is_switched_off() {
    assert_eq!(parse("dataDir=/d\nclientPort=1\n", ""), Ok(None));
    assert_eq!(parse("server.1=a:1:2\n", ""), Ok(None));
    let quorum = "standaloneEnabled=false\ninitLimit=1\nsyncLimit=1\n";
    assert!(parse(&format!("{quorum}server.1=a:1:2\n"), "").unwrap().is_some());
    assert!(parse(quorum, "").is_err());
}

#[test]
fn a_dynamic_file_names_the_servers() {
    let text = "initLimit=1\nsyncLimit=1\ndynamicConfigFile=/conf/zoo.cfg.dynamic.100000000\n";
    let settings = parse(text, "").unwrap().unwrap();
    assert_eq!(settings.servers, Servers::In("/conf/zoo.cfg.dynamic.100000000".into()));
    let both = parse(&format!("{text}server.1=a:1:2\ngroup.1=1\n"), "").unwrap_err();
    expect![[r#"
        zoo.cfg:5: group.1=1: expected no servers here, since dynamicConfigFile names a file that lists them
        zoo.cfg:4: server.1=a:1:2: expected no servers here, since dynamicConfigFile names a file that lists them"#]]
    .assert_eq(&both);
}

#[test]
fn everything_wrong_is_said_at_once() {
    let text = "electionAlg=1\nsyncLimit=0\npeerType=voter\nsnapshotSizeFactor=x\nobserverMasterPort=70000\n\
                server.1=a:1:2\nserver.2=a:1:3\nsyncEnabled=maybe\n";
    expect![[r#"
        zoo.cfg:1: electionAlg=1: expected 3, the only election that is left
        zoo.cfg: initLimit is missing: expected ticks that a server may take to join its leader
        zoo.cfg:2: syncLimit=0: expected a whole number from 1 to 2147483647
        zoo.cfg:3: peerType=voter: expected participant or observer
        zoo.cfg:8: syncEnabled=maybe: expected true or false
        zoo.cfg:5: observerMasterPort=70000: expected a whole number from 0 to 65535
        zoo.cfg:4: snapshotSizeFactor=x: expected a number; a negative one never sends the log"#]]
    .assert_eq(&parse(text, "").unwrap_err());
    expect!["zoo.cfg:3: server.2=b: expected host:port:port[:role][|…][;[host:]port]"]
        .assert_eq(&parse("initLimit=1\nsyncLimit=1\nserver.2=b\n", "").unwrap_err());
}

/// A server that is told of others refused to start before it could be one of several, and still does.
#[test]
fn a_standalone_configuration_is_read_as_before() {
    let alone = "dataDir=/d\nclientPort=1\nserver.1=whatever\n";
    assert!(Config::parse("zoo.cfg", alone.as_bytes(), &[]).is_ok());
    let several = format!("dataDir=/d\nclientPort=1\n{THREE}");
    let refused = Config::parse("zoo.cfg", several.as_bytes(), &[]).unwrap_err().to_string();
    assert!(refused.contains("this version serves alone"), "{refused}");
}

proptest! {
    #[test]
    fn any_file_is_read(text in "(server\\.[0-9]|group\\.1|weight\\.1|initLimit|dynamicConfigFile|[=:;|\n]|[0-9a]){0,40}") {
        let _ = parse(&text, "");
        let _ = oxkeeper_config::dynamic::parse("zoo.cfg.dynamic.1", text.as_bytes(), Rules {
            standalone: false,
            multi_address: true,
        });
    }
}
