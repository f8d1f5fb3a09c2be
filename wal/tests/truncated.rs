//! A sealed segment that somebody else truncates while it is mapped: the process dies, and what was acknowledged is
//! refused by name afterwards, not lost in silence (C12).

mod common;

use common::*;
use logdrive_raft::{GroupId, LogIndex};
use logdrive_wal::{DriverChoice, Home, Wal, WalError};
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

/// Set for the child: the directory of its node.
const NODE: &str = "LOGDRIVE_TEST_TRUNCATED";
const SIGBUS: i32 = 7;

/// RULES.md C12.
#[test]
fn a_mapped_segment_that_is_truncated_ends_the_process_and_is_named_at_the_next_open() {
    if let Ok(node) = std::env::var(NODE) {
        return read_what_is_gone(Path::new(&node));
    }
    let dir = tempfile::tempdir().unwrap();
    let node = dir.path().join("node");
    let me = std::env::current_exe().unwrap();
    let mut child = Command::new(me);
    let ended = child
        .args(["--exact", "--nocapture"])
        .arg("a_mapped_segment_that_is_truncated_ends_the_process_and_is_named_at_the_next_open");
    let ended = ended.env(NODE, &node).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(said.contains("read once"), "{said}");
    assert_eq!(ended.status.signal(), Some(SIGBUS), "{said}");
    let home = Home::open(&node).unwrap();
    match Wal::open(config(&home, DriverChoice::Auto)) {
        Err(WalError::Corrupt(corrupt)) => {
            assert!(corrupt.file.ends_with("0000000001.seg"), "{corrupt}");
        }
        other => panic!("{:?}", other.map(|(_, recovered)| recovered)),
    }
}

/// The child's part. It is ended by a signal.
fn read_what_is_gone(node: &Path) {
    let home = new_home(node);
    let (mut wal, _) = Wal::open(config(&home, DriverChoice::Auto)).unwrap();
    let run = entries(1, 1, 1, 200, 1000);
    wal.append(&write(1, 1, &run)).unwrap();
    settle(&mut wal);
    let read = |index| {
        let plan = wal.plan_read(GroupId(1), LogIndex(index), LogIndex(index), 1).unwrap();
        read_elsewhere(plan)
    };
    assert_eq!(read(1).as_slice(), &run[..1]);
    println!("read once");
    let segment = home.shard_dir(0).join("0000000001.seg");
    File::options().write(true).open(segment).unwrap().set_len(0).unwrap();
    read(1);
}
