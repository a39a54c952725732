//! Configurations as operators write them, and what they are told.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use expect_test::expect;
use oxkeeper_config::{Config, FourLetterWords, Parsed, bind_address, properties};

fn parse(text: &str, flags: &str) -> Result<Parsed, String> {
    let definitions = properties::from_jvm_flags(flags);
    Config::parse("zoo.cfg", text.as_bytes(), &definitions).map_err(|errors| errors.to_string())
}

#[test]
fn the_sample_file_of_java_is_understood() {
    let text = "tickTime=2000\ninitLimit=10\nsyncLimit=5\ndataDir=/tmp/zookeeper\nclientPort=2181\n";
    let Parsed { config, notices } = parse(text, "").unwrap();
    let mut expected = Config::standalone("/tmp/zookeeper", 2181);
    expected.tick = Duration::from_millis(2000);
    expected.session_timeout_min = Duration::from_millis(4000);
    expected.session_timeout_max = Duration::from_millis(40_000);
    assert_eq!(config, expected);
    assert_eq!(notices.len(), 1);
}

#[test]
fn everything_wrong_is_said_at_once() {
    let text = "tickTime=abc\nclientPort=99999\nstandaloneEnabled=maybe\nserver.1=a:1:2\nserver.2=b:1:2\n\
                maxClientCnxns=-3\nminSessionTimeout=9000\nmaxSessionTimeout=8000\n";
    expect![[r#"
        zoo.cfg:3: standaloneEnabled=maybe: expected true or false
        zoo.cfg:4: server.1=a:1:2: expected no server lines, or one with standaloneEnabled=true: this version serves alone, not in an ensemble
        zoo.cfg: dataDir is missing: expected the directory that holds the snapshots
        zoo.cfg:2: clientPort=99999: expected a whole number from 0 to 65535
        zoo.cfg:1: tickTime=abc: expected a whole number from 1 to 2147483647
        zoo.cfg:7: minSessionTimeout=9000: expected at most maxSessionTimeout, which is 8000
        zoo.cfg:6: maxClientCnxns=-3: expected a whole number from 0 to 2147483647"#]]
    .assert_eq(&parse(text, "").unwrap_err());
}

#[test]
fn notices_name_what_is_odd() {
    let text = "dataDir=data\nclientPort=1\nclientPort=2\ntickTme=5\njute.maxbuffer=9\nssl.keyStore.location=x\n\
                ssl.trustStore.location=y\nnio.numWorkerThreads=3\nautopurge.snapRetainCount=1\n";
    let Parsed { config, notices } = parse(text, "-Djute.maxbuffer=4194304 -Dzookeeper.snapCount=7").unwrap();
    assert_eq!((config.client_port, config.frame_bytes_max, config.snap_count), (2, 4_194_304, 7));
    let lines: Vec<String> = notices
        .iter()
        .map(|n| format!("{} {}", if n.is_warning { "WARN" } else { "INFO" }, n.text))
        .collect();
    expect![[r#"
        WARN clientPort is given twice, on lines 2 and 3; the last one counts
        WARN tickTme is no key of ZooKeeper; did you mean tickTime?
        WARN jute.maxbuffer is ignored in a file, as Java does: give it as -Djute.maxbuffer=… on the command line or in SERVER_JVMFLAGS
        INFO nio.numWorkerThreads only makes sense in Java; it is ignored
        WARN TLS is configured (ssl.keyStore.location) but not served by this version
        WARN data is relative. Prepend ./ to indicate that you're sure!
        WARN Invalid autopurge.snapRetainCount: 1. Defaulting to 3"#]]
    .assert_eq(&lines.join("\n"));
}

#[test]
fn the_file_wins_over_definitions() {
    let text = "dataDir=/d\nclientPort=1\nsnapCount=50\n";
    let parsed = parse(text, "-Dzookeeper.snapCount=7 -Dzookeeper.preAllocSize=64").unwrap();
    assert_eq!((parsed.config.snap_count, parsed.config.prepare_bytes), (50, 64 << 10));
}

#[test]
fn never_laxer_than_java() {
    let base = "dataDir=/d\nclientPort=1\n";
    let sasl = parse(&format!("{base}sessionRequireClientSASLAuth=true\n"), "").unwrap();
    assert_eq!(sasl.config.enforced_schemes, Some(vec!["sasl".to_owned()]));
    assert!(sasl.notices.iter().any(|notice| notice.text.contains("none gets in")));
    assert!(parse(&format!("{base}enforce.auth.enabled=true\n"), "").is_err());
    assert!(parse(&format!("{base}enforce.auth.enabled=true\nenforce.auth.schemes=nope\n"), "").is_err());
    let secure = parse("dataDir=/d\nsecureClientPort=2281\n", "").unwrap_err();
    assert!(secure.contains("serve nobody"), "{secure}");
}

#[test]
fn whitelists() {
    let words = |value: &str| {
        parse(&format!("dataDir=/d\nclientPort=1\n4lw.commands.whitelist={value}\n"), "")
            .unwrap()
            .config
            .four_letter_words
    };
    assert_eq!(words("*"), FourLetterWords::All);
    assert!(words("ruok, stat").allow("stat") && words("ruok").allow("srvr") && !words("ruok").allow("stat"));
}

#[test]
fn a_limit_on_memory_leaves_room_for_the_server_itself() {
    let limit = |value: &str| {
        let text = format!("dataDir=/d\nclientPort=1\nmemoryLimitInMb={value}\n");
        parse(&text, "").map(|parsed| parsed.config.memory_max)
    };
    assert_eq!((limit("0"), limit("64"), limit("512")), (Ok(None), Ok(Some(64 << 20)), Ok(Some(512 << 20))));
    let refused = limit("63").unwrap_err();
    assert!(refused.contains("at least 64") && refused.contains(":3"), "{refused}");
}

#[test]
fn an_empty_address_is_the_loopback_one() {
    let bound = |lines: &str| {
        let text = format!("dataDir=/d\nclientPort=2181\n{lines}");
        bind_address(&parse(&text, "").unwrap().config)
    };
    assert_eq!(bound(""), "::");
    assert_eq!(bound("clientPortAddress=\n"), "127.0.0.1");
    assert_eq!(bound("clientPortAddress=10.0.0.1\n"), "10.0.0.1");
    assert_eq!(bound("clientPortAddress=[::1]\n"), "::1");
    // These resolve to nothing, in Java as well.
    for odd in ["11] ]", "[]", "[::1"] {
        assert_eq!(bound(&format!("clientPortAddress={odd}\n")), odd);
    }
    assert_eq!(bound("clientPortAddress=[[::1]]\n"), "[::1]");
}
