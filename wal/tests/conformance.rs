//! What every driver must do, run over each of them: io_uring, plain writes, the simulated disk.

mod common;

use common::*;
use logdrive_raft::{GroupId, LogIndex, WriteId};
use logdrive_wal::{DriverChoice, Wal};

fn on_real(driver: DriverChoice, test: impl Fn(&dyn Fn() -> (Wal, logdrive_wal::Recovered))) {
    let dir = tempfile::tempdir().unwrap();
    let home = new_home(&dir.path().join("node"));
    test(&|| Wal::open(config(&home, driver)).unwrap());
}

fn what_was_durable_is_there_again(open: &dyn Fn() -> (Wal, logdrive_wal::Recovered)) {
    let (mut wal, recovered) = open();
    assert!(recovered.groups.is_empty() && recovered.cut.is_none(), "{recovered:?}");
    for round in 0..20u64 {
        for group in 1..=5 {
            let run = entries(group, 1 + round / 10, 1 + round * 7, 7, 100);
            wal.append(&write(group, round + 1, &run)).unwrap();
        }
        wal.submit(round).unwrap();
        if round % 3 == 0 {
            settle(&mut wal);
        }
    }
    settle(&mut wal);
    wal.close().unwrap();
    let (wal, recovered) = open();
    assert_eq!(recovered.groups.len(), 5);
    assert_eq!(recovered.cut, None);
    for group in &recovered.groups {
        assert_eq!(group.last, LogIndex(140));
        assert_eq!(group.durable.upto(), WriteId::ZERO);
        let plan = wal.plan_read(group.group, LogIndex(1), LogIndex(140), 1 << 20).unwrap();
        let back = plan.run().unwrap();
        assert_eq!(back.len(), 140);
        for entry in back.as_slice() {
            let term = 1 + (entry.index.get() - 1) / 7 / 10;
            assert_eq!(entry.payload, payload(group.group.get(), term, entry.index.get(), 100));
        }
    }
    assert!(wal.plan_read(GroupId(9), LogIndex(1), LogIndex(1), 100).is_err());
}

#[test]
fn io_uring_what_was_durable_is_there_again() {
    on_real(DriverChoice::Uring, what_was_durable_is_there_again);
}

#[test]
fn portable_what_was_durable_is_there_again() {
    on_real(DriverChoice::Portable, what_was_durable_is_there_again);
}
