//! Space is given back: what is released goes, what is live is carried, what was promised stays.

mod common;

use common::busy::*;
use common::*;
use logdrive_raft::{GroupId, LogIndex, WriteId};
use logdrive_wal::{
    Append, Destroyed, DriverChoice, Recovered, Release, Room, SegmentSeq, Wal, WalError,
};

/// RULES.md S6.
#[test]
fn a_vote_in_the_oldest_segment_outlives_it_wherever_the_power_fails() {
    let first = SegmentSeq(1);
    let vote = hard_state(5, 2, 2);
    for at in (0..).step_by(3) {
        let sim = Sim::new(at);
        let (mut wal, _) = sim.open();
        // An idle group: its vote, its membership, two entries and a release are in the first segment.
        wal.append(&Append {
            membership: Some(b"members"),
            hard_state: Some(vote),
            ..write(7, 1, &entries(7, 1, 1, 4, 100))
        })
        .unwrap();
        wal.release(&Release { membership: b"members", ..released(7, 2, 1) }).unwrap();
        sim.settle(&mut wal);
        sim.platter.set_power_fails_in(Some(at));
        let mut busy = Busy::new(1);
        let survived = loop {
            if turn_over(&sim, &mut wal, &mut busy).is_err() {
                break false;
            }
            if wal.metrics().retired >= 3 {
                break true;
            }
            assert!(busy.next < 10_000, "nothing is given back");
        };
        sim.platter.set_power_fails_in(None);
        sim.platter.crash();
        drop(wal);
        let (wal, recovered) = sim.open();
        let idle = recovered.groups.iter().find(|group| group.group == GroupId(7)).unwrap();
        assert_eq!((idle.hard_state, &idle.membership[..]), (vote, &b"members"[..]), "cut at {at}");
        assert_eq!((idle.released, idle.last), (LogIndex(2), LogIndex(4)), "cut at {at}");
        assert_eq!(read_all(&wal, idle), entries(7, 1, 3, 2, 100), "cut at {at}");
        if survived {
            assert!(!sim.platter.segments().contains(&first), "the first segment is still there");
            assert!(at > 60, "giving up three segments has more operations than {at}");
            return;
        }
    }
}

/// RULES.md M7.
#[test]
fn a_destroyed_group_stays_dead_when_the_segment_that_says_so_goes() {
    let sim = Sim::new(7);
    let (mut wal, _) = sim.open();
    wal.append(&write(3, 1, &entries(3, 1, 1, 5, 100))).unwrap();
    wal.append(&state(3, 2, hard_state(4, 1, 2))).unwrap();
    wal.destroy(GroupId(3), LogIndex(9)).unwrap();
    wal.destroy(GroupId(3), LogIndex(8)).unwrap();
    let mut busy = Busy::new(1);
    for round in 0..4 {
        while wal.metrics().retired < 3 {
            turn_over(&sim, &mut wal, &mut busy).unwrap();
        }
        let zombie = wal.append(&state(3, 9, hard_state(9, 1, 0)));
        assert!(matches!(zombie, Err(WalError::Destroyed(GroupId(3)))), "{zombie:?}");
        assert!(wal.release(&released(3, 9, 1)).is_err());
        assert!(wal.plan_read(GroupId(3), LogIndex(1), LogIndex(1), 10).is_err());
        sim.platter.crash();
        drop(wal);
        let (again, recovered) = sim.open();
        wal = again;
        let gone = Destroyed { group: GroupId(3), since: LogIndex(9) };
        assert_eq!(recovered.destroyed, [gone], "round {round}");
        assert!(recovered.groups.iter().all(|group| group.group != GroupId(3)));
    }
    assert!(sim.platter.segments()[0] > SegmentSeq(9));
}

/// RULES.md M7.
#[test]
fn a_batch_names_a_group_once_that_is_written_to_and_destroyed_in_it_or_before_it() {
    let sim = Sim::new(13);
    let (mut wal, _) = sim.open();
    wal.append(&state(3, 1, hard_state(1, 1, 0))).unwrap();
    sim.settle(&mut wal);
    wal.append(&state(4, 1, hard_state(1, 1, 0))).unwrap();
    for group in 3..6 {
        wal.destroy(GroupId(group), LogIndex::ZERO).unwrap();
    }
    // The reader looks at every directory.
    let destroyed =
        || reader::read(&sim.platter).destroyed.into_iter().map(GroupId).collect::<Vec<_>>();
    sim.settle(&mut wal);
    sim.platter.crash();
    assert_eq!(destroyed(), [3, 4, 5].map(GroupId));
    drop(wal);
    // The tombstones are carried at least once, among other groups' records.
    let (mut wal, _) = sim.open();
    let mut busy = Busy::new(1);
    while wal.metrics().retired < 3 {
        turn_over(&sim, &mut wal, &mut busy).unwrap();
    }
    sim.settle(&mut wal);
    sim.platter.crash();
    assert_eq!(destroyed(), [3, 4, 5].map(GroupId));
}

/// RULES.md W12.
#[test]
fn a_recycled_segment_never_replays_old_batches() {
    let mut stale_behind = 0;
    for seed in 0..60 {
        let sim = Sim::new(seed);
        let (mut wal, _) = sim.open();
        let mut busy = Busy::new(1);
        while wal.metrics().recycled < 2 + seed % 3 {
            turn_over(&sim, &mut wal, &mut busy).unwrap();
        }
        // Writes into a recycled segment, some acknowledged and some in flight.
        busy.write(&mut wal, 3, 500).unwrap();
        sim.settle(&mut wal);
        let acked = busy.next - 1;
        for _ in 0..3 {
            busy.write(&mut wal, 3, 500).unwrap();
            wal.submit(0).unwrap();
        }
        let newest = *sim.platter.segments().last().unwrap();
        let bytes = sim.platter.segment(newest);
        stale_behind += u32::from(bytes[4096..].iter().any(|byte| *byte != 0));
        if seed % 2 == 0 {
            sim.platter.kill()
        } else {
            sim.platter.crash()
        }
        drop(wal);
        let check = |wal: &Wal, recovered: &Recovered| {
            let group = &recovered.groups[0];
            let last = group.last.get();
            assert!((acked..busy.next).contains(&last), "{last} after {acked} acknowledged");
            assert!(group.released.get() < acked && group.runs.len() == 1);
            read_all(wal, group)
        };
        let (wal, recovered) = sim.open();
        let found = check(&wal, &recovered);
        // A write that a killed process still had in flight lands in a file that is never used again.
        sim.platter.land_late();
        sim.platter.crash();
        drop(wal);
        let (wal, recovered) = sim.open();
        assert_eq!(check(&wal, &recovered), found);
    }
    assert!(stale_behind > 20, "only {stale_behind} segments had old bytes in them");
}

/// Writes many times its quota to a log in which all groups release their entries but one, the laggard.
fn lag(
    wal: &mut Wal,
    quota: u64,
    (per_turn, bytes_each): (u64, usize),
    settle: &mut dyn FnMut(&mut Wal),
    files: &dyn Fn() -> u64,
) {
    const GROUPS: u64 = 1000;
    // The laggard's entries come slowly and are never released.
    let mut laggard = Busy::new(GROUPS + 1);
    let mut next = vec![1u64; usize::try_from(GROUPS).unwrap()];
    let (mut appended, mut records, mut most) = (0, 0, 0);
    let mut turn = 0u64;
    while appended < 10 * quota {
        turn += 1;
        let room = wal.room();
        assert_ne!(room, Room::Quota, "refused after {appended} bytes: {:?}", wal.usage());
        if laggard.next * 500 < quota / 4 {
            laggard.write(wal, 1, 500).unwrap();
        }
        for of in 0..per_turn {
            let group = (turn * per_turn + of) % GROUPS;
            let index = &mut next[usize::try_from(group).unwrap()];
            let run = entries(group, 1, *index, 1, bytes_each);
            wal.append(&write(group, *index, &run)).unwrap();
            if *index % 3 == 0 {
                wal.release(&released(group, *index, 1)).unwrap();
            }
            *index += 1;
            appended += bytes_each as u64;
            records += bytes_each as u64 + 48;
        }
        if let Some(plan) = wal.maintain().unwrap() {
            wal.carried(plan.run()).unwrap();
        }
        settle(wal);
        while wal.room() == Room::Behind {
            if let Some(plan) = wal.maintain().unwrap() {
                wal.carried(plan.run()).unwrap();
            }
            settle(wal);
        }
        let usage = wal.usage();
        assert!(usage.bytes <= quota, "{usage:?}");
        most = most.max(files());
        assert!(most <= quota, "{most} bytes of files, {usage:?}");
    }
    let metrics = wal.metrics();
    println!(
        "{records} bytes of records, quota {quota}, most on disk {most}; {} segments given up, {} recycled; {} bytes \
         carried; {} bytes written",
        metrics.retired, metrics.recycled, metrics.carried_bytes, metrics.bytes
    );
    assert!(metrics.retired > 10 && metrics.recycled > 5 && metrics.carried > 0, "{metrics:?}");
    // The policy allows at most three bytes written again for each byte that died.
    assert!(metrics.carried_bytes < 3 * records, "{} for {records}", metrics.carried_bytes);
    // Nothing of the laggard is lost.
    let last = LogIndex(laggard.next - 1);
    let mut index = LogIndex(1);
    while index <= last {
        let part = wal.plan_read(GroupId(laggard.group), index, last, 1 << 16).unwrap().run();
        for entry in part.unwrap().into_entries() {
            assert_eq!(entry.payload, payload(laggard.group, 1, index.get(), 500));
            index = index.next();
        }
    }
    let holders = wal.holders(1);
    let heaviest = holders.heaviest[0];
    assert_eq!((heaviest.group, heaviest.last), (GroupId(laggard.group), last));
    assert!(heaviest.bytes >= last.get() * 500, "{heaviest:?}");
    assert_eq!(wal.group_bytes(heaviest.group), Some(heaviest.bytes));
    assert_eq!(holders.groups, 1001);
    assert_eq!(heaviest.released, LogIndex::ZERO);
}

#[test]
fn a_lagging_group_among_a_thousand_busy_ones_keeps_the_log_under_its_quota() {
    let mut sim = Sim::new(1);
    let quota = 32 * sim.config.segment_bytes;
    sim.config.log_bytes_max = Some(quota);
    let (mut wal, _) = sim.open();
    let files = || sim.platter.segments().len() as u64 * sim.config.segment_bytes;
    let mut settle = |wal: &mut Wal| {
        sim.settle(wal);
        sim.platter.complete_all();
        wal.poll(0, &mut Vec::new()).unwrap();
    };
    lag(&mut wal, quota, (16, 100), &mut settle, &files);
    sim.platter.crash();
    drop(wal);
    let (_wal, recovered) = sim.open();
    assert_eq!(recovered.groups.len(), 1001);
}

fn lag_on_real(driver: DriverChoice) {
    let dir = tempfile::tempdir().unwrap();
    let home = new_home(&dir.path().join("node"));
    let mut config = config(&home, driver);
    config.segment_bytes = 256 << 10;
    config.batch_bytes_max = 128 << 10;
    let quota = 16 * config.segment_bytes;
    config.log_bytes_max = Some(quota);
    let shard = home.shard_dir(0);
    // All files of segments, also temporary and free ones: their names begin with the segment's number.
    let files = || {
        let sizes = std::fs::read_dir(&shard).unwrap().filter_map(|entry| {
            let entry = entry.unwrap();
            let is_segment = entry.file_name().to_string_lossy().starts_with('0');
            // The maker renames while this looks.
            entry.metadata().ok().filter(|_| is_segment).map(|metadata| metadata.len())
        });
        sizes.sum()
    };
    let mut settle = |wal: &mut Wal| {
        common::settle(wal);
        // The test writes faster than any client, so the maker needs a pause to catch up.
        if wal.room() == Room::Behind {
            std::thread::sleep(std::time::Duration::from_millis(1));
            wal.poll(0, &mut Vec::new()).unwrap();
        }
    };
    let (mut wal, _) = Wal::open(config.clone()).unwrap();
    lag(&mut wal, quota, (64, 700), &mut settle, &files);
    wal.close().unwrap();
    let (wal, recovered) = Wal::open(config).unwrap();
    assert_eq!(recovered.groups.len(), 1001);
    for group in &recovered.groups {
        read_all(&wal, group);
    }
}

#[test]
fn a_lagging_group_keeps_the_log_under_its_quota_on_io_uring() {
    lag_on_real(DriverChoice::Uring);
}

#[test]
fn a_lagging_group_keeps_the_log_under_its_quota_on_plain_writes() {
    lag_on_real(DriverChoice::Portable);
}

/// RULES.md W9.
/// All entries that a shard holds back at one time may become one write of one group. If an empty log refused that write,
/// it would wait for ever.
#[test]
fn the_smallest_quota_has_room_for_a_segment_of_payloads_in_one_write() {
    for payload in [100, 1000, 4096, 16 << 10] {
        let mut sim = Sim::new(2);
        let segment = sim.config.segment_bytes;
        sim.config.log_bytes_max = Some(logdrive_wal::QUOTA_SEGMENTS_MIN * segment);
        let (mut wal, _) = sim.open();
        let count = segment / payload as u64;
        wal.append(&write(1, 1, &entries(1, 1, 1, count, payload))).unwrap();
        sim.settle(&mut wal);
        assert!(wal.durable().segment() > SegmentSeq(1), "{payload}");
    }
}

/// RULES.md W9.
#[test]
fn a_log_at_its_quota_refuses_entries_keeps_votes_going_and_heals() {
    let mut sim = Sim::new(2);
    let quota = 8 * sim.config.segment_bytes;
    sim.config.log_bytes_max = Some(quota);
    let (mut wal, _) = sim.open();
    let mut busy = Busy::new(1);
    let mut first = 1;
    for round in 0..3 {
        while wal.room() == Room::Free {
            busy.write(&mut wal, 1, 2000).unwrap();
            give_back(&sim, &mut wal);
        }
        assert_eq!(wal.room(), Room::Quota);
        // A writer that goes on all the same is refused a little later, and nothing is torn.
        loop {
            match busy.write(&mut wal, 1, 2000) {
                Ok(()) => {}
                Err(WalError::OverQuota) => break,
                Err(error) => panic!("{error}"),
            }
            give_back(&sim, &mut wal);
        }
        assert_eq!(read_first(&wal, 1), payload(1, 1, first, 2000));
        first = busy.next - 1;
        for term in 1..6 {
            wal.append(&state(2, term, hard_state(round * 10 + term, 1, 0))).unwrap();
            wal.append(&write(3, term, &[entry(1, round * 5 + term, b"")])).unwrap();
            let completed = sim.settle(&mut wal);
            assert_eq!(completed[0].durable[0].upto(), WriteId(term));
        }
        assert!(wal.usage().bytes <= quota, "{:?}", wal.usage());
        // All entries but the last are released: the log has room again, though the disk reports nothing.
        wal.release(&released(1, busy.next - 2, 1)).unwrap();
        give_back(&sim, &mut wal);
        assert_eq!(wal.room(), Room::Free, "{:?}", wal.usage());
    }
    sim.platter.crash();
    drop(wal);
    let (_wal, recovered) = sim.open();
    assert_eq!(recovered.groups[0].last, LogIndex(busy.next - 1));
    assert_eq!(recovered.groups[1].hard_state, hard_state(25, 1, 0));
}

/// Room for small writes is not room for a large one. The bug: a follower's log refused a large write and still reported
/// room, so the leader sent the same write again at once, and again.
/// RULES.md W9.
#[test]
fn there_is_no_room_while_entries_that_were_refused_have_none() {
    let mut sim = Sim::new(2);
    sim.config.log_bytes_max = Some(8 * sim.config.segment_bytes);
    let (mut wal, _) = sim.open();
    let mut busy = Busy::new(1);
    let mut rooms = Vec::new();
    for round in 0..3 {
        loop {
            let before = wal.room();
            match busy.write(&mut wal, 24, 2000) {
                Ok(()) => give_back(&sim, &mut wal),
                Err(WalError::OverQuota) => break rooms.push(before),
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(wal.room(), Room::Quota, "round {round}");
        give_back(&sim, &mut wal);
        assert_eq!(wal.room(), Room::Quota, "round {round}");
        busy.release_all(&mut wal).unwrap();
        give_back(&sim, &mut wal);
        assert_eq!(wal.room(), Room::Free, "round {round}: {:?}", wal.usage());
        busy.write(&mut wal, 24, 2000).unwrap();
    }
    assert!(rooms.contains(&Room::Free), "{rooms:?}");
}

/// A log of eight segments at most, written to until it takes no more entries; all its entries are live.
fn full_to_its_quota(seed: u64, segment_bytes: u64) -> (Sim, Wal, Busy) {
    let mut sim = Sim::new(seed);
    sim.config.segment_bytes = segment_bytes;
    sim.config.log_bytes_max = Some(8 * sim.config.segment_bytes);
    let (mut wal, _) = sim.open();
    let mut busy = Busy::new(1);
    while busy.write(&mut wal, 1, 2000).is_ok() {
        give_back(&sim, &mut wal);
    }
    (sim, wal, busy)
}

/// The bug: at its quota the log took half a segment of votes, a block each, and then no more, because only the oldest
/// segment is ever given up and all of that was live. `elect` appends what the election of a term writes, one batch at a
/// time; the vote is of group 2.
fn takes_votes_for_ever(segment_bytes: u64, elect: &dyn Fn(&Sim, &mut Wal, u64)) {
    let (sim, mut wal, busy) = full_to_its_quota(2, segment_bytes);
    let quota = sim.config.log_bytes_max.expect("it has one");
    let last = LogIndex(busy.next - 1);
    let mut term = 0;
    for restarts in 0..3 {
        for _ in 0..400 {
            term += 1;
            elect(&sim, &mut wal, term);
        }
        assert!(wal.usage().bytes <= quota + restarts * sim.config.segment_bytes);
        // While no votes are written, nothing is carried to win their room back.
        let carried = wal.metrics().carried_bytes;
        idle_turns(&sim, &mut wal, 1000);
        assert_eq!(wal.metrics().carried_bytes, carried);
        sim.platter.crash();
        drop(wal);
        let (again, recovered) = sim.open();
        wal = again;
        give_back(&sim, &mut wal);
        assert_eq!(recovered.groups[0].last, last);
        assert_eq!(recovered.groups[1].hard_state, hard_state(term, 1, 0));
    }
}

fn elect(wal: &mut Wal, append: &Append<'_>) {
    let taken = wal.append(append);
    taken.unwrap_or_else(|error| panic!("{append:?}: {error}; {:?}", wal.usage()));
}

/// RULES.md W16.
#[test]
fn a_log_at_its_quota_takes_votes_for_ever() {
    takes_votes_for_ever(64 << 10, &|sim, wal, term| {
        elect(wal, &state(2, term, hard_state(term, 1, 0)));
        give_back(sim, wal);
    });
}

/// The bug: batches with entries did not count as votes, so a log whose elections were won had no round for votes. The
/// no-ops here replace each other, because one that stayed would take its bytes for good.
/// RULES.md W16.
#[test]
fn a_log_at_its_quota_takes_votes_and_the_no_ops_behind_them_for_ever() {
    takes_votes_for_ever(512 << 10, &|sim, wal, term| {
        elect(wal, &state(2, term, hard_state(term, 1, 0)));
        give_back(sim, wal);
        for group in 3..5 {
            elect(wal, &write(group, term, &[entry(term, 1, b"")]));
            give_back(sim, wal);
        }
    });
}

/// RULES.md W16.
#[test]
fn a_log_at_its_quota_takes_votes_and_no_ops_in_one_batch_for_ever() {
    takes_votes_for_ever(64 << 10, &|sim, wal, term| {
        let no_op = [entry(term, 1, b"")];
        let hard_state = Some(hard_state(term, 1, 0));
        elect(wal, &Append { hard_state, ..write(2, term, &no_op) });
        give_back(sim, wal);
    });
}

/// The bug: copies in batches of half the size were padded twice as often. So a round for votes, in a log of many segments,
/// took more room than the votes' reserve, and stopped inside a segment.
/// RULES.md W16.
#[test]
fn a_log_of_many_segments_takes_votes_for_ever_though_its_entries_pad_badly() {
    let mut sim = Sim::new(2);
    let segment = 512 << 10;
    sim.config.segment_bytes = segment;
    sim.config.batch_bytes_max = 500 << 10;
    sim.config.log_bytes_max = Some(128 * segment);
    let (mut wal, _) = sim.open();
    let mut index = 0;
    'full: loop {
        assert!(index < 1000, "never refused: {:?}", wal.usage());
        index += 1;
        for group in 10..110 {
            let bytes = 2000 + (index * 7919 + group * 104_729) % 6000;
            let run = entries(group, 1, index, 1, usize::try_from(bytes).unwrap());
            if wal.append(&write(group, index, &run)).is_err() {
                break 'full;
            }
        }
        give_back(&sim, &mut wal);
    }
    for term in 1..=200 {
        elect(&mut wal, &state(2, term, hard_state(term, 1, 0)));
        give_back(&sim, &mut wal);
        assert_ne!(wal.room(), Room::Behind, "term {term}: {:?}", wal.usage());
    }
    let metrics = wal.metrics();
    println!("{} segments given up, {:?}", metrics.retired, wal.usage());
    assert!(metrics.retired > 300, "{metrics:?}");
}

fn read_first(wal: &Wal, group: u64) -> Vec<u8> {
    let mut index = LogIndex(1);
    loop {
        match wal.plan_read(GroupId(group), index, index, 1) {
            Ok(plan) => return plan.run().unwrap().as_slice()[0].payload.to_vec(),
            Err(_) => index = index.next(),
        }
    }
}

/// RULES.md W10.
#[test]
fn three_logs_at_their_quotas_refuse_read_and_heal() {
    let mut logs: Vec<_> = (0..3)
        .map(|seed| {
            let mut sim = Sim::new(seed);
            sim.config.log_bytes_max = Some(6 * sim.config.segment_bytes);
            let (wal, _) = sim.open();
            (sim, wal, Busy::new(1))
        })
        .collect();
    for (sim, wal, busy) in &mut logs {
        while busy.write(wal, 2, 1500).is_ok() {
            give_back(sim, wal);
        }
        assert_eq!(wal.room(), Room::Quota);
    }
    for (sim, wal, busy) in &mut logs {
        let last = LogIndex(busy.next - 1);
        let back = wal.plan_read(GroupId(1), LogIndex(1), last, 4000).unwrap().run().unwrap();
        assert_eq!(back.as_slice()[0].payload, payload(1, 1, 1, 1500));
        busy.release_all(wal).unwrap();
        give_back(sim, wal);
        assert_eq!(wal.room(), Room::Free);
        busy.write(wal, 2, 1500).unwrap();
    }
}

#[test]
fn a_log_opened_again_and_again_at_its_quota_can_still_vote_release_and_heal() {
    let (sim, mut wal, mut busy) = full_to_its_quota(4, 64 << 10);
    let quota = sim.config.log_bytes_max.expect("it has one");
    for term in 1..15 {
        if term % 2 == 0 {
            sim.platter.crash()
        } else {
            sim.platter.kill()
        }
        drop(wal);
        (wal, _) = sim.open();
        wal.append(&state(2, term, hard_state(term, 1, 0))).unwrap();
        give_back(&sim, &mut wal);
        assert!(busy.write(&mut wal, 1, 2000).is_err());
    }
    busy.release_all(&mut wal).unwrap();
    give_back(&sim, &mut wal);
    assert_eq!(wal.room(), Room::Free);
    assert!(wal.usage().bytes <= quota, "{:?}", wal.usage());
}

/// Opens the log again and again, with a vote each time. Returns how many segments it took on disk each time.
fn restarts(sim: &Sim, mut wal: Wal) -> Vec<u64> {
    let mut used = Vec::new();
    for term in 1..15 {
        sim.platter.crash();
        drop(wal);
        let (next, recovered) = sim.open();
        wal = next;
        let votes = recovered.groups.iter().find(|group| group.group == GroupId(2));
        assert_eq!(votes.map_or(0, |group| group.hard_state.term.get()), term - 1);
        wal.append(&state(2, term, hard_state(term, 1, 0))).unwrap();
        // Some lives are too short to give anything back.
        if term % 3 == 0 {
            give_back(sim, &mut wal);
        }
        sim.settle(&mut wal);
        used.push(wal.usage().bytes / sim.config.segment_bytes);
    }
    used
}

/// RULES.md W17.
#[test]
fn a_log_opened_again_and_again_at_its_quota_stays_within_three_segments_of_it() {
    let mut sim = Sim::new(4);
    sim.config.log_bytes_max = Some(8 * sim.config.segment_bytes);
    let (mut wal, _) = sim.open();
    let mut busy = Busy::new(1);
    while busy.write(&mut wal, 1, 2000).is_ok() {
        give_back(&sim, &mut wal);
    }
    let used = restarts(&sim, wal);
    assert!(used.iter().all(|used| *used <= 8 + 3), "{used:?}");
}

/// RULES.md W17.
/// The first segment is half full and all of it lives: nothing behind it can be given back.
#[test]
fn restarts_take_no_space_for_good() {
    let sim = Sim::new(4);
    let (mut wal, _) = sim.open();
    Busy::new(1).write(&mut wal, 15, 2000).unwrap();
    give_back(&sim, &mut wal);
    let before = sim.platter.segments().len();
    let used = restarts(&sim, wal);
    // Three, and the two that are made ahead for votes.
    assert!(used.iter().all(|used| *used <= 5), "{used:?}");
    assert!(sim.platter.segments().len() <= before + 1);
}

/// RULES.md W17.
/// A crash loop on a disk that has room for one segment more than the log needs.
#[test]
fn a_small_disk_takes_any_number_of_starts() {
    let sim = Sim::new(4);
    let (mut wal, _) = sim.open();
    Busy::new(1).write(&mut wal, 15, 2000).unwrap();
    give_back(&sim, &mut wal);
    sim.platter.set_segments_left(Some(2));
    restarts(&sim, wal);
}

#[test]
fn a_log_of_which_nothing_is_released_carries_nothing_and_gives_nothing_up() {
    let sim = Sim::new(5);
    let (mut wal, _) = sim.open();
    let mut busy = Busy::new(1);
    for n in 0..100 {
        wal.append(&state(1, n + 1, hard_state(n + 1, 1, 0))).unwrap();
        busy.write(&mut wal, 10, 300).unwrap();
        give_back(&sim, &mut wal);
    }
    let metrics = wal.metrics();
    assert_eq!((metrics.carried, metrics.retired), (0, 0));
    assert!(metrics.segments > 5);
}

/// The price of the second rule of `stream/carry.rs` (carry when at most half of the log is live). Live bytes stand in front
/// of dead ones: segments of live bytes are not cheap to give up, and those of dead bytes cannot go before them. However
/// often the log is gone round, no more bytes are written again than were written for the first time.
#[test]
fn what_is_written_again_is_no_more_than_what_died_behind_it() {
    for alternating in [false, true] {
        let sim = Sim::new(31);
        let (mut wal, _) = sim.open();
        let mut lasting = Busy::new(2);
        let mut passing = Busy::new(1);
        for n in 0..100 {
            lasting.write(&mut wal, 5, 1000).unwrap();
            if alternating && n % 10 == 0 {
                passing.write(&mut wal, 40, 1000).unwrap();
            }
            sim.settle(&mut wal);
        }
        let lives = wal.group_bytes(GroupId(2)).unwrap();
        let (mut fresh, mut most) = (wal.usage().written, 0);
        while fresh < 8 * lives {
            turn_over(&sim, &mut wal, &mut passing).unwrap();
            fresh += 10 * 1000;
            let used = wal.usage();
            most = most.max(used.written);
            let again = wal.metrics().carried_bytes;
            assert!(again <= fresh, "{again} bytes written again, {fresh} for the first time");
        }
        let again = wal.metrics().carried_bytes;
        println!("{lives} live, {fresh} written, {again} written again, {most} at most in the log");
        assert!(again > 4 * lives, "it went round less than four times");
        // Entries that die while a victim is carried, and a segment that is not full, add to twice the live bytes.
        assert!(most < 2 * lives + 6 * (64 << 10), "{most} bytes kept, {lives} of them live");
    }
}

/// RULES.md W9.
#[test]
fn a_slow_trickle_under_a_quota_is_packed_before_it_is_refused() {
    let mut sim = Sim::new(10);
    sim.config.log_bytes_max = Some(10 * sim.config.segment_bytes);
    let (mut wal, _) = sim.open();
    let mut busy = Busy::new(1);
    // Each write takes a block of its own, and all of them stay live.
    let refused = loop {
        assert!(busy.next < 10_000, "never refused: {:?}", wal.usage());
        if let Err(error) = busy.write(&mut wal, 1, 100) {
            break error;
        }
        sim.settle(&mut wal);
        give_back(&sim, &mut wal);
    };
    assert!(matches!(refused, WalError::OverQuota), "{refused}");
    // The number of blocks in seven segments, which is as much as entries may take.
    let unpacked = 7 * (sim.config.segment_bytes / 4096);
    assert!(busy.next > 3 * unpacked / 2, "refused after {}: {:?}", busy.next, wal.metrics());
    assert!(wal.metrics().carried > 0 && wal.metrics().retired > 3, "{:?}", wal.metrics());
    let last = LogIndex(busy.next - 1);
    sim.platter.crash();
    drop(wal);
    let (wal, recovered) = sim.open();
    assert_eq!(read_all(&wal, &recovered.groups[0]), entries(1, 1, 1, last.get(), 100));
}

/// A log whose first segment holds a large membership of each of twenty groups; another group's entries fill the segment
/// and are released. Returns also how many bytes the memberships have.
fn many_bytes_in_the_first_segment(sim: &Sim) -> (Wal, u64) {
    let (mut wal, _) = sim.open();
    let membership = vec![7; 40 << 10];
    for group in 10..30 {
        let append = Append { membership: Some(&membership), ..write(group, 1, &[]) };
        wal.append(&append).unwrap();
        sim.settle(&mut wal);
    }
    let mut busy = Busy::new(1);
    while wal.metrics().rotations < 2 {
        busy.write(&mut wal, 1, 50_000).unwrap();
        sim.settle(&mut wal);
    }
    busy.release_all(&mut wal).unwrap();
    sim.settle(&mut wal);
    sim.platter.complete_all();
    wal.poll(0, &mut Vec::new()).unwrap();
    (wal, 20 * membership.len() as u64)
}

/// RULES.md W19.
/// A segment is given up by a new manifest, and a full disk has no room for another file.
#[test]
fn a_disk_full_to_its_last_block_gives_space_back() {
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
    assert!(wal.metrics().retired > 10, "{:?}", wal.usage());
}

/// Checks that a record which fits no segment of a later open is there like any other, and is carried.
fn opens_with_smaller_segments(append: &Append<'_>) {
    let mut sim = Sim::new(5);
    sim.config.segment_bytes = 16 << 20;
    let (mut wal, _) = sim.open();
    wal.append(append).unwrap();
    sim.settle(&mut wal);
    drop(wal);
    sim.platter.kill();
    sim.config.segment_bytes = 64 << 10;
    let (mut wal, recovered) = sim.open();
    let first = sim.platter.segments()[0];
    give_back(&sim, &mut wal);
    assert!(sim.platter.segments()[0] > first, "the large segment is not given up");
    assert!(wal.usage().bytes < 2 << 20, "{:?}", wal.usage());
    // The log goes on behind the large record as usual.
    let mut busy = Busy::new(3);
    busy.write(&mut wal, 100, 1000).unwrap();
    give_back(&sim, &mut wal);
    sim.platter.crash();
    drop(wal);
    let (wal, again) = sim.open();
    assert_eq!(again.groups[0], recovered.groups[0]);
    assert_eq!(read_all(&wal, &again.groups[0]), append.entries);
    assert_eq!(again.groups[0].membership, append.membership.unwrap_or_default());
}

/// RULES.md W18.
#[test]
fn a_large_entry_outlives_a_change_to_smaller_segments() {
    opens_with_smaller_segments(&write(1, 1, &entries(1, 1, 1, 1, 900 << 10)));
}

/// RULES.md W18.
#[test]
fn a_large_membership_outlives_a_change_to_smaller_segments() {
    let membership = vec![7; 900 << 10];
    opens_with_smaller_segments(&Append { membership: Some(&membership), ..write(1, 1, &[]) });
}

#[test]
fn a_step_of_carrying_writes_a_bounded_part_of_large_memberships() {
    let mut sim = Sim::new(11);
    sim.config.segment_bytes = 4 << 20;
    let (mut wal, bytes) = many_bytes_in_the_first_segment(&sim);
    let step_max = (256 + 40 + 8) << 10;
    let mut steps = 0;
    while wal.metrics().retired == 0 {
        let before = wal.usage().written;
        assert!(wal.maintain().unwrap().is_none() && steps < 100, "{steps} steps");
        let step = wal.usage().written.saturating_sub(before);
        assert!(step <= step_max, "{step} bytes in one step");
        steps += u64::from(step > 0);
        sim.settle(&mut wal);
        sim.platter.complete_all();
        wal.poll(0, &mut Vec::new()).unwrap();
    }
    assert!(steps >= bytes / step_max, "{steps} steps");
}

#[test]
fn a_step_of_carrying_looks_at_a_bounded_number_of_records() {
    let sim = Sim::new(12);
    let (mut wal, _) = sim.open();
    // One of the lagging group's records is in the first segment, and very many behind it.
    let mut lagging = Busy::new(2);
    lagging.write(&mut wal, 1, 10).unwrap();
    let mut busy = Busy::new(1);
    busy.write(&mut wal, 30, 2000).unwrap();
    sim.settle(&mut wal);
    busy.release_all(&mut wal).unwrap();
    let records = 100_000;
    for n in 0..records {
        lagging.write(&mut wal, 1, 1).unwrap();
        if n % 100 == 0 {
            sim.settle(&mut wal);
        }
    }
    let mut steps = 0;
    while wal.metrics().retired == 0 {
        assert!(steps < 100, "the first segment is not given up");
        if let Some(plan) = wal.maintain().unwrap() {
            wal.carried(plan.run()).unwrap();
        }
        steps += 1;
        sim.settle(&mut wal);
        sim.platter.complete_all();
        wal.poll(0, &mut Vec::new()).unwrap();
    }
    assert!(steps > records / (16 << 10), "{records} records looked at in {steps} steps");
    let plan = wal.plan_read(GroupId(2), LogIndex(1), LogIndex(1), 1).unwrap();
    assert_eq!(plan.run().unwrap().as_slice(), entries(2, 1, 1, 1, 10));
}

/// RULES.md W20.
#[test]
fn the_index_gives_back_its_memory_when_its_records_are_released() {
    let sim = Sim::new(6);
    let (mut wal, _) = sim.open();
    let mut busy = Busy::new(1);
    for n in 1..=20_000 {
        busy.write(&mut wal, 1, 1).unwrap();
        if n % 1000 == 0 {
            sim.settle(&mut wal);
        }
    }
    let full = wal.metrics().index_bytes;
    // From here on only a few entries are live at a time.
    for _ in 0..3 {
        busy.release_all(&mut wal).unwrap();
        sim.settle(&mut wal);
        assert!(wal.metrics().index_bytes < full / 10, "{full}, {:?}", wal.metrics());
        for _ in 0..50 {
            busy.write(&mut wal, 1, 1).unwrap();
        }
    }
}

#[test]
fn the_index_takes_two_dozen_bytes_per_record() {
    let sim = Sim::new(6);
    let (mut wal, _) = sim.open();
    let (groups, each) = (100, 300);
    for index in 1..=each {
        for group in 0..groups {
            wal.append(&write(group, index, &entries(group, 1, index, 1, 1))).unwrap();
        }
        sim.settle(&mut wal);
    }
    let per_entry = wal.metrics().index_bytes as u64 / (groups * each);
    println!("{per_entry} bytes of index per entry, each in a record of its own");
    // A record's 24 bytes, and the slack of a vector that doubles.
    assert!((24..49).contains(&per_entry), "{per_entry}");
}
