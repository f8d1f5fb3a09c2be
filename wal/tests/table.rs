//! Recovery's table, case by case: for each label there is a test whose name begins with it.

mod common;
mod forge;

use common::*;
use forge::*;
use logdrive_raft::{GroupId, LogIndex, Term};
use logdrive_wal::{Case, Decision, DriverChoice, Recovered, SegmentSeq, Wal, WalError};

const FIRST: SegmentSeq = SegmentSeq(1);
/// The second one in use of [`two_segments`]: the three that were made ahead of the first one are void.
const SECOND: SegmentSeq = SegmentSeq(5);

#[test]
fn every_label_has_a_test_and_a_row() {
    let tests = include_str!("table.rs");
    let header = include_str!("../src/recovery.rs");
    for (case, label, decision) in Case::TABLE {
        assert!(tests.contains(&format!("fn {label}")), "no test bears the label {label}");
        let row = header.lines().find(|line| line.starts_with(&format!("//! | {label} |")));
        let decision = match decision {
            Decision::End => "end",
            Decision::Cut => "cut",
            Decision::Fence => "fence",
            Decision::Refuse => "refuse",
            Decision::PassOver => "pass over",
        };
        let row = row.unwrap_or_else(|| panic!("{case:?} has no row"));
        assert!(row.contains(&format!("| {decision} |")), "{case:?}: {row}");
    }
}

/// Three acknowledged batches of three groups in the first segment, and the process is gone. No later batch vouches for
/// the third. Together they are too large to be written again by the next open.
fn three_batches() -> Sim {
    let sim = Sim::new(1);
    let (mut wal, _) = sim.open();
    for (group, bytes) in [(1, 100), (2, 1700), (3, 1700)] {
        wal.append(&write(group, group, &entries(group, 1, 1, 5, bytes))).unwrap();
        sim.settle(&mut wal);
    }
    sim.platter.complete_all();
    sim.platter.crash();
    sim
}

/// The same, with a second segment behind it that has one batch of group 4: everything in the first is vouched for.
fn two_segments() -> Sim {
    let sim = three_batches();
    let (mut wal, _) = sim.open();
    wal.append(&write(4, 1, &entries(4, 1, 1, 5, 100))).unwrap();
    sim.settle(&mut wal);
    sim.platter.complete_all();
    sim.platter.crash();
    sim
}

fn used(sim: &Sim) -> Vec<SegmentSeq> {
    let segments = sim.platter.segments().into_iter();
    segments.filter(|segment| SegmentBytes::of(sim, *segment).is_used()).collect()
}

/// Segments made and not used, with their bytes.
fn spares(sim: &Sim) -> Vec<(SegmentSeq, Vec<u8>)> {
    let used = used(sim);
    let unused = sim.platter.segments().into_iter().filter(|segment| !used.contains(segment));
    unused.map(|segment| (segment, sim.platter.segment(segment))).collect()
}

/// Where the `n`-th batch of the first segment begins; 0 is the one with the start record.
fn batch(sim: &Sim, n: usize) -> BatchPlace {
    SegmentBytes::of(sim, FIRST).batches()[n].clone()
}

fn change(sim: &Sim, segment: SegmentSeq, change: impl FnOnce(&mut SegmentBytes)) {
    let mut bytes = SegmentBytes::of(sim, segment);
    change(&mut bytes);
    sim.platter.set_segment(segment, Some(bytes.0));
}

/// The last entry of each group from 1 on; `None` for one that is fenced.
fn ends(recovered: &Recovered) -> Vec<Option<u64>> {
    let end =
        |group: &logdrive_wal::RecoveredGroup| group.fenced.is_none().then_some(group.last.get());
    recovered.groups.iter().map(end).collect()
}

/// Opens, and says what was found; a second recovery must find the same and cut nothing (W3).
fn opened(sim: &Sim) -> Recovered {
    let (wal, recovered) = sim.open();
    drop(wal);
    let (_wal, again) = sim.open();
    assert_eq!(again.groups, recovered.groups);
    assert_eq!(again.cut, None);
    recovered
}

/// Checks that an open is refused for `case` and changes nothing. Returns the error's text.
fn refused(sim: &Sim, case: Case) -> String {
    assert_eq!(case.decision(), Decision::Refuse);
    let before = sim.fork(0);
    let error = sim.try_open().map(|(_, recovered)| recovered).expect_err("opened").to_string();
    assert!(error.contains(&format!("[{}]", case.label())), "{case:?}: {error}");
    let (now, then) = (&sim.platter, &before.platter);
    assert_eq!(now.manifest(), then.manifest());
    assert_eq!(now.segments(), then.segments());
    assert!(now.segments().iter().all(|segment| now.segment(*segment) == then.segment(*segment)));
    error
}

fn cut(recovered: &Recovered, case: Case, at: usize) {
    let cut = recovered.cut.as_ref().expect("a cut");
    assert_eq!((cut.case, cut.position.offset() as usize), (case, at));
}

// --- where the log ends ---

#[test]
fn clean_stop_is_known_by_its_footer() {
    let sim = three_batches();
    let (mut wal, recovered) = sim.open();
    assert!(!recovered.closed);
    wal.append(&write(1, 1, &entries(1, 1, 6, 1, 100))).unwrap();
    wal.close().unwrap();
    // Bytes behind a footer count for nothing, whatever they look like.
    let newest = *used(&sim).last().unwrap();
    change(&sim, newest, |bytes| {
        let end = bytes.batches().last().unwrap().end;
        bytes.put(end, &[0xa5; 600]);
    });
    let (wal, recovered) = sim.open();
    assert!(recovered.closed && recovered.cut.is_none());
    assert_eq!(ends(&recovered), [Some(6), Some(5), Some(5)]);
    // That footer was of an earlier process; the one before this open was not closed.
    drop(wal);
    assert!(!sim.open().1.closed);
}

#[test]
fn clean_end_is_zeros_or_a_full_segment() {
    let sim = three_batches();
    assert_eq!(ends(&opened(&sim)), [Some(5), Some(5), Some(5)]);
    let sim = Sim::new(1);
    let (mut wal, _) = sim.open();
    let mut index = 0;
    // Batches of one block, until the segment is full to its last one.
    while wal.durable().offset() < 64 << 10 {
        index += 1;
        wal.append(&write(1, index, &entries(1, 1, index, 1, 100))).unwrap();
        sim.settle(&mut wal);
    }
    sim.platter.crash();
    drop(wal);
    assert_eq!(ends(&opened(&sim)), [Some(index)]);
}

#[test]
fn recycled_bytes_behind_the_end_are_nothing() {
    let sim = two_segments();
    let newest = used(&sim)[1];
    let old = SegmentBytes::of(&sim, FIRST);
    change(&sim, newest, |bytes| {
        let end = bytes.batches().last().unwrap().end;
        bytes.put(end, &old.0[end..]);
    });
    let recovered = opened(&sim);
    assert_eq!(recovered.cut, None);
    assert_eq!(ends(&recovered), [Some(5); 4]);
}

#[test]
fn torn_tail_is_cut_and_the_cut_is_durable() {
    let sim = three_batches();
    let last = batch(&sim, 3);
    // Any part of the batch may be missing: here each of its sectors in turn.
    for sector in (last.at..last.directory.end).step_by(512) {
        let twin = sim.fork(2);
        change(&twin, FIRST, |bytes| bytes.0[sector..sector + 512].fill(0));
        let recovered = opened(&twin);
        cut(&recovered, Case::TornTail, last.at);
        assert_eq!(ends(&recovered), [Some(5), Some(5)]);
        // A tail that was cut stays cut, though its missing sector lands now (rule 8).
        let whole = sim.platter.segment(FIRST);
        twin.platter.set_segment(FIRST, Some(whole));
        assert_eq!(ends(&opened(&twin)), [Some(5), Some(5)]);
    }
}

#[test]
fn reordered_tail_is_cut_and_its_whole_batches_are_not_resurrected() {
    let sim = Sim::new(1);
    let (mut wal, _) = sim.open();
    for group in 1..=3u64 {
        wal.append(&write(group, group, &entries(group, 1, 1, 5, 100))).unwrap();
        wal.submit(0).unwrap();
    }
    assert_eq!(sim.platter.writes_in_flight(), 3);
    // Of three writes in flight the second is lost, and the others land.
    sim.platter.crash_keeping(|_, at| !(3 * BLOCK as u64..4 * BLOCK as u64).contains(&at));
    drop(wal);
    let recovered = opened(&sim);
    cut(&recovered, Case::ReorderedTail, 3 * BLOCK);
    assert_eq!(recovered.cut.as_ref().unwrap().whole_behind, 1);
    assert_eq!(ends(&recovered), [Some(5)]);
}

#[test]
fn unreadable_tail_is_refused_since_a_retry_may_read_it() {
    let sim = three_batches();
    let last = batch(&sim, 3);
    sim.platter.fail_reads_in(FIRST, last.at..last.at + 1);
    let error = refused(&sim, Case::UnreadableTail);
    assert!(error.contains(&format!("byte {}", last.at)), "{error}");
    sim.platter.fail_reads_of(None);
    assert_eq!(ends(&opened(&sim)), [Some(5), Some(5), Some(5)]);
}

#[test]
fn clean_end_where_the_next_batch_would_begin_though_nothing_behind_can_be_read() {
    let sim = three_batches();
    let end = batch(&sim, 3).end;
    sim.platter.fail_reads_in(FIRST, end + 2 * BLOCK..end + 3 * BLOCK);
    let recovered = opened(&sim);
    assert_eq!((ends(&recovered), recovered.cut), (vec![Some(5); 3], None));
    // If the block where it would begin cannot be read, there may be a batch.
    let sim = three_batches();
    sim.platter.fail_reads_in(FIRST, end..end + BLOCK);
    refused(&sim, Case::UnreadableTail);
}

// --- damage to what was durable ---

#[test]
fn damaged_body_fences_the_groups_of_its_directory() {
    // The damaged batch is vouched for by a later batch of the segment, or by a later segment.
    for (sim, n) in [(three_batches(), 2), (two_segments(), 3)] {
        let place = batch(&sim, n);
        assert_eq!(place.groups, [GroupId(n as u64)]);
        sim.platter.flip(FIRST, place.records.start + 70, 1);
        let recovered = opened(&sim);
        assert_eq!(recovered.cut, None);
        let fenced = recovered.groups[n - 1].fenced.as_ref().expect("fenced");
        assert_eq!(fenced.file, std::path::Path::new("sim/0000000001.seg"));
        assert_eq!(fenced.offset, place.at as u64);
        assert!(fenced.what.contains("[damaged_body]"), "{fenced}");
        let others = recovered.groups.iter().filter(|group| group.group.get() != n as u64);
        assert!(others.clone().count() >= 2 && others.clone().all(|g| g.last == LogIndex(5)));
    }
}

#[test]
fn damaged_body_of_two_batches_and_a_torn_tail_are_told_apart() {
    let sim = three_batches();
    let (first, second, third) = (batch(&sim, 1), batch(&sim, 2), batch(&sim, 3));
    for place in [&first, &second, &third] {
        sim.platter.flip(FIRST, place.records.start, 1);
    }
    // The third batch vouches for the second; nothing vouches for the third.
    let recovered = opened(&sim);
    cut(&recovered, Case::TornTail, third.at);
    assert_eq!(ends(&recovered), [None, None]);
}

#[test]
fn unreadable_body_fences_like_a_damaged_one() {
    let sim = Sim::new(1);
    let (mut wal, _) = sim.open();
    // The batch is larger than a block: its header can be read though its middle cannot.
    wal.append(&write(1, 1, &entries(1, 1, 1, 5, 2000))).unwrap();
    wal.append(&state(2, 1, hard_state(1, 1, 0))).unwrap();
    sim.settle(&mut wal);
    wal.append(&write(3, 1, &entries(3, 1, 1, 5, 100))).unwrap();
    sim.settle(&mut wal);
    sim.platter.crash();
    drop(wal);
    let place = batch(&sim, 1);
    assert!(place.end - place.at > 2 * BLOCK);
    sim.platter.fail_reads_in(FIRST, place.at + BLOCK..place.at + BLOCK + 512);
    let (_wal, recovered) = sim.open();
    assert_eq!(ends(&recovered), [None, None, Some(5)]);
    let what = &recovered.groups[0].fenced.as_ref().unwrap().what;
    assert!(what.contains("[unreadable_body]"), "{what}");
}

#[test]
fn damaged_batch_header_cannot_be_limited_and_is_refused() {
    let sim = three_batches();
    let place = batch(&sim, 2);
    sim.platter.flip(FIRST, place.at + 9, 1);
    let error = refused(&sim, Case::DamagedBatchHeader);
    assert!(error.contains(&format!("byte {}", place.at)), "{error}");
    // The same for a header that cannot be read.
    let sim = three_batches();
    sim.platter.fail_reads_in(FIRST, place.at..place.at + 1);
    refused(&sim, Case::DamagedBatchHeader);
}

#[test]
fn damaged_directory_cannot_be_limited_and_is_refused() {
    let sim = three_batches();
    sim.platter.flip(FIRST, batch(&sim, 2).directory.start, 2);
    refused(&sim, Case::DamagedDirectory);
}

/// RULES.md C10.
#[test]
fn misdirected_batch_is_refused_where_another_was_durable() {
    let sim = three_batches();
    let (second, third) = (batch(&sim, 2), batch(&sim, 3));
    change(&sim, FIRST, |bytes| {
        let (from, to) = (third.at..third.end, second.at);
        bytes.0.copy_within(from, to);
    });
    refused(&sim, Case::MisdirectedBatch);
    // At the tail a misdirected batch counts for nothing, and nothing is lost.
    let sim = three_batches();
    change(&sim, FIRST, |bytes| bytes.0.copy_within(third.at..third.end, third.end));
    let recovered = opened(&sim);
    cut(&recovered, Case::TornTail, third.end);
    assert_eq!(ends(&recovered), [Some(5), Some(5), Some(5)]);
}

#[test]
fn misdirected_batch_of_the_right_place_but_the_wrong_number_is_refused() {
    let sim = three_batches();
    let place = batch(&sim, 2);
    change(&sim, FIRST, |bytes| {
        bytes.put(place.at + 8, &99u64.to_le_bytes());
        bytes.sign(&place);
    });
    refused(&sim, Case::MisdirectedBatch);
}

/// RULES.md P8.
#[test]
fn unknown_record_is_refused_unless_it_may_be_skipped() {
    let sim = three_batches();
    let last = batch(&sim, 3);
    change(&sim, FIRST, |bytes| {
        bytes.put(last.records.start, &[200]);
        bytes.sign(&last);
    });
    match sim.try_open() {
        Err(WalError::Version { what: "a record of kind", found: 200, known: 12, .. }) => {}
        other => panic!("{:?}", other.map(|(_, recovered)| recovered)),
    }
    change(&sim, FIRST, |bytes| {
        bytes.put(last.records.start, &[200, 1]);
        bytes.sign(&last);
    });
    assert_eq!(ends(&opened(&sim)), [Some(5), Some(5)]);
}

/// RULES.md I5.
#[test]
fn a_batch_number_that_no_other_can_follow_is_none() {
    for number in [u64::MAX, u64::MAX - 1, (1 << 62) + 1] {
        let sim = three_batches();
        let first = batch(&sim, 0);
        change(&sim, FIRST, |bytes| {
            bytes.put(first.at + 8, &number.to_le_bytes());
            bytes.sign(&first);
        });
        refused(&sim, Case::DamagedStart);
    }
}

#[test]
fn senseless_record_in_a_whole_batch_is_refused() {
    type Forgery = fn(&mut SegmentBytes, &BatchPlace);
    let forgeries: [Forgery; 4] = [
        // A wrong count of records.
        |bytes, batch| bytes.put(batch.at + 40, &7u32.to_le_bytes()),
        // Entries of a group that the directory does not name.
        |bytes, batch| bytes.put(batch.directory.start, &9u64.to_le_bytes()),
        // A length that runs out of the body.
        |bytes, batch| bytes.put(batch.records.start + 4, &1_000_000u32.to_le_bytes()),
        // A start record where none belongs.
        |bytes, batch| {
            let start = bytes.0[BLOCK + HEADER..BLOCK + 2 * HEADER].to_vec();
            bytes.put(batch.records.start, &start);
        },
    ];
    for forge in forgeries {
        let sim = three_batches();
        let last = batch(&sim, 3);
        change(&sim, FIRST, |bytes| {
            forge(bytes, &last);
            bytes.sign(&last);
        });
        refused(&sim, Case::SenselessRecord);
    }
}

#[test]
fn senseless_record_of_a_release_up_to_the_last_index_there_is_is_refused() {
    let sim = Sim::new(1);
    let (mut wal, _) = sim.open();
    wal.append(&write(1, 1, &entries(1, 1, 1, 5, 100))).unwrap();
    sim.settle(&mut wal);
    wal.release(&released(1, 2, 1)).unwrap();
    wal.append(&write(2, 2, &entries(2, 1, 1, 5, 100))).unwrap();
    sim.settle(&mut wal);
    sim.platter.complete_all();
    sim.platter.crash();
    let place = batch(&sim, 2);
    // Behind the membership, which is empty.
    let at = place.records.start + 16;
    change(&sim, FIRST, |bytes| {
        assert_eq!(bytes.0[at], 5, "a release");
        bytes.put(at + 32, &u64::MAX.to_le_bytes());
        bytes.sign(&place);
    });
    refused(&sim, Case::SenselessRecord);
    assert_eq!(inspected(&sim)[0].0, Case::SenselessRecord.label());
}

#[test]
#[should_panic(expected = "no entry can stand behind")]
fn a_release_up_to_the_last_index_there_is_is_a_broken_invariant() {
    let sim = Sim::new(1);
    let (mut wal, _) = sim.open();
    let _ = wal.release(&released(1, u64::MAX, 1));
}

#[test]
fn missing_entries_that_no_damage_explains_are_refused() {
    let sim = Sim::new(1);
    let (mut wal, _) = sim.open();
    for n in 0..3u64 {
        wal.append(&write(1, n + 1, &entries(1, 1, 1 + n * 5, 5, 100))).unwrap();
        sim.settle(&mut wal);
    }
    sim.platter.crash();
    drop(wal);
    // The second batch is forged into one of another group, so the third one's entries leave a hole.
    let place = batch(&sim, 2);
    change(&sim, FIRST, |bytes| {
        let group = 2u64.to_le_bytes();
        bytes.put(place.records.start + 8, &group);
        bytes.put(place.directory.start, &group);
        bytes.put(place.records.start + 16, &1u64.to_le_bytes());
        bytes.sign_entries(place.records.start);
        bytes.sign(&place);
        let header = bytes.0[place.at + 4..place.at + 8].to_vec();
        let next = bytes.batches()[3].clone();
        bytes.put(next.at + 44, &header);
        bytes.sign(&next);
    });
    let error = refused(&sim, Case::MissingEntries);
    assert!(error.contains("entry 6 of group 1"), "{error}");
}

// --- the files ---

#[test]
fn damaged_segment_header_is_refused() {
    for at in [0, 8, 24, 200, BLOCK - 1] {
        let sim = two_segments();
        sim.platter.flip(FIRST, at, 1);
        let error = refused(&sim, Case::DamagedSegmentHeader);
        assert!(error.contains("byte 0:"), "{error}");
    }
    // The same for a segment that was never used: its header was synced before it had its name.
    let sim = two_segments();
    let spare = *sim.platter.segments().last().unwrap();
    assert!(!used(&sim).contains(&spare));
    sim.platter.flip(spare, 30, 1);
    refused(&sim, Case::DamagedSegmentHeader);
}

#[test]
fn damaged_segment_header_that_cannot_be_read_is_refused() {
    let sim = two_segments();
    sim.platter.fail_reads_in(FIRST, 0..1);
    match sim.try_open() {
        Err(WalError::Io { file, .. }) => assert!(file.ends_with("0000000001.seg")),
        other => panic!("{:?}", other.map(|(_, recovered)| recovered)),
    }
}

#[test]
fn damaged_start_of_a_segment_in_use_is_refused() {
    // In the middle of the chain, and at its end, where later batches vouch for the first one.
    for segment in [FIRST, SECOND] {
        let sim = two_segments();
        assert!(used(&sim).contains(&segment), "{:?}", used(&sim));
        sim.platter.flip(segment, BLOCK + HEADER + 20, 1);
        refused(&sim, Case::DamagedStart);
    }
    // A start record that does not continue the segment before it.
    let sim = two_segments();
    change(&sim, SECOND, |bytes| {
        let first = bytes.batches()[0].clone();
        bytes.put(first.records.start + 40, &7u32.to_le_bytes());
        bytes.sign_start();
        bytes.sign(&first);
    });
    refused(&sim, Case::DamagedStart);
}

#[test]
fn damaged_start_that_follows_a_place_where_no_batch_ends_is_refused() {
    for offset in [0, 100, 4000, 4095, 5000, 65_535, 65_537, 69_632, u32::MAX] {
        let sim = two_segments();
        change(&sim, SECOND, |bytes| {
            let first = bytes.batches()[0].clone();
            assert_eq!(bytes.u64(first.records.start + 16) >> 32, 1, "it follows the first one");
            bytes.put(first.records.start + 16, &offset.to_le_bytes());
            bytes.sign_start();
            bytes.sign(&first);
        });
        let error = refused(&sim, Case::DamagedStart);
        assert!(error.contains("0000000005.seg") && error.contains("no batch ends"), "{error}");
        assert_eq!(inspected(&sim)[0].0, Case::DamagedStart.label());
    }
}

#[test]
fn truncated_segment_is_refused() {
    for keep in [0, 100, BLOCK, 40 << 10, (64 << 10) - 1] {
        let sim = two_segments();
        change(&sim, FIRST, |bytes| bytes.0.truncate(keep));
        refused(&sim, Case::TruncatedSegment);
    }
    let sim = two_segments();
    change(&sim, FIRST, |bytes| bytes.0.resize(128 << 10, 0));
    refused(&sim, Case::TruncatedSegment);
}

/// RULES.md C5.
#[test]
fn missing_segment_in_the_middle_at_the_end_or_everywhere_is_refused() {
    let sim = two_segments();
    for segment in sim.platter.segments() {
        let twin = sim.fork(1);
        twin.platter.set_segment(segment, None);
        let error = refused(&twin, Case::MissingSegment);
        assert!(error.contains(&format!("{:010}.seg", segment.0)), "{error}");
    }
    for segment in sim.platter.segments() {
        sim.platter.set_segment(segment, None);
    }
    refused(&sim, Case::MissingSegment);
}

#[test]
fn missing_manifest_is_refused() {
    let sim = two_segments();
    sim.platter.set_manifest(None);
    refused(&sim, Case::MissingManifest);
}

/// RULES.md C8.
#[test]
fn damaged_manifest_torn_or_empty_is_refused() {
    let sim = two_segments();
    let whole = sim.platter.manifest().unwrap();
    for keep in 0..whole.len() {
        sim.platter.set_manifest(Some(whole[..keep].to_vec()));
        refused(&sim, Case::DamagedManifest);
    }
    sim.platter.set_manifest(Some([&whole[..], b"x"].concat()));
    refused(&sim, Case::DamagedManifest);
}

/// RULES.md C8.
#[test]
fn older_manifest_is_refused() {
    let sim = three_batches();
    let older = sim.platter.manifest();
    let (mut wal, _) = sim.open();
    wal.append(&write(1, 1, &entries(1, 1, 6, 1, 100))).unwrap();
    sim.settle(&mut wal);
    sim.platter.complete_all();
    sim.platter.crash();
    drop(wal);
    sim.platter.set_manifest(older);
    let error = refused(&sim, Case::OlderManifest);
    assert!(error.contains("manifest"), "{error}");
}

#[test]
fn older_manifest_that_names_segments_since_given_up_misses_them() {
    let sim = two_segments();
    sim.platter.set_segment(FIRST, None);
    refused(&sim, Case::MissingSegment);
}

/// RULES.md C4, C7.
#[test]
fn foreign_file_of_another_cluster_node_store_or_shard_is_refused() {
    let changes: [fn(&mut Sim); 4] = [
        |sim| sim.config.identity.store ^= 1,
        |sim| sim.config.identity.node.0 += 1,
        |sim| sim.config.shard += 1,
        |sim| sim.config.identity.cluster.push('x'),
    ];
    for change in changes {
        let mut twin = two_segments();
        change(&mut twin);
        refused(&twin, Case::ForeignFile);
    }
    // One file of another store among the log's own.
    let (sim, mut other) = (two_segments(), two_segments());
    change(&sim, FIRST, |bytes| {
        bytes.put(40, &7u128.to_le_bytes());
        bytes.sign_header();
    });
    refused(&sim, Case::ForeignFile);
    other.config.identity.node.0 += 1;
    let error = refused(&other, Case::ForeignFile);
    assert!(error.contains("manifest"), "{error}");
}

/// RULES.md C6.
#[test]
fn duplicate_segment_is_refused() {
    let sim = two_segments();
    let newest = *sim.platter.segments().last().unwrap();
    let copy = sim.platter.segment(FIRST);
    sim.platter.set_segment(SegmentSeq(newest.0 + 1), Some(copy));
    refused(&sim, Case::DuplicateSegment);
}

/// RULES.md C6.
#[test]
fn swapped_segment_is_refused() {
    let sim = two_segments();
    let (first, second) = (sim.platter.segment(FIRST), sim.platter.segment(SECOND));
    sim.platter.set_segment(FIRST, Some(second));
    sim.platter.set_segment(SECOND, Some(first));
    refused(&sim, Case::SwappedSegment);
    // A segment with the right number, and not with the id that its successor follows.
    let sim = two_segments();
    change(&sim, FIRST, |bytes| {
        bytes.put(24, &[7]);
        bytes.sign_header();
        let batches = bytes.batches();
        bytes.sign_start();
        batches.iter().for_each(|batch| bytes.sign(batch));
    });
    refused(&sim, Case::SwappedSegment);
}

#[test]
fn other_version_is_refused_older_or_newer() {
    for version in [1, 3] {
        let refuses = |sim: &Sim| match sim.try_open() {
            Err(WalError::Version { found, known: 2, .. }) => assert_eq!(found, version),
            other => panic!("{:?}", other.map(|(_, recovered)| recovered)),
        };
        let sim = two_segments();
        change(&sim, FIRST, |bytes| {
            bytes.put(8, &version.to_le_bytes());
            bytes.sign_header();
        });
        refuses(&sim);
        let sim = two_segments();
        let other =
            forge_manifest(&sim, |bytes| bytes[8..12].copy_from_slice(&version.to_le_bytes()));
        sim.platter.set_manifest(Some(other));
        refuses(&sim);
    }
}

#[test]
fn half_made_segment_is_passed_over_known_to_the_manifest_or_not() {
    let sim = two_segments();
    let spare = *sim.platter.segments().last().unwrap();
    assert!(!used(&sim).contains(&spare));
    assert_eq!(ends(&opened(&sim)), [Some(5); 4]);
    assert!(!sim.platter.segments().contains(&spare), "the spare segment is kept");
    // The segment has its name, but the manifest was not replaced yet.
    let sim = two_segments();
    let older =
        forge_manifest(&sim, |bytes| bytes[44..48].copy_from_slice(&(spare.0 - 1).to_le_bytes()));
    sim.platter.set_manifest(Some(older));
    assert_eq!(ends(&opened(&sim)), [Some(5); 4]);
}

#[test]
fn half_made_segment_with_a_torn_first_batch_is_passed_over() {
    let sim = three_batches();
    let spares = spares(&sim);
    drop(sim.open());
    // As if the power had failed while the start record was written: the segments that it makes void are not gone yet.
    spares.into_iter().for_each(|(seq, bytes)| sim.platter.set_segment(seq, Some(bytes)));
    let newest = *used(&sim).last().unwrap();
    change(&sim, newest, |bytes| bytes.0[BLOCK..BLOCK + 512].fill(0));
    let recovered = opened(&sim);
    assert_eq!(ends(&recovered), [Some(5), Some(5), Some(5)]);
}

/// On real files: a file that still has its temporary name.
#[test]
fn half_made_segment_without_its_name_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let home = new_home(&dir.path().join("node"));
    let (mut wal, _) = Wal::open(config(&home, DriverChoice::Auto)).unwrap();
    wal.append(&write(1, 1, &entries(1, 1, 1, 5, 300))).unwrap();
    wal.close().unwrap();
    let file = home.shard_dir(0).join("0000000009.tmp");
    std::fs::write(&file, b"half").unwrap();
    let (_wal, recovered) = Wal::open(config(&home, DriverChoice::Auto)).unwrap();
    assert!(recovered.closed && !file.exists());
    assert_eq!(recovered.groups[0].last, LogIndex(5));
}

/// An open that is refused removes no file, not even a segment that was given up: somebody may still want to examine it.
#[test]
fn half_made_segments_stay_where_the_log_is_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    let home = new_home(&dir.path().join("node"));
    let (wal, _) = Wal::open(config(&home, DriverChoice::Auto)).unwrap();
    wal.close().unwrap();
    let temporary =
        ["0000000009.tmp", "0000000001.free.tmp"].map(|name| home.shard_dir(0).join(name));
    for file in &temporary {
        std::fs::write(file, b"half").unwrap();
    }
    let manifest = home.shard_dir(0).join("manifest");
    let whole = std::fs::read(&manifest).unwrap();
    std::fs::write(&manifest, &whole[1..]).unwrap();
    assert!(Wal::open(config(&home, DriverChoice::Auto)).is_err());
    assert!(temporary.iter().all(|file| file.exists()));
    std::fs::write(&manifest, &whole).unwrap();
    drop(Wal::open(config(&home, DriverChoice::Auto)).unwrap());
    assert!(!temporary.iter().any(|file| file.exists()));
}

#[test]
fn a_name_that_is_nearly_a_segments_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let home = new_home(&dir.path().join("node"));
    drop(Wal::open(config(&home, DriverChoice::Auto)).unwrap());
    for name in ["+000000001.seg", "000000001.seg", "00000000001.seg", "a.seg"] {
        let file = home.shard_dir(0).join(name);
        std::fs::write(&file, b"strange").unwrap();
        let error = Wal::open(config(&home, DriverChoice::Auto)).map(|_| ()).expect_err(name);
        assert!(error.to_string().contains("the directory"), "{error}");
        std::fs::remove_file(file).unwrap();
    }
    drop(Wal::open(config(&home, DriverChoice::Auto)).unwrap());
}

#[test]
fn passed_over_segments_stay_void_though_their_writes_land_late() {
    let sim = three_batches();
    let spares = spares(&sim);
    let (mut wal, _) = sim.open();
    wal.append(&write(4, 1, &entries(4, 1, 1, 5, 100))).unwrap();
    sim.settle(&mut wal);
    sim.platter.crash();
    drop(wal);
    let late = *used(&sim).last().unwrap();
    let landed = sim.platter.segment(late);
    // As if nothing that the second process wrote had landed when the log was recovered.
    spares.into_iter().for_each(|(seq, bytes)| sim.platter.set_segment(seq, Some(bytes)));
    change(&sim, late, |bytes| bytes.0[BLOCK..].fill(0));
    let (mut wal, recovered) = sim.open();
    assert_eq!(ends(&recovered), [Some(5), Some(5), Some(5)]);
    wal.append(&write(1, 1, &entries(1, 2, 6, 1, 100))).unwrap();
    sim.settle(&mut wal);
    sim.platter.crash();
    drop(wal);
    // The file is there again, with everything the dead process had in flight.
    sim.platter.set_segment(late, Some(landed));
    let recovered = opened(&sim);
    assert_eq!(ends(&recovered), [Some(6), Some(5), Some(5)]);
    assert!(!sim.platter.segments().contains(&late));
}

#[test]
fn leftover_below_the_first_that_is_needed_is_passed_over_unread() {
    let sim = two_segments();
    let moved = forge_manifest(&sim, |bytes| bytes[40..44].copy_from_slice(&3u32.to_le_bytes()));
    sim.platter.set_manifest(Some(moved));
    sim.platter.flip(FIRST, 10, 1);
    let (_wal, recovered) = sim.open();
    assert_eq!(recovered.groups.len(), 1);
    assert_eq!((recovered.groups[0].group, ends(&recovered)[0]), (GroupId(4), Some(5)));
    assert!(!sim.platter.segments().contains(&FIRST));
}

/// RULES.md C2.
#[test]
fn a_seal_vouches_for_the_last_batch_and_is_written_once() {
    let sim = Sim::new(1);
    let (mut wal, _) = sim.open();
    wal.append(&write(1, 1, &entries(1, 1, 1, 5, 100))).unwrap();
    // No seal is written while a write is in flight.
    wal.submit(0).unwrap();
    let writes = sim.platter.writes();
    wal.seal(0).unwrap();
    assert!(!wal.is_sealed() && sim.platter.writes() == writes);
    sim.settle(&mut wal);
    for _ in 0..3 {
        wal.seal(0).unwrap();
        sim.settle(&mut wal);
        assert!(wal.is_sealed());
    }
    assert_eq!(sim.platter.writes(), writes + 1, "one seal per pause");
    let place = batch(&sim, 1);
    let sealed = sim.fork(1);
    sealed.platter.flip(FIRST, place.records.start, 1);
    assert_eq!(ends(&opened(&sealed)), [None], "without a seal this would be a torn tail");
    // Once something more is written, the log can be sealed again.
    wal.append(&write(1, 2, &entries(1, 1, 6, 1, 100))).unwrap();
    assert!(!wal.is_sealed());
    sim.settle(&mut wal);
    wal.seal(0).unwrap();
    sim.settle(&mut wal);
    assert_eq!(sim.platter.writes(), writes + 3);
    sim.platter.crash();
    drop(wal);
    let recovered = opened(&sim);
    assert_eq!((ends(&recovered), recovered.cut), (vec![Some(6)], None));
}

/// RULES.md C2.
#[test]
fn a_seal_behind_a_full_segment_is_the_next_ones_start() {
    let sim = Sim::new(1);
    let (mut wal, _) = sim.open();
    let mut index = 0;
    while wal.durable().offset() < 64 << 10 {
        index += 1;
        wal.append(&write(1, index, &entries(1, 1, index, 1, 100))).unwrap();
        sim.settle(&mut wal);
    }
    sim.platter.complete_all();
    sim.settle(&mut wal);
    wal.poll(0, &mut Vec::new()).unwrap();
    wal.seal(0).unwrap();
    sim.settle(&mut wal);
    assert!(wal.is_sealed() && wal.durable().segment() > FIRST);
    sim.platter.crash();
    drop(wal);
    let last = SegmentBytes::of(&sim, FIRST).batches().pop().unwrap();
    sim.platter.flip(FIRST, last.records.start, 1);
    assert_eq!(ends(&opened(&sim)), [None]);
}

/// RULES.md W3.
/// The power fails at every operation of a recovery, and again at every operation of the one after it.
#[test]
fn recovery_cut_short_anywhere_twice_finds_the_same() {
    // A fence, a torn tail and a half-made segment at once.
    let sim = three_batches();
    sim.platter.flip(FIRST, batch(&sim, 1).records.start, 1);
    sim.platter.flip(FIRST, batch(&sim, 3).records.start, 1);
    let expected = [None, Some(5)];
    let open_until = |sim: &Sim, power: u64| {
        sim.platter.set_power_fails_in(Some(power));
        let opened = sim.try_open().is_ok();
        sim.platter.set_power_fails_in(None);
        sim.platter.crash();
        opened
    };
    let mut cuts = 0;
    for first in 0.. {
        let once = sim.fork(first);
        let whole = open_until(&once, first);
        for second in 0.. {
            let twice = once.fork(second);
            let whole = open_until(&twice, second);
            assert_eq!(ends(&opened(&twice)), expected, "cut at {first}, then at {second}");
            cuts += 1;
            if whole {
                break;
            }
        }
        if whole {
            break;
        }
    }
    assert!(cuts > 100, "only {cuts}");
}

/// Recovery finds the terms of all entries, also if a cut took those of the newest term.
#[test]
fn torn_tail_takes_its_terms_along() {
    let sim = three_batches();
    let (mut wal, _) = sim.open();
    wal.append(&write(1, 1, &entries(1, 3, 4, 1, 100))).unwrap();
    sim.settle(&mut wal);
    sim.platter.crash();
    drop(wal);
    let newest = *used(&sim).last().unwrap();
    let whole = sim.fork(1).open().1;
    assert_eq!(whole.groups[0].runs.last().unwrap().term, Term(3));
    let last = SegmentBytes::of(&sim, newest).batches().pop().unwrap();
    sim.platter.flip(newest, last.records.start, 1);
    let recovered = opened(&sim);
    assert_eq!(recovered.groups[0].runs.len(), 1);
    assert_eq!((recovered.groups[0].runs[0].term, ends(&recovered)[0]), (Term(1), Some(5)));
}
