//! The fuzz targets' corpora, replayed with changes that are the same on every run; and the inputs that the corpora start
//! from, which pin the bytes on the wire.
//!
//! An input that differs from its file means that the protocol changed: nodes of two versions would not understand each
//! other. `LOGDRIVE_WRITE_CORPUS=1` writes these inputs anew.

#![forbid(unsafe_code)]

mod examples;
#[path = "../fuzz/mutate.rs"]
mod mutate;
#[path = "../fuzz/oracle.rs"]
mod oracle;

use bytes::BytesMut;
use logdrive_net::snapshots::SnapshotMessage;
use logdrive_net::{LaneMessage, Refusal, codec, frame::FrameWriter};
use logdrive_raft::{GroupId, Message, NodeId};
use std::{fs, path::PathBuf};

#[test]
fn frames_are_read_as_they_were_written_or_refused() {
    let bodies: Vec<Vec<u8>> =
        examples::messages().iter().map(|(_, message)| body(&[message])).collect();
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
    let (hello, longest) = (examples::hello(), examples::longest_hello());
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
    let messages = examples::messages();
    let all: Vec<&Message> = messages.iter().map(|(_, message)| message).collect();
    let mut files: Vec<(&str, Vec<u8>)> =
        messages.iter().map(|(name, message)| (*name, body(&[message]))).collect();
    files.push(("all", body(&all)));
    seeds("messages", &files);
    mutate::replay(&corpus("messages"), oracle::messages);
}

#[test]
fn messages_of_snapshots_are_read_as_they_were_written_or_refused() {
    let messages = examples::snapshot_messages();
    let body = |messages: &[(&str, SnapshotMessage)]| {
        let mut body = BytesMut::new();
        for (number, (_, message)) in (1..).zip(messages) {
            message.encode(&mut body, GroupId(number));
        }
        body.to_vec()
    };
    let each = messages.chunks(1).map(|message| (message[0].0, body(message)));
    let mut files: Vec<(&str, Vec<u8>)> = each.collect();
    files.push(("all", body(&messages)));
    seeds("snapshots", &files);
    mutate::replay(&corpus("snapshots"), oracle::snapshots);
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
