//! A sealed segment that somebody else cuts short while the log is open: a read of entries that are gone is an error
//! that names the file, the log goes on, and the next open refuses the file by name.

mod common;

use common::*;
use logdrive_raft::{GroupId, LogIndex};
use logdrive_wal::{Corrupt, DriverChoice, ReadError, Wal, WalError};
use std::fs::File;

/// RULES.md C12.
#[test]
fn a_sealed_segment_that_is_truncated_costs_the_groups_that_are_read_from_it_and_no_process() {
    for choice in [DriverChoice::Auto, DriverChoice::Portable] {
        let dir = tempfile::tempdir().unwrap();
        let home = new_home(&dir.path().join("node"));
        let (mut wal, _) = Wal::open(config(&home, choice)).unwrap();
        let run = entries(1, 1, 1, 200, 1000);
        wal.append(&write(1, 1, &run)).unwrap();
        settle(&mut wal);
        let read = |wal: &Wal, group, index| {
            let plan = wal.plan_read(GroupId(group), LogIndex(index), LogIndex(index), 1).unwrap();
            std::thread::scope(|scope| scope.spawn(move || plan.run()).join().unwrap())
        };
        assert_eq!(read(&wal, 1, 1).unwrap().as_slice(), &run[..1]);
        let segment = home.shard_dir(0).join("0000000001.seg");
        File::options().write(true).open(&segment).unwrap().set_len(0).unwrap();
        let Err(ReadError::Corrupt(corrupt)) = read(&wal, 1, 1) else {
            panic!("an entry is read that is gone");
        };
        assert_eq!(corrupt.file, segment, "{corrupt}");
        assert!(corrupt.what.contains("cannot be read"), "{corrupt}");
        assert!(wal.fence(GroupId(1), &corrupt).unwrap());
        // The other groups go on.
        let other = entries(2, 1, 1, 1, 100);
        wal.append(&write(2, 1, &other)).unwrap();
        settle(&mut wal);
        assert_eq!(read(&wal, 2, 1).unwrap().as_slice(), other);
        drop(wal);
        match Wal::open(config(&home, choice)) {
            Err(WalError::Corrupt(Corrupt { file, .. })) => assert_eq!(file, segment),
            other => panic!("{:?}", other.map(|(_, recovered)| recovered)),
        }
    }
}
