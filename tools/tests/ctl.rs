//! `logdrive ctl`, asking nodes that run, nodes that do not, and what is none.
//!
//! In:     three nodes on loopback; questions by the command and by hand.
//! Out:    nothing but failures.

#![forbid(unsafe_code)]

mod support;

use serde_json::Value;
use std::{
    fs,
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::Path,
    process::Command,
    time::Duration,
};
use support::{
    cluster::{Cluster, directory},
    eventually,
    process::{BINARY, output_within},
};

/// The end of a run of `logdrive ctl`.
struct Ended {
    code: i32,
    stdout: String,
    stderr: String,
}

fn ctl(dir: &Path, words: &[&str]) -> Ended {
    let mut command = Command::new(BINARY);
    command.arg("ctl").arg("--dir").arg(dir).args(words);
    let output = output_within(command, Duration::from_secs(60));
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let code = output.status.code().expect("no signal");
    Ended { code, stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn json(dir: &Path, words: &[&str]) -> Value {
    let ended = ctl(dir, &[words, &["--json"]].concat());
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{words:?}: {}", ended.stdout);
    serde_json::from_str(&ended.stdout).unwrap()
}

#[test]
fn a_node_that_runs_says_how_it_is() {
    let dir = directory();
    let mut cluster = Cluster::start(dir.path(), 24, 1 << 20);
    let node = cluster.nodes[0].dir.clone();

    let status = json(&node, &["status"]);
    assert_eq!((&status["node"], &status["groups"]["here"]), (&1.into(), &24.into()), "{status}");
    assert_eq!(status["groups"]["leaderless"], 0, "{status}");
    assert_eq!(
        status["peers"],
        serde_json::json!([{"node": 2, "heard": true}, {"node": 3, "heard": true}])
    );
    assert!(status["log"]["bytes"].as_u64() >= Some(1 << 20), "{status}");
    let told = ctl(&node, &["status"]);
    assert_eq!(told.code, 0, "{}", told.stderr);
    for words in ["node          1 of cluster", "24 here", "2 answers, 3 answers", "MiB of files"] {
        assert!(told.stdout.contains(words), "{words}: {}", told.stdout);
    }

    let groups = json(&node, &["group", "list"]);
    let groups = groups.as_array().unwrap();
    assert_eq!(groups.len(), 24);
    let led = groups.iter().filter(|group| group["state"] == "leads").count();
    assert_eq!(status["groups"]["led"], led);
    assert!(groups.iter().all(|group| group["leader"].is_u64()), "{groups:?}");
    assert_eq!(ctl(&node, &["group", "list"]).stdout.lines().count(), 25, "a head and a line each");
    assert_eq!(json(&node, &["group", "list", "--troubled"]), serde_json::json!([]));

    let number = groups[7]["group"].to_string();
    let shown = json(&node, &["group", "show", &number]);
    assert_eq!(shown["group"], groups[7]["group"]);
    let replica = &shown["replica"];
    assert!(replica["term"].as_u64() >= Some(1) && replica["commit"].is_u64(), "{shown}");
    assert!(ctl(&node, &["group", "show", &number]).stdout.contains("committed"));
    let none = ctl(&node, &["group", "show", "77777"]);
    assert_eq!(none.code, 1, "{}{}", none.stdout, none.stderr);
    assert!(none.stderr.contains("does not carry a group 77777"), "{}", none.stderr);

    let log = json(&node, &["log", "--top", "3"]);
    let shard = &log[0];
    assert_eq!((&shard["shard"], &shard["groups"]), (&0.into(), &24.into()), "{log}");
    assert_eq!(shard["heaviest"].as_array().unwrap().len(), 3);
    assert!(shard["groups_in_oldest"].as_u64() >= Some(1), "{log}");
    assert!(ctl(&node, &["log"]).stdout.contains("in the oldest"));

    // A peer that dies is seen to, and groups without a leader are told apart.
    cluster.nodes[1].kill();
    cluster.nodes[2].kill();
    let seen = eventually(Duration::from_secs(60), || {
        let status = json(&node, &["status"]);
        let heard = |at: usize| status["peers"][at]["heard"] == true;
        !heard(0) && !heard(1) && status["groups"]["leaderless"] == 24
    });
    assert!(seen, "{}", json(&node, &["status"]));
    let troubled = json(&node, &["group", "list", "--troubled"]);
    assert_eq!(troubled.as_array().unwrap().len(), 24);
}

#[test]
fn nodes_that_cannot_be_asked_are_told_apart() {
    let dir = directory();
    let none = ctl(&dir.path().join("nowhere"), &["status"]);
    assert_eq!(none.code, 2);
    assert!(none.stderr.contains("no such directory"), "{}", none.stderr);
    let empty = ctl(dir.path(), &["status"]);
    assert_eq!(empty.code, 2);
    assert!(empty.stderr.contains("no node runs on"), "{}", empty.stderr);
    for words in [&["stats"][..], &["group"], &["group", "show", "x"], &["log", "--top", "-1"]] {
        let wrong = ctl(dir.path(), words);
        assert_eq!((wrong.code, wrong.stdout.as_str()), (2, ""), "{words:?}");
        assert!(!wrong.stderr.is_empty(), "{words:?}");
    }

    let mut cluster = Cluster::start(dir.path(), 3, 1 << 20);
    let node = cluster.nodes[0].dir.clone();
    let socket = node.join("ctl.sock");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    // A node that is killed leaves the file, and the next start takes its place.
    cluster.nodes[0].kill();
    assert!(socket.exists());
    let gone = ctl(&node, &["status"]);
    assert_eq!(gone.code, 2);
    assert!(gone.stderr.contains("no node runs on"), "{}", gone.stderr);
    cluster.nodes[0].start(&[]);
    cluster.wait_ready();
    assert_eq!(json(&node, &["status"])["node"], 1);
    // One that is stopped takes it along.
    cluster.nodes[0].stop();
    assert!(!socket.exists());
}

#[test]
fn strange_questions_get_an_error_and_disturb_nobody() {
    let dir = directory();
    let cluster = Cluster::start(dir.path(), 3, 1 << 20);
    let node = cluster.nodes[0].dir.clone();
    let ask = |bytes: &[u8]| {
        let mut stream = UnixStream::connect(node.join("ctl.sock")).unwrap();
        // A node that has seen enough closes the connection while this writes.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    for question in [
        &b"*1\r\n$4\r\nwhat\r\n"[..],
        b"*2\r\n$3\r\nlog\r\n$21\r\n999999999999999999999\r\n",
        b"*3\r\n$5\r\ngroup\r\n$4\r\nshow\r\n$2\r\n-1\r\n",
        b"*1000000000\r\n",
        b"*1\r\n$1000000000\r\n",
        b"*1\r\n$-3\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\xfe\x00\r\n",
    ] {
        let answer = ask(question);
        assert!(answer.starts_with("-ERR "), "{:?}: {answer}", String::from_utf8_lossy(question));
    }
    let long = [b"*1\r\n$100000\r\n".as_slice(), &[b'x'; 100_000]].concat();
    let answer = ask(&long);
    assert!(answer.is_empty() || answer.starts_with("-ERR "), "{answer}");
    assert_eq!(ask(b""), "");
    // Several on one connection, and one that says nothing meanwhile holds up others for a few seconds at most.
    let two = ask(b"*1\r\n$6\r\nstatus\r\n*1\r\n$6\r\nstatus\r\n");
    assert_eq!(two.matches("\"uptime_seconds\"").count(), 2, "{two}");
    let _silent = UnixStream::connect(node.join("ctl.sock")).unwrap();
    assert_eq!(json(&node, &["status"])["node"], 1);
}
