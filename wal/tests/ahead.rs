//! Segments that are made ahead of need: entries go on in them, and seldom wait for one (RULES.md W9).

mod common;

use common::*;
use logdrive_wal::{Room, Wal};

/// A log of segments of which entries take seven eighths.
fn opened(seed: u64) -> (Sim, Wal) {
    let mut sim = Sim::new(seed);
    sim.config.segment_bytes = 1 << 20;
    let (wal, _) = sim.open();
    (sim, wal)
}

/// Writes entries of group 1 and their completions, the maker asleep, until entries past `last` would wait for a segment;
/// gives the index of the last one. `each` is called after each write.
fn fill(sim: &Sim, wal: &mut Wal, mut last: u64, each: &mut dyn FnMut(&Wal)) -> u64 {
    loop {
        let next = entries(1, 1, last + 1, 1, 1000);
        if wal.takes_now(&next) == 0 {
            return last;
        }
        wal.append(&write(1, last + 1, &next)).unwrap();
        wal.submit(0).unwrap();
        while sim.platter.writes_in_flight() > 0 {
            sim.platter.complete_nth(0);
        }
        wal.poll(0, &mut Vec::new()).unwrap();
        last += 1;
        each(wal);
    }
}

/// The maker makes one segment more.
fn make_one(sim: &Sim, wal: &mut Wal) {
    let orders = sim.platter.orders();
    while sim.platter.orders() == orders {
        assert!(sim.platter.make_step(), "nothing was ordered");
    }
    wal.poll(0, &mut Vec::new()).unwrap();
}

/// The bug: once two segments ahead were kept for votes, there was always one ahead, so nobody told the maker of segments
/// that entries come to an end of theirs. Entries waited for a segment made with all its pauses.
#[test]
fn segments_are_made_without_pauses_from_the_middle_of_the_last_one_for_entries() {
    let (sim, mut wal) = opened(1);
    while sim.platter.orders() > 0 {
        make_one(&sim, &mut wal);
    }
    let all_ahead = sim.config.segments_ahead();
    assert_eq!(all_ahead, 3, "one for entries, two for votes");
    let mut rotations = wal.metrics().rotations;
    assert!(!sim.platter.is_in_a_hurry());
    // The next segment begins, which is the last one that is made for entries, and another one is ordered.
    let (mut calm, mut hurried) = (0, 0);
    let mut last = fill(&sim, &mut wal, 0, &mut |wal| match sim.platter.is_in_a_hurry() {
        true => hurried += 1,
        false if wal.metrics().rotations > rotations => calm += 1,
        false => {}
    });
    assert!(calm > 10 && hurried > 10 && hurried < 2 * calm, "{calm} {hurried}");
    assert_eq!(wal.metrics().rotations, rotations + 1);
    // Entries go on in the one that was waited for, which is now the last one for them, as long as they do not come to its
    // middle.
    for _ in 0..5 {
        make_one(&sim, &mut wal);
        rotations = wal.metrics().rotations;
        let filled = fill(&sim, &mut wal, last, &mut |_| ());
        assert!(filled > last + 10, "{last} {filled}");
        last = filled;
        assert_eq!(wal.metrics().rotations, rotations + 1);
        assert!(sim.platter.is_in_a_hurry());
        assert_eq!(wal.room(), Room::Free, "votes go on");
    }
}

/// The bug: after an open entries waited until three segments were made, which took twelve seconds with all pauses.
#[test]
fn after_an_open_entries_go_on_in_the_first_segment_that_is_made() {
    let (sim, mut wal) = opened(2);
    let mut last = fill(&sim, &mut wal, 0, &mut |_| ());
    for made in 1..=4 {
        assert!(sim.platter.is_in_a_hurry());
        make_one(&sim, &mut wal);
        let filled = fill(&sim, &mut wal, last, &mut |_| ());
        assert!(filled > last + 10, "after {made} segments: {last} {filled}");
        last = filled;
    }
    // Once there are three, two of them are left alone for good.
    while sim.platter.orders() > 0 {
        make_one(&sim, &mut wal);
    }
    let rotations = wal.metrics().rotations;
    last = fill(&sim, &mut wal, last, &mut |_| ());
    assert_eq!(wal.metrics().rotations, rotations + 1);
    make_one(&sim, &mut wal);
    fill(&sim, &mut wal, last, &mut |_| ());
    assert_eq!(wal.metrics().rotations, rotations + 2);
}
