//! Servers inside this process: over real sockets, in memory and on disk.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/client.rs"]
mod client;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use client::{Client, block_on, create};
use oxkeeper_proto::{ConnectResponse, ErrorCode, Request, SessionId, Zxid};
use oxkeeper_server::{Config, Server, Storage};

#[test]
fn several_servers_live_in_one_process() {
    block_on(async {
        let a = Server::start(Config::standalone("unused", 0), Storage::Memory).await.unwrap();
        let b = Server::start(Config::standalone("unused", 0), Storage::Memory).await.unwrap();
        assert_ne!(a.address().port(), b.address().port());
        let mut client = Client::connect(a.address(), SessionId(0), &[0; 16]);
        assert_eq!(client.call(&create("/a", 0)).1, ErrorCode::OK);
        let mut other = Client::connect(b.address(), SessionId(0), &[0; 16]);
        assert_eq!(other.call(&Request::Exists { path: "/a".into(), watch: false }).1, ErrorCode::NONODE);
        a.shutdown().await.unwrap();
        b.shutdown().await.unwrap();
    });
}

#[test]
fn data_and_sessions_outlive_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::standalone(dir.path(), 0);
    config.prepare_bytes = 1 << 16;
    config.snap_count = 50;
    let mut session: Option<ConnectResponse> = None;
    for round in 0..4 {
        block_on(async {
            let server = Server::start(config.clone(), Storage::Disk).await.unwrap();
            let (id, password) =
                session.as_ref().map_or((SessionId(0), [0; 16]), |s| (s.session_id, s.password));
            let mut client = Client::connect(server.address(), id, &password);
            if round > 0 {
                assert_eq!(client.session.session_id, id, "the session lives on");
                let path = format!("/mine{}", round - 1);
                assert_eq!(
                    client.call(&Request::Exists { path: path.into(), watch: false }).1,
                    ErrorCode::OK
                );
            }
            for n in 0..120 {
                assert_eq!(client.call(&create(&format!("/r{round}n{n}"), 0)).1, ErrorCode::OK);
            }
            assert_eq!(client.call(&create(&format!("/mine{round}"), 1)).1, ErrorCode::OK);
            let all = Request::Exists { path: format!("/r{round}n0").into(), watch: false };
            assert_eq!(client.call(&all), (Zxid(1 + (round + 1) * 121), ErrorCode::OK));
            session = Some(client.session.clone());
            server.shutdown().await.unwrap();
        });
    }
    let names = |prefix: &str| {
        let entries = std::fs::read_dir(dir.path().join("version-2")).unwrap();
        entries.filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with(prefix)).count()
    };
    assert!(names("snapshot.") >= 4 && names("log.") >= 4);
    assert_eq!(names("oxkeeper-"), 0, "nothing unfinished is left");
}

#[test]
fn a_directory_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    block_on(async {
        let config = Config::standalone(dir.path(), 0);
        let first = Server::start(config.clone(), Storage::Disk).await.unwrap();
        let error = Server::start(config, Storage::Disk).await.unwrap_err().to_string();
        assert!(error.contains("is in use by process"), "{error}");
        first.shutdown().await.unwrap();
    });
}

#[test]
fn a_burst_whose_replies_have_no_room_at_once_is_answered() {
    block_on(async {
        let mut config = Config::standalone("unused", 0);
        config.outstanding_max = 100;
        let server = Server::start(config, Storage::Memory).await.unwrap();
        let mut client = Client::connect(server.address(), SessionId(0), &[0; 16]);
        assert_eq!(client.call(&create("/big", 0)).1, ErrorCode::OK);
        let data = vec![7; 4000];
        let set = || Request::SetData { path: "/big".into(), data: Some(&data), version: -1 };
        let mut requests = vec![set()];
        for n in 0..4000 {
            requests.push(Request::GetData { path: "/big".into(), watch: false });
            if n % 500 == 0 {
                requests.push(set());
            }
        }
        // Sixteen megabytes of replies, and no reader before all requests are sent.
        let replies = client.burst(&requests);
        assert!(replies.iter().all(|(_, err)| *err == ErrorCode::OK));
        assert!(replies.windows(2).all(|pair| pair[0].0.0 + 1 == pair[1].0.0));
        server.shutdown().await.unwrap();
    });
}

#[test]
fn bad_bytes_cost_one_connection() {
    block_on(async {
        let server = Server::start(Config::standalone("unused", 0), Storage::Memory).await.unwrap();
        let mut good = Client::connect(server.address(), SessionId(0), &[0; 16]);
        for bytes in [
            &b"\xff\xff\xff\xff"[..],
            b"\x7f\xff\xff\xff",
            b"\0\0\0\0",
            b"\0\0\0\x02ab",
            b"GET / HTTP/1.1\r\n",
        ] {
            let mut bad =
                TcpStream::connect((std::net::Ipv4Addr::LOCALHOST, server.address().port())).unwrap();
            bad.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            bad.write_all(bytes).unwrap();
            let mut rest = Vec::new();
            assert!(bad.read_to_end(&mut rest).is_err() || rest.is_empty());
            assert_eq!(good.call(&Request::Sync { path: None }).1, ErrorCode::OK);
        }
        server.shutdown().await.unwrap();
    });
}
