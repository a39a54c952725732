//! Four-letter words against what Apache ZooKeeper 3.9.5 said after the same history: byte for byte, but for what
//! differs from run to run. Recorded by `interop/record_words.py`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

#[path = "support/client.rs"]
mod client;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use client::{Client, block_on, create};
use oxkeeper_config::FourLetterWords;
use oxkeeper_proto::{ErrorCode, Request, SessionId};
use oxkeeper_server::{Config, Server, Storage};

fn ask(address: SocketAddr, word: &str) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, address.port())).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(word.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// What follows `prefix` up to one of `ends` becomes `#`, wherever it occurs in the line.
fn mask(line: &str, prefix: &str, ends: &[char]) -> String {
    let Some((before, rest)) = line.split_once(prefix) else { return line.to_owned() };
    let end = rest.find(ends).unwrap_or(rest.len());
    format!("{before}{prefix}#{}", mask(&rest[end..], prefix, ends))
}

/// Long hexadecimal numbers are ids of sessions.
fn session_ids(line: &str) -> String {
    let mut parts = line.split("0x");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(part.len());
        out += if digits > 10 { "#" } else { "0x" };
        out += if digits > 10 { &part[digits..] } else { part };
    }
    out
}

/// Takes out what differs from run to run. Connections and expiries come in no fixed order.
fn masked(word: &str, text: &str) -> Vec<String> {
    let whole = [
        "Latency min/avg/max: ",
        "Received: ",
        "Sent: ",
        "dataDir=",
        "dataDirSize=",
        "dataLogDir=",
        "dataLogSize=",
        "Zookeeper version: ",
        "datadir_size: ",
        "logdir_size: ",
        "clientPort=",
        " expire at ",
        "80: ",
    ];
    let parts = ["127.0.0.1:", "sid=", "est=", "lresp=", "llat=", "minlat=", "avglat=", "maxlat="];
    let mut lines: Vec<String> = text
        .lines()
        .map(|line| {
            let line = whole.iter().fold(line.to_owned(), |line, prefix| mask(&line, prefix, &['\n']));
            let line =
                parts.iter().fold(line, |line, prefix| mask(&line, prefix, &['[', ',', ')', ' ', ':']));
            session_ids(&line)
        })
        .collect();
    if matches!(word, "stat" | "cons" | "dump" | "wchc" | "wchp") {
        lines.sort();
    }
    lines
}

#[test]
fn words_read_as_javas() {
    let golden = include_str!("golden/words.txt");
    let said = golden.split("== ").skip(1).map(|part| part.split_once('\n').unwrap());
    block_on(async {
        let mut config = Config::standalone("unused", 0);
        (config.tick, config.connections_per_address_max) = (Duration::from_millis(500), 0);
        config.session_timeout_min = Duration::from_millis(1000);
        config.four_letter_words = FourLetterWords::All;
        let server = Server::start(config, Storage::Memory).await.unwrap();
        let mut one = Client::connect(server.address(), SessionId(0), &[0; 16]);
        assert_eq!(one.session.timeout_ms, 20_000);
        let path = || "/w".into();
        one.call(&create("/w", 0));
        one.call(&create("/w/e", 1));
        one.call(&Request::GetData { path: path(), watch: true });
        one.call(&Request::GetChildren { path: path(), watch: true });
        one.call(&Request::AddWatch { path: "/elsewhere".into(), mode: 1 });
        for _ in 0..200 {
            let set = Request::SetData { path: "/w/e".into(), data: Some(b"y"), version: -1 };
            assert_eq!(one.call(&set).1, ErrorCode::OK);
        }
        let mut seen = BTreeSet::new();
        for (word, expected) in said {
            seen.insert(word);
            match word {
                "refused" => {}
                // What needs a registry of metrics is not there yet.
                "mntr" => {
                    let keys = |text: &str| -> Vec<String> {
                        text.lines().filter_map(|line| Some(line.split_once('\t')?.0.to_owned())).collect()
                    };
                    let javas: BTreeSet<String> = keys(expected).into_iter().collect();
                    let ours = keys(&ask(server.address(), word));
                    let unknown: Vec<&String> = ours.iter().filter(|key| !javas.contains(*key)).collect();
                    assert!(unknown.iter().all(|key| key.starts_with("zk_oxkeeper_")), "{unknown:?}");
                    assert_eq!((unknown.len(), ours.len()), (3, 26));
                }
                // Java prints no line feed after some; the recording ends each with one.
                _ => {
                    let found = ask(server.address(), word);
                    assert_eq!(masked(word, &found), masked(word, expected), "{word}");
                }
            }
        }
        assert_eq!(seen.len(), 17);
        server.shutdown().await.unwrap();
    });
}
