//! A saved commit index covers no entry that could be missing or another when the power fails.
//!
//! The log writes a hard state before the entries that come with it, and may do so in an earlier batch. So:
//! 1. Entries 8 to 10 of term 2 are on 3's disk; nobody committed them.
//! 2. 1 leads term 3 and commits other entries, 8' to 12', with 2. 3 knows term 3, and is about to get them.
//! 3. 2 leads term 4. The last messages of 1 and the first of 2 reach 3 in one turn: one write has the new
//!    term and the entries, and 3 knows by then that 12 is committed.
//! 4. The power fails when the hard state is on the disk and the entries are not. If the hard state says
//!    that 12 is committed, 3 takes its own 8 to 10 for committed and applies them.

mod common;

use common::{Cluster, Image, config, log_of, n};
use logdrive_raft::{Event, HardState, LogIndex, Message, Term, Ticks};

/// The story up to the write of the third step, which waits for the disk.
fn story() -> Cluster {
    let mut c = Cluster::empty();
    let term_2 = HardState { term: Term(2), ..HardState::default() };
    for (id, log) in [(1, &[1; 7][..]), (2, &[1; 7]), (3, &[1, 1, 1, 1, 1, 1, 1, 2, 2, 2])] {
        c.add(config(id, 3), Image::of(term_2, log_of(log)));
    }
    let (leaders, three) = ([n(1), n(2)], n(3));
    c.step(n(1), Event::Campaign);
    c.settle_among(&leaders);
    c.drop_packets(|p| p.to == three);
    c.step(n(1), Event::Unreachable(three));
    (9..=12).for_each(|i| assert!(c.propose(n(1), &format!("{i}'")).is_ok()));
    c.settle_among(&leaders);
    assert_eq!(c.status(n(1)).commit, LogIndex(12));
    // 3 hears a heartbeat of term 3, then an empty probe; its answer starts the entries on their way.
    c.now = Ticks(3);
    c.step(n(1), Event::Tick);
    c.settle_among(&leaders);
    for _ in 0..2 {
        c.deliver(|p| p.to == three);
        c.collect(three);
        c.sync(three, 1);
        c.deliver(|p| p.from == three);
        c.settle_among(&leaders);
    }
    // 1 gives way, and 2 leads; its requests for votes do not reach 3.
    c.step(n(1), Event::GiveWay);
    c.now = Ticks(30);
    c.step(n(2), Event::Campaign);
    c.settle_among(&leaders);
    assert_eq!((c.leader(), c.status(n(2)).term), (Some(n(2)), Term(4)));
    c.drop_packets(|p| p.to == three && !matches!(p.message, Message::AppendEntries(_)));
    c.deliver(|p| p.to == three);
    assert!(c.collect(three));
    c
}

#[test]
fn a_saved_commit_index_covers_no_entry_of_its_own_write() {
    let c = story();
    assert_eq!(c.status(n(3)).commit, LogIndex(12));
    let write = c.node(n(3)).writes.back().unwrap();
    let (saved, first) = (write.hard_state.unwrap(), write.entries.first().unwrap().index);
    assert_eq!((saved.term, first), (Term(4), LogIndex(8)));
    assert_eq!(saved.commit, LogIndex(7), "all that is on the disk and stays there");
}

/// The ghost checks what 3 recovers and applies.
#[test]
fn a_crash_anywhere_within_a_write_recovers_nothing_uncommitted_as_committed() {
    for part in [None, Some(0), Some(1), Some(4), Some(5)] {
        let mut c = story();
        c.crash_within(n(3), 0, part);
        c.restart(n(3));
        c.settle_among(&[n(3)]);
        // Together with the others it comes to have what they committed.
        c.pass(40, true);
        let status = c.status(n(3));
        assert!(status.applied >= LogIndex(12), "{part:?}: {status:?}");
    }
}

/// Entries that were handed to a disk that does not answer are not durable. A hard state of a later write may land
/// before them, so it must not cover them either.
#[test]
fn a_saved_commit_index_covers_no_entry_that_is_not_durable() {
    let mut c = Cluster::new(3);
    c.elect(n(1));
    for i in 0..3 {
        c.propose(n(1), &format!("{i}")).unwrap();
    }
    let others = [n(1), n(2)];
    c.settle_among(&others);
    assert_eq!(c.status(n(1)).commit, LogIndex(4));
    // 3 is handed the entries, later the commit index, and its disk does not answer.
    c.deliver(|p| p.to == n(3));
    assert!(c.collect(n(3)));
    c.now = c.now.after(3);
    c.step(n(1), Event::Tick);
    c.settle_among(&others);
    c.deliver(|p| p.to == n(3));
    c.collect(n(3));
    assert_eq!(c.status(n(3)).durable, LogIndex(1));
    // Then 2 leads.
    c.step(n(1), Event::GiveWay);
    c.now = c.now.after(30);
    c.step(n(2), Event::Campaign);
    c.settle_among(&others);
    assert_eq!(c.leader(), Some(n(2)));
    c.deliver(|p| p.to == n(3));
    c.collect(n(3));
    let saved: Vec<_> = c.node(n(3)).writes.iter().filter_map(|write| write.hard_state).collect();
    assert!(!saved.is_empty() && saved.iter().all(|s| s.commit <= LogIndex(1)), "{saved:?}");
}
