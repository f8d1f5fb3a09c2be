//! Redis' own command line tools against real nodes: they know nothing of this project.
//!
//! Needs Debian's `redis-tools`; says SKIPPED where they are not installed.

#![forbid(unsafe_code)]

mod support;

use std::process::{Command, Output};
use support::{
    cluster::{Cluster, directory},
    report, skipped, turn,
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
        assert_eq!(cli(&["DEL", "{tag}x", "{tag}y"]), "2");
        assert_eq!(cli(&["CLUSTER", "KEYSLOT", "123456789"]), "12739");
        assert!(cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok"));
        assert!(cli(&["DEL", "a", "b"]).starts_with("CROSSSLOT"));
        assert!(cli(&["NONSENSE"]).starts_with("ERR"));
    }
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
    let output = Command::new("timeout")
        .args(["50", "redis-benchmark", "--cluster", "-t", "set,get", "-P", "16", "-n", "40000"])
        .args(["-r", "10000", "-d", "64", "--csv", "-h", "127.0.0.1", "-p", &port])
        .output()
        .unwrap();
    let text = said(&output);
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

fn redis_cli(port: u16, words: &[&str]) -> String {
    let output = Command::new("timeout")
        .args(["20", "redis-cli", "-c", "-h", "127.0.0.1", "-p", &port.to_string()])
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
