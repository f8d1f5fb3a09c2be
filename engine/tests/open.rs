//! A node that cannot be opened says why, and leaves nothing running and nothing locked.

#![forbid(unsafe_code)]

use logdrive::{Config, Founding, Node, NodeId, OpenError};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{
    collections::BTreeMap,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

const CHILD_DIR: &str = "LOGDRIVE_OPEN_CHILD";
/// A user id that no other process has: the limit on threads counts all threads of a user.
const UID: &str = "61937";
const SHARDS: u32 = 2;

fn founding(cluster: &str) -> Founding {
    let (cluster, node) = (cluster.to_owned(), NodeId(1));
    Founding { cluster, node, shards: SHARDS, settings: BTreeMap::new() }
}

fn config(dir: &Path) -> Config {
    let mut config = Config::new(dir, BTreeMap::from([(NodeId(1), "127.0.0.1:0".to_owned())]));
    config.segment_bytes = 1 << 20;
    config
}

#[test]
fn what_no_peer_would_take_is_refused_before_anything_is_made() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("node");
    for name in [String::new(), "n".repeat(65), "n".repeat(128)] {
        let refused = Node::init(&dir, founding(&name));
        assert!(matches!(refused, Err(OpenError::Config(_))), "{refused:?}");
        assert!(!dir.exists());
    }
    Node::init(&dir, founding(&"n".repeat(64))).unwrap();
    let mut config = config(&dir);
    config.client_address = "a".repeat(256);
    let refused = Node::open(config.clone()).map(drop);
    assert!(matches!(refused, Err(OpenError::Config(_))), "{refused:?}");
    config.client_address.pop();
    Node::open(config).unwrap().close().unwrap();
}

#[test]
fn the_last_handle_let_go_on_a_shards_thread_frees_the_directory_when_the_log_is_closed() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("node");
    Node::init(&dir, founding("let-go")).unwrap();
    for _ in 0..10 {
        // The open is refused while the lock is held; without it, recovery would run beside a writer.
        let node = loop {
            match Node::open(config(&dir)) {
                Ok(node) => break node,
                Err(OpenError::Home(logdrive::HomeError::Locked(_))) => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => panic!("{error}"),
            }
        };
        let last = node.clone();
        node.spawn_on(1, async move || drop(last)).unwrap();
        drop(node);
    }
}

#[test]
fn a_node_that_lacks_threads_is_not_opened_and_leaves_none() {
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        return open_with_few_threads(dir.as_ref());
    }
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("node");
    std::fs::create_dir(&dir).unwrap();
    let of = format!("{UID}:{UID}");
    let given = Command::new("chown").args([of.as_str()]).arg(&dir).arg(home.path()).output();
    if !given.as_ref().is_ok_and(|given| given.status.success()) {
        return skipped("no other user can be had here (needs root)");
    }
    let me = std::env::current_exe().unwrap();
    let as_other = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", UID, "--regid", UID, "--clear-groups", "--"]).arg(&me).args(args);
        command.current_dir("/").env(CHILD_DIR, &dir).stdin(Stdio::null());
        command.output()
    };
    match as_other(&["--list"]) {
        Ok(listed) if listed.status.success() => {}
        Ok(listed) => {
            let why = String::from_utf8_lossy(&listed.stderr).into_owned();
            return skipped(format_args!("another user cannot run the tests: {why}"));
        }
        Err(error) => return skipped(format_args!("no setpriv: {error}")),
    }
    let test = "a_node_that_lacks_threads_is_not_opened_and_leaves_none";
    let output = as_other(&[test, "--exact", "--nocapture", "--test-threads=1"]).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stdout));
    assert!(said.contains("opened at last"), "{said}");
}

/// Says why a test was not run: it must not look as if it had passed.
fn skipped(reason: impl std::fmt::Display) {
    use std::io::Write;
    // Written past libtest's capture, which hides what a passing test prints.
    let _ = writeln!(std::io::stderr().lock(), "SKIPPED: {reason}");
}

/// Opens the node with one more thread allowed each time, until that is enough.
fn open_with_few_threads(dir: &Path) {
    Node::init(dir, founding("threads")).unwrap();
    let unlimited = getrlimit(Resource::Nproc);
    let running = threads();
    for more in 0..64 {
        let current = Some(running + more);
        setrlimit(Resource::Nproc, Rlimit { current, ..unlimited }).unwrap();
        match Node::open(config(dir)) {
            Ok(node) => {
                assert!(more >= 4, "two shards need more than {more} threads");
                node.close().unwrap();
                return eprintln!("opened at last, with {more} threads more");
            }
            Err(error) => eprintln!("{more} threads more: {error}"),
        }
        setrlimit(Resource::Nproc, unlimited).unwrap();
        // The threads that were started have been joined, or are on their last steps.
        for _ in 0..10_000 {
            if threads() == running {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(threads(), running, "with {more} more allowed some were left");
    }
    panic!("64 threads more are not enough");
}

fn threads() -> u64 {
    std::fs::read_dir("/proc/self/task").unwrap().count() as u64
}
