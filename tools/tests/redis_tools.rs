//! Redis' own command line tools against real nodes: they know nothing of this project.
//!
//! Needs Debian's `redis-tools`; says SKIPPED where they are not installed.

#![forbid(unsafe_code)]

mod support;

use std::{
    process::{Command, Output},
    time::Duration,
};
use support::{
    cluster::{Cluster, directory},
    eventually, report, skipped, turn,
};

#[test]
fn redis_cli_reads_and_writes_through_any_node() {
    let name = "redis_cli_reads_and_writes_through_any_node";
    if !installed("redis-cli", name) {
        return;
    }
    let _turn = turn();
    let dir = directory();
    let cluster = Cluster::start(dir.path(), 32, 1 << 20);
    for (at, node) in cluster.nodes.iter().enumerate() {
        // `-c` follows redirections; each key is asked of every node.
        let cli = |words: &[&str]| redis_cli(node.client.port(), words);
        for key in ["a", "b", "c", "d", "e", "f", "{tag}x", "{tag}y"] {
            let value = format!("{key} by node {at}");
            assert_eq!(cli(&["SET", key, &value]), "OK");
            for other in &cluster.nodes {
                assert_eq!(redis_cli(other.client.port(), &["GET", key]), value);
            }
        }
        assert_eq!(cli(&["PING"]), "PONG");
        assert_eq!(cli(&["GET", "nothing"]), "");
        assert_eq!(cli(&["EXISTS", "{tag}x", "{tag}y", "{tag}z"]), "2");
        // If the outcome of the deletion is unknown, the keys are set again, so that there is something to delete.
        let deleted = eventually(LIVE_MAX, || {
            let answer = redis_cli_once(node.client.port(), &["DEL", "{tag}x", "{tag}y"]);
            let moves = is_moving(&answer);
            assert!(moves || answer == "2", "{answer}");
            for key in ["{tag}x", "{tag}y"].iter().filter(|_| moves) {
                assert_eq!(cli(&["SET", key, "again"]), "OK");
            }
            !moves
        });
        assert!(deleted, "leaderships move all the time{}", cluster.last_words());
        assert_eq!(cli(&["CLUSTER", "KEYSLOT", "123456789"]), "12739");
        assert!(eventually(LIVE_MAX, || cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok")));
        assert!(cli(&["DEL", "a", "b"]).starts_with("CROSSSLOT"));
        assert!(cli(&["NONSENSE"]).starts_with("ERR"));
    }
    // The check that an operator runs first; it asks every node for its number of keys, by DBSIZE.
    let place = cluster.nodes[1].client.to_string();
    let mut text = String::new();
    let checked = eventually(LIVE_MAX, || {
        let words = ["30", "redis-cli", "--cluster", "check", &place];
        text = said(&Command::new("timeout").args(words).output().unwrap());
        text.contains("[OK] All 16384 slots covered")
    });
    assert!(checked && text.contains(" keys in 3 masters") && !text.contains("ERR"), "{text}");
    // RESP3, as redis-cli's `-3` asks for it with HELLO.
    let answer = redis_cli(cluster.nodes[0].client.port(), &["-3", "SET", "three", "3"]);
    assert!(answer.ends_with("OK"), "{answer}");
    cluster.assert_no_panic();
}

#[test]
fn redis_benchmark_runs_in_cluster_mode_with_pipelines() {
    let name = "redis_benchmark_runs_in_cluster_mode_with_pipelines";
    if !installed("redis-benchmark", name) {
        return;
    }
    let _turn = turn();
    let dir = directory();
    let cluster = Cluster::start(dir.path(), 128, 4 << 20);
    let port = cluster.nodes[0].client.port().to_string();
    let mut tries = 0;
    // The tool ends at the first error. If that says that leaderships moved, which is no fault of the cluster, it is run
    // again.
    let (output, text) = loop {
        tries += 1;
        let output = Command::new("timeout")
            .args(["120", "redis-benchmark", "--cluster", "-t", "set,get", "-P", "16"])
            .args(["-n", "40000", "-r", "10000", "-d", "64", "--csv"])
            .args(["-h", "127.0.0.1", "-p", &port])
            .output()
            .unwrap();
        let text = said(&output);
        let moved =
            text.contains("CLUSTERDOWN") || text.contains("TRYAGAIN") || text.contains("UNKNOWN");
        if output.status.success() || !moved || tries == 3 {
            break (output, text);
        }
        report(format_args!("  redis-benchmark begins again: {text}"));
    };
    assert!(output.status.success(), "{}\n{text}{}", output.status, cluster.last_words());
    assert!(!text.to_lowercase().contains("err"), "{text}");
    for test in ["\"SET\"", "\"GET\""] {
        // "SET","12345.67","0.512",...: name, requests per second, latencies in ms.
        let line = text.lines().find(|line| line.starts_with(test));
        let line = line.unwrap_or_else(|| panic!("no line for {test}:\n{text}"));
        let rate: f64 = line.split('"').nth(3).unwrap().parse().unwrap();
        assert!(rate > 0.0, "{line}");
        report(format_args!("  redis-benchmark {line}"));
    }
    cluster.assert_no_panic();
}

/// For commands that may be given twice: repeats one while leaderships move, as they may at any time on a busy machine.
fn redis_cli(port: u16, words: &[&str]) -> String {
    let mut answer = String::new();
    eventually(LIVE_MAX, || {
        answer = redis_cli_once(port, words);
        !is_moving(&answer)
    });
    answer
}

fn is_moving(answer: &str) -> bool {
    ["CLUSTERDOWN", "TRYAGAIN", "UNKNOWN"].iter().any(|word| answer.starts_with(word))
}

fn redis_cli_once(port: u16, words: &[&str]) -> String {
    let output = Command::new("timeout")
        .args(["30", "redis-cli", "-c", "-h", "127.0.0.1", "-p", &port.to_string()])
        .args(words)
        .output()
        .unwrap();
    said(&output).trim_end().to_owned()
}

fn said(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    text
}

fn installed(program: &str, test: &str) -> bool {
    let found = Command::new(program).arg("--version").output();
    if let Err(error) = &found {
        skipped(test, format_args!("{program}: {error} (Debian: apt-get install redis-tools)"));
    }
    found.is_ok()
}

const LIVE_MAX: Duration = Duration::from_secs(30);
