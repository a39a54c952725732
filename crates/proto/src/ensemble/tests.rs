use proptest::prelude::*;

use super::*;

fn parsed(text: &str) -> EnsembleConfig {
    EnsembleConfig::parse(text).unwrap()
}

fn refused(text: &str) -> String {
    EnsembleConfig::parse(text).unwrap_err().to_string()
}

/// Captured from 3.8.0 by `get /zookeeper/config`.
#[test]
fn a_captured_configuration_prints_as_it_was() {
    let text = "server.1=127.0.0.1:31281:31381:participant;127.0.0.1:31181\n\
                server.2=127.0.0.1:31282:31382:participant;127.0.0.1:31182\n\
                server.3=127.0.0.1:31283:31383:observer;127.0.0.1:31183\nversion=100000019";
    let config = parsed(text);
    assert_eq!(config.to_string(), text);
    assert_eq!(config.version, Zxid::new(1, 0x19));
    assert_eq!(config.voters().collect::<Vec<_>>(), [ServerId(1), ServerId(2)]);
    assert!(config.is_observer(ServerId(3)) && !config.is_observer(ServerId(4)));
}

#[test]
fn lines_are_read_in_all_their_forms() {
    for (line, printed) in [
        ("a:1:2", "a:1:2:participant"),
        ("a:1:2:OBSERVER", "a:1:2:observer"),
        ("a:1:2;2181", "a:1:2:participant;0.0.0.0:2181"),
        ("a:1:2:Participant;[::1]:2181", "a:1:2:participant;[::1]:2181"),
        ("[fe80::1]:1:2;h:3", "[fe80::1]:1:2:participant;h:3"),
        ("b:1:2|a:3:4:observer", "a:3:4|b:1:2:observer"),
        (" a:1:2 ; 5 ", "a:1:2:participant;0.0.0.0:5"),
    ] {
        let config = parsed(&format!("server.1={line}"));
        assert_eq!(config.to_string(), format!("server.1={printed}\nversion=0"), "{line}");
        assert_eq!(parsed(&config.to_string()), config);
    }
}

#[test]
fn order_of_lines_does_not_matter() {
    let text = "version=a\nweight.2=3\n# words\n\nserver.2=b:1:2\ngroup.7=1:2\nserver.1=a:1:2";
    assert_eq!(
        parsed(text).to_string(),
        "server.1=a:1:2:participant\nserver.2=b:1:2:participant\ngroup.7=1:2\nweight.1=1\nweight.2=3\nversion=a"
    );
    assert_eq!((parsed(text).weight(ServerId(1)), parsed(text).weight(ServerId(2))), (1, 3));
    assert_eq!(parsed(text).weight(ServerId(3)), 0);
}

#[test]
fn what_is_wrong_is_said_with_its_entry() {
    let form = "host:port:port[:role][|…][;[host:]port]";
    for (text, expected) in [
        ("server.1=a:1", form),
        ("server.1=a:1:2:participant:x", form),
        ("server.1=a:b:2", form),
        ("server.1=::1:1:2", form),
        ("server.1=a:1:2;", form),
        ("server.1=a:1:2;x", form),
        ("server.1=a:1:2;h:1;2", form),
        ("server.1=a:1:1", "two different ports for quorum and election"),
        ("server.1=a:1:2:voter", "participant or observer as role"),
        ("server.1=a:1:2:observer|b:1:2:participant", "the same role for all addresses of a server"),
        ("server.x=a:1:2", "server.N with N at least 0"),
        ("server.-1=a:1:2", "server.N with N at least 0"),
        ("version=xyz", "a hex number"),
        ("tickTime=5", "only server.N, group.N, weight.N and version"),
        ("weight.1=-1", "a whole number of at least 0"),
        ("group.1=1:x", "ids of servers with : between them"),
    ] {
        assert_eq!(refused(text), format!("{text}: expected {expected}"));
    }
    let two = "server.1=a:1:2\nserver.2=b:1:2:observer\n";
    assert!(refused(&format!("{two}group.1=1\ngroup.2=1")).ends_with("expected each server in one group"));
    assert!(refused(&format!("{two}weight.1=1")).ends_with("expected every participant in a group"));
    assert!(refused(&format!("{two}group.1=1:2")).ends_with("expected only participants in groups"));
    let many: String = (0..=SERVERS_MAX).map(|id| format!("server.{id}=a:1:2\n")).collect();
    assert!(refused(&many).ends_with("expected at most 1024 servers"));
}

#[test]
fn versions_do_not_make_servers_differ() {
    let a = parsed("server.1=a:1:2;3\nversion=1");
    assert!(a.same_servers(&a.clone().with_version(Zxid(9))));
    for other in ["server.1=a:1:2;4", "server.1=a:1:2", "server.1=a:1:2:observer;3", "server.2=a:1:2;3", ""] {
        assert!(!a.same_servers(&parsed(other)), "{other}");
    }
    assert!(!a.same_servers(&parsed("server.1=a:1:2;3\ngroup.1=1")));
}

#[test]
fn servers_may_not_share_an_address() {
    let conflict = |a: &str, b: &str| {
        let config = parsed(&format!("server.1={a}\nserver.2={b}"));
        config.address_conflict().map(|(_, _, address)| address.to_string())
    };
    assert_eq!(conflict("a:1:2", "b:1:2"), None);
    assert_eq!(conflict("a:1:2", "a:3:1"), Some("a:1".to_owned()));
    assert_eq!(conflict("a:1:2;a:5", "b:1:2|a:5:6"), Some("a:5".to_owned()));
    assert_eq!(conflict("a:1:2;5", "b:1:2;5"), None);
    assert_eq!(conflict("127.0.0.1:1:2", "127.0.0.1:1:2"), None);
}

fn member() -> impl Strategy<Value = String> {
    let host = prop_oneof![Just("a"), Just("zk.example.org"), Just("[::1]"), Just("10.0.0.1")];
    let role = prop_oneof![Just(""), Just(":participant"), Just(":observer")];
    let client = prop_oneof![Just(""), Just(";2181"), Just(";[fe80::2]:1")];
    (host, 1u16..9, role, client)
        .prop_map(|(host, port, role, client)| format!("{host}:{port}:{}{role}{client}", port + 10))
}

proptest! {
    #[test]
    fn canonical_text_reads_as_what_it_was_printed_from(
        members in proptest::collection::btree_map(0i64..300, member(), 0..7),
        version in 0i64.., weight in proptest::option::of(0i64..5),
    ) {
        let mut text: String = members.iter().map(|(id, line)| format!("server.{id}={line}\n")).collect();
        let plain = parsed(&text);
        if let (Some(weight), Some(voter)) = (weight, plain.voters().next()) {
            let voters: Vec<String> = plain.voters().map(|id| id.to_string()).collect();
            text += &format!("group.1={}\nweight.{voter}={weight}\n", voters.join(":"));
        }
        let config = parsed(&text).with_version(Zxid(version));
        prop_assert_eq!(parsed(&config.to_string()), config);
    }

    #[test]
    fn any_text_is_read(text in "(server\\.|group\\.|weight\\.|version|[0-9]|[:;|=\\[\\]a\n]){0,30}") {
        if let Ok(config) = EnsembleConfig::parse(&text) {
            prop_assert_eq!(parsed(&config.to_string()), config);
        }
    }
}
