//! A shard's thread that is stuck ends its process, unless the embedder wants otherwise, and the embedder hears of it first
//! (RULES.md D3, D7, rule 18).
//!
//! The process that ends is this very binary, started again for one test. A task that sleeps blocks the
//! thread: from outside, it looks like a thread that hangs in the kernel.

#![forbid(unsafe_code)]

use logdrive::{Config, Founding, Node, NodeError, NodeId};
use std::{
    collections::BTreeMap,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

/// Longer than a busy machine keeps a thread or a write waiting.
const STALL_FATAL: Duration = Duration::from_secs(4);
/// Longer than the time after which the process of a failed node ends, if it ends at all.
const OUTLIVED: Duration = Duration::from_secs(5);
const CHILD_DIR: &str = "LOGDRIVE_STALL_CHILD";

/// RULES.md D3.
#[test]
fn a_stuck_thread_fails_its_node_and_then_ends_the_process() {
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        return be_stuck(dir.as_ref(), true);
    }
    let dir = tempfile::tempdir().unwrap();
    let node = dir.path().join("node");
    let (code, said) =
        run_as_child("a_stuck_thread_fails_its_node_and_then_ends_the_process", &node);
    assert!(said.contains("heard: shard 0: its thread has taken no turn"), "{said}");
    assert!(said.contains("closed at once"), "{said}");
    // The library itself says why the process ends, though no subscriber takes its log lines.
    assert!(tells(&said, ": the process ends"), "{said}");
    assert_eq!(code, Some(1), "{said}");
    assert!(!said.contains("outlived"), "{said}");
    // The process left nothing that keeps the node from starting again.
    let node = Node::open(config(&node)).unwrap();
    node.close().unwrap();
}

/// RULES.md D7.
/// The bug: a state machine whose call never returned cost the embedder's whole process, and no setting could prevent
/// it.
#[test]
fn a_process_may_outlive_its_node_whose_thread_is_stuck() {
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        return be_stuck(dir.as_ref(), false);
    }
    let dir = tempfile::tempdir().unwrap();
    let node = dir.path().join("node");
    let (code, said) = run_as_child("a_process_may_outlive_its_node_whose_thread_is_stuck", &node);
    assert!(said.contains("closed at once"), "{said}");
    assert!(tells(&said, ": the node has failed") && !tells(&said, ": the process ends"), "{said}");
    assert!(said.contains("its directory is in use"), "{said}");
    assert!(said.contains("outlived"), "{said}");
    assert_eq!(code, Some(0), "{said}");
}

/// Runs one test of this binary in a process of its own, over a directory. Returns its exit code and its output.
fn run_as_child(test: &str, dir: &Path) -> (Option<i32>, String) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(CHILD_DIR, dir)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// True if the watchdog has written a line to standard error that ends with `end`.
fn tells(said: &str, end: &str) -> bool {
    let is_its_own =
        |line: &str| line.starts_with("logdrive: shard 0: its thread has taken no turn");
    said.lines().any(|line| is_its_own(line) && line.ends_with(end))
}

fn config(dir: &Path) -> Config {
    let mut config = Config::new(dir, BTreeMap::from([(NodeId(1), "127.0.0.1:0".to_owned())]));
    config.election_timeout = Duration::from_millis(150);
    config.heartbeat = Duration::from_millis(50);
    config.stall_warn = Duration::from_millis(150);
    config.stall_fatal = Some(STALL_FATAL);
    config.segment_bytes = 1 << 20;
    config
}

fn be_stuck(dir: &Path, ends_process: bool) {
    let founding = Founding {
        cluster: "stall".to_owned(),
        node: NodeId(1),
        shards: 1,
        settings: BTreeMap::new(),
    };
    Node::init(dir, founding).unwrap();
    let mut config = config(dir);
    config.stall_ends_process = ends_process;
    let node = Node::open(config.clone()).unwrap();
    let idle = STALL_FATAL + Duration::from_millis(100);
    assert!(node.failure(idle).is_none(), "an idle node does not stall");
    node.spawn_on(0, async || std::thread::sleep(Duration::from_secs(120))).unwrap();
    let failure = node.failure(Duration::from_secs(30)).expect("a stalled node fails");
    eprintln!("heard: {failure}");
    assert!(matches!(node.close(), Err(NodeError::Stalled { shard: 0, .. })));
    eprintln!("closed at once");
    if !ends_process {
        // The stuck thread may still write to the directory.
        let refusal = Node::open(config).err().map(|error| error.to_string());
        assert!(refusal.as_ref().is_some_and(|said| said.contains("in use")), "{refusal:?}");
        eprintln!("its directory is in use");
    }
    std::thread::sleep(if ends_process { 4 * OUTLIVED } else { OUTLIVED });
    eprintln!("outlived its end");
}
