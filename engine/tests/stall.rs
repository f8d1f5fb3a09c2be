//! A shard's thread that is stuck ends its process, and the embedder hears of it first (RULES.md D3, rule 18).
//!
//! The process that ends is this very binary, started again for one test. A task that sleeps blocks the
//! thread: from outside, it looks like a thread that hangs in the kernel.

#![forbid(unsafe_code)]

use logdrive::{Config, Founding, Node, NodeError, NodeId};
use std::{
    collections::BTreeMap,
    process::{Command, Stdio},
    time::Duration,
};

/// Longer than a busy machine keeps a thread or a write waiting.
const STALL_FATAL: Duration = Duration::from_secs(4);
const CHILD_DIR: &str = "LOGDRIVE_STALL_CHILD";

/// RULES.md D3.
#[test]
fn a_stuck_thread_fails_its_node_and_then_ends_the_process() {
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        return be_stuck(dir.as_ref());
    }
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["a_stuck_thread_fails_its_node_and_then_ends_the_process", "--exact", "--nocapture"])
        .env(CHILD_DIR, dir.path().join("node"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("heard: shard 0: its thread has taken no turn"), "{said}");
    assert!(said.contains("closed at once"), "{said}");
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(!said.contains("outlived"), "{said}");
    // The process left nothing that keeps the node from starting again.
    let node = Node::open(config(&dir.path().join("node"))).unwrap();
    node.close().unwrap();
}

fn config(dir: &std::path::Path) -> Config {
    let mut config = Config::new(dir, BTreeMap::from([(NodeId(1), "127.0.0.1:0".to_owned())]));
    config.election_timeout = Duration::from_millis(150);
    config.heartbeat = Duration::from_millis(50);
    config.stall_warn = Duration::from_millis(150);
    config.stall_fatal = Some(STALL_FATAL);
    config.segment_bytes = 1 << 20;
    config
}

fn be_stuck(dir: &std::path::Path) {
    let founding = Founding {
        cluster: "stall".to_owned(),
        node: NodeId(1),
        shards: 1,
        settings: BTreeMap::new(),
    };
    Node::init(dir, founding).unwrap();
    let node = Node::open(config(dir)).unwrap();
    let idle = STALL_FATAL + Duration::from_millis(100);
    assert!(node.failure(idle).is_none(), "an idle node does not stall");
    node.spawn_on(0, async || std::thread::sleep(Duration::from_secs(120))).unwrap();
    let failure = node.failure(Duration::from_secs(30)).expect("a stalled node fails");
    eprintln!("heard: {failure}");
    assert!(matches!(node.close(), Err(NodeError::Stalled { shard: 0, .. })));
    eprintln!("closed at once");
    std::thread::sleep(Duration::from_secs(20));
    eprintln!("outlived its end");
}
