//! A log whose process has no file descriptor left refuses entries, and goes on by itself when there are some again
//! (RULES.md W9).
//!
//! Alone in its file: the limit is the whole process's.

#![forbid(unsafe_code)]

mod common;

use common::*;
use logdrive_raft::{LogIndex, WriteId};
use logdrive_wal::{DriverChoice, Room, Wal, WalError};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs::File;
use std::time::{Duration, Instant};

/// RULES.md W9, rule 26. With each number of descriptors that are left, the lack comes at another step of making a
/// segment.
#[test]
fn a_lack_of_file_descriptors_refuses_entries_keeps_votes_going_and_heals() {
    for driver in [DriverChoice::Uring, DriverChoice::Portable] {
        let dir = tempfile::tempdir().unwrap();
        let home = new_home(&dir.path().join("node"));
        let config = config(&home, driver);
        let Some(mut wal) = open_or_skip(&config) else { continue };
        let (mut index, mut term) = (0, 0);
        for left in 0..3 {
            let taken = Taken::all_but(left);
            // Until no segment can be made any more. With descriptors left, they are used up by the segments before.
            let patience = now() + PATIENCE;
            loop {
                match wal.append(&write(1, index + 1, &entries(1, 1, index + 1, 1, 2000))) {
                    Ok(()) => index += 1,
                    Err(WalError::NoSpace) => break,
                    Err(error) => panic!("{left} left: {error}"),
                }
                // No writes may wait for a segment, or they would wait for a descriptor.
                while wal.takes_now(&entries(1, 1, index + 1, 1, 2000)) == 0 {
                    wal.submit(0).unwrap();
                    wal.poll(0, &mut Vec::new()).unwrap();
                    assert!(now() < patience, "{left} left: neither a segment nor a refusal");
                }
                wal.submit(0).unwrap();
                wal.poll(0, &mut Vec::new()).unwrap();
            }
            assert_eq!(wal.room(), Room::Reserve);
            term += 1;
            wal.append(&state(2, term, hard_state(term, 1, 0))).unwrap();
            let voted = settle(&mut wal).into_iter().flat_map(|batch| batch.durable).last();
            assert_eq!(voted.map(|durable| durable.upto()), Some(WriteId(term)));
            drop(taken);
            let patience = now() + PATIENCE;
            while wal.room() != Room::Free {
                wal.poll(0, &mut Vec::new()).unwrap();
                assert!(now() < patience, "{left} left: not healed");
                std::thread::yield_now();
            }
        }
        drop(wal);
        let (_, recovered) = Wal::open(config).unwrap();
        assert_eq!(recovered.groups[0].last, LogIndex(index));
        assert_eq!(recovered.groups[1].hard_state, hard_state(term, 1, 0));
    }
}

/// Descriptors that the test holds so that the log has none.
struct Taken {
    limit: Rlimit,
    _held: Vec<File>,
}

impl Taken {
    fn all_but(left: usize) -> Self {
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(DESCRIPTORS), ..limit }).unwrap();
        let mut held: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        assert!(held.len() > left, "the process has more than {DESCRIPTORS} descriptors");
        held.truncate(held.len() - left);
        Self { limit, _held: held }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        setrlimit(Resource::Nofile, self.limit).unwrap();
    }
}

#[expect(clippy::disallowed_methods, reason = "a test that waits gives up")]
fn now() -> Instant {
    Instant::now()
}

const DESCRIPTORS: u64 = 128;
const PATIENCE: Duration = Duration::from_secs(60);
