//! Damage at rest: every byte of a small log is flipped. The open ends with an error that names file and offset, or fences
//! groups, or loses nothing; it never panics, and never loses in silence what was acknowledged. `table.rs` has the cases
//! one by one.

mod common;
mod forge;

use common::*;
use forge::*;
use logdrive_raft::{Entry, GroupId, LogIndex};
use logdrive_wal::{
    Corrupt, DriverChoice, ReadError, Recovered, RecoveredGroup, SegmentSeq, Wal, WalError,
};
use std::collections::BTreeMap;

/// Two incarnations of acknowledged batches of several groups: one that was closed, and one that was sealed and
/// then wrote once more, so that no later batch vouches for its last one.
fn filled() -> Sim {
    let sim = Sim::new(1);
    let (mut wal, _) = sim.open();
    wal.append(&state(2, 1, hard_state(1, 1, 0))).unwrap();
    sim.settle(&mut wal);
    wal.append(&write(1, 2, &entries(1, 1, 1, 20, 1000))).unwrap();
    wal.append(&state(3, 2, hard_state(7, 2, 0))).unwrap();
    sim.settle(&mut wal);
    wal.append(&write(4, 3, &entries(4, 1, 1, 1, 90))).unwrap();
    sim.settle(&mut wal);
    wal.close().unwrap();
    let (mut wal, _) = sim.open();
    wal.append(&write(1, 1, &entries(1, 2, 21, 2, 100))).unwrap();
    wal.append(&write(5, 1, &entries(5, 1, 1, 3, 100))).unwrap();
    sim.settle(&mut wal);
    wal.append(&write(4, 2, &entries(4, 1, 2, 1, 90))).unwrap();
    sim.settle(&mut wal);
    wal.seal(0).unwrap();
    sim.settle(&mut wal);
    wal.append(&state(2, 3, hard_state(9, 3, 0))).unwrap();
    sim.settle(&mut wal);
    sim.platter.complete_all();
    sim.platter.crash();
    sim
}

/// The content of a log, as far as the log reports it.
type Found = BTreeMap<GroupId, (RecoveredGroup, Vec<Entry>)>;

fn found(wal: &Wal, recovered: &Recovered) -> Found {
    let group = |group: &RecoveredGroup| (group.group, (group.clone(), read_all(wal, group)));
    recovered.groups.iter().map(group).collect()
}

/// The outcome that a flipped byte must have, by the content at its place.
#[derive(Debug, PartialEq)]
enum Outcome {
    /// The open is refused, naming the file and a place at or before the byte.
    Refused,
    /// These groups are fenced, and no others; the others have all they had.
    Fenced(Vec<GroupId>),
    /// The last batch is cut, and the cut is reported; everything before it is there.
    Cut,
    /// Everything is there.
    Harmless,
}

/// The outcome by FORMAT.md's layout of the file, and by which batch vouches for which.
fn expected(segment: &SegmentBytes, newest: bool, at: usize) -> Outcome {
    if at < BLOCK {
        return Outcome::Refused;
    }
    let batches = segment.batches();
    let Some(n) = batches.iter().position(|batch| at < batch.end) else {
        return Outcome::Harmless;
    };
    let batch = &batches[n];
    // The content of padding is ignored.
    if at >= batch.directory.end {
        return Outcome::Harmless;
    }
    if newest && n + 1 == batches.len() {
        return Outcome::Cut;
    }
    let is_start = n == 0 && SegmentBytes::start_record().contains(&at);
    let is_header = at < batch.records.start;
    if is_header || is_start || batch.directory.contains(&at) {
        return Outcome::Refused;
    }
    // The byte is in the records: every group that the directory names may have lost something.
    let mut groups = batch.groups.clone();
    groups.sort_unstable();
    if groups.is_empty() { Outcome::Harmless } else { Outcome::Fenced(groups) }
}

/// RULES.md C1, C2, C3.
#[test]
fn a_flip_of_any_byte_of_a_log_is_refused_fenced_or_harmless_as_its_place_says() {
    let sim = filled();
    let (wal, recovered) = sim.fork(1).open();
    let whole = found(&wal, &recovered);
    drop(wal);
    let used: Vec<_> = sim
        .platter
        .segments()
        .into_iter()
        .filter(|segment| SegmentBytes::of(&sim, *segment).is_used())
        .collect();
    let newest = *used.last().unwrap();
    let last_batch_groups = SegmentBytes::of(&sim, newest).batches().pop().expect("a batch").groups;
    let mut outcomes = [0; 4];
    for segment in &used {
        let bytes = SegmentBytes::of(&sim, *segment);
        let end = bytes.batches().last().unwrap().end;
        // Bytes behind the last batch were never written and are all alike, so few of them are tried.
        let mut places = (0..end + 64).chain((end + 64..bytes.0.len()).step_by(509));
        // Of the dots that fill the payloads, every 17th is tried.
        while let Some(at) = places.find(|at| bytes.0[*at] != b'.' || at % 17 == 0) {
            let expected = expected(&bytes, *segment == newest, at);
            let twin = sim.fork(5);
            twin.platter.flip(*segment, at, 1 << (at % 8));
            let outcome = match twin.try_open() {
                Err(WalError::Corrupt(Corrupt { file, offset, .. })) => {
                    assert_eq!(file, path(*segment));
                    assert!(offset <= at as u64, "flip at {at}, found at {offset}");
                    Outcome::Refused
                }
                Err(error) => panic!("flip at {at} of {segment:?}: {error}"),
                Ok((wal, recovered)) => classify(&wal, &recovered, &whole, &last_batch_groups),
            };
            assert_eq!(outcome, expected, "flip at {at} of {segment:?}");
            outcomes[match outcome {
                Outcome::Refused => 0,
                Outcome::Fenced(_) => 1,
                Outcome::Cut => 2,
                Outcome::Harmless => 3,
            }] += 1;
        }
    }
    assert!(outcomes.iter().all(|count| *count > 100), "not every outcome was met: {outcomes:?}");
}

fn path(segment: SegmentSeq) -> std::path::PathBuf {
    format!("sim/{:010}.seg", segment.0).into()
}

fn classify(wal: &Wal, recovered: &Recovered, whole: &Found, last_batch: &[GroupId]) -> Outcome {
    let fenced = recovered.groups.iter().filter(|group| group.fenced.is_some());
    let fenced: Vec<_> = fenced.map(|group| group.group).collect();
    for group in recovered.groups.iter().filter(|group| group.fenced.is_some()) {
        assert_eq!(group.last, LogIndex::ZERO, "a fenced group has nothing to act on");
        assert!(wal.plan_read(group.group, LogIndex(1), LogIndex(1), 1).is_err());
    }
    let now = found(wal, recovered);
    let lost: Vec<_> = whole
        .iter()
        .filter(|(group, state)| !fenced.contains(group) && now.get(*group) != Some(*state))
        .map(|(group, _)| *group)
        .collect();
    if !lost.is_empty() {
        assert!(recovered.cut.is_some() && fenced.is_empty(), "{lost:?} lost something unsaid");
        assert!(lost.iter().all(|group| last_batch.contains(group)), "{lost:?} of {last_batch:?}");
        return Outcome::Cut;
    }
    if fenced.is_empty() {
        return Outcome::Harmless;
    }
    let mut fenced = fenced;
    fenced.sort_unstable();
    Outcome::Fenced(fenced)
}

/// RULES.md C8.
#[test]
fn a_flip_of_any_byte_of_the_manifest_is_refused() {
    let sim = filled();
    let manifest = sim.platter.manifest().unwrap();
    for at in 0..manifest.len() {
        let twin = sim.fork(1);
        let mut bytes = manifest.clone();
        bytes[at] ^= 4;
        twin.platter.set_manifest(Some(bytes));
        assert!(matches!(twin.try_open(), Err(WalError::Corrupt(_))), "flip at {at}");
    }
}

/// RULES.md C8.
/// A manifest that has become large is not read into memory: it is damaged, whatever its length.
#[test]
fn a_manifest_of_any_length_is_refused_by_its_first_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let home = new_home(&dir.path().join("node"));
    let manifest = home.shard_dir(0).join("manifest");
    let file = std::fs::File::options().write(true).open(&manifest).unwrap();
    file.set_len(256 << 20).unwrap();
    // All that this thread reads, from wherever.
    let read = || {
        let counts = std::fs::read_to_string("/proc/thread-self/io").ok()?;
        counts.lines().find_map(|line| line.strip_prefix("rchar: ")?.parse::<u64>().ok())
    };
    let Some(before) = read() else { return skipped("the kernel does not count what is read") };
    match Wal::open(config(&home, DriverChoice::Auto)).map(|_| ()) {
        Err(WalError::Corrupt(Corrupt { file, what, .. })) => {
            assert_eq!(file, manifest);
            assert!(what.contains("[damaged_manifest]"), "{what}");
        }
        other => panic!("{other:?}"),
    }
    let bytes = read().unwrap() - before;
    assert!(bytes < 64 << 10, "{bytes} bytes were read");
}

/// RULES.md C1, rules 24, 25.
/// The damaged segment is given up in time, but not before its fences stand in another segment; and its file is kept
/// under another name, so that it can be examined.
#[test]
fn a_fence_outlives_the_segment_the_damage_was_in() {
    let sim = filled();
    sim.platter.flip(SegmentSeq(1), 2 * BLOCK + HEADER, 1);
    let (mut wal, recovered) = sim.open();
    let fenced = recovered.groups.iter().find(|group| group.fenced.is_some()).unwrap();
    let offset = fenced.fenced.as_ref().unwrap().offset;
    // Everything else in the old segments is released, so that giving them up is cheap.
    for group in recovered.groups.iter().filter(|group| group.fenced.is_none()) {
        if let Some(run) = group.runs.last() {
            wal.release(&released(group.group.get(), group.last.get(), run.term.get())).unwrap();
        }
    }
    for n in 1..400 {
        wal.append(&write(9, n, &entries(9, 1, n, 1, 3000))).unwrap();
        sim.settle(&mut wal);
        sim.platter.complete_some();
        if let Some(plan) = wal.maintain().unwrap() {
            wal.carried(plan.run()).unwrap();
        }
        if sim.platter.set_aside() == [SegmentSeq(1)] {
            break;
        }
    }
    assert_eq!(sim.platter.set_aside(), [SegmentSeq(1)], "the damaged segment is still in use");
    wal.close().unwrap();
    for _ in 0..2 {
        let (wal, recovered) = sim.open();
        let again: Vec<_> = recovered.groups.iter().filter(|g| g.fenced.is_some()).collect();
        assert_eq!(again.len(), 1);
        let corrupt = again[0].fenced.as_ref().unwrap();
        assert_eq!((again[0].group, corrupt.offset), (fenced.group, offset));
        assert_eq!(corrupt.file, path(SegmentSeq(1)));
        wal.close().unwrap();
    }
    // A fenced group that is destroyed is not fenced any more, because nothing of it is left.
    let (mut wal, _) = sim.open();
    wal.destroy(fenced.group, LogIndex::ZERO).unwrap();
    wal.close().unwrap();
    let (_wal, recovered) = sim.open();
    assert!(recovered.groups.iter().all(|group| group.fenced.is_none()));
    assert!(recovered.destroyed.iter().any(|gone| gone.group == fenced.group));
}

/// RULES.md invariant 18.
/// The engine never writes to a fenced group. If a bug makes it try, the log panics and writes nothing behind the damage.
#[test]
#[should_panic(expected = "is fenced and must not act")]
fn a_fenced_group_takes_nothing() {
    let sim = filled();
    sim.platter.flip(SegmentSeq(1), 2 * BLOCK + HEADER, 1);
    let (mut wal, recovered) = sim.open();
    let fenced = recovered.groups.iter().find(|group| group.fenced.is_some()).unwrap().group;
    let _ = wal.append(&state(fenced.get(), 1, hard_state(20, 1, 0)));
}

/// RULES.md C1.
/// A fence stays: the damage is there at every open, and the other groups write on.
#[test]
fn a_fence_outlives_restarts_and_the_others_write_on() {
    let sim = filled();
    sim.platter.flip(SegmentSeq(1), 2 * BLOCK + HEADER, 1);
    let mut fenced = None;
    for term in 20..24 {
        let (mut wal, recovered) = sim.open();
        let mut now: Vec<_> = recovered.groups.into_iter().filter(|g| g.fenced.is_some()).collect();
        assert_eq!(now.len(), 1);
        let now = now.remove(0);
        assert_eq!(*fenced.get_or_insert(now.clone()), now);
        wal.append(&state(5, 1, hard_state(term, 1, 0))).unwrap();
        sim.settle(&mut wal);
        sim.platter.complete_all();
        wal.close().unwrap();
    }
}

/// RULES.md C1.
/// Many bad batches, one behind the other and with sound ones between: each is named once, with its place.
#[test]
fn who_looks_finds_every_bad_batch_of_a_segment() {
    let sim = Sim::new(1);
    let (mut wal, _) = sim.open();
    for n in 1..=10 {
        wal.append(&write(n, n, &entries(n, 1, 1, 5, 100))).unwrap();
        sim.settle(&mut wal);
    }
    sim.platter.complete_all();
    sim.platter.crash();
    let batches = SegmentBytes::of(&sim, SegmentSeq(1)).batches();
    // Each batch vouches for the one before it. Nothing vouches for the last one, so it counts as a torn tail.
    let bad = [2, 3, 5, 8, 10].map(|n| &batches[n]);
    bad.iter().for_each(|batch| sim.platter.flip(SegmentSeq(1), batch.records.start + 50, 1));
    sim.platter.flip(SegmentSeq(1), batches[7].at + 8, 1);
    let body = |n: usize| ("damaged_body", batches[n].at as u64);
    let header = ("damaged_batch_header", batches[7].at as u64);
    assert_eq!(inspected(&sim), [body(2), body(3), body(5), header, body(8)]);
}

/// RULES.md C1.
#[test]
fn an_entry_damaged_after_open_is_found_when_it_is_read() {
    let sim = filled();
    let (wal, recovered) = sim.open();
    let bytes = sim.platter.segment(SegmentSeq(1));
    let needle = payload(1, 1, 3, 1000);
    let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
    sim.platter.flip(SegmentSeq(1), at + 100, 1);
    let last = recovered.groups[0].last;
    let read = |first: u64| wal.plan_read(GroupId(1), LogIndex(first), last, 1500).unwrap().run();
    assert_eq!(read(2).unwrap().len(), 1);
    match read(3) {
        Err(ReadError::Corrupt(Corrupt { offset, .. })) => assert_eq!(offset, at as u64),
        other => panic!("{other:?}"),
    }
    // The next entry is whole.
    assert_eq!(read(4).unwrap().as_slice()[0].payload, payload(1, 1, 4, 1000));
}

/// RULES.md C9.
#[test]
fn an_entry_that_cannot_be_read_after_open_is_the_same_as_a_damaged_one() {
    let sim = filled();
    let (wal, recovered) = sim.open();
    let bytes = sim.platter.segment(SegmentSeq(1));
    let needle = payload(1, 1, 10, 1000);
    let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
    let last = recovered.groups[0].last;
    let read = |first: u64| wal.plan_read(GroupId(1), LogIndex(first), last, 1000).unwrap().run();
    sim.platter.fail_reads_in(SegmentSeq(1), at..at + 1);
    match read(10) {
        Err(ReadError::Corrupt(Corrupt { offset, what, .. })) => {
            assert!(offset <= at as u64 && what.contains("cannot be read"), "{what} at {offset}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(read(2).unwrap().as_slice()[0].payload, payload(1, 1, 2, 1000));
    sim.platter.fail_reads_of(None);
    assert_eq!(read(10).unwrap().as_slice()[0].payload, needle);
}

/// RULES.md C1.
/// No group is fenced, nothing is cut and no open is refused because of a single bad read.
#[test]
fn what_reads_well_the_second_time_is_not_damaged() {
    let sim = filled();
    let (wal, recovered) = sim.fork(1).open();
    let whole = found(&wal, &recovered);
    drop(wal);
    let misread = |segment, at| {
        let twin = sim.fork(5);
        twin.platter.misread(segment, at);
        let (wal, recovered) =
            twin.try_open().unwrap_or_else(|error| panic!("{segment:?} at {at}: {error}"));
        assert_eq!(found(&wal, &recovered), whole, "{segment:?} at {at}");
        assert_eq!(recovered.cut, None);
    };
    for segment in sim.platter.segments() {
        // The segment's header, and a byte of its first batch, also if there is none.
        let mut places = vec![20, BLOCK - 1, BLOCK + 20];
        for batch in SegmentBytes::of(&sim, segment).batches() {
            places.extend([batch.at + 20, batch.records.start + 20, batch.directory.end - 1]);
        }
        places.into_iter().for_each(|at| misread(segment, at));
    }
    // The same holds for a read while the log runs.
    let (wal, recovered) = sim.open();
    let bytes = sim.platter.segment(SegmentSeq(1));
    let needle = payload(1, 1, 3, 1000);
    let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
    sim.platter.misread(SegmentSeq(1), at + 100);
    let plan = wal.plan_read(GroupId(1), LogIndex(3), recovered.groups[0].last, 1500).unwrap();
    assert_eq!(plan.run().unwrap().as_slice()[0].payload, needle);
}

/// The one segment that was written to.
fn used_segment(sim: &Sim) -> SegmentSeq {
    *sim.platter.segments().iter().find(|s| SegmentBytes::of(sim, **s).is_used()).unwrap()
}

/// RULES.md C1.
///
/// 1. The last segment has one batch, which was acknowledged. Nothing behind it says that it was durable.
/// 2. The first block of that batch is misread once. A segment without a start record is one that was only made, and it
///    was removed, with the batch.
#[test]
fn a_segment_in_use_is_not_taken_for_a_new_one_on_a_single_bad_read() {
    let sim = one_batch(4);
    let last = used_segment(&sim);
    for at in (BLOCK..BLOCK + 112).step_by(3) {
        let twin = sim.fork(5);
        twin.platter.misread(last, at);
        let (wal, recovered) = twin.open();
        assert_eq!(read_all(&wal, &recovered.groups[0]), entries(1, 1, 1, 9, 1000), "at {at}");
    }
}

/// RULES.md C1, C9.
///
/// 1. The last segment has one batch, which was acknowledged. Nothing behind it says that it was durable.
/// 2. The first block of that batch is misread once, and cannot be read at the second look.
/// 3. The first look was believed all the same, and the segment was removed as one that was only made.
#[test]
fn a_second_look_that_fails_does_not_confirm_the_first_one() {
    let sim = one_batch(4);
    let last = used_segment(&sim);
    for at in [0, BLOCK] {
        let twin = sim.fork(5);
        twin.platter.misread_then_fail(last, at);
        let error = twin.try_open().map(|(_, recovered)| recovered).unwrap_err();
        assert!(matches!(error, WalError::Io { what: "read", .. }), "at {at}: {error}");
        assert!(twin.platter.segments().contains(&last), "at {at}");
    }
}

/// RULES.md C2. An open writes again the little that the process before it wrote, and removes the old segment. As long as
/// nothing else is written, no later batch says that the copy is durable, for a seal is not always written. The first
/// block of the copy says so, because it is written last.
#[test]
fn damage_to_what_an_open_wrote_again_is_no_torn_tail_though_nothing_is_behind() {
    for page_cache in [false, true] {
        let sim = Sim::new(3);
        sim.platter.set_page_cache(page_cache);
        let (mut wal, _) = sim.open();
        wal.append(&write(1, 1, &entries(1, 1, 1, 9, 1000))).unwrap();
        wal.append(&state(2, 1, hard_state(7, 2, 0))).unwrap();
        sim.settle(&mut wal);
        sim.platter.crash();
        drop(wal);
        let (wal, recovered) = sim.open();
        let whole = found(&wal, &recovered);
        drop(wal);
        sim.platter.crash();
        let last = sim.platter.segments().into_iter();
        let last = last.filter(|segment| SegmentBytes::of(&sim, *segment).is_used()).max().unwrap();
        let segment = SegmentBytes::of(&sim, last);
        let [batch] = &segment.batches()[..] else { panic!("one batch is written again") };
        assert_eq!(batch.groups, [GroupId(1), GroupId(2)]);
        let mut outcomes = [0; 3];
        for at in (BLOCK..batch.end).step_by(5) {
            let twin = sim.fork(5);
            twin.platter.flip(last, at, 0x10);
            let labels = inspected(&twin);
            match twin.try_open() {
                Ok((wal, recovered)) if at >= batch.directory.end => {
                    assert_eq!((recovered.cut.as_ref(), labels), (None, vec![]), "at {at}");
                    assert_eq!(found(&wal, &recovered), whole, "at {at}");
                    outcomes[0] += 1;
                }
                Ok((_, recovered)) => {
                    assert_eq!(recovered.cut, None, "at {at}");
                    assert_eq!(recovered.groups.len(), 2, "at {at}");
                    assert!(recovered.groups.iter().all(|group| group.fenced.is_some()), "at {at}");
                    assert_eq!(labels, [("damaged_body", BLOCK as u64)], "at {at}");
                    assert!(batch.records.contains(&at));
                    outcomes[1] += 1;
                }
                Err(error) => {
                    assert!(!labels.is_empty(), "at {at}: {error}");
                    let is_start = SegmentBytes::start_record().contains(&at);
                    assert!(is_start || !batch.records.contains(&at), "at {at}: {error}");
                    outcomes[2] += 1;
                }
            }
        }
        assert!(outcomes.iter().all(|count| *count > 0), "{outcomes:?}");
    }
}

/// RULES.md C2.
///
/// 1. The second batch of the last segment is damaged, and the third one says that it was durable.
/// 2. The header of the third is misread once: the second looks like a torn tail, and the batch before it like all that
///    counts in the segment, little enough to be written again.
/// 3. The second reading finds damage, so nothing is written again, and the second batch's group alone is fenced.
#[test]
fn a_rewritten_end_is_decided_by_the_reading_that_is_applied() {
    for page_cache in [false, true] {
        let sim = Sim::new(3);
        sim.platter.set_page_cache(page_cache);
        let (mut wal, _) = sim.open();
        for group in 1..=3 {
            wal.append(&write(group, 1, &entries(group, 1, 1, 2, 1000))).unwrap();
            sim.settle(&mut wal);
        }
        sim.platter.crash();
        drop(wal);
        let last = sim.platter.segments()[0];
        let batches = SegmentBytes::of(&sim, last).batches();
        let batch_of =
            |group| batches.iter().find(|batch| batch.groups == [GroupId(group)]).unwrap();
        sim.platter.flip(last, batch_of(2).records.start + 20, 0x10);
        sim.platter.misread(last, batch_of(3).at + 20);
        let (wal, recovered) = sim.open();
        assert_eq!(recovered.cut, None);
        let fenced: Vec<_> = recovered.groups.iter().map(|group| group.fenced.is_some()).collect();
        assert_eq!(fenced, [false, true, false], "page cache: {page_cache}");
        for group in recovered.groups.iter().filter(|group| group.fenced.is_none()) {
            assert_eq!(read_all(&wal, group), entries(group.group.get(), 1, 1, 2, 1000));
        }
        // The fence outlives another start.
        sim.platter.crash();
        drop(wal);
        let (_wal, again) = sim.open();
        assert_eq!(again.groups[1].fenced.is_some(), fenced[1]);
    }
}

/// RULES.md C1.
/// The same on real files.
#[test]
fn a_flipped_bit_in_a_file_is_refused_or_fenced_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let home = new_home(&dir.path().join("node"));
    let (mut wal, _) = Wal::open(config(&home, DriverChoice::Auto)).unwrap();
    for n in 0..4u64 {
        wal.append(&write(1, n + 1, &entries(1, 1, 1 + n * 5, 5, 300))).unwrap();
        settle(&mut wal);
    }
    wal.close().unwrap();
    let file = home.shard_dir(0).join("0000000001.seg");
    let whole = std::fs::read(&file).unwrap();
    for (at, refused) in
        [(0, true), (100, true), (4095, true), (4096, true), (4160, true), (8200, true)]
            .into_iter()
            .chain([(8300, false), (9500, false)])
    {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x20;
        std::fs::write(&file, &bytes).unwrap();
        let corrupt = match Wal::open(config(&home, DriverChoice::Auto)) {
            Err(WalError::Corrupt(corrupt)) if refused => corrupt,
            Ok((_, recovered)) if !refused => recovered.groups[0].fenced.clone().expect("fenced"),
            other => panic!("flip at {at}: {:?}", other.map(|(_, recovered)| recovered)),
        };
        assert_eq!(corrupt.file, file, "flip at {at}");
    }
    std::fs::write(&file, &whole).unwrap();
    let (_wal, recovered) = Wal::open(config(&home, DriverChoice::Auto)).unwrap();
    assert_eq!(recovered.groups[0].last, LogIndex(20));
}
