//! Tests that every driver must pass, run over each driver: io_uring, plain writes, the simulated disk.

mod common;

use common::*;
use logdrive_raft::{GroupId, LogIndex, Term, WriteId};
use logdrive_wal::{Append, Completed, DriverChoice, Recovered, Wal, WalError};

/// A place to open a log in, again and again.
struct Place<'a> {
    open: &'a dyn Fn() -> (Wal, Recovered),
    /// Opens the log with a quota of that many bytes.
    open_within: &'a dyn Fn(u64) -> (Wal, Recovered),
    /// Lets some of what is in flight finish.
    drive: &'a dyn Fn(),
    driver: &'static str,
}

impl Place<'_> {
    fn settle(&self, wal: &mut Wal) -> Vec<Completed> {
        let mut completed = Vec::new();
        while wal.has_work() {
            wal.submit(0).unwrap();
            (self.drive)();
            wal.poll(0, &mut completed).unwrap();
        }
        completed
    }
}

fn on_real(driver: DriverChoice, name: &'static str, test: fn(&Place<'_>)) {
    let dir = tempfile::tempdir().unwrap();
    let home = new_home(&dir.path().join("node"));
    let open = || Wal::open(config(&home, driver)).unwrap();
    let open_within = |bytes| {
        let mut config = config(&home, driver);
        config.log_bytes_max = Some(bytes);
        Wal::open(config).unwrap()
    };
    let drive = || std::thread::yield_now();
    test(&Place { open: &open, open_within: &open_within, drive: &drive, driver: name });
}

fn on_sim(test: fn(&Place<'_>)) {
    let sim = Sim::new(11);
    let open = || sim.open();
    let open_within = |bytes| {
        let mut sim = Sim { platter: sim.platter.clone(), config: sim.config.clone() };
        sim.config.log_bytes_max = Some(bytes);
        sim.open()
    };
    let drive = || sim.platter.complete_some();
    test(&Place { open: &open, open_within: &open_within, drive: &drive, driver: "sim" });
}

macro_rules! on_every_driver {
    ($($claim:ident),+ $(,)?) => {
        mod io_uring { $( #[test] fn $claim() {
            super::on_real(super::DriverChoice::Uring, "io_uring", super::$claim);
        } )+ }
        mod portable { $( #[test] fn $claim() {
            super::on_real(super::DriverChoice::Portable, "portable", super::$claim);
        } )+ }
        mod sim { $( #[test] fn $claim() { super::on_sim(super::$claim); } )+ }
    };
}

on_every_driver!(
    what_was_durable_is_there_again,
    segments_fill_and_are_read_back,
    a_write_larger_than_a_segment_is_split_and_an_entry_larger_is_refused,
    borrowed_bytes_live_on_while_segments_come_and_go,
    a_write_of_nothing_is_durable_too,
    ten_thousand_groups_share_batches,
    segments_are_given_up_and_made_again_and_nothing_old_comes_back,
    a_log_at_its_quota_refuses_entries_takes_votes_and_heals,
    a_log_dropped_with_writes_in_flight_finishes_them,
    a_disk_that_makes_segments_answers,
);

/// RULES.md D3.
fn a_disk_that_makes_segments_answers(place: &Place<'_>) {
    let (mut wal, _) = (place.open)();
    place.settle(&mut wal);
    // Nothing is written: the disk's answers are to the orders to make the next segments.
    let mut looks = 0;
    while wal.disk_answers() == 0 {
        (place.drive)();
        wal.poll(0, &mut Vec::new()).unwrap();
        looks += 1;
        assert!(looks < 20_000_000, "{}: no answer", place.driver);
    }
}

fn tend(place: &Place<'_>, wal: &mut Wal) {
    place.settle(wal);
    if let Some(plan) = wal.maintain().unwrap() {
        wal.carried(plan.run()).unwrap();
    }
    wal.submit(0).unwrap();
    place.settle(wal);
    (place.drive)();
    wal.poll(0, &mut Vec::new()).unwrap();
}

/// RULES.md W12, S6.
fn segments_are_given_up_and_made_again_and_nothing_old_comes_back(place: &Place<'_>) {
    let (mut wal, _) = (place.open)();
    wal.append(&state(2, 1, hard_state(7, 3, 0))).unwrap();
    wal.append(&write(3, 1, &entries(3, 2, 1, 3, 50))).unwrap();
    let mut last = 0;
    while wal.metrics().recycled < 3 {
        wal.append(&write(1, last + 1, &entries(1, 1, last + 1, 5, 900))).unwrap();
        last += 5;
        wal.release(&released(1, last - 1, 1)).unwrap();
        tend(place, &mut wal);
        assert!(last < 40_000, "nothing is recycled: {:?}", wal.metrics());
    }
    assert!(wal.usage().bytes < 20 * (64 << 10), "{:?}", wal.usage());
    wal.close().unwrap();
    let (wal, recovered) = (place.open)();
    let [one, two, three] = &recovered.groups[..] else { panic!("{recovered:?}") };
    assert_eq!((one.released, one.last), (LogIndex(last - 1), LogIndex(last)));
    assert_eq!(read_all(&wal, one), entries(1, 1, last, 1, 900));
    assert_eq!(two.hard_state, hard_state(7, 3, 0));
    assert_eq!(read_all(&wal, three), entries(3, 2, 1, 3, 50));
}

/// RULES.md W9.
fn a_log_at_its_quota_refuses_entries_takes_votes_and_heals(place: &Place<'_>) {
    let (mut wal, _) = (place.open_within)(8 * (64 << 10));
    let mut last = 0;
    loop {
        match wal.append(&write(1, last + 1, &entries(1, 1, last + 1, 1, 3000))) {
            Ok(()) => last += 1,
            Err(WalError::OverQuota) => break,
            Err(error) => panic!("{error}"),
        }
        tend(place, &mut wal);
        assert!(last < 1000, "never refused");
    }
    assert!(wal.usage().bytes <= 8 * (64 << 10), "{:?}", wal.usage());
    for term in 2..6 {
        wal.append(&state(2, term, hard_state(term, 1, 0))).unwrap();
        tend(place, &mut wal);
    }
    wal.release(&released(1, last, 1)).unwrap();
    let mut turns = 0;
    while wal.append(&write(1, last + 1, &entries(1, 1, last + 1, 1, 3000))).is_err() {
        wal.submit(0).unwrap();
        tend(place, &mut wal);
        turns += 1;
        assert!(turns < 200_000, "it does not heal: {:?}", wal.usage());
    }
    wal.close().unwrap();
    let (_wal, recovered) = (place.open_within)(8 * (64 << 10));
    assert_eq!(recovered.groups[0].last, LogIndex(last + 1));
    assert_eq!(recovered.groups[1].hard_state, hard_state(5, 1, 0));
}

/// RULES.md W15.
fn a_log_dropped_with_writes_in_flight_finishes_them(place: &Place<'_>) {
    for n in 0..5u64 {
        let (mut wal, _) = (place.open)();
        for part in 0..3 {
            let first = n * 15 + part * 5 + 1;
            wal.append(&write(1, part + 1, &entries(1, 1, first, 5, 200))).unwrap();
            wal.submit(0).unwrap();
        }
    }
    let (_wal, recovered) = (place.open)();
    assert_eq!(recovered.groups[0].last, LogIndex(75));
    assert_eq!(recovered.cut, None);
}

fn what_was_durable_is_there_again(place: &Place<'_>) {
    let (mut wal, recovered) = (place.open)();
    assert_eq!(wal.describe().disk.driver, place.driver);
    assert!(recovered.groups.is_empty() && recovered.cut.is_none(), "{recovered:?}");
    for round in 0..20u64 {
        for group in 1..=5 {
            let run = entries(group, 1 + round / 10, 1 + round * 7, 7, 100);
            wal.append(&write(group, round + 1, &run)).unwrap();
        }
        wal.submit(round).unwrap();
        if round % 3 == 0 {
            place.settle(&mut wal);
        }
    }
    let membership = b"voters 1 2 3";
    wal.append(&Append {
        group: GroupId(3),
        write: WriteId(21),
        membership: Some(membership),
        hard_state: Some(hard_state(7, 2, 9999)),
        entries: &[],
    })
    .unwrap();
    wal.close().unwrap();
    let (wal, recovered) = (place.open)();
    assert_eq!(recovered.groups.len(), 5);
    assert_eq!(recovered.cut, None);
    assert_eq!(&recovered.groups[2].membership[..], membership);
    // Recovery lowers a commit index past the log's end to that end.
    assert_eq!(recovered.groups[2].hard_state, hard_state(7, 2, 140));
    for group in &recovered.groups {
        assert_eq!(group.last, LogIndex(140));
        assert_eq!(group.durable.upto(), WriteId::ZERO);
        for entry in read_all(&wal, group) {
            let term = 1 + (entry.index.get() - 1) / 7 / 10;
            assert_eq!(entry.term, Term(term));
            assert_eq!(entry.payload, payload(group.group.get(), term, entry.index.get(), 100));
        }
    }
    assert!(wal.plan_read(GroupId(9), LogIndex(1), LogIndex(1), 100).is_err());
    assert!(wal.plan_read(GroupId(1), LogIndex(1), LogIndex(141), 100).is_err());
}

fn segments_fill_and_are_read_back(place: &Place<'_>) {
    let (mut wal, _) = (place.open)();
    let mut sealed = 0;
    let mut newest = WriteId::ZERO;
    for n in 0..60u64 {
        wal.append(&write(1, n + 1, &entries(1, 1, 1 + n * 10, 10, 700))).unwrap();
        wal.submit(n).unwrap();
        if n % 4 == 0 {
            for completed in place.settle(&mut wal) {
                sealed += u32::from(completed.sealed);
                for durable in completed.durable {
                    assert!(durable.upto() > newest);
                    newest = durable.upto();
                }
            }
            // Durable entries are read wherever they are: in a sealed segment's file, or in the image.
            let last = LogIndex((n + 1) * 10);
            for first in [1, last.get() / 2 + 1, last.get()] {
                let plan = wal.plan_read(GroupId(1), LogIndex(first), last, 3000).unwrap();
                let back = read_elsewhere(plan);
                assert!(!back.is_empty() && back.len() <= 4);
                for entry in back.as_slice() {
                    assert_eq!(entry.payload, payload(1, 1, entry.index.get(), 700));
                }
            }
        }
    }
    assert!(sealed >= 6, "{sealed} segments sealed");
    assert_eq!(place.settle(&mut wal).last().unwrap().durable[0].upto(), WriteId(60));
    let metrics = wal.metrics();
    assert_eq!((metrics.in_flight, metrics.waiting, metrics.entries), (0, 0, 600));
    assert_eq!(metrics.segments as u64, metrics.rotations);
    wal.close().unwrap();
    let (wal, recovered) = (place.open)();
    assert_eq!(read_all(&wal, &recovered.groups[0]).len(), 600);
}

/// RULES.md W13.
fn a_write_larger_than_a_segment_is_split_and_an_entry_larger_is_refused(place: &Place<'_>) {
    let (mut wal, _) = (place.open)();
    let max = wal.entry_bytes_max();
    let big = entry(1, 1, &vec![b'x'; max + 1]);
    match wal.append(&write(1, 1, &[big])) {
        Err(WalError::TooLarge { bytes, max: said }) => assert_eq!((bytes, said), (max + 1, max)),
        other => panic!("{other:?}"),
    }
    assert!(!wal.has_work(), "a refused write left something behind");
    // One write holds the largest entry that is allowed, an empty one, and entries for many segments.
    let mut run = vec![entry(1, 1, &vec![b'y'; max]), entry(1, 2, b"")];
    run.extend(entries(1, 2, 3, 300, 1000));
    run.push(entry(2, 303, &vec![b'z'; max]));
    wal.append(&write(1, 5, &run)).unwrap();
    let completed = place.settle(&mut wal);
    let (last, before) = completed.split_last().unwrap();
    // The write is reported durable with its last part, not earlier.
    assert!(before.iter().all(|completed| completed.durable.is_empty()));
    assert_eq!(last.durable[0].upto(), WriteId(5));
    // Many writes of growing sizes, so that records of many sizes meet a segment's end.
    for (n, bytes) in (0..130u64).zip((900..).step_by(37)) {
        wal.append(&write(2, n + 1, &entries(2, 1, n + 1, 1, bytes))).unwrap();
        if n % 7 == 0 {
            place.settle(&mut wal);
        }
    }
    wal.close().unwrap();
    let (wal, recovered) = (place.open)();
    assert_eq!(read_all(&wal, &recovered.groups[0]), run);
    assert_eq!(read_all(&wal, &recovered.groups[1]).len(), 130);
}

fn borrowed_bytes_live_on_while_segments_come_and_go(place: &Place<'_>) {
    let (mut wal, _) = (place.open)();
    let mut kept = Vec::new();
    for n in 0..50u64 {
        wal.append(&write(1, n + 1, &entries(1, 1, 1 + n * 10, 10, 800))).unwrap();
        for completed in place.settle(&mut wal) {
            for run in &completed.frozen {
                assert_eq!((run.group, run.term), (GroupId(1), Term(1)));
                for (index, (_, checksum, bytes)) in (run.first.get()..).zip(run.payloads()) {
                    if index % 10 == 0 {
                        kept.push((index, checksum, bytes));
                    }
                }
            }
        }
    }
    wal.close().unwrap();
    assert_eq!(kept.len(), 50);
    for (index, checksum, bytes) in kept {
        assert_eq!(bytes, payload(1, 1, index, 800));
        assert_eq!(checksum, logdrive_wal::checksum(&bytes));
    }
}

fn a_write_of_nothing_is_durable_too(place: &Place<'_>) {
    let (mut wal, _) = (place.open)();
    for n in 1..=40u64 {
        wal.append(&write(7, n, &[])).unwrap();
        let completed = place.settle(&mut wal);
        assert_eq!(completed.len(), 1);
        assert_eq!(completed[0].durable[0].upto(), WriteId(n));
    }
    assert!(wal.metrics().rotations > 2);
}

/// RULES.md W13.
fn ten_thousand_groups_share_batches(place: &Place<'_>) {
    let (mut wal, _) = (place.open)();
    for group in 0..10_000u64 {
        let run = entries(group, 1, 1, 1, 1);
        wal.append(&write(group, 1, &run)).unwrap();
        // The same group writes again in the same batch: the batch lists it once, with the later write.
        wal.append(&state(group, 2, hard_state(1, 1, 0))).unwrap();
    }
    let completed = place.settle(&mut wal);
    let mut newest = vec![WriteId::ZERO; 10_000];
    for completed in &completed {
        let mut seen = std::collections::HashSet::new();
        for durable in &completed.durable {
            assert!(seen.insert(durable.group()), "listed twice in one batch");
            newest[usize::try_from(durable.group().get()).unwrap()] = durable.upto();
        }
    }
    assert!(newest.iter().all(|write| *write == WriteId(2)));
    assert!(completed.len() < 120, "{} batches", completed.len());
    wal.close().unwrap();
    let (_wal, recovered) = (place.open)();
    assert_eq!(recovered.groups.len(), 10_000);
    assert!(recovered.groups.iter().all(|group| group.hard_state == hard_state(1, 1, 0)));
}

/// The loop a shard's driver runs: sleep in an edge-triggered epoll, poll, never read the descriptor.
fn completions_wake_an_edge_triggered_sleeper(driver: DriverChoice) {
    use rustix::event::epoll;
    let dir = tempfile::tempdir().unwrap();
    let home = new_home(&dir.path().join("node"));
    let (mut wal, _) = Wal::open(config(&home, driver)).unwrap();
    let sleeper = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
    epoll::add(&sleeper, wal.readiness().unwrap(), epoll::EventData::new_u64(1), flags).unwrap();
    let mut events = Vec::with_capacity(4);
    let mut completed = Vec::new();
    for n in 1..=300u64 {
        // Segments fill on the way, so that the maker's wake-ups are among these too.
        wal.append(&write(1, n, &entries(1, 1, n, 1, 1500))).unwrap();
        wal.submit(n).unwrap();
        while wal.has_work() {
            events.clear();
            let patience = rustix::time::Timespec { tv_sec: 10, tv_nsec: 0 };
            let space = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&sleeper, space, Some(&patience)) {
                // The kernel finishes the ring's work in this thread by interrupting its sleep.
                Err(rustix::io::Errno::INTR) => continue,
                woken => assert!(woken.unwrap() > 0, "write {n} completed without a wake-up"),
            }
            wal.poll(n, &mut completed).unwrap();
        }
    }
    assert_eq!(completed.len(), 300);
}

#[test]
fn io_uring_completions_wake_an_edge_triggered_sleeper() {
    completions_wake_an_edge_triggered_sleeper(DriverChoice::Uring);
}

#[test]
fn portable_completions_wake_an_edge_triggered_sleeper() {
    completions_wake_an_edge_triggered_sleeper(DriverChoice::Portable);
}

/// RULES.md W15.
#[test]
fn a_log_dropped_with_writes_in_flight_has_them_on_disk() {
    for driver in [DriverChoice::Uring, DriverChoice::Portable] {
        let dir = tempfile::tempdir().unwrap();
        let home = new_home(&dir.path().join("node"));
        for n in 0..20u64 {
            let (mut wal, _) = Wal::open(config(&home, driver)).unwrap();
            for part in 0..4 {
                let first = n * 20 + part * 5 + 1;
                wal.append(&write(1, part + 1, &entries(1, 1, first, 5, 200))).unwrap();
                wal.submit(0).unwrap();
            }
        }
        let (_wal, recovered) = Wal::open(config(&home, driver)).unwrap();
        assert_eq!(recovered.groups[0].last, LogIndex(400));
        assert_eq!(recovered.cut, None);
    }
}

/// RULES.md W21.
/// The file system is tmpfs, which takes the flag `O_DIRECT` since Linux 6.6 and refuses it before.
#[test]
fn a_file_system_without_direct_writes_is_written_and_read_through_the_page_cache() {
    for driver in [DriverChoice::Uring, DriverChoice::Portable] {
        let Ok(dir) = tempfile::tempdir_in("/dev/shm") else {
            skipped("no /dev/shm");
            return;
        };
        let home = new_home(&dir.path().join("node"));
        let (mut wal, _) = Wal::open(config(&home, driver)).unwrap();
        let description = wal.describe();
        assert!(!description.disk.direct_io && description.in_flight_max == 1, "{description}");
        for n in 0..60 {
            wal.append(&write(1, n + 1, &entries(1, 1, 1 + n * 10, 10, 700))).unwrap();
            settle(&mut wal);
        }
        drop(wal);
        // Each open writes again the batches that no later batch vouches for.
        for _ in 0..3 {
            let (wal, recovered) = Wal::open(config(&home, driver)).unwrap();
            assert_eq!(read_all(&wal, &recovered.groups[0]), entries(1, 1, 1, 600, 700));
        }
    }
}
