//! The format's golden segments: what this code wrote, and still writes, byte for byte.
//!
//! A test that fails here says that the format has changed. If that was meant, `GOLDEN=write cargo test -p logdrive-wal
//! --test golden` writes them anew, and the difference shows what became of every byte.

mod common;

use common::golden::{self, Files, GOLDEN, golden, print, unpack};
use common::*;
use logdrive_raft::{GroupId, LogId, LogIndex, Term, WriteId};
use logdrive_wal::disk::sim::SimPlatter;
use logdrive_wal::{
    Append, DriverChoice, Install, Installing, Release, SegmentSeq, Snapshot, SnapshotContent, Wal,
    WalError, inspect,
};

/// A platter, and a process on it whose segment ids are numbers in order.
struct Maker {
    sim: Sim,
    opens: u128,
}

impl Maker {
    fn new() -> Self {
        Self { sim: Sim::new(0), opens: 0 }
    }

    fn platter(&self) -> &SimPlatter {
        &self.sim.platter
    }

    fn open(&mut self) -> Wal {
        self.opens += 1;
        let mut id = self.opens << 64;
        let entropy = Box::new(move || {
            id += 1;
            id
        });
        let disk = self.platter().disk(self.sim.config.segment_bytes);
        let (mut wal, _) = Wal::open_on(disk, self.sim.config.clone(), entropy).unwrap();
        self.settle(&mut wal);
        wal
    }

    /// Completes all writes, and all orders of segments, in their order.
    fn settle(&self, wal: &mut Wal) {
        let mut completed = Vec::new();
        loop {
            wal.submit(0).unwrap();
            self.platter().complete_all();
            wal.poll(0, &mut completed).unwrap();
            if !wal.has_work() && self.platter().orders() == 0 {
                return;
            }
        }
    }

    /// Writes a batch with entries of two groups, a hard state, and, the first time, a membership.
    fn append(&self, wal: &mut Wal, n: u64, bytes: usize) {
        let membership = Append {
            group: GroupId(1),
            write: WriteId(n),
            membership: (n == 1).then_some(b"members: 1, 2, 3".as_slice()),
            hard_state: Some(hard_state(n, 1, 2 * n - 2)),
            entries: &entries(1, n, 2 * n - 1, 2, bytes),
        };
        wal.append(&membership).unwrap();
        wal.append(&write(7, n, &[entry(1, n, b"")])).unwrap();
        wal.submit(0).unwrap();
    }

    fn files(self) -> Files {
        let platter = self.platter();
        let mut files = Files::from([("manifest".to_owned(), platter.manifest().unwrap())]);
        for segment in platter.segments() {
            files.insert(format!("{:010}.seg", segment.0), platter.segment(segment));
        }
        files
    }
}

/// A log of three batches that was closed, opened, and closed again.
fn clean_stop() -> Files {
    stopped_after_three_batches(3000)
}

/// The same with such small batches that the second open writes them again at the start of its own segment.
fn written_again() -> Files {
    stopped_after_three_batches(40)
}

fn stopped_after_three_batches(bytes: usize) -> Files {
    let mut maker = Maker::new();
    let mut wal = maker.open();
    for n in 1..=3 {
        maker.append(&mut wal, n, bytes);
        maker.settle(&mut wal);
    }
    wal.close().unwrap();
    let wal = maker.open();
    wal.close().unwrap();
    maker.files()
}

/// A log with two acknowledged batches and two in flight when the power fails. `keep` says which sectors of these two
/// land, by the offset from the first one's start.
fn power_cut(keep: impl Fn(u64) -> bool) -> Files {
    let mut maker = Maker::new();
    let mut wal = maker.open();
    for n in 1..=4 {
        maker.append(&mut wal, n, 300);
        if n < 3 {
            maker.settle(&mut wal);
        }
    }
    assert_eq!(maker.platter().writes_in_flight(), 2);
    let first = 4096 + 3 * 4096;
    maker.platter().crash_keeping(|_, at| keep(at - first));
    drop(wal);
    maker.files()
}

/// Of the two batches in flight, only the first sector of the first one lands.
fn torn_tail() -> Files {
    power_cut(|at| at < 512)
}

/// Of the two batches in flight, nothing of the first one lands, and all of the second.
fn reordered_tail() -> Files {
    power_cut(|at| at >= 4096)
}

/// A bit is flipped in an entry that a later batch vouches for.
fn damaged_body() -> Files {
    let mut maker = Maker::new();
    let mut wal = maker.open();
    for n in 1..=3 {
        maker.append(&mut wal, n, 40);
        maker.settle(&mut wal);
    }
    maker.platter().crash();
    drop(wal);
    let bytes = maker.platter().segment(SegmentSeq(1));
    let needle = payload(1, 1, 2, 40);
    let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
    maker.platter().flip(SegmentSeq(1), at, 0x01);
    maker.files()
}

/// A segment in whose unused part stands what it held in an earlier life: batches of another segment id.
fn recycled_bytes() -> Files {
    let mut maker = Maker::new();
    let mut wal = maker.open();
    for n in 1..=3 {
        maker.append(&mut wal, n, if n == 1 { 40 } else { 4200 });
        maker.settle(&mut wal);
    }
    wal.close().unwrap();
    let mut wal = maker.open();
    maker.append(&mut wal, 4, 40);
    maker.settle(&mut wal);
    maker.platter().crash();
    drop(wal);
    // Three segments are made ahead of the one in use.
    let used = *maker.platter().segments().iter().rev().nth(3).unwrap();
    let old = maker.platter().segment(SegmentSeq(1));
    let mut new = maker.platter().segment(used);
    let end = 4096 + 2 * 4096;
    assert!(new[end] == 0 && old[end] != 0);
    new[end..].copy_from_slice(&old[end..]);
    maker.platter().set_segment(used, Some(new));
    maker.files()
}

/// Lets another group fill segments and release everything at once, until the oldest segment is given up.
fn give_up_the_oldest(maker: &Maker, wal: &mut Wal) {
    let oldest = maker.platter().segments()[0];
    let mut next = 1;
    while maker.platter().segments()[0] == oldest {
        wal.append(&write(2, next, &entries(2, 1, next, 1, 20_000))).unwrap();
        wal.release(&released(2, next, 1)).unwrap();
        maker.settle(wal);
        if let Some(plan) = wal.maintain().unwrap() {
            wal.carried(plan.run()).unwrap();
        }
        maker.settle(wal);
        next += 1;
        assert!(next < 100, "the first segment is never given up");
    }
}

/// A log whose oldest segment was given up: its live entries, votes and memberships are carried, one group is released in
/// part, one is gone for good.
fn carried() -> Files {
    let mut maker = Maker::new();
    let mut wal = maker.open();
    maker.append(&mut wal, 1, 40);
    for group in [3, 4] {
        wal.append(&write(group, 1, &entries(group, 1, 1, 3, 40))).unwrap();
    }
    maker.settle(&mut wal);
    wal.destroy(GroupId(4), LogIndex(2)).unwrap();
    wal.release(&released(3, 2, 1)).unwrap();
    give_up_the_oldest(&maker, &mut wal);
    maker.platter().crash();
    drop(wal);
    maker.files()
}

/// A log whose damaged segment was given up: its groups have fences instead.
fn fenced() -> Files {
    let mut maker = Maker::new();
    let mut wal = maker.open();
    for n in 1..=3 {
        maker.append(&mut wal, n, 40);
        maker.settle(&mut wal);
    }
    maker.platter().crash();
    drop(wal);
    let bytes = maker.platter().segment(SegmentSeq(1));
    let needle = payload(1, 1, 2, 40);
    let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
    maker.platter().flip(SegmentSeq(1), at, 0x01);
    let mut wal = maker.open();
    give_up_the_oldest(&maker, &mut wal);
    maker.platter().crash();
    drop(wal);
    maker.files()
}

/// A log with a marked replica: its mark stood in the oldest segment and was carried when that was given up.
fn marked() -> Files {
    let mut maker = Maker::new();
    let mut wal = maker.open();
    maker.append(&mut wal, 1, 40);
    let state = Append { hard_state: Some(hard_state(7, 2, 0)), ..write(1, 2, &[]) };
    wal.append(&state).unwrap();
    maker.settle(&mut wal);
    give_up_the_oldest(&maker, &mut wal);
    maker.platter().crash();
    drop(wal);
    maker.files()
}

/// A log with a snapshot in it, one in files, and a group whose machine was being replaced when the power failed; all of
/// them carried. The later snapshot of group 3 has replaced an earlier one, and ended an install.
fn snapshots() -> Files {
    let mut maker = Maker::new();
    let mut wal = maker.open();
    let id = |term, index| LogId { term: Term(term), index: LogIndex(index) };
    let contents: [&[u8]; 2] = [b"the state after entry 1", b"the state after entry 9"];
    for group in [3, 4, 5] {
        wal.append(&write(group, 1, &entries(group, 1, 1, 3, 40))).unwrap();
    }
    let release = |group, base, at, content| Release {
        membership: b"members: 1, 2, 3",
        hard_state: Some(hard_state(2, 2, 9)),
        snapshot: Some(Snapshot { at, digest: 0xd1 << 120 | at.index.get() as u128, content }),
        write: Some(WriteId(9)),
        base,
        ..released(group, 0, 0)
    };
    wal.release(&release(3, id(1, 1), id(1, 1), SnapshotContent::InLog(contents[0]))).unwrap();
    wal.release(&release(4, id(1, 2), id(1, 3), SnapshotContent::InFiles { bytes: 1 << 40 }))
        .unwrap();
    for (group, index) in [(3, 9), (5, 12)] {
        let snapshot = Installing { at: id(2, index), digest: 0xd1 << 120 | u128::from(index) };
        wal.install(&Install { group: GroupId(group), write: WriteId(2), snapshot }).unwrap();
    }
    wal.release(&release(3, id(2, 9), id(2, 9), SnapshotContent::InLog(contents[1]))).unwrap();
    maker.settle(&mut wal);
    give_up_the_oldest(&maker, &mut wal);
    maker.platter().crash();
    drop(wal);
    maker.files()
}

/// Makes the files of one golden stream.
type Make = fn() -> Files;

fn makers() -> Vec<(&'static str, Make)> {
    vec![
        ("clean_stop", clean_stop),
        ("written_again", written_again),
        ("torn_tail", torn_tail),
        ("reordered_tail", reordered_tail),
        ("damaged_body", damaged_body),
        ("recycled_bytes", recycled_bytes),
        ("carried", carried),
        ("fenced", fenced),
        ("marked", marked),
        ("snapshots", snapshots),
    ]
}

#[test]
fn the_golden_segments_are_what_this_code_writes() {
    let write = std::env::var_os("GOLDEN").is_some_and(|value| value == "write");
    let mut changed = Vec::new();
    for (name, make) in makers() {
        let text = print(&make());
        if write {
            let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
            std::fs::write(dir.join(format!("{name}.txt")), text).unwrap();
        } else if GOLDEN.iter().all(|(golden, found)| *golden != name || *found != text) {
            changed.push(name);
        }
    }
    assert!(changed.is_empty(), "the format has changed: {changed:?} (this file says what to do)");
}

/// RULES.md P8.
#[test]
fn a_log_of_version_1_is_refused_with_both_versions_named_and_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let home = new_home(&dir.path().join("n1"));
    let old = golden::parse(include_str!("golden/version_1.txt"));
    let config = config(&home, DriverChoice::Portable);
    golden::unpack(&old, &config.dir);
    let error = Wal::open(config.clone()).err().unwrap();
    assert!(matches!(error, WalError::Version { found: 1, known: 2, .. }), "{error}");
    let words = error.to_string();
    assert!(words.contains("manifest of version 1") && words.contains("knows 2"), "{words}");
    for (name, bytes) in &old {
        assert!(std::fs::read(config.dir.join(name)).unwrap() == *bytes, "{name} has changed");
    }
}

/// The findings in each golden stream: their labels, the number of batches, how the log ended, and what became of groups.
#[test]
fn the_golden_segments_are_read_as_what_they_are() {
    let expected: &[(&str, &[&str], u64)] = &[
        ("clean_stop", &[], 7),
        ("written_again", &[], 2),
        ("torn_tail", &["torn_tail"], 3),
        ("reordered_tail", &["reordered_tail"], 3),
        ("damaged_body", &["damaged_body"], 3),
        ("recycled_bytes", &[], 7),
        ("carried", &[], 6),
        ("fenced", &[], 6),
        ("marked", &[], 8),
        ("snapshots", &[], 8),
    ];
    for (name, labels, batches) in expected {
        let dir = tempfile::tempdir().unwrap();
        unpack(&golden(name), dir.path());
        let mut found = Vec::new();
        let report = inspect::scan(dir.path(), None, &mut |event| {
            if let inspect::Event::Finding(finding) = event {
                found.push(finding.label);
            }
            Ok(())
        });
        let report = report.unwrap();
        assert_eq!((found.as_slice(), report.batches), (*labels, *batches), "{name}");
        assert_eq!(report.closed, matches!(*name, "clean_stop" | "written_again"), "{name}");
        let of = |wanted: fn(&inspect::Group) -> bool| -> Vec<u64> {
            let groups = report.groups.iter().filter(|(_, group)| wanted(group));
            groups.map(|(id, _)| id.get()).collect()
        };
        let lost = matches!(*name, "damaged_body" | "fenced");
        assert_eq!(of(|group| group.fenced.is_some()), if lost { vec![1, 7] } else { vec![] });
        let marked = *name == "marked";
        assert_eq!(of(|group| group.hard_state.marked), if marked { vec![1] } else { vec![] });
        let kept = *name == "snapshots";
        assert_eq!(of(|group| group.snapshot.is_some()), if kept { vec![3, 4] } else { vec![] });
        assert_eq!(of(|group| group.installing.is_some()), if kept { vec![5] } else { vec![] });
        let gone = *name == "carried";
        assert_eq!(of(|group| group.destroyed), if gone { vec![4] } else { vec![] });
    }
    assert_eq!(expected.len(), GOLDEN.len());
}
