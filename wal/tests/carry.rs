//! A group of many small records is carried in several steps, and none of its records is left out where a step ends.

mod common;

use common::busy::{Busy, give_back};
use common::{Sim, entries, read_all, write};
use logdrive_raft::GroupId;

/// Entries of 500 bytes to carry: more than the 256 KiB that one step takes.
const CARRIED: u64 = 800;
/// Records behind them: more than the 16,384 that one step looks at.
const BEHIND: u64 = 17_000;

#[test]
fn records_of_one_entry_are_all_carried_where_they_take_several_steps() {
    let mut sim = Sim::new(5);
    (sim.config.segment_bytes, sim.config.batch_bytes_max) = (2 << 20, 64 << 10);
    let (mut wal, _) = sim.open();
    let mut all = entries(1, 1, 1, CARRIED, 500);
    for entry in &all {
        wal.append(&write(1, entry.index.get(), std::slice::from_ref(entry))).unwrap();
    }
    sim.settle(&mut wal);
    let mut busy = Busy::new(2);
    while wal.metrics().rotations < 2 {
        busy.write(&mut wal, 10, 1000).unwrap();
        sim.settle(&mut wal);
        sim.platter.complete_all();
    }
    // Records of the same group that stand elsewhere are looked at, and left where they are.
    let behind = entries(1, 1, CARRIED + 1, BEHIND, 8);
    for entry in &behind {
        wal.append(&write(1, entry.index.get(), std::slice::from_ref(entry))).unwrap();
    }
    all.extend(behind);
    busy.release_all(&mut wal).unwrap();
    give_back(&sim, &mut wal);
    let metrics = wal.metrics();
    assert!(metrics.retired > 0 && metrics.carried >= CARRIED, "{metrics:?}");
    sim.platter.crash();
    drop(wal);
    let (wal, recovered) = sim.open();
    let found = recovered.groups.iter().find(|found| found.group == GroupId(1)).unwrap();
    assert!(read_all(&wal, found) == all, "not all of {} entries are there", all.len());
}
