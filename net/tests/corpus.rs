//! The fuzz targets' corpora, replayed with changes that are the same on every run; and the inputs that the corpora start
//! from, which pin the bytes on the wire.
//!
//! An input that differs from its file means that the protocol changed: nodes of two versions would not understand each
//! other. `LOGDRIVE_WRITE_CORPUS=1` writes these inputs anew.

#![forbid(unsafe_code)]

#[path = "../fuzz/mutate.rs"]
mod mutate;
#[path = "../fuzz/oracle.rs"]
mod oracle;

use bytes::{Bytes, BytesMut};
use logdrive_net::stores::{Opening, Proof};
use logdrive_net::{ClusterId, Hello, Lane, Refusal, codec, frame::FrameWriter};
use logdrive_raft::{
    AppendEntries, AppendReply, AppendResult, Entry, EntryBatch, EntryKind, FoundingNotice,
    GroupId, Heartbeat, HeartbeatReply, LogId, LogIndex, Marked, Message, NodeId, PreVote,
    PreVoteReply, RequestVote, RoomNotice, RoomSays, Term, TermStated, VoteReply,
};
use std::{fs, path::PathBuf, time::Duration};

#[test]
fn frames_are_read_as_they_were_written_or_refused() {
    let bodies: Vec<Vec<u8>> = messages().iter().map(|(_, message)| body(&[message])).collect();
    let stream = |bodies: &[Vec<u8>]| {
        let mut writer = FrameWriter::new(oracle::origin());
        let mut stream = BytesMut::new();
        for body in bodies {
            let open = writer.begin(&mut stream);
            stream.extend_from_slice(body);
            writer.finish(&mut stream, open);
        }
        stream.to_vec()
    };
    let one = stream(&bodies[..1]);
    let all = stream(&bodies);
    let largest = stream(&[vec![7; 4_096], vec![8]]);
    seeds(
        "frame",
        &[
            ("one", [&[0, 0], &one[..]].concat()),
            ("all", [&[0, 6], &all[..]].concat()),
            ("all-repaired", [&[3, 60], &all[..]].concat()),
            ("all-sealed", [&[1, 60], &all[..]].concat()),
            ("largest", [&[0, 99], &largest[..]].concat()),
            ("half", [&[0, 3], &one[..one.len() / 2]].concat()),
            ("http", [&[0, 3], &b"GET / HTTP/1.1\r\n\r\n"[..]].concat()),
        ],
    );
    mutate::replay(&corpus("frame"), oracle::frame);
}

#[test]
fn handshakes_are_read_as_they_were_written_or_refused() {
    let hello = Hello {
        cluster: ClusterId::of("blue"),
        cluster_name: "blue".into(),
        node: NodeId(2),
        incarnation: 5,
        proof: Proof {
            store: 7,
            nonce: 8,
            noted: Some(Opening { incarnation: 4, nonce: 9 }),
            noted_by: 10,
        },
        command_bytes_founded: 1 << 20,
        settings: 7,
        heartbeat: Duration::from_millis(100),
        election_timeout: Duration::from_secs(1),
        shard: 1,
        shards: 4,
        lane: Lane::Append,
        client_address: "10.0.0.2:6379".into(),
    };
    let longest = Hello {
        cluster: ClusterId::of(&"n".repeat(64)),
        cluster_name: "n".repeat(64),
        client_address: "a".repeat(255),
        lane: Lane::Liveness,
        ..hello.clone()
    };
    seeds(
        "handshake",
        &[
            ("hello", [&[0], &hello.encode(NodeId(9))[..]].concat()),
            ("hello-repaired", [&[1], &hello.encode(NodeId(9))[..]].concat()),
            ("longest", [&[1], &longest.encode(NodeId(u64::MAX))[..]].concat()),
            ("introduced", [&[1], &hello.encode_introduced(NodeId(9))[..]].concat()),
            ("refusal", [&[0], &Refusal::WrongNode.encode(7)[..]].concat()),
            ("refusal-repaired", [&[1], &Refusal::Other(200).encode(7)[..]].concat()),
            ("tls", [&[0], &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..]].concat()),
        ],
    );
    mutate::replay(&corpus("handshake"), oracle::handshake);
}

#[test]
fn messages_are_read_as_they_were_written_or_refused() {
    let messages = messages();
    let all: Vec<&Message> = messages.iter().map(|(_, message)| message).collect();
    let mut files: Vec<(&str, Vec<u8>)> =
        messages.iter().map(|(name, message)| (*name, body(&[message]))).collect();
    files.push(("all", body(&all)));
    seeds("messages", &files);
    mutate::replay(&corpus("messages"), oracle::messages);
}

/// One message of each kind, with fields that differ from one another.
fn messages() -> Vec<(&'static str, Message)> {
    let id = |term, index| LogId { term: Term(term), index: LogIndex(index) };
    let entry = |term, index, payload: &'static [u8], checksum| Entry {
        term: Term(term),
        index: LogIndex(index),
        kind: if payload.is_empty() { EntryKind::Noop } else { EntryKind::Command },
        checksum,
        payload: Bytes::from_static(payload),
    };
    let entries = vec![
        entry(3, 12, b"", 0),
        entry(3, 13, b"first", 0x1122_3344),
        entry(4, 14, &[0xAB; 300], 0x5566_7788),
    ];
    let append = |entries| {
        Message::AppendEntries(AppendEntries {
            term: Term(4),
            prev_log: id(2, 11),
            commit: LogIndex(10),
            entries: EntryBatch::from_entries(entries).expect("they follow one another"),
        })
    };
    let reply = |result| Message::AppendReply(AppendReply { term: Term(4), result });
    vec![
        ("pre-vote", Message::PreVote(PreVote { term: Term(5), last_log: id(4, 14) })),
        ("pre-vote-reply", Message::PreVoteReply(PreVoteReply { term: Term(0), granted: false })),
        ("request-vote", Message::RequestVote(RequestVote { term: Term(5), last_log: id(0, 0) })),
        ("vote-reply", Message::VoteReply(VoteReply { term: Term(5), granted: true })),
        ("append", append(entries)),
        ("append-nothing", append(vec![])),
        ("append-accepted", reply(AppendResult::Accepted { match_index: LogIndex(14) })),
        (
            "append-rejected",
            reply(AppendResult::Rejected { rejected: LogIndex(11), hint: id(2, 9) }),
        ),
        ("heartbeat", {
            let commit = LogIndex((1 << 62) - 1);
            let matched = id(3, 1 << 62);
            Message::Heartbeat(Heartbeat { term: Term(4), commit, matched })
        }),
        ("heartbeat-reply", Message::HeartbeatReply(HeartbeatReply { term: Term(1 << 62) })),
        ("append-taken", reply(AppendResult::Taken { match_index: LogIndex(13) })),
        ("room", Message::Room(RoomNotice { says: RoomSays::Full, shard: 3, shards: 0x0405_0607 })),
        ("founding", Message::Founding(FoundingNotice { digest: 0x1122_3344, asks: true })),
        ("marked", {
            let (term, mark) = (Term(4), 0x0102_0304_0506_0708);
            Message::Marked(Marked { term, mark, last_log: id(3, 12) })
        }),
        ("term-stated", {
            let (term, mark) = (Term(0), u64::MAX);
            Message::TermStated(TermStated { term, mark, commit: LogIndex(10) })
        }),
    ]
}

fn body(messages: &[&Message]) -> Vec<u8> {
    let mut body = BytesMut::new();
    for (number, message) in (1..).zip(messages) {
        codec::encode(&mut body, GroupId(number), message);
    }
    body.to_vec()
}

fn corpus(target: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "fuzz", "corpus", target].iter().collect()
}

fn seeds(target: &str, seeds: &[(&str, Vec<u8>)]) {
    let dir = corpus(target);
    for (name, bytes) in seeds {
        let path = dir.join(name);
        if std::env::var_os("LOGDRIVE_WRITE_CORPUS").is_some() {
            fs::create_dir_all(&dir).unwrap();
            fs::write(&path, bytes).unwrap();
        }
        let file = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(file == *bytes, "{} is not what is written now", path.display());
    }
}
