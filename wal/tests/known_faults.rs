//! Faults that are known and not mended yet: each test claims what is wrong, so that mending it turns the test red. Then
//! the claim is turned round, and the test moves to where its kind stands.

mod common;

use common::busy::*;
use common::*;

/// Segments are given up by a new manifest, for which there is no room.
#[test]
fn w4_known_fault_a_disk_full_to_its_last_block_gives_nothing_back() {
    let sim = Sim::new(2);
    let (mut wal, _) = sim.open();
    let mut busy = Busy::new(1);
    while wal.metrics().rotations < 20 {
        busy.write(&mut wal, 5, 2000).unwrap();
        sim.settle(&mut wal);
    }
    sim.platter.complete_all();
    sim.platter.set_files_left(Some(0));
    busy.release_all(&mut wal).unwrap();
    idle_turns(&sim, &mut wal, 100);
    assert_eq!(wal.metrics().retired, 0, "mended?");
    // A block of room is enough.
    sim.platter.set_files_left(Some(1));
    idle_turns(&sim, &mut wal, 100);
    assert!(wal.metrics().retired > 10, "{:?}", wal.usage());
}
