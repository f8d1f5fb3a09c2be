//! Space is given back: what is released goes, what is live is carried, what was promised stays.

mod common;

use common::crashes::every_crash;
use common::*;
use logdrive_raft::{GroupId, LogIndex, Term, WriteId};
use logdrive_wal::{Append, DriverChoice, ReadError, Recovered, Room, SegmentSeq, Wal, WalError};

/// Lets the log give back what it will, and everything finish.
fn give_back(sim: &Sim, wal: &mut Wal) {
    let mut quiet = 0;
    for step in 0.. {
        if quiet == 3 {
            break;
        }
        assert!(step < 2000, "no end of giving back: {:?} {:?}", wal.usage(), wal.metrics());
        let before = wal.metrics();
        let plan = wal.maintain().unwrap();
        quiet = if plan.is_some() { 0 } else { quiet + 1 };
        if let Some(plan) = plan {
            wal.carried(plan.run()).unwrap();
        }
        sim.settle(wal);
        sim.platter.complete_all();
        wal.poll(0, &mut Vec::new()).unwrap();
        if wal.metrics().retired != before.retired {
            quiet = 0;
        }
    }
}

/// One group that writes and releases, so that the log turns over.
struct Busy {
    group: u64,
    next: u64,
}

impl Busy {
    fn new(group: u64) -> Self {
        Self { group, next: 1 }
    }

    fn write(&mut self, wal: &mut Wal, count: u64, bytes: usize) -> Result<(), WalError> {
        let run = entries(self.group, 1, self.next, count, bytes);
        wal.append(&write(self.group, self.next, &run))?;
        self.next += count;
        Ok(())
    }

    fn release_all(&self, wal: &mut Wal) -> Result<(), WalError> {
        wal.release(GroupId(self.group), LogIndex(self.next - 1), Term(1))
    }
}

/// Fails where the power does.
fn turn_over(sim: &Sim, wal: &mut Wal, busy: &mut Busy) -> Result<(), WalError> {
    busy.write(wal, 10, 1000)?;
    busy.release_all(wal)?;
    let mut completed = Vec::new();
    for _ in 0..4 {
        if let Some(plan) = wal.maintain()? {
            wal.carried(plan.run())?;
        }
        wal.submit(0)?;
        sim.platter.complete_all();
        wal.poll(0, &mut completed)?;
    }
    Ok(())
}

#[test]
fn s6_a_vote_in_the_oldest_segment_outlives_it_wherever_the_power_fails() {
    let first = SegmentSeq(1);
    let vote = hard_state(5, 2, 0);
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
        wal.release(GroupId(7), LogIndex(2), Term(1)).unwrap();
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

#[test]
fn m7_a_destroyed_group_stays_dead_when_the_segment_that_says_so_goes() {
    let sim = Sim::new(7);
    let (mut wal, _) = sim.open();
    wal.append(&write(3, 1, &entries(3, 1, 1, 5, 100))).unwrap();
    wal.append(&state(3, 2, hard_state(4, 1, 2))).unwrap();
    wal.destroy(GroupId(3)).unwrap();
    wal.destroy(GroupId(3)).unwrap();
    let mut busy = Busy::new(1);
    for round in 0..4 {
        while wal.metrics().retired < 3 {
            turn_over(&sim, &mut wal, &mut busy).unwrap();
        }
        let zombie = wal.append(&state(3, 9, hard_state(9, 1, 0)));
        assert!(matches!(zombie, Err(WalError::Destroyed(GroupId(3)))), "{zombie:?}");
        assert!(wal.release(GroupId(3), LogIndex(9), Term(1)).is_err());
        assert!(wal.plan_read(GroupId(3), LogIndex(1), LogIndex(1), 10).is_err());
        sim.platter.crash();
        drop(wal);
        let (again, recovered) = sim.open();
        wal = again;
        assert_eq!(recovered.destroyed, [GroupId(3)], "round {round}");
        assert!(recovered.groups.iter().all(|group| group.group != GroupId(3)));
    }
    assert!(sim.platter.segments()[0] > SegmentSeq(9));
}

#[test]
fn m7_a_batch_names_a_group_once_that_is_written_to_and_destroyed_in_it_or_before_it() {
    let sim = Sim::new(13);
    let (mut wal, _) = sim.open();
    wal.append(&state(3, 1, hard_state(1, 1, 0))).unwrap();
    sim.settle(&mut wal);
    wal.append(&state(4, 1, hard_state(1, 1, 0))).unwrap();
    for group in 3..6 {
        wal.destroy(GroupId(group)).unwrap();
    }
    // The reader looks at every directory.
    let destroyed =
        || reader::read(&sim.platter).destroyed.into_iter().map(GroupId).collect::<Vec<_>>();
    sim.settle(&mut wal);
    sim.platter.crash();
    assert_eq!(destroyed(), [3, 4, 5].map(GroupId));
    drop(wal);
    // Carried at least once, among other groups' records.
    let (mut wal, _) = sim.open();
    let mut busy = Busy::new(1);
    while wal.metrics().retired < 3 {
        turn_over(&sim, &mut wal, &mut busy).unwrap();
    }
    sim.settle(&mut wal);
    sim.platter.crash();
    assert_eq!(destroyed(), [3, 4, 5].map(GroupId));
}

#[test]
fn w12_recycled_segment_never_replays_old_batches() {
    let mut stale_behind = 0;
    for seed in 0..60 {
        let sim = Sim::new(seed);
        let (mut wal, _) = sim.open();
        let mut busy = Busy::new(1);
        while wal.metrics().recycled < 2 + seed % 3 {
            turn_over(&sim, &mut wal, &mut busy).unwrap();
        }
        // Into a recycled segment: some acknowledged, some in flight.
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
        // What a killed process still had in flight lands in a file that is never used again.
        sim.platter.land_late();
        sim.platter.crash();
        drop(wal);
        let (wal, recovered) = sim.open();
        assert_eq!(check(&wal, &recovered), found);
    }
    assert!(stale_behind > 20, "only {stale_behind} segments had old bytes in them");
}

/// Fills a log whose groups all release but one, to many times its quota.
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
                wal.release(GroupId(group), LogIndex(*index), Term(1)).unwrap();
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
    // Three bytes written again for one that died is the most the policy allows.
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
    let heaviest = wal.heaviest_groups(1)[0];
    assert_eq!(heaviest.0, GroupId(laggard.group));
    assert!(heaviest.1 >= last.get() * 500 && wal.group_bytes(heaviest.0) == Some(heaviest.1));
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
    // Everything in the directory, whatever its name.
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
        // Faster than any client: the maker is given its turn.
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

#[test]
fn w9_a_log_at_its_quota_refuses_entries_keeps_votes_going_and_heals() {
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
        // Somebody who goes on all the same is refused a little later, and nothing is torn.
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
        // All but the last entry is released: room again, without a word from the disk.
        wal.release(GroupId(1), LogIndex(busy.next - 2), Term(1)).unwrap();
        give_back(&sim, &mut wal);
        assert_eq!(wal.room(), Room::Free, "{:?}", wal.usage());
    }
    sim.platter.crash();
    drop(wal);
    let (_wal, recovered) = sim.open();
    assert_eq!(recovered.groups[0].last, LogIndex(busy.next - 1));
    assert_eq!(recovered.groups[1].hard_state, hard_state(25, 1, 0));
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

#[test]
fn w10_three_logs_at_their_quotas_refuse_read_and_heal() {
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
fn w9_a_full_disk_heals_by_what_is_given_back_while_an_order_waits_for_room() {
    let sim = Sim::new(3);
    let (mut wal, _) = sim.open();
    let mut busy = Busy::new(1);
    for _ in 0..20 {
        busy.write(&mut wal, 10, 1000).unwrap();
        sim.settle(&mut wal);
    }
    sim.platter.complete_all();
    wal.poll(0, &mut Vec::new()).unwrap();
    sim.platter.set_segments_left(Some(0));
    loop {
        match busy.write(&mut wal, 1, 2000) {
            Ok(()) => {}
            Err(WalError::NoSpace) => break,
            Err(error) => panic!("{error}"),
        }
        sim.settle(&mut wal);
        sim.platter.complete_some();
        wal.poll(0, &mut Vec::new()).unwrap();
    }
    assert!(sim.platter.orders() > 0, "no order waits for room");
    busy.release_all(&mut wal).unwrap();
    give_back(&sim, &mut wal);
    // The disk is as full as it was; the log has its own files to go on in.
    for _ in 0..100 {
        turn_over(&sim, &mut wal, &mut busy).unwrap();
    }
    sim.platter.crash();
    drop(wal);
    sim.platter.set_segments_left(None);
    let (_wal, recovered) = sim.open();
    assert_eq!(recovered.groups[0].last, LogIndex(busy.next - 1));
}

#[test]
fn a_log_opened_again_and_again_at_its_quota_can_still_vote_release_and_heal() {
    let mut sim = Sim::new(4);
    let quota = 8 * sim.config.segment_bytes;
    sim.config.log_bytes_max = Some(quota);
    let (mut wal, _) = sim.open();
    let mut busy = Busy::new(1);
    while busy.write(&mut wal, 1, 2000).is_ok() {
        give_back(&sim, &mut wal);
    }
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

/// The second rule's price. Bytes that live in front of bytes that are dead: no segment of the one kind is cheap, and those
/// of the other cannot go before it. Round after round, no more is written again than was won.
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
        // What dies while a victim is carried, and a segment that is not full, come on top of twice what lives.
        assert!(most < 2 * lives + 6 * (64 << 10), "{most} bytes kept, {lives} of them live");
    }
}

#[test]
fn w9_a_slow_trickle_under_a_quota_is_packed_before_it_is_refused() {
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
    // Blocks of entries that fit seven segments, which is what entries may take.
    let unpacked = 7 * (sim.config.segment_bytes / 4096);
    assert!(busy.next > 3 * unpacked / 2, "refused after {}: {:?}", busy.next, wal.metrics());
    assert!(wal.metrics().carried > 0 && wal.metrics().retired > 3, "{:?}", wal.metrics());
    let last = LogIndex(busy.next - 1);
    sim.platter.crash();
    drop(wal);
    let (wal, recovered) = sim.open();
    assert_eq!(read_all(&wal, &recovered.groups[0]), entries(1, 1, 1, last.get(), 100));
}

/// Groups with a large membership each, all of it in the first segment; another group's entries fill it, and are
/// released.
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

#[test]
fn inv18_a_fenced_group_stays_fenced_when_the_damaged_segment_is_set_aside() {
    let first = SegmentSeq(1);
    let (sim, damaged) = with_damage(8);
    let mut busy = Busy { group: 1, next: 2 };
    let fenced = |recovered: &Recovered| {
        let fenced = recovered.groups.iter().filter(|group| group.fenced.is_some());
        fenced.map(|group| group.group.get()).collect::<Vec<_>>()
    };
    for round in 0..3 {
        let (mut wal, recovered) = sim.open();
        assert_eq!(fenced(&recovered), [3], "round {round}");
        for group in recovered.groups.iter().filter(|group| [2, 4].contains(&group.group.get())) {
            assert_eq!(read_all(&wal, group), entries(group.group.get(), 1, 1, 3, 200));
        }
        while wal.metrics().retired < 4 {
            turn_over(&sim, &mut wal, &mut busy).unwrap();
        }
        sim.platter.crash();
    }
    assert!(!sim.platter.segments().contains(&first));
    assert_eq!(sim.platter.set_aside(), [first]);
    assert_eq!(first_segment(&sim), Some(damaged));
}

/// C9. The history that broke it:
/// 1. A group's batch in a later segment cannot be read when the log is opened: the group is fenced.
/// 2. What it has in the first segment counts as dead, and that segment is given up.
/// 3. At the next open the batch reads well again, and the group's log has a hole that nothing explains.
#[test]
fn c9_inv18_a_fence_outlives_damage_that_reads_well_again_once_something_was_given_up() {
    let sim = Sim::new(11);
    let (mut wal, _) = sim.open();
    let mut busy = Busy::new(1);
    let later = SegmentSeq(4);
    wal.append(&write(3, 1, &entries(3, 1, 1, 3, 200))).unwrap();
    while !sim.platter.segments().contains(&SegmentSeq(5)) {
        busy.write(&mut wal, 10, 1000).unwrap();
        sim.settle(&mut wal);
    }
    let mut next = 4;
    let needle = loop {
        wal.append(&write(3, next, &entries(3, 1, next, 1, 200))).unwrap();
        busy.write(&mut wal, 10, 1000).unwrap();
        sim.settle(&mut wal);
        let needle = payload(3, 1, next, 200);
        next += 1;
        if find(&sim, later, &needle).is_some() {
            break needle;
        }
    };
    busy.write(&mut wal, 10, 1000).unwrap();
    sim.settle(&mut wal);
    drop(wal);
    sim.platter.crash();
    let at = find(&sim, later, &needle).unwrap();
    sim.platter.flip(later, at, 1);
    let is_fenced = |recovered: &Recovered| {
        recovered.groups.iter().any(|group| group.group == GroupId(3) && group.fenced.is_some())
    };
    let (mut wal, recovered) = sim.open();
    assert!(is_fenced(&recovered));
    for step in 0.. {
        if wal.metrics().retired > 0 {
            break;
        }
        assert!(step < 100, "not given up: {:?}", wal.metrics());
        if let Some(plan) = wal.maintain().unwrap() {
            wal.carried(plan.run()).unwrap();
        }
        wal.submit(0).unwrap();
        sim.platter.complete_all();
        wal.poll(0, &mut Vec::new()).unwrap();
    }
    let segments = sim.platter.segments();
    assert!(!segments.contains(&SegmentSeq(1)) && segments.contains(&later), "{segments:?}");
    drop(wal);
    sim.platter.crash();
    sim.platter.flip(later, at, 1);
    let (_, recovered) = sim.open();
    assert!(is_fenced(&recovered), "a fence was forgotten");
}

fn find(sim: &Sim, segment: SegmentSeq, needle: &[u8]) -> Option<usize> {
    let bytes = sim.platter.segment(segment);
    bytes.windows(needle.len()).position(|window| window == needle)
}

/// A log whose first segment holds damage that fences group 3, and that segment's checksum.
fn with_damage(seed: u64) -> (Sim, u32) {
    let sim = Sim::new(seed);
    let (mut wal, _) = sim.open();
    for group in 2..5 {
        wal.append(&write(group, 1, &entries(group, 1, 1, 3, 200))).unwrap();
        sim.settle(&mut wal);
    }
    wal.append(&write(1, 1, &entries(1, 1, 1, 1, 10))).unwrap();
    sim.settle(&mut wal);
    sim.platter.crash();
    let first = SegmentSeq(1);
    let needle = payload(3, 1, 2, 200);
    let bytes = sim.platter.segment(first);
    let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
    sim.platter.flip(first, at, 1);
    let damaged = logdrive_wal::checksum(&sim.platter.segment(first));
    (sim, damaged)
}

/// A running log whose first segment is full, and holds three live entries each of groups 2 to 4; damaged are group 3's,
/// at the place that is returned.
fn damaged_while_running(sim: &Sim) -> (Wal, Busy, usize) {
    let (mut wal, _) = sim.open();
    for group in 2..5 {
        let append =
            Append { membership: Some(b"members"), ..state(group, 1, hard_state(4, 1, 0)) };
        wal.append(&append).unwrap();
        wal.append(&write(group, 2, &entries(group, 4, 1, 3, 200))).unwrap();
    }
    let mut busy = Busy::new(1);
    while wal.metrics().rotations < 3 {
        busy.write(&mut wal, 10, 1000).unwrap();
        sim.settle(&mut wal);
    }
    let at = find(sim, SegmentSeq(1), &payload(3, 4, 2, 200)).unwrap();
    sim.platter.flip(SegmentSeq(1), at, 1);
    (wal, busy, at)
}

fn fenced(recovered: &Recovered) -> Vec<u64> {
    let fenced = recovered.groups.iter().filter(|group| group.fenced.is_some());
    fenced.map(|group| group.group.get()).collect()
}

/// C1, rule 24. The history that broke it:
/// 1. A payload of one group rots in the oldest segment while the log runs.
/// 2. Carrying finds it, takes it for a read that failed, and keeps the segment.
/// 3. Nothing of any group is given back any more, until the quota; and the group acts on.
#[test]
fn c1_rule_24_damage_that_carrying_finds_fences_its_group_and_holds_up_no_other() {
    let sim = Sim::new(31);
    let (mut wal, mut busy, at) = damaged_while_running(&sim);
    let mut found = Vec::new();
    for turn in 0.. {
        assert!(turn < 100, "not given up: {:?}", wal.metrics());
        if wal.metrics().retired >= 3 {
            break;
        }
        busy.write(&mut wal, 10, 1000).unwrap();
        busy.release_all(&mut wal).unwrap();
        if let Some(plan) = wal.maintain().unwrap() {
            found.extend(wal.carried(plan.run()).unwrap());
        }
        sim.settle(&mut wal);
        sim.platter.complete_all();
        wal.poll(0, &mut Vec::new()).unwrap();
    }
    let [(group, corrupt)] = &found[..] else { panic!("{found:?}") };
    assert_eq!((group.get(), corrupt.offset <= at as u64), (3, true), "{corrupt}");
    assert!(corrupt.file.ends_with("0000000001.seg"), "{corrupt}");
    assert_eq!(wal.group_bytes(GroupId(3)), Some(0));
    assert_eq!(sim.platter.set_aside(), [SegmentSeq(1)]);
    for _ in 0..2 {
        sim.platter.crash();
        drop(wal);
        let (again, recovered) = sim.open();
        wal = again;
        assert_eq!(fenced(&recovered), [3]);
        for group in recovered.groups.iter().filter(|group| [2, 4].contains(&group.group.get())) {
            assert_eq!(group.hard_state, hard_state(4, 1, 0));
            assert_eq!(read_all(&wal, group), entries(group.group.get(), 4, 1, 3, 200));
        }
    }
}

/// As `damaged_while_running`, and the damage reads well again after the power has failed: the group is whole then, with
/// all that it ever had, or fenced.
#[test]
fn c1_inv18_a_group_fenced_while_the_log_runs_is_fenced_or_whole_wherever_the_power_fails() {
    let (mut whole, mut gone) = (0, 0);
    for at in 0.. {
        let sim = Sim::new(at);
        let (mut wal, mut busy, flipped) = damaged_while_running(&sim);
        sim.platter.set_power_fails_in(Some(at));
        let survived = loop {
            if turn_over(&sim, &mut wal, &mut busy).is_err() {
                break false;
            }
            if wal.metrics().retired >= 2 {
                break true;
            }
        };
        sim.platter.set_power_fails_in(None);
        sim.platter.crash();
        drop(wal);
        if sim.platter.segments().contains(&SegmentSeq(1)) {
            sim.platter.flip(SegmentSeq(1), flipped, 1);
        } else {
            gone += 1;
        }
        let (wal, recovered) = sim.open();
        if fenced(&recovered).is_empty() {
            whole += 1;
            for group in recovered.groups.iter().filter(|group| (2..5).contains(&group.group.get()))
            {
                assert_eq!(group.hard_state, hard_state(4, 1, 0));
                assert_eq!(read_all(&wal, group), entries(group.group.get(), 4, 1, 3, 200));
            }
        } else {
            assert_eq!(fenced(&recovered), [3], "cut at {at}");
        }
        if survived {
            assert_eq!(fenced(&recovered), [3]);
            assert!(whole > 0 && gone > 3, "{whole} whole, {gone} without the segment");
            return;
        }
    }
}

#[test]
fn rule_24_damage_that_a_read_finds_fences_its_group_once() {
    for is_disk_full in [false, true] {
        let sim = Sim::new(32);
        let (mut wal, mut busy, at) = damaged_while_running(&sim);
        if is_disk_full {
            sim.platter.set_segments_left(Some(0));
            while wal.append(&state(5, 1, hard_state(1, 1, 0))).is_ok() {
                sim.settle(&mut wal);
                sim.platter.complete_all();
                wal.poll(0, &mut Vec::new()).unwrap();
            }
        }
        let read = wal.plan_read(GroupId(3), LogIndex(1), LogIndex(3), 1 << 20).unwrap().run();
        let Err(ReadError::Corrupt(corrupt)) = read else { panic!("{read:?}") };
        // Something of the group is open.
        if !is_disk_full {
            wal.append(&write(3, 3, &entries(3, 4, 4, 1, 200))).unwrap();
        }
        assert!(wal.fence(GroupId(3), &corrupt).unwrap());
        assert!(!wal.fence(GroupId(3), &corrupt).unwrap(), "fenced twice");
        assert!(wal.plan_read(GroupId(3), LogIndex(1), LogIndex(3), 1 << 20).is_err());
        sim.settle(&mut wal);
        assert_eq!(fenced_by_records(&sim, at), if is_disk_full { vec![] } else { vec![3] });
        if is_disk_full {
            // There is room again: it is recorded before anything of the group goes.
            sim.platter.set_segments_left(None);
            idle_turns(&sim, &mut wal, 20);
            busy.release_all(&mut wal).unwrap();
            idle_turns(&sim, &mut wal, 20);
            assert!(wal.metrics().retired > 0, "{:?}", wal.metrics());
            assert_eq!(fenced_by_records(&sim, at), [3]);
        } else {
            busy.write(&mut wal, 1, 1000).unwrap();
            sim.settle(&mut wal);
        }
        sim.platter.crash();
        drop(wal);
        sim.platter.set_segments_left(None);
        let (_, recovered) = sim.open();
        assert!(fenced(&recovered).contains(&3));
    }
}

/// Rule 3: a length is checked before anything is allocated for it, and a wrong one is damage, not the end of a file.
#[test]
fn rule_3_a_record_that_claims_to_reach_past_its_segment_is_damaged() {
    let sim = Sim::new(34);
    let (wal, _, _) = damaged_while_running(&sim);
    let headers = 40 + 3 * 8;
    let record = find(&sim, SegmentSeq(1), &payload(4, 4, 1, 200)).unwrap() - headers;
    // A million entries more, and sixteen million bytes.
    sim.platter.flip(SegmentSeq(1), record + 34, 0x10);
    sim.platter.flip(SegmentSeq(1), record + 7, 0x01);
    let read = wal.plan_read(GroupId(4), LogIndex(1), LogIndex(3), 1 << 20).unwrap().run();
    let Err(ReadError::Corrupt(corrupt)) = read else { panic!("{read:?}") };
    assert_eq!(corrupt.offset, record as u64, "{corrupt}");
}

/// The groups that records fence, whatever the damage says.
fn fenced_by_records(sim: &Sim, damage_at: usize) -> Vec<u64> {
    let copy = sim.fork(1);
    copy.platter.set_segments_left(None);
    if copy.platter.segments().contains(&SegmentSeq(1)) {
        copy.platter.flip(SegmentSeq(1), damage_at, 1);
    }
    fenced(&copy.open().1)
}

#[test]
fn rule_24_damage_in_a_segment_that_is_gone_fences_nobody() {
    let sim = Sim::new(33);
    let (mut wal, mut busy, _) = damaged_while_running(&sim);
    let plan = wal.plan_read(GroupId(3), LogIndex(1), LogIndex(3), 1 << 20).unwrap();
    wal.release(GroupId(3), LogIndex(3), Term(4)).unwrap();
    while wal.metrics().retired == 0 {
        turn_over(&sim, &mut wal, &mut busy).unwrap();
    }
    let Err(ReadError::Corrupt(corrupt)) = plan.run() else { panic!("it reads well") };
    assert!(!wal.fence(GroupId(3), &corrupt).unwrap());
    wal.append(&write(3, 4, &entries(3, 4, 4, 1, 10))).unwrap();
}

/// The first segment's checksum, under whichever of its names.
fn first_segment(sim: &Sim) -> Option<u32> {
    let first = SegmentSeq(1);
    let named = sim.platter.segments().contains(&first).then(|| sim.platter.segment(first));
    let bytes = named.or_else(|| sim.platter.set_aside_segment(first));
    bytes.map(|bytes| logdrive_wal::checksum(&bytes))
}

/// Rule 25. The history that broke it:
/// 1. The manifest passes a damaged segment, durably; the segment's file is to be renamed next.
/// 2. The power fails.
/// 3. The next open takes the file for a leftover of a segment that was given up, and removes it.
#[test]
fn c1_rule_25_damage_is_kept_wherever_the_power_fails_while_it_is_set_aside() {
    let first = SegmentSeq(1);
    let (sim, damaged) = with_damage(8);
    let (mut wal, _) = sim.open();
    let mut busy = Busy { group: 1, next: 2 };
    let (mut passed, mut crashes) = (0, 0);
    let look = |crashed: Sim| {
        assert_eq!(first_segment(&crashed), Some(damaged), "after the power cut");
        // The next life may have to set it aside once more.
        let (mut wal, recovered) = crashed.open();
        assert!(recovered.groups.iter().any(|group| group.fenced.is_some()), "no fence");
        assert_eq!(first_segment(&crashed), Some(damaged), "after the next open");
        let found = recovered.groups.iter().find(|group| group.group == GroupId(1)).unwrap();
        let mut busy = Busy { group: 1, next: found.last.get() + 1 };
        while crashed.platter.segments().contains(&first) {
            turn_over(&crashed, &mut wal, &mut busy).unwrap();
            assert!(busy.next < 1000, "not given up: {:?}", wal.metrics());
        }
        crashed.platter.crash();
        drop(wal);
        drop(crashed.open());
        assert_eq!(first_segment(&crashed), Some(damaged), "in the end");
    };
    while wal.metrics().retired == 0 {
        assert!(busy.next < 1000, "not given up: {:?}", wal.metrics());
        busy.write(&mut wal, 10, 1000).unwrap();
        busy.release_all(&mut wal).unwrap();
        if let Some(plan) = wal.maintain().unwrap() {
            wal.carried(plan.run()).unwrap();
        }
        wal.submit(0).unwrap();
        while sim.platter.writes_in_flight() > 0 {
            sim.platter.complete_nth(0);
            wal.poll(0, &mut Vec::new()).unwrap();
        }
        while sim.platter.make_step() {
            crashes += every_crash(&sim.platter, |platter| {
                let crashed = Sim { platter, config: sim.config.clone() };
                passed += u32::from(sim.platter.manifest() != crashed.platter.manifest());
                look(crashed);
            });
        }
        wal.poll(0, &mut Vec::new()).unwrap();
    }
    assert_eq!(sim.platter.set_aside(), [first]);
    assert!(crashes > 20 && passed > 2, "{crashes} crashes, {passed} with the older manifest");
}

#[test]
fn c9_a_segment_that_cannot_be_read_is_kept_and_tried_again() {
    let sim = Sim::new(9);
    let (mut wal, _) = sim.open();
    wal.append(&write(2, 1, &entries(2, 1, 1, 5, 100))).unwrap();
    let mut busy = Busy::new(1);
    sim.platter.fail_reads_of(Some(SegmentSeq(1)));
    for _ in 0..40 {
        turn_over(&sim, &mut wal, &mut busy).unwrap();
    }
    assert_eq!(wal.metrics().retired, 0);
    sim.platter.fail_reads_of(None);
    for _ in 0..40 {
        turn_over(&sim, &mut wal, &mut busy).unwrap();
    }
    assert!(wal.metrics().retired > 3);
    let back = wal.plan_read(GroupId(2), LogIndex(1), LogIndex(5), 1 << 20).unwrap().run().unwrap();
    assert_eq!(back.as_slice(), entries(2, 1, 1, 5, 100));
}

/// Turns in which nothing is written; the reads that carrying asked for.
fn idle_turns(sim: &Sim, wal: &mut Wal, turns: u32) -> u32 {
    let mut reads = 0;
    for _ in 0..turns {
        if let Some(plan) = wal.maintain().unwrap() {
            reads += 1;
            wal.carried(plan.run()).unwrap();
        }
        wal.submit(0).unwrap();
        sim.platter.complete_all();
        wal.poll(0, &mut Vec::new()).unwrap();
    }
    reads
}

/// C9 where W9 is. The history that broke it:
/// 1. A log takes no entries any more: its quota, or its disk, is full.
/// 2. Enough is released, but one read of what the oldest segment still holds fails.
/// 3. It would have been read again once a further segment was full, which needed the room that it held.
#[test]
fn c9_w9_a_read_that_failed_is_tried_again_where_no_segment_can_become_full() {
    for is_disk_full in [false, true] {
        let mut sim = Sim::new(9);
        if !is_disk_full {
            sim.config.log_bytes_max = Some(8 * sim.config.segment_bytes);
        }
        let (mut wal, _) = sim.open();
        wal.append(&write(2, 1, &entries(2, 1, 1, 5, 100))).unwrap();
        let mut busy = Busy::new(1);
        while busy.write(&mut wal, 1, 2000).is_ok() {
            sim.settle(&mut wal);
            sim.platter.complete_all();
            wal.poll(0, &mut Vec::new()).unwrap();
            if is_disk_full && wal.metrics().rotations == 5 {
                sim.platter.set_segments_left(Some(0));
            }
        }
        let refused = if is_disk_full { Room::Reserve } else { Room::Quota };
        assert_eq!(wal.room(), refused);
        sim.platter.fail_reads_of(Some(SegmentSeq(1)));
        busy.release_all(&mut wal).unwrap();
        // Every failure wakes the shard: a turn is no reason to try again.
        let reads = idle_turns(&sim, &mut wal, 1000);
        assert!((2..10).contains(&reads), "tried {reads} times in 1000 turns");
        assert_eq!((wal.metrics().retired, wal.room()), (0, refused));
        sim.platter.fail_reads_of(None);
        idle_turns(&sim, &mut wal, 1000);
        assert_eq!(wal.room(), Room::Free, "{:?} {:?}", wal.usage(), wal.metrics());
        busy.write(&mut wal, 1, 2000).unwrap();
        let back = wal.plan_read(GroupId(2), LogIndex(1), LogIndex(5), 1 << 20).unwrap();
        assert_eq!(back.run().unwrap().as_slice(), entries(2, 1, 1, 5, 100));
    }
}

/// A log of two groups on a disk without room for a further segment. The first group's entries, in `count` writes of
/// `each` bytes, are all that the first segment holds and never released; the second's filled it up to where nothing is
/// ahead of the active segment. It has filled `used` bytes of that.
fn on_a_full_disk(
    sim: &mut Sim,
    segment_bytes: u64,
    (count, each, bytes): (u64, u64, usize),
    used: u64,
) -> (Wal, Busy) {
    sim.config.segment_bytes = segment_bytes;
    sim.config.batch_bytes_max = 256 << 10;
    let (mut wal, _) = sim.open();
    let mut lasting = Busy::new(2);
    for _ in 0..count {
        lasting.write(&mut wal, each, bytes).unwrap();
        sim.settle(&mut wal);
    }
    let mut busy = Busy::new(1);
    let mut turn = |wal: &mut Wal| {
        busy.write(wal, 1, 60 << 10).unwrap();
        sim.settle(wal);
        sim.platter.complete_all();
        wal.poll(0, &mut Vec::new()).unwrap();
    };
    while wal.metrics().rotations < 4 {
        turn(&mut wal);
    }
    sim.platter.set_segments_left(Some(0));
    while wal.room() != Room::Reserve {
        turn(&mut wal);
    }
    for _ in 0..used / (64 << 10) {
        turn(&mut wal);
    }
    (wal, busy)
}

/// A vote takes a block; true if it is durable in the end.
fn vote(sim: &Sim, wal: &mut Wal, term: u64) -> bool {
    wal.append(&state(3, term, hard_state(term, 1, 0))).unwrap();
    let mut completed = Vec::new();
    for _ in 0..20 {
        wal.submit(0).unwrap();
        sim.platter.complete_all();
        wal.poll(0, &mut completed).unwrap();
    }
    let mut durable = completed.iter().flat_map(|batch| &batch.durable);
    durable.any(|durable| (durable.group(), durable.upto()) == (GroupId(3), WriteId(term)))
}

#[test]
fn w9_on_a_full_disk_nothing_is_carried_that_cannot_be_carried_to_the_end() {
    let mut sim = Sim::new(21);
    // Three quarters of the first segment live; an eighth of one is left when entries are refused.
    let (mut wal, mut busy) = on_a_full_disk(&mut sim, 4 << 20, (30, 1, 100 << 10), 0);
    while busy.write(&mut wal, 1, 60 << 10).is_ok() {
        sim.settle(&mut wal);
    }
    busy.release_all(&mut wal).unwrap();
    idle_turns(&sim, &mut wal, 600);
    assert_eq!((wal.metrics().carried, wal.metrics().retired), (0, 0), "{:?}", wal.usage());
    // What was not taken is there for votes.
    for term in 1..100 {
        assert!(vote(&sim, &mut wal, term), "vote {term} waits");
    }
    wal.release(GroupId(2), LogIndex(28), Term(1)).unwrap();
    idle_turns(&sim, &mut wal, 600);
    assert_eq!(wal.room(), Room::Free, "{:?} {:?}", wal.usage(), wal.metrics());
}

/// The history that broke it:
/// 1. The disk is full. Carrying begins, as there is room for all of it, with a large record.
/// 2. While that is read, votes take some of the room.
/// 3. The record is written again, for the largest part of it into a segment that cannot be made.
/// 4. The next vote waits behind it.
#[test]
fn w9_on_a_full_disk_no_vote_waits_behind_what_is_carried() {
    let mut sim = Sim::new(22);
    let (mut wal, busy) = on_a_full_disk(&mut sim, 4 << 20, (1, 1, 1 << 20), 5 << 19);
    busy.release_all(&mut wal).unwrap();
    let plan =
        (0..5).find_map(|_| wal.maintain().unwrap()).expect("it is worth it, and there is room");
    for term in 1..150 {
        assert!(vote(&sim, &mut wal, term), "vote {term} waits");
    }
    wal.carried(plan.run()).unwrap();
    for term in 150..200 {
        assert!(vote(&sim, &mut wal, term), "vote {term} waits behind what was carried");
    }
    assert_eq!(wal.metrics().carried, 0);
    wal.release(GroupId(2), LogIndex(1), Term(1)).unwrap();
    idle_turns(&sim, &mut wal, 600);
    assert_eq!(wal.room(), Room::Free, "{:?} {:?}", wal.usage(), wal.metrics());
}

/// The history that broke it:
/// 1. The disk is nearly full. Many small entries live, which take 17 bytes each in the log and count for 41 in memory.
/// 2. There is room for the first, so they are read; not for the second, so they are dropped.
/// 3. The answer wakes the shard, and its next turn has them read again.
#[test]
fn w9_small_entries_are_read_once_to_be_carried_with_the_last_room() {
    let mut sim = Sim::new(23);
    let (mut wal, mut busy) = on_a_full_disk(&mut sim, 2 << 20, (1, 10_000, 1), 0);
    while busy.write(&mut wal, 1, 4 << 10).is_ok() {
        sim.settle(&mut wal);
    }
    for term in 1..10 {
        assert!(vote(&sim, &mut wal, term), "vote {term} waits");
    }
    busy.release_all(&mut wal).unwrap();
    let reads = idle_turns(&sim, &mut wal, 200);
    assert!(reads <= 4, "read {reads} times");
    assert!(wal.metrics().carried >= 10_000, "{:?}", wal.metrics());
    assert_eq!(wal.room(), Room::Free, "{:?} {:?}", wal.usage(), wal.metrics());
}
