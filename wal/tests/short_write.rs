//! Writes that the kernel cuts short, for real: a limit on file sizes (RLIMIT_FSIZE) in the middle of a batch (W4).
//!
//! The limit is the process's, so the test's work is done in a child. How a write goes on after each kind of incomplete
//! answer (short, interrupted, would block) is tested in the driver (`disk/uring.rs`) and on the simulated disk.

mod common;

use common::*;
use logdrive_raft::{GroupId, LogIndex};
use logdrive_wal::{Config, DriverChoice, Home, Wal, WalError};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Resource, Rlimit};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

/// Set for the child: the directory of its node.
const NODE: &str = "LOGDRIVE_TEST_SHORT_WRITE";
const NAME: &str = "a_write_that_a_limit_cuts_short_goes_on_where_it_was_cut_or_fails_whole";

/// RULES.md W4.
#[test]
fn a_write_that_a_limit_cuts_short_goes_on_where_it_was_cut_or_fails_whole() {
    if let Ok(node) = std::env::var(NODE) {
        return write_against_a_limit(Path::new(&node));
    }
    let dir = tempfile::tempdir().unwrap();
    let node = dir.path().join("node");
    let me = std::env::current_exe().unwrap();
    // Beyond the limit the kernel also sends a signal, which ends a process that does not ignore it.
    // The child waits by polling without a pause: if that takes a minute of processor time, it hangs.
    let script = r#"trap "" XFSZ; ulimit -t 60; exec "$0" "$@""#;
    let mut child = Command::new("sh");
    child.args(["-c", script]).arg(me).args(["--exact", "--nocapture", NAME]).env(NODE, &node);
    let ended = child.output().unwrap();
    let said = [ended.stdout, ended.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(ended.status.success(), "{}: {said}", ended.status);
    if let Some(reason) = said.lines().find_map(|line| line.strip_prefix("SKIPPED: ")) {
        skipped(reason);
        return;
    }

    // Every write reported durable is there, and nothing of the write that failed.
    let home = Home::open(&node).unwrap();
    let (wal, recovered) = Wal::open(large(&home)).unwrap();
    let group = &recovered.groups[0];
    assert_eq!(group.last, LogIndex(COUNT), "{recovered:?}");
    assert_eq!(read_all(&wal, group), entries(1, 1, 1, COUNT, 1000));
}

/// The child's part.
fn write_against_a_limit(node: &Path) {
    let home = new_home(node);
    let mut wal = match Wal::open(large(&home)) {
        Ok((wal, _)) => wal,
        Err(WalError::Io { what: "opening", source, .. }) => {
            skipped(format_args!("io_uring: {source}"));
            return;
        }
        Err(error) => panic!("{error}"),
    };
    // The segments ahead are made before the limit is set.
    while std::fs::read(home.shard_dir(0).join("manifest")).unwrap()[44] < 4 {
        std::thread::yield_now();
    }
    wal.append(&write(1, 1, &entries(1, 1, 1, 1, 1000))).unwrap();
    settle(&mut wal);

    let segment = home.shard_dir(0).join("0000000001.seg");
    let start = wal.durable().offset();
    let cut = u64::from(start) + CUT;
    let byte = |at: u64| {
        let mut byte = [0];
        std::fs::File::open(&segment).unwrap().read_exact_at(&mut byte, at).unwrap();
        byte[0]
    };
    wal.append(&write(1, 2, &entries(1, 1, 2, COUNT - 1, 1000))).unwrap();
    forget_wake_ups(&wal);
    limit(Some(cut));
    wal.submit(0).unwrap();
    wait_for_a_wake_up(&wal);
    assert_ne!(byte(cut - 4000), 0, "nothing is written below the limit");
    assert_eq!((byte(cut + 100), byte(cut + 4096)), (0, 0), "the limit did not hold");
    assert!(wal.durable().offset() == start, "part of a write is durable");
    // Without the limit the rest is written from where the first part ended.
    limit(None);
    let mut completed = Vec::new();
    wal.poll(0, &mut completed).unwrap();
    assert!(completed.is_empty(), "part of a write was acknowledged");
    completed = settle(&mut wal);
    assert_eq!(completed.len(), 1);
    assert_ne!((byte(cut + 100), byte(cut + 4096)), (0, 0));

    // If the limit stays, the rest of a write fails, and with it the whole write, for good.
    wal.append(&write(1, 3, &entries(1, 1, COUNT + 1, COUNT, 1000))).unwrap();
    limit(Some(u64::from(wal.durable().offset()) + CUT));
    wal.submit(0).unwrap();
    completed.clear();
    let failed = loop {
        match wal.poll(0, &mut completed) {
            Ok(()) => std::thread::yield_now(),
            Err(error) => break error,
        }
    };
    assert!(matches!(&failed, WalError::Io { what: "write", .. }), "{failed}");
    limit(None);
    assert!(matches!(wal.poll(0, &mut completed), Err(WalError::Poisoned { .. })));
    assert!(completed.is_empty(), "a failed write was acknowledged");
    let more = wal.append(&write(1, 4, &entries(1, 1, 2 * COUNT + 1, 1, 10)));
    assert!(matches!(more, Err(WalError::Poisoned { .. })));
    let not_there = LogIndex(COUNT + 1);
    assert!(wal.plan_read(GroupId(1), not_there, not_there, 1).is_err());
}

/// Settings with which one segment and one batch hold all entries.
fn large(home: &Home) -> Config {
    let mut config = config(home, DriverChoice::Uring);
    config.segment_bytes = 1 << 20;
    config.batch_bytes_max = 512 << 10;
    config
}

fn limit(bytes: Option<u64>) {
    rustix::process::setrlimit(Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
}

/// Resets the counter of wake-ups, which the log itself never reads, so that the next wake-up is seen.
fn forget_wake_ups(wal: &Wal) {
    let _ = rustix::io::read(wal.readiness().unwrap(), &mut [0u8; 8]);
}

fn wait_for_a_wake_up(wal: &Wal) {
    let patience = Timespec { tv_sec: 30, tv_nsec: 0 };
    let fd = wal.readiness().unwrap();
    loop {
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&patience)) {
            // The kernel finishes the ring's work in this thread by interrupting its sleep.
            Err(rustix::io::Errno::INTR) => {}
            woken => return assert!(woken.unwrap() > 0, "the write does not complete"),
        }
    }
}

const COUNT: u64 = 120;
/// The limit, counted from the start of a batch: a whole number of blocks.
const CUT: u64 = 10 * 4096;
