//! Inputs to begin with: what real servers and clients wrote, as the tests of the crates keep it, and what the fuzzer
//! found and was kept, a line of hexadecimal digits for each input.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use flate2::read::GzDecoder;
use oxkeeper_proto::peer::initial::InitialMessage;
use oxkeeper_proto::peer::notification::{Notification, ServerState};
use oxkeeper_proto::peer::{AuthId, ForwardedRequest, LearnerInfo};
use oxkeeper_proto::{Epoch, HostPort, OpCode, PeerPacket, Round, ServerId, SessionId, Xid, Zxid};
use oxkeeper_storage::rawlog::{self, RawItem};

/// More than this of a file says nothing new.
const SEED_BYTES_MAX: usize = 8 << 10;
/// What a corpus may take in the repository.
pub const CORPUS_BYTES_MAX: usize = 200 << 10;

fn crates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates")
}

/// Where a target's corpus is.
#[must_use]
pub fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(format!("{target}.hex"))
}

/// The inputs of a target that were kept.
#[must_use]
pub fn kept(target: &str) -> Vec<Vec<u8>> {
    fs::read_to_string(corpus(target)).unwrap_or_default().lines().map(bytes).collect()
}

/// Keeps these inputs of a target, the shortest first, as many as fit.
///
/// # Errors
/// The file cannot be written.
pub fn keep(target: &str, mut inputs: Vec<Vec<u8>>) -> std::io::Result<()> {
    inputs.sort_by_key(|input| (input.len(), input.clone()));
    let mut text = String::new();
    for input in inputs.iter().filter(|input| !input.is_empty()) {
        if text.len() + 2 * input.len() >= CORPUS_BYTES_MAX {
            break;
        }
        input.iter().for_each(|byte| text += &format!("{byte:02x}"));
        text.push('\n');
    }
    fs::write(corpus(target), text)
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = if hex == "-" { "" } else { hex };
    digits
        .as_bytes()
        .chunks(2)
        .filter_map(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok())
        .collect()
}

fn op(name: &str) -> Option<u8> {
    let at = OpCode::ALL.iter().position(|op| format!("{op:?}").eq_ignore_ascii_case(name))?;
    u8::try_from(at).ok()
}

fn fixtures(dir: &Path, out: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() { fixtures(&path, out) } else { out.push(path) }
    }
    out.sort();
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// The seeds of a target.
///
/// # Panics
/// A recorded file is missing.
#[must_use]
pub fn of(target: &str) -> Vec<Vec<u8>> {
    let mut files = Vec::new();
    fixtures(&crates().join("server/tests/fixtures"), &mut files);
    let read = |path: &Path| {
        let mut bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        bytes.truncate(SEED_BYTES_MAX);
        bytes
    };
    let golden = fs::read_to_string(crates().join("proto/tests/golden/client.txt"))
        .unwrap_or_else(|error| panic!("what clients sent: {error}"));
    let lines: Vec<[&str; 3]> = golden
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(' ').collect::<Vec<_>>().try_into().ok())
        .collect();
    match target {
        "f01_requests" => coded(&lines, &["request"]),
        "f02_replies" => coded(&lines, &["reply", "event"]),
        "f03_sessions" => handshakes(&lines),
        "f05_frames" => vec![stream(&lines)],
        "f06_initial" => {
            let address = HostPort::new("127.0.0.1", 31_382);
            vec![
                InitialMessage::new(ServerId(2), address).to_vec(),
                InitialMessage::Legacy { id: ServerId(3) }.to_vec(),
            ]
        }
        "f07_notifications" => notification_seeds(),
        "f08_quorum" => quorum_seeds(&files),
        "f09_dialogue" => dialogue_seeds(),
        "f10_transactions" => logs(&files).iter().flat_map(|path| payloads(path)).collect(),
        "f11_log" => logs(&files).iter().flat_map(|path| log_seeds(path)).collect(),
        "f12_snapshot" => snapshot_seeds(&files),
        "f13_small_files" => {
            let small = |path: &&PathBuf| ["myid", "currentEpoch", "acceptedEpoch"].contains(&name(path));
            let contents = files.iter().filter(small).map(|path| read(path));
            contents.chain(files.iter().map(|path| name(path).as_bytes().to_vec())).collect()
        }
        "f14_config" => config_seeds(&files),
        "f15_addresses" => texts(&[
            "127.0.0.1",
            "[::1]",
            "::1",
            "host.example",
            "fe80::1%eth0",
            "0.0.0.0",
            "a:1",
            "[::1]:65535",
        ]),
        "f16_paths" => {
            texts(&["/", "/a", "/a/b c", "/a/../b", "/zookeeper/quota", "/ä/\u{fff0}", "/a//b", "/a/.", "a"])
        }
        "f20_node" => vec![scene(&lines)],
        _ => vec![vec![0; 64]],
    }
}

fn texts(all: &[&str]) -> Vec<Vec<u8>> {
    all.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn coded(lines: &[[&str; 3]], kinds: &[&str]) -> Vec<Vec<u8>> {
    let coded = |[kind, what, hex]: &[&str; 3]| {
        kinds.contains(kind).then(|| [&[op(what).unwrap_or_default()], &bytes(hex)[..]].concat())
    };
    lines.iter().filter_map(coded).collect()
}

fn handshakes(lines: &[[&str; 3]]) -> Vec<Vec<u8>> {
    let kind = |what: &str| match what {
        "connect" => Some(0),
        "response" => Some(1),
        "auth" => Some(2),
        "sasl" => Some(3),
        _ => None,
    };
    lines.iter().filter_map(|[_, what, hex]| Some([&[kind(what)?], &bytes(hex)[..]].concat())).collect()
}

fn stream(lines: &[[&str; 3]]) -> Vec<u8> {
    let mut out = vec![1, 2, 3, 5, 7, 11, 13, 17];
    for frame in lines.iter().map(|[.., hex]| bytes(hex)).filter(|frame| frame.len() < 300) {
        out.extend((frame.len() as u32).to_be_bytes());
        out.extend(frame);
    }
    out.truncate(SEED_BYTES_MAX);
    out
}

fn notification_seeds() -> Vec<Vec<u8>> {
    let mut out = vec![1, 7, 3, 9];
    for (version, config) in [(0, None), (1, Some("")), (2, Some("server.1=a:2:3:participant\nversion=0"))] {
        let notification = Notification {
            state: ServerState::Looking,
            leader: ServerId(2),
            zxid: Zxid(0x1_0000_0005),
            round: Round(3),
            peer_epoch: Epoch(1),
            version,
            config: config.map(|text| Bytes::from_static(text.as_bytes())),
        };
        notification.encode(&mut out);
    }
    let initial = InitialMessage::new(ServerId(2), HostPort::new("10.0.0.1", 3888)).to_vec();
    vec![out.clone(), [&out[..4], &initial, &out[4..]].concat()]
}

/// A server is brought level and follows; a server leads; a server follows and serves an observer. Steps as in `dialogue.rs`.
fn dialogue_seeds() -> Vec<Vec<u8>> {
    let learner: [&[u8]; 11] = [
        &[3, 12, 1, 11, 1, 1, 12, 3, 11, 2, 1],
        &[9],
        &[0, 17, 0x20, 0, 8],
        &[0, 13, 0x13, 0],
        &[0, 10, 0x20, 0, 8, 8],
        &[0, 12, 0, 0],
        &[0, 2, 0x21, 7, 8],
        &[0, 4, 0x21, 0],
        &[0, 5, 0x21, 0],
        &[0, 2, 0x22, 7, 0, 4, 0x22, 0, 8],
        &[10],
    ];
    let leader: [&[u8]; 7] = [
        &[3, 12, 3, 10, 1, 1],
        &[9],
        &[0, 11, 0x10, 3, 8],
        &[0, 18, 0x13, 0x11, 8],
        &[0, 3, 0x20, 0],
        &[13, 8, 0, 3, 0x21, 0],
        &[15, 0x2b, 0, 5, 0x21, 1],
    ];
    // An observer comes to a server that follows.
    let master: [&[u8]; 6] = [
        &[137],
        &[0x10, 16, 0x20, 5],
        &[0x10, 18, 0x13, 0],
        &[0x10, 3, 0x20, 0],
        &[0, 2, 0x21, 7, 8, 0, 4, 0x21, 0],
        &[0x10, 5, 0x21, 1, 0x10, 6, 0, 1, 0x2b],
    ];
    vec![learner.concat(), leader.concat(), [learner[..6].concat(), master.concat()].concat()]
}

/// A dialogue in each direction, and a snapshot behind a SNAP.
fn quorum_seeds(files: &[PathBuf]) -> Vec<Vec<u8>> {
    let learner = LearnerInfo::new(ServerId(2), Zxid(5));
    let txn = Bytes::from(logs(files).first().map(|log| payloads(log)).unwrap_or_default().concat());
    let txn = txn.slice(..txn.len().min(200));
    let (zxid, epoch) = (Zxid(0x1_0000_0001), Epoch(1));
    let auth = Some(vec![AuthId { scheme: "ip".into(), id: "::1".into() }]);
    let (session, body) = (SessionId(7), Bytes::from_static(b"body"));
    let from_learner = [
        PeerPacket::FollowerInfo { accepted: epoch, learner },
        PeerPacket::ObserverInfo { accepted: epoch, learner },
        PeerPacket::AckEpoch { last: zxid, current: Some(epoch) },
        PeerPacket::Ack { zxid },
        PeerPacket::Request(ForwardedRequest { session, xid: Xid(1), op: 1, body, auth }),
        PeerPacket::Ping { zxid, touched: Some(vec![(session, 1000)]) },
        PeerPacket::Revalidate { session, timeout_ms: 1000 },
    ];
    let from_leader = [
        PeerPacket::LeaderInfo { epoch, protocol_version: 0x1_0000 },
        PeerPacket::Diff { zxid },
        PeerPacket::Trunc { zxid },
        PeerPacket::Proposal { zxid, txn: txn.clone() },
        PeerPacket::Commit { zxid },
        PeerPacket::Inform { zxid, txn: txn.clone() },
        PeerPacket::CommitAndActivate { zxid, designated: ServerId(1) },
        PeerPacket::InformAndActivate { zxid, designated: ServerId(1), txn },
        PeerPacket::NewLeader { epoch, config: Some(Bytes::from_static(b"version=0")) },
        PeerPacket::UpToDate,
        PeerPacket::Ping { zxid, touched: None },
        PeerPacket::Revalidated { session, valid: true },
        PeerPacket::Sync,
        PeerPacket::Snap { zxid },
    ];
    let encode = |head: &[u8], packets: &[PeerPacket]| {
        packets.iter().fold(head.to_vec(), |mut out, packet| {
            packet.encode(&mut out);
            out
        })
    };
    let mut snapshot = encode(&[2, 50, 50, 50, 50], &from_leader);
    let plain = files.iter().find(|path| name(path) == "snapshot.42");
    let content = plain.and_then(|path| fs::read(path).ok()).unwrap_or_default();
    snapshot.extend(content.get(16..).unwrap_or_default());
    snapshot.truncate(SEED_BYTES_MAX);
    vec![encode(&[1, 3, 5, 7, 9], &from_learner), encode(&[0, 1, 1, 2, 3], &from_leader[..13]), snapshot]
}

fn logs(files: &[PathBuf]) -> Vec<&PathBuf> {
    files.iter().filter(|path| name(path).starts_with("log.")).collect()
}

fn payloads(log: &Path) -> Vec<Vec<u8>> {
    let file = fs::read(log).unwrap_or_else(|error| panic!("{}: {error}", log.display()));
    let payload =
        |item| if let RawItem::Record(record) = item { Some(record.payload.to_vec()) } else { None };
    rawlog::items(&file, SEED_BYTES_MAX).filter_map(payload).collect()
}

/// A log as it is, and its first records to be sealed anew.
fn log_seeds(path: &Path) -> Vec<Vec<u8>> {
    let mut raw = vec![0, 0, 0, 0];
    raw.extend(fs::read(path).unwrap_or_default());
    raw.truncate(2000);
    let mut parts = vec![2, 0, 0, 0];
    for payload in payloads(path).iter().filter(|payload| payload.len() < 256).take(12) {
        parts.push(payload.len() as u8);
        parts.extend(payload);
    }
    vec![raw, parts]
}

fn snapshot_seeds(files: &[PathBuf]) -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for path in files.iter().filter(|path| name(path).starts_with("snapshot.")) {
        let file = fs::read(path).unwrap_or_default();
        if file.len() > SEED_BYTES_MAX {
            continue;
        }
        let kind = if name(path).ends_with(".gz") {
            1
        } else if name(path).ends_with(".snappy") {
            2
        } else {
            0
        };
        seeds.push([&[kind], &file[..]].concat());
        let mut plain = Vec::new();
        match kind {
            0 => plain = file,
            1 => drop(std::io::Read::read_to_end(&mut GzDecoder::new(&file[..]), &mut plain)),
            _ => {}
        }
        // What lies between the header and the first seal, to be packed and sealed again in each way.
        let end = plain.windows(5).position(|window| window == [0, 0, 0, 1, b'/']).map(|at| at + 5);
        if let Some(content) = end.and_then(|end| plain.get(16..end)) {
            seeds.extend((0..3).map(|kind| [&[4 | 8 | 16 | kind], content].concat()));
        }
    }
    seeds
}

fn config_seeds(files: &[PathBuf]) -> Vec<Vec<u8>> {
    let configs = files.iter().filter(|path| name(path).starts_with("zoo.cfg"));
    let mut seeds: Vec<Vec<u8>> = configs.map(|path| fs::read(path).unwrap_or_default()).collect();
    // One line for every key there is, so that none has to be guessed.
    for key in oxkeeper_config::keys::KEYS.iter().map(|(key, _)| key) {
        seeds.push(format!("dataDir=/d\nclientPort=1\n{key}=1\n").into_bytes());
        seeds.push(format!("dataDir=/d\nclientPort=1\n\0-Dzookeeper.{key}=true").into_bytes());
    }
    seeds
}

/// Everything that was recorded from clients, on three connections in turn.
fn scene(lines: &[[&str; 3]]) -> Vec<u8> {
    let mut out = vec![12, 13, 14];
    for (n, [kind, what, hex]) in lines.iter().enumerate() {
        let (body, conn) = (bytes(hex), (n % 3) as u8);
        if *kind != "request" || body.len() > 255 || *what == "closeSession" {
            continue;
        }
        out.extend([conn, n as u8, op(what).unwrap_or_default(), body.len() as u8]);
        out.extend(body);
    }
    out.extend([18, 200, 21, 21, 15, 1, 18, 255, 18, 255]);
    out
}
