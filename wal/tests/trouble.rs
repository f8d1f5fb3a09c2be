//! Disks that fail or fill up; directories in use, empty, or another's.

mod common;

use common::*;
use logdrive_raft::{GroupId, LogIndex, NodeId, WriteId};
use logdrive_wal::disk::sim::{Answer, Damage, WriteFate};
use logdrive_wal::{
    Completed, DriverChoice, Home, HomeError, ReadError, Room, SegmentSeq, Wal, WalError, inspect,
};
use std::collections::BTreeMap;
use std::io::ErrorKind;

/// RULES.md W6, W7.
#[test]
fn the_first_failed_write_poisons_the_log_for_good() {
    let sim = Sim::new(1);
    let (mut wal, _) = sim.open();
    wal.append(&write(1, 1, &entries(1, 1, 1, 3, 50))).unwrap();
    wal.submit(0).unwrap();
    // The second of three in flight fails; the third succeeds.
    sim.platter.fail_write(0);
    wal.append(&write(1, 2, &entries(1, 1, 4, 3, 50))).unwrap();
    wal.submit(0).unwrap();
    wal.append(&write(1, 3, &entries(1, 1, 7, 3, 50))).unwrap();
    wal.submit(0).unwrap();
    sim.platter.complete_all();
    let mut completed = Vec::new();
    assert!(matches!(wal.poll(0, &mut completed), Err(WalError::Io { what: "write", .. })));
    // A write durable before the failure is reported; a write behind the failure is not, though it is on disk.
    let durable: Vec<_> = completed.iter().flat_map(|c| &c.durable).map(|d| d.upto()).collect();
    assert_eq!(durable, [WriteId(1)]);
    let writes = sim.platter.writes();
    for _ in 0..3 {
        assert!(matches!(wal.poll(0, &mut completed), Err(WalError::Poisoned { .. })));
        assert!(matches!(wal.submit(0), Err(WalError::Poisoned { .. })));
        let again = wal.append(&state(1, 4, hard_state(2, 1, 0)));
        assert!(matches!(again, Err(WalError::Poisoned { .. })));
    }
    assert_eq!(completed.len(), 1);
    assert_eq!(sim.platter.writes(), writes, "a poisoned log wrote again");
    assert!(matches!(wal.close(), Err(WalError::Poisoned { .. })));
    sim.platter.crash();
    let (_wal, recovered) = sim.open();
    assert_eq!(recovered.groups[0].last, LogIndex(3));
}

/// Submits one entry in a batch of its own.
fn submit_one(wal: &mut Wal, index: u64) {
    wal.append(&write(1, index, &entries(1, 1, index, 1, 9000))).unwrap();
    wal.submit(index).unwrap();
}

fn acked(completed: &[Completed]) -> Vec<u64> {
    completed.iter().flat_map(|c| &c.durable).map(|durable| durable.upto().0).collect()
}

/// RULES.md W4.
#[test]
fn a_write_counts_when_its_last_part_is_written_and_not_before() {
    let sim = Sim::new(20);
    let (mut wal, _) = sim.open();
    sim.platter.set_fate(
        0,
        WriteFate::Answers(vec![
            Answer::Error(ErrorKind::Interrupted),
            Answer::Bytes(4096 + 512),
            Answer::Error(ErrorKind::WouldBlock),
            Answer::Bytes(4096),
        ]),
    );
    submit_one(&mut wal, 1);
    let mut completed = Vec::new();
    for _ in 0..4 {
        sim.platter.complete_nth(0);
        wal.poll(0, &mut completed).unwrap();
        assert!(completed.is_empty(), "part of a write was acknowledged");
        // A power cut here leaves what the kernel wrote, and that is no batch.
        let twin = Sim { platter: sim.platter.twin(), config: sim.config.clone() };
        twin.platter.crash_choosing(|_| false);
        assert!(twin.open().1.groups.is_empty());
    }
    sim.platter.complete_nth(0);
    wal.poll(0, &mut completed).unwrap();
    assert_eq!(acked(&completed), [1]);
    // A write that gets less than a block written, or nothing, has failed.
    for answers in [vec![Answer::Bytes(0)], vec![Answer::Bytes(4096), Answer::Bytes(512)]] {
        let sim = Sim::new(21);
        let (mut wal, _) = sim.open();
        let count = answers.len();
        sim.platter.set_fate(0, WriteFate::Answers(answers));
        submit_one(&mut wal, 1);
        (0..count).for_each(|_| sim.platter.complete_nth(0));
        assert!(matches!(wal.poll(0, &mut completed), Err(WalError::Io { what: "write", .. })));
        assert_eq!(completed.len(), 1, "a failed write was acknowledged");
    }
}

/// RULES.md W7.
#[test]
fn an_error_once_and_success_ever_after_fools_nobody() {
    let sim = Sim::new(22);
    let (mut wal, _) = sim.open();
    submit_one(&mut wal, 1);
    sim.settle(&mut wal);
    sim.platter.set_fate(0, WriteFate::ErrorThenLies(ErrorKind::Other));
    submit_one(&mut wal, 2);
    submit_one(&mut wal, 3);
    sim.platter.complete_all();
    let mut completed = Vec::new();
    assert!(wal.poll(0, &mut completed).is_err() && completed.is_empty());
    assert!(matches!(wal.submit(0), Err(WalError::Poisoned { .. })));
    drop(wal);
    sim.platter.crash();
    let (_wal, recovered) = sim.open();
    assert_eq!(recovered.groups[0].last, LogIndex(1));
}

/// RULES.md W6, W11.
/// Every operation of a workload with rotations fails once; segments are ordered two ahead.
#[test]
fn any_operation_may_fail_and_the_next_open_finds_all_that_was_acknowledged() {
    for n in 0.. {
        let mut sim = Sim::new(n);
        sim.config.spare_segments = 2;
        let (mut wal, _) = sim.open();
        sim.platter.fail_operation(n);
        let mut completed = Vec::new();
        let mut failed = false;
        'work: for index in 1..40 {
            let run = entries(1, 1, index, 1, 9000);
            failed = wal.append(&write(1, index, &run)).is_err() || wal.submit(0).is_err();
            while !failed && wal.has_work() {
                sim.platter.complete_all();
                failed = wal.poll(0, &mut completed).is_err();
            }
            if failed {
                break 'work;
            }
        }
        let said = acked(&completed).last().copied().unwrap_or(0);
        if failed {
            // Nothing more is acknowledged, though the disk works again.
            completed.clear();
            sim.platter.complete_all();
            assert!(matches!(wal.poll(0, &mut completed), Err(WalError::Poisoned { .. })));
            assert!(completed.is_empty());
        }
        drop(wal);
        sim.platter.crash();
        let (wal, recovered) = sim.try_open().unwrap_or_else(|error| panic!("at {n}: {error}"));
        let found = recovered.groups.first().map_or(0, |group| read_all(&wal, group).len());
        assert!(found as u64 >= said, "operation {n} failed: {found} of {said}");
        if !failed {
            assert!(n > 60, "{n} operations");
            return;
        }
    }
}

/// RULES.md W8.
#[test]
fn what_a_lying_disk_lost_is_known_by_what_was_written_later() {
    let sim = Sim::new(23);
    let (mut wal, _) = sim.open();
    sim.settle(&mut wal);
    sim.platter.complete_all();
    sim.platter.set_lying(true);
    submit_one(&mut wal, 1);
    assert_eq!(acked(&sim.settle(&mut wal)), [1]);
    assert!(!sim.platter.undurable().is_empty() && sim.platter.damage().is_empty());
    sim.platter.set_lying(false);
    // The second batch vouches for the first.
    submit_one(&mut wal, 2);
    assert_eq!(acked(&sim.settle(&mut wal)), [2]);
    sim.platter.crash_choosing(|_| false);
    drop(wal);
    let lost = sim.platter.damage();
    assert!(!lost.is_empty() && lost.iter().all(|(_, _, what)| *what == Damage::Lost), "{lost:?}");
    match sim.try_open() {
        Ok((_, recovered)) => assert!(recovered.groups[0].fenced.is_some(), "{recovered:?}"),
        Err(error) => assert!(matches!(error, WalError::Corrupt(_)), "{error}"),
    }
}

/// RULES.md D3, W5.
#[test]
fn nothing_behind_a_stalled_write_is_durable_until_it_is() {
    let sim = Sim::new(24);
    let (mut wal, _) = sim.open();
    sim.platter.set_fate(0, WriteFate::Stalled);
    (1..=3).for_each(|index| submit_one(&mut wal, index));
    let mut completed = Vec::new();
    for _ in 0..20 {
        sim.platter.complete_some();
        wal.poll(0, &mut completed).unwrap();
    }
    assert!(completed.is_empty() && wal.has_work() && sim.platter.writes_in_flight() == 1);
    sim.platter.release_stalled();
    sim.platter.complete_all();
    wal.poll(0, &mut completed).unwrap();
    assert_eq!(acked(&completed), [1, 2, 3]);
}

/// RULES.md C10.
/// A batch that landed on another's place, or nowhere; a sector that is read from elsewhere.
#[test]
fn misdirected_and_lost_writes_and_reads_are_found_out() {
    let first = SegmentSeq(1);
    for fate in [WriteFate::Misdirected(first, 8192), WriteFate::Lost] {
        let sim = Sim::new(25);
        let (mut wal, _) = sim.open();
        submit_one(&mut wal, 1);
        sim.settle(&mut wal);
        sim.platter.set_fate(0, fate);
        submit_one(&mut wal, 2);
        sim.settle(&mut wal);
        submit_one(&mut wal, 3);
        assert_eq!(acked(&sim.settle(&mut wal)), [3]);
        assert!(!sim.platter.damage().is_empty());
        sim.platter.crash();
        drop(wal);
        match sim.try_open() {
            Ok((_, recovered)) => assert!(recovered.groups[0].fenced.is_some(), "{recovered:?}"),
            Err(error) => assert!(matches!(error, WalError::Corrupt(_)), "{error}"),
        }
    }
    let sim = Sim::new(26);
    let (mut wal, _) = sim.open();
    for index in 1..=12 {
        submit_one(&mut wal, index);
        sim.settle(&mut wal);
    }
    let read = |wal: &Wal| {
        wal.plan_read(GroupId(1), LogIndex(1), LogIndex(1), 1 << 20).unwrap().run().map(|_| ())
    };
    assert!(read(&wal).is_ok() && wal.metrics().segments > 1);
    sim.platter.misdirect_reads(first, 8192 + 1024, first, 4096);
    assert!(matches!(read(&wal), Err(ReadError::Corrupt(_))));
    drop(wal);
    match sim.try_open() {
        Ok((_, recovered)) => assert!(recovered.groups[0].fenced.is_some(), "{recovered:?}"),
        Err(error) => assert!(matches!(error, WalError::Corrupt(_)), "{error}"),
    }
}

/// RULES.md W9.
#[test]
fn a_full_disk_refuses_entries_keeps_votes_going_and_heals() {
    let sim = Sim::new(2);
    let (mut wal, _) = sim.open();
    sim.platter.complete_all();
    sim.settle(&mut wal);
    wal.poll(0, &mut Vec::new()).unwrap();
    sim.platter.set_segments_left(Some(0));
    assert_eq!(wal.room(), Room::Free);
    // The log reports room until it begins the last segment that was made.
    let mut index = 1;
    while wal.room() == Room::Free {
        wal.append(&write(1, index, &entries(1, 1, index, 1, 2000))).unwrap();
        index += 1;
        sim.settle(&mut wal);
        sim.platter.complete_some();
        wal.poll(0, &mut Vec::new()).unwrap();
        assert!(index < 100, "never full");
    }
    // A writer that goes on all the same is refused before the reserve is used up, and nothing is torn.
    loop {
        match wal.append(&write(1, index, &entries(1, 1, index, 1, 2000))) {
            Ok(()) => index += 1,
            Err(WalError::NoSpace) => break,
            Err(error) => panic!("{error}"),
        }
        sim.settle(&mut wal);
        assert!(index < 200, "never refused");
    }
    // Votes go on.
    for term in 2..5 {
        wal.append(&state(2, term, hard_state(term, 1, 0))).unwrap();
        let completed = sim.settle(&mut wal);
        assert_eq!(completed[0].durable[0].upto(), WriteId(term));
    }
    // There is room again, and the log heals by itself.
    sim.platter.set_segments_left(None);
    sim.platter.complete_all();
    wal.poll(0, &mut Vec::new()).unwrap();
    assert_eq!(wal.room(), Room::Free);
    for _ in 0..100 {
        wal.append(&write(1, index, &entries(1, 1, index, 1, 2000))).unwrap();
        index += 1;
        sim.settle(&mut wal);
    }
    sim.platter.crash();
    drop(wal);
    let (_wal, recovered) = sim.open();
    assert_eq!(recovered.groups[0].last, LogIndex(index - 1));
    assert_eq!(recovered.groups[1].hard_state, hard_state(4, 1, 0));
}

/// RULES.md W9.
#[test]
fn open_on_a_full_disk_is_a_typed_error() {
    let sim = Sim::new(3);
    sim.platter.set_segments_left(Some(0));
    assert!(matches!(sim.try_open(), Err(WalError::NoSpace)));
}

#[test]
fn settings_that_cannot_be_are_refused() {
    let mut sim = Sim::new(4);
    for bytes in [0, 4096, (64 << 10) + 1, 2 << 30] {
        sim.config.segment_bytes = bytes;
        let disk = Sim::new(4).platter.disk(64 << 10);
        let opened = Wal::open_on(disk, sim.config.clone(), Box::new(|| 1));
        assert!(matches!(opened.map(|_| ()), Err(WalError::Config(_))), "{bytes}");
    }
}

#[test]
fn a_segments_size_may_change_from_open_to_open() {
    let mut sim = Sim::new(5);
    for (n, bytes) in [64 << 10, 256 << 10, 128 << 10, 64 << 10].into_iter().enumerate() {
        sim.config.segment_bytes = bytes;
        let (mut wal, recovered) = sim.open();
        assert_eq!(recovered.groups.first().map_or(0, |g| g.last.get()), n as u64 * 100);
        wal.append(&write(1, 1, &entries(1, 1, n as u64 * 100 + 1, 100, 2000))).unwrap();
        sim.settle(&mut wal);
        sim.platter.kill();
    }
    let (wal, recovered) = sim.open();
    assert_eq!(read_all(&wal, &recovered.groups[0]).len(), 400);
}

#[test]
#[should_panic(expected = "leave a hole")]
fn entries_that_leave_a_hole_are_a_broken_invariant() {
    let sim = Sim::new(6);
    let (mut wal, _) = sim.open();
    let _ = wal.append(&write(1, 1, &entries(1, 1, 2, 1, 10)));
}

/// RULES.md I10.
#[test]
fn a_directory_is_opened_once_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node");
    let home = new_home(&path);
    assert!(matches!(Home::open(&path), Err(HomeError::Locked(_))));
    // A holder that goes away within two seconds is waited for.
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(150));
            drop(home);
        });
        let again = Home::open(&path).unwrap();
        assert_eq!(again.identity().incarnation, 2);
    });
}

/// RULES.md I10.
/// The bug: the lock was on a file alone. Once that was removed, or the directory had another name, a second process could
/// open the directory, and both acknowledged.
#[test]
fn a_directory_is_opened_once_at_a_time_whatever_becomes_of_its_lock_and_name() {
    let dir = tempfile::tempdir().unwrap();
    let (path, moved) = (dir.path().join("node"), dir.path().join("moved"));
    let home = new_home(&path);
    let second = |path: &std::path::Path| Home::open(path).map(|home| home.identity().incarnation);
    std::fs::remove_file(path.join("lock")).unwrap();
    let opened = second(&path);
    assert!(matches!(opened, Err(HomeError::Locked(_))), "without its lock file: {opened:?}");
    std::fs::rename(&path, &moved).unwrap();
    std::fs::remove_file(moved.join("lock")).unwrap();
    let opened = second(&moved);
    assert!(matches!(opened, Err(HomeError::Locked(_))), "moved: {opened:?}");
    std::os::unix::fs::symlink(&moved, &path).unwrap();
    std::fs::remove_file(path.join("lock")).unwrap();
    let opened = second(&path);
    assert!(matches!(opened, Err(HomeError::Locked(_))), "by a link: {opened:?}");
    // A copy of the directory in which the shard's directory is a link to the original's.
    let copy = dir.path().join("copy");
    std::fs::create_dir(&copy).unwrap();
    for file in ["identity", "openings"] {
        std::fs::copy(moved.join(file), copy.join(file)).unwrap();
    }
    std::os::unix::fs::symlink(moved.join("shard-000"), copy.join("shard-000")).unwrap();
    let opened = second(&copy);
    assert!(matches!(opened, Err(HomeError::Locked(_))), "a copy: {opened:?}");
    drop(home);
    assert_eq!(second(&moved).unwrap(), 2);
}

/// RULES.md P6, C5.
#[test]
fn a_directory_without_an_identity_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node");
    assert!(matches!(Home::open(&path), Err(HomeError::Empty(_))));
    std::fs::create_dir(&path).unwrap();
    assert!(matches!(Home::open(&path), Err(HomeError::Empty(_))));
    // Its making was cut short, and is taken up again.
    std::fs::create_dir(path.join("shard-000")).unwrap();
    let error = Home::open(&path).unwrap_err();
    assert!(matches!(&error, HomeError::HalfMade(dir) if *dir == path), "{error}");
    drop(new_home(&path));
    assert!(matches!(
        Home::create(&path, "test", NodeId(1), 1, BTreeMap::new()),
        Err(HomeError::Exists(_))
    ));
    let identity = std::fs::read(path.join("identity")).unwrap();
    std::fs::remove_file(path.join("identity")).unwrap();
    assert!(matches!(Home::open(&path), Err(HomeError::NoIdentity { .. })));
    for at in 0..identity.len() {
        let mut bytes = identity.clone();
        bytes[at] ^= 1;
        std::fs::write(path.join("identity"), &bytes).unwrap();
        assert!(Home::open(&path).is_err(), "flip of byte {at} went unseen");
    }
    std::fs::write(path.join("identity"), b"").unwrap();
    assert!(matches!(Home::open(&path), Err(HomeError::Corrupt { .. })));
    std::fs::write(path.join("identity"), &identity).unwrap();
    let openings = std::fs::read(path.join("openings")).unwrap();
    std::fs::remove_file(path.join("openings")).unwrap();
    assert!(matches!(Home::open(&path), Err(HomeError::Missing(_))));
    std::fs::write(path.join("openings"), b"").unwrap();
    assert!(matches!(Home::open(&path), Err(HomeError::Corrupt { .. })));
    std::fs::write(path.join("openings"), &openings).unwrap();
    std::fs::remove_dir_all(path.join("shard-000")).unwrap();
    assert!(matches!(Home::open(&path), Err(HomeError::Missing(_))));
}

/// RULES.md P6, C7.
/// The record of the peers outlives the process, and a directory that they refused is never opened again.
#[test]
fn a_refused_directory_says_so_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node");
    let home = new_home(&path);
    assert_eq!((home.peers(), home.identity().incarnation), (Vec::new(), 1));
    home.keep_peers(&[7; 1000]).unwrap();
    drop(home);
    let home = Home::open(&path).unwrap();
    assert_eq!((home.peers(), home.identity().incarnation), (vec![7; 1000], 2));
    home.refuse(&"refused by node 2, ö".repeat(100)).unwrap();
    drop(home);
    for _ in 0..2 {
        match Home::open(&path) {
            Err(HomeError::Refused { why, .. }) => assert!(why.starts_with("refused by node 2")),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_directory_with_something_in_it_is_not_made_a_nodes() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("photo.jpg"), b"").unwrap();
    let made = Home::create(dir.path(), "test", NodeId(1), 1, BTreeMap::new());
    assert!(matches!(made, Err(HomeError::NotEmpty { .. })));
}

/// RULES.md I9.
#[test]
fn what_is_no_directory_is_called_so() {
    let dir = tempfile::tempdir().unwrap();
    let (file, dangling) = (dir.path().join("file"), dir.path().join("dangling"));
    std::fs::write(&file, b"").unwrap();
    std::os::unix::fs::symlink("nowhere", &dangling).unwrap();
    let create = |path| Home::create(path, "test", NodeId(1), 1, BTreeMap::new()).unwrap_err();
    for error in [create(&file), Home::open(&file).unwrap_err(), create(&dangling)] {
        assert!(error.to_string().ends_with("is not a directory"), "{error}");
    }
    // A link to a directory counts as a directory.
    std::fs::create_dir(dir.path().join("real")).unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink("real", &link).unwrap();
    drop(new_home(&link));
    assert_eq!(Home::open(&dir.path().join("real")).unwrap().identity().incarnation, 2);
}

#[test]
fn the_root_of_a_fresh_volume_can_be_made_a_nodes() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("lost+found")).unwrap();
    assert!(matches!(Home::open(dir.path()), Err(HomeError::Empty(_))));
    let home = new_home(dir.path());
    // No other user may look into it.
    let mode = std::fs::metadata(home.shard_dir(0)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    drop(home);
    Home::open(dir.path()).unwrap();
}

#[test]
fn what_others_leave_beside_segments_stops_nothing_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let home = new_home(&dir.path().join("node"));
    let shard = home.shard_dir(0);
    let dirs = ["lost+found", "x.tmp", "0000000009.seg.old"];
    let files = [".nfs000000000abc", ".0000000001.seg.swp", "notes.txt", "y.tmp", "1.tmp"];
    dirs.iter().for_each(|name| std::fs::create_dir(shard.join(name)).unwrap());
    files.iter().for_each(|name| std::fs::write(shard.join(name), b"mine").unwrap());
    // Files of the log itself that are half made are removed.
    let own = ["0000000007.tmp", "0000000007.free.tmp", "probe.tmp"];
    own.iter().for_each(|name| std::fs::write(shard.join(name), b"").unwrap());
    for index in 1..4 {
        let (mut wal, _) = Wal::open(config(&home, DriverChoice::Portable)).unwrap();
        wal.append(&write(1, index, &entries(1, 1, index, 1, 10))).unwrap();
        wal.close().unwrap();
    }
    assert!(dirs.iter().all(|name| shard.join(name).is_dir()));
    assert!(files.iter().all(|name| std::fs::read(shard.join(name)).unwrap() == b"mine"));
    assert!(own.iter().all(|name| !shard.join(name).exists()));
    let report = inspect::scan(&shard, None, &mut |_| Ok(())).unwrap();
    assert_eq!((report.damage, report.batches > 0), (0, true));
}

#[test]
fn a_half_made_directory_is_no_damaged_one() {
    let dir = tempfile::tempdir().unwrap();
    drop(Home::create(dir.path(), "test", NodeId(3), 2, BTreeMap::new()).unwrap());
    for left in ["identity", "openings"] {
        std::fs::remove_file(dir.path().join(left)).unwrap();
    }
    std::fs::remove_file(dir.path().join("shard-001/manifest")).unwrap();
    let node = inspect::Node::look(dir.path()).unwrap();
    let labels: Vec<_> = node.findings.iter().map(|found| (found.label, found.damage)).collect();
    assert_eq!((labels, node.streams), (vec![("half_made_directory", false)], Vec::new()));
}

#[test]
fn a_creation_that_was_cut_short_is_taken_up_again() {
    let dir = tempfile::tempdir().unwrap();
    let settings = BTreeMap::from([("groups".to_owned(), "1000".to_owned())]);
    drop(Home::create(dir.path(), "test", NodeId(3), 2, settings.clone()).unwrap());
    std::fs::remove_file(dir.path().join("identity")).unwrap();
    std::fs::remove_file(dir.path().join("shard-001/manifest")).unwrap();
    // The file of openings says that the node was opened, so its peers may know it.
    let again = Home::create(dir.path(), "test", NodeId(3), 2, settings.clone());
    assert!(matches!(again, Err(HomeError::NotEmpty { .. })));
    std::fs::remove_file(dir.path().join("openings")).unwrap();
    let home = Home::create(dir.path(), "test", NodeId(3), 2, settings.clone()).unwrap();
    assert_eq!(home.identity().settings, settings);
    assert_eq!((home.identity().node, home.identity().shards), (NodeId(3), 2));
    drop(home);
    let home = Home::open(dir.path()).unwrap();
    let mut config = logdrive_wal::Config::new(home.shard_dir(1), home.identity().clone(), 1);
    config.segment_bytes = 64 << 10;
    let (mut wal, _) = Wal::open(config.clone()).unwrap();
    wal.append(&write(1, 1, &entries(1, 1, 1, 1, 10))).unwrap();
    wal.close().unwrap();
    drop(home);
    // With segments in it, it is no half-made directory any more.
    std::fs::remove_file(dir.path().join("identity")).unwrap();
    let again = Home::create(dir.path(), "test", NodeId(3), 2, settings);
    assert!(matches!(again, Err(HomeError::NotEmpty { .. })));
    // C7: one shard's stream is not another's.
    config.shard = 0;
    assert!(matches!(Wal::open(config).map(|_| ()), Err(WalError::Foreign { .. })));
}

#[test]
fn plans_end_where_the_log_is_durable() {
    let sim = Sim::new(8);
    let (mut wal, _) = sim.open();
    wal.append(&write(1, 1, &entries(1, 1, 1, 3, 50))).unwrap();
    sim.settle(&mut wal);
    wal.append(&write(1, 2, &entries(1, 1, 4, 3, 50))).unwrap();
    let plan = wal.plan_read(GroupId(1), LogIndex(1), LogIndex(6), 1 << 20).unwrap();
    assert_eq!(plan.run().unwrap().len(), 3);
    assert!(wal.plan_read(GroupId(1), LogIndex(4), LogIndex(6), 1 << 20).is_err());
}
