//! A log that is closed vouches for everything that was written, also for batches in flight when the close began.

mod common;

use common::busy::find;
use common::{Sim, entries, payload, write};
use logdrive_raft::GroupId;
use logdrive_wal::SegmentSeq;

/// RULES.md C2.
#[test]
fn a_log_closed_with_batches_in_flight_vouches_for_the_last_of_them() {
    const GROUPS: u64 = 4;
    // When the log is closed, all batches have been submitted, or the last one is still open.
    for submitted in [GROUPS, GROUPS - 1] {
        let sim = Sim::new(7);
        let (mut wal, _) = sim.open();
        for group in 1..=GROUPS {
            wal.append(&write(group, 1, &entries(group, 1, 1, 3, 100))).unwrap();
            if group <= submitted {
                wal.submit(0).unwrap();
            }
        }
        assert!(sim.platter.writes_in_flight() > 1, "nothing is in flight");
        wal.close().unwrap();
        for group in 1..=GROUPS {
            let damaged = sim.fork(group);
            let at = find(&damaged, SegmentSeq(1), &payload(group, 1, 3, 100)).unwrap();
            damaged.platter.flip(SegmentSeq(1), at, 1);
            let (_, recovered) = damaged.open();
            assert!(recovered.cut.is_none(), "{group} of {submitted}: {:?}", recovered.cut);
            let fenced = recovered.groups.iter().filter(|found| found.fenced.is_some());
            let fenced: Vec<_> = fenced.map(|found| found.group).collect();
            assert_eq!(fenced, [GroupId(group)], "of {submitted}");
        }
    }
}
