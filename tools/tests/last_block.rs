//! A file system that is full to its last block, on a real kernel: a directory is opened, learns of its peers and is
//! marked all the same, and a log gives space back (RULES.md rule 27, W19).
//!
//! The file system is ext4 on a loop device, or a tmpfs. Mounting needs root; without it the tests say SKIPPED.

#![deny(unsafe_code)]

#[allow(unsafe_code, reason = "one ioctl that no safe crate offers")]
#[path = "support/ioctl.rs"]
mod ioctl;
#[path = "support/mount.rs"]
mod mount;
#[path = "support/room.rs"]
mod room;
mod support;

use bytes::Bytes;
use logdrive::DriverChoice;
use logdrive_raft::{Entry, EntryKind, GroupId, LogId, LogIndex, NodeId, Term, WriteId};
use logdrive_wal::{
    Append, Config, Home, HomeError, PEERS_BYTES_MAX, Release, Wal, WalError, checksum,
};
use mount::{Disk, Writes};
use room::{Ballast, Memory};
use std::{collections::BTreeMap, fs, path::Path, time::Duration};
use support::{cluster::directory, eventually, report, skipped};

/// RULES.md rule 27.
#[test]
fn a_directory_on_a_full_disk_is_opened_learns_of_its_peers_and_is_marked() {
    let name = "a_directory_on_a_full_disk_is_opened_learns_of_its_peers_and_is_marked";
    let dir = directory();
    match Memory::new(dir.path(), ROOM_BYTES) {
        Ok(memory) => is_refused(&open_and_mark(memory.path())),
        Err(why) => skipped(name, format_args!("tmpfs: {why}")),
    }
    for writes in [Writes::Direct, Writes::Cached] {
        let dir = directory();
        match Disk::with(dir.path(), ROOM_BYTES, writes) {
            Ok(mut disk) => {
                let node = open_and_mark(disk.path());
                disk.cut_power();
                disk.power_on(writes);
                is_refused(&node);
            }
            Err(why) => skipped(name, format_args!("ext4, {writes:?}: {why}")),
        }
    }
}

/// Fills the disk below a directory; then opens the directory again and again, and marks it in the end.
fn open_and_mark(place: &Path) -> std::path::PathBuf {
    let node = place.join("node");
    drop(Home::create(&node, "full", NodeId(1), 2, BTreeMap::new()).unwrap());
    let _ballast = Ballast::fill_to_the_last_block(place);
    assert_full(place);
    let mut known = Vec::new();
    for opening in 2..6 {
        let home = Home::open(&node).unwrap();
        assert_eq!((home.identity().incarnation, home.peers()), (opening, known));
        // As many bytes as the directory has room for.
        known = vec![u8::try_from(opening).unwrap(); PEERS_BYTES_MAX];
        home.keep_peers(&known).unwrap();
        home.found_command_bytes(1 << 20).unwrap();
    }
    let home = Home::open(&node).unwrap();
    assert_eq!((home.peers(), home.command_bytes_founded()), (known, 1 << 20));
    home.refuse(&"a peer knows another directory. ".repeat(100)).unwrap();
    assert_full(place);
    node
}

fn is_refused(node: &Path) {
    match Home::open(node) {
        Err(HomeError::Refused { why, .. }) => assert!(why.starts_with("a peer knows another")),
        other => panic!("{other:?}"),
    }
}

/// RULES.md W19.
/// No segment of the log can be given up before a manifest says so, and there is no room for another manifest.
#[test]
fn a_log_on_a_disk_full_to_its_last_block_gives_space_back_and_goes_on() {
    let name = "a_log_on_a_disk_full_to_its_last_block_gives_space_back_and_goes_on";
    for driver in [DriverChoice::Uring, DriverChoice::Portable] {
        let dir = directory();
        match Memory::new(dir.path(), ROOM_BYTES) {
            Ok(memory) => give_back(memory.path(), driver),
            Err(why) => skipped(name, format_args!("tmpfs, {driver:?}: {why}")),
        }
        let dir = directory();
        match Disk::new(dir.path(), ROOM_BYTES) {
            Ok(disk) => give_back(disk.path(), driver),
            Err(why) => skipped(name, format_args!("ext4, {driver:?}: {why}")),
        }
    }
}

fn give_back(place: &Path, driver: DriverChoice) {
    let home = Home::create(&place.join("node"), "full", NodeId(1), 1, BTreeMap::new()).unwrap();
    let mut config = Config::new(home.shard_dir(0), home.identity().clone(), 0);
    config.segment_bytes = 64 << 10;
    config.batch_bytes_max = 16 << 10;
    config.driver = driver;
    let (mut wal, _) = Wal::open(config.clone()).unwrap();
    let mut last = 0;
    while wal.metrics().rotations < 20 {
        append(&mut wal, &mut last).unwrap();
        turn(&mut wal);
    }
    // While no segment is in the making, nothing but what the log gives up gives room back.
    let made = || {
        let manifest = fs::read(home.shard_dir(0).join("manifest")).unwrap();
        u32::from_le_bytes(manifest[44..48].try_into().unwrap())
    };
    let ahead = u32::try_from(config.segments_ahead()).unwrap();
    let all_made = eventually(LIVE_MAX, || {
        turn(&mut wal);
        made() >= wal.durable().segment().0 + ahead
    });
    assert!(all_made, "the segments ahead are not made");
    let ballast = Ballast::fill_to_the_last_block(place);
    // A file system may give blocks back some time after the file that had them is gone.
    let is_full = eventually(LIVE_MAX, || ballast.take_more() == 0);
    assert!(is_full, "there is room");
    wal.release(&Release {
        group: GroupId(1),
        write: None,
        base: LogId { term: Term(1), index: LogIndex(last) },
        membership: &[],
        hard_state: None,
        snapshot: None,
    })
    .unwrap();
    let given_back = eventually(LIVE_MAX, || {
        turn(&mut wal);
        wal.metrics().retired >= 15
    });
    assert!(given_back, "of twenty dead segments: {:?} {:?}", wal.metrics(), wal.usage());
    // So the log takes more than three segments hold, although there is no room but what the log has given back.
    let before = last;
    let goes_on = eventually(LIVE_MAX, || {
        match append(&mut wal, &mut last) {
            Ok(()) | Err(WalError::NoSpace) => {}
            Err(error) => panic!("{error}"),
        }
        turn(&mut wal);
        last >= before + 120
    });
    assert!(goes_on, "{} entries: {:?} {:?}", last - before, wal.metrics(), wal.usage());
    report(format_args!("  last block, {}: {:?}", place.display(), wal.usage()));
    wal.close().unwrap();
    drop(ballast);
    let (_wal, recovered) = Wal::open(config).unwrap();
    assert_eq!(recovered.groups[0].last, LogIndex(last));
    assert!(recovered.groups[0].released >= LogIndex(before));
}

/// Five entries of 2,000 bytes.
fn append(wal: &mut Wal, last: &mut u64) -> Result<(), WalError> {
    let payload = Bytes::from(vec![b'x'; 2000]);
    let entry = |index| Entry {
        term: Term(1),
        index: LogIndex(index),
        kind: EntryKind::Command,
        checksum: checksum(&payload),
        payload: payload.clone(),
    };
    let entries: Vec<Entry> = (*last + 1..=*last + 5).map(entry).collect();
    let write = WriteId(entries[0].index.get());
    let (group, membership, hard_state) = (GroupId(1), None, None);
    wal.append(&Append { group, write, membership, hard_state, entries: &entries })?;
    *last += 5;
    Ok(())
}

/// Takes one step of giving space back, and waits until the log has no work left.
fn turn(wal: &mut Wal) {
    if let Some(plan) = wal.maintain().unwrap() {
        wal.carried(plan.run()).unwrap();
    }
    loop {
        wal.submit(0).unwrap();
        wal.poll(0, &mut Vec::new()).unwrap();
        if !wal.has_work() {
            return;
        }
        std::thread::yield_now();
    }
}

/// Checks that not one block more can be written.
fn assert_full(place: &Path) {
    fs::write(place.join("more"), [1; 4096]).expect_err("there is room");
}

const ROOM_BYTES: u64 = 24 << 20;
const LIVE_MAX: Duration = Duration::from_secs(20);
