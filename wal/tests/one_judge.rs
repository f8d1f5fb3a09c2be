//! One judge of bytes: an open and an inspection come to one verdict about every log, however it is damaged. That is
//! the same refusal, with the same words about the same place; or the same groups fenced, the same end of the log, and
//! the same state.

mod common;
mod forge;

use common::golden::{Files, GOLDEN, golden};
use common::mutate::{Base, Input, Machine};
use common::random::Random;
use common::*;
use forge::*;
use logdrive_raft::{GroupId, HardState, LogIndex, Term};
use logdrive_wal::disk::sim::SimPlatter;
use logdrive_wal::inspect::{self, Event, Finding};
use logdrive_wal::{
    Case, Config, Corrupt, Decision, Installing, Position, Recovered, SegmentSeq, SnapshotMark,
    Wal, WalError,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Why a log is not opened: the case, the file, the offset in it, and a description.
type Refusal = (&'static str, String, u64, String);

/// The state that an open finds, and an inspection too.
#[derive(Debug, PartialEq)]
struct State {
    end: Position,
    closed: bool,
    batches: u64,
    cut: Option<(&'static str, Position)>,
    fenced: BTreeSet<GroupId>,
    destroyed: BTreeSet<GroupId>,
    groups: BTreeMap<GroupId, Group>,
}

#[derive(Debug, PartialEq)]
struct Group {
    released: LogIndex,
    last: LogIndex,
    last_term: Term,
    hard_state: HardState,
    membership_bytes: usize,
    snapshot: Option<SnapshotMark>,
    installing: Option<Installing>,
}

/// The verdict in which an open and an inspection agree.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Verdict {
    Refused,
    Fenced,
    Cut,
    Sound,
}

fn row(label: &str) -> Option<(&'static str, Decision)> {
    let row = Case::TABLE.iter().find(|(_, known, _)| *known == label)?;
    Some((row.1, row.2))
}

fn name(file: &Path) -> String {
    file.file_name().expect("a file").to_string_lossy().into_owned()
}

/// The text and the label behind it in brackets.
fn labelled(what: &str) -> (String, &'static str) {
    let (text, label) = what.rsplit_once(" [").expect("a label");
    (text.to_owned(), row(label.trim_end_matches(']')).expect("a case").0)
}

/// The refusal in an error; `None` if segment numbers are used up, which is no fault of a file.
fn refusal(error: &WalError) -> Option<Refusal> {
    let (file, offset, (what, label)) = match error {
        WalError::Corrupt(Corrupt { file, offset, what }) => (file, *offset, labelled(what)),
        WalError::Missing { file, what } | WalError::Foreign { file, what } => {
            (file, 0, labelled(what))
        }
        WalError::Version { file, what, found, .. } => {
            let case = match *what {
                "a record of kind" | "an entry of kind" => Case::UnknownRecord,
                _ => Case::OtherVersion,
            };
            (file, 0, (format!("{what} {found}"), case.label()))
        }
        WalError::Io { file, source, .. } => {
            (file, 0, (source.to_string(), Case::DamagedSegmentHeader.label()))
        }
        WalError::Config(_) => return None,
        error => panic!("{error}"),
    };
    Some((label, name(file), offset, what))
}

/// As [`refusal`], of an inspection's finding; `None` for one that does not keep a log from being opened.
fn refuses(finding: &Finding) -> Option<Refusal> {
    let (label, decision) = row(finding.label)?;
    // The error of an open does not say where the record stands.
    let offset = if label == Case::UnknownRecord.label() { 0 } else { finding.offset };
    let refusal = (label, name(&finding.file), offset, finding.what.clone());
    (decision == Decision::Refuse).then_some(refusal)
}

fn opened(recovered: &Recovered) -> State {
    let (fenced, sound): (Vec<_>, Vec<_>) =
        recovered.groups.iter().partition(|group| group.fenced.is_some());
    let group = |group: &&logdrive_wal::RecoveredGroup| {
        let newest = group.runs.last().map_or(group.released_term, |run| run.term);
        let found = Group {
            released: group.released,
            last: group.last,
            last_term: newest,
            hard_state: group.hard_state,
            membership_bytes: group.membership.len(),
            snapshot: group.snapshot,
            installing: group.installing,
        };
        (group.group, found)
    };
    State {
        end: recovered.end,
        closed: recovered.closed,
        batches: recovered.batches,
        cut: recovered.cut.as_ref().map(|cut| (cut.case.label(), cut.position)),
        fenced: fenced.iter().map(|group| group.group).collect(),
        destroyed: recovered.destroyed.iter().map(|gone| gone.group).collect(),
        groups: sound.iter().map(group).collect(),
    }
}

fn inspected_state(report: &inspect::Report, findings: &[Finding]) -> State {
    let cut = findings.iter().find_map(|finding| {
        let (label, decision) = row(finding.label)?;
        let offset = u32::try_from(finding.offset).expect("an offset");
        let segment = name(&finding.file).strip_suffix(".seg")?.parse().ok()?;
        let position = Position::new(SegmentSeq(segment), offset);
        (decision == Decision::Cut).then_some((label, position))
    });
    let ids = |wanted: fn(&inspect::Group) -> bool| {
        report.groups.iter().filter(|(_, group)| wanted(group)).map(|(id, _)| *id).collect()
    };
    let sound = report.groups.iter().filter(|(_, it)| it.fenced.is_none() && !it.destroyed);
    let group = |(id, group): (&GroupId, &inspect::Group)| {
        let found = Group {
            released: group.released,
            last: group.last,
            last_term: group.last_term,
            hard_state: group.hard_state,
            membership_bytes: group.membership_bytes,
            snapshot: group.snapshot,
            installing: group.installing,
        };
        (*id, found)
    };
    State {
        end: report.end,
        closed: report.closed,
        batches: report.batches,
        cut,
        fenced: ids(|group| group.fenced.is_some()),
        destroyed: ids(|group| group.destroyed),
        groups: sound.map(group).collect(),
    }
}

/// Inspects a log and then opens it. Panics, with `image`, unless both come to the same verdict.
fn agree(
    image: &str,
    platter: &SimPlatter,
    config: &Config,
    open: impl FnOnce() -> Result<(Wal, Recovered), WalError>,
) -> Option<Verdict> {
    let mut findings: Vec<Finding> = Vec::new();
    let mut disk = platter.disk(config.segment_bytes);
    let owner = Some((&config.identity, config.shard));
    let report = inspect::scan_disk(&mut *disk, owner, &mut |event| {
        if let Event::Finding(finding) = event {
            findings.push(finding.clone());
        }
        Ok(())
    });
    drop(disk);
    let refusals: Vec<Refusal> = findings.iter().filter_map(refuses).collect();
    let recovered = match open() {
        Err(error) => {
            // A directory without a manifest and without a segment is no log to an inspection.
            let Ok(_) = report else { return Some(Verdict::Refused) };
            let refusal = refusal(&error)?;
            assert!(refusals.contains(&refusal), "{image}: {error}; an inspection: {findings:?}");
            return Some(Verdict::Refused);
        }
        Ok((_, recovered)) => recovered,
    };
    assert_eq!(refusals, [], "{image}: it was opened");
    let report = report.unwrap_or_else(|error| panic!("{image}: it was opened, but {error}"));
    let state = opened(&recovered);
    assert_eq!(state, inspected_state(&report, &findings), "{image}: {findings:?}");
    // The damage for which groups are fenced is found in the same batches.
    for group in &recovered.groups {
        let Some(Corrupt { file, offset, what }) = &group.fenced else { continue };
        let at = (name(file), *offset);
        if what.contains(" [") {
            let (what, label) = labelled(what);
            let is_found = findings.iter().any(|finding| {
                (finding.label, &finding.what) == (label, &what)
                    && (name(&finding.file), finding.offset) == at
                    && finding.groups.contains(&group.group)
            });
            assert!(is_found, "{image}: {group:?} is fenced; an inspection: {findings:?}");
        } else {
            let fenced = report.groups[&group.group].fenced.expect("it is fenced");
            let place = (format!("{:010}.seg", fenced.segment().0), u64::from(fenced.offset()));
            assert_eq!(place, at, "{image}: {group:?}");
        }
    }
    Some(match (&state.cut, state.fenced.is_empty()) {
        (_, false) => Verdict::Fenced,
        (Some(_), true) => Verdict::Cut,
        (None, true) => Verdict::Sound,
    })
}

impl Random {
    /// A place in a segment: mostly in its first blocks, where something stands, and mostly at the beginning of a block.
    fn place(&mut self, len: usize) -> usize {
        let block = if self.index(4) == 0 { self.index(16) } else { self.index(7) };
        let within = [64, 512, BLOCK][self.index(3)];
        (block * BLOCK + self.index(within)) % len.max(1)
    }
}

/// Changes files in one way, and says how. Blocks that become unreadable are added to `unreadable`.
fn change(files: &mut Files, unreadable: &mut Vec<(String, usize)>, random: &mut Random) -> String {
    let names: Vec<String> = files.keys().cloned().collect();
    let Some(file) = names.get(random.index(names.len() + 1)).or(names.first()).cloned() else {
        return String::new();
    };
    let other = names[random.index(names.len())].clone();
    let bytes = files.get_mut(&file).expect("a file");
    let at = random.place(bytes.len());
    let block = at / BLOCK * BLOCK;
    match random.index(16) {
        0..5 if !bytes.is_empty() => {
            bytes[at] ^= 1 << random.index(8);
            format!("a flip in {file} at {at}")
        }
        5..8 => {
            let sector = at / 512 * 512;
            let end = (sector + 512 * (1 + random.index(8))).min(bytes.len());
            bytes[sector..end].fill(0);
            format!("zeros in {file} from {sector} to {end}")
        }
        8..10 => {
            unreadable.push((file.clone(), block));
            format!("the block of {file} at {block} is unreadable")
        }
        10 | 11 => {
            let from = files[&other].clone();
            let from_at = random.place(from.len()) / BLOCK * BLOCK;
            let moved = &from[from_at..from.len().min(from_at + BLOCK)];
            let bytes = files.get_mut(&file).expect("a file");
            let len = moved.len().min(bytes.len().saturating_sub(block));
            bytes[block..block + len].copy_from_slice(&moved[..len]);
            format!("the block of {other} at {from_at} stands in {file} at {block}")
        }
        12 => {
            let len = if random.index(2) == 0 { at } else { bytes.len() / 2 };
            bytes.truncate(len);
            format!("{file} ends at {len}")
        }
        13 => {
            files.remove(&file);
            format!("{file} is gone")
        }
        14 => {
            let number = 1 + random.index(8);
            let copy = format!("{number:010}.seg");
            files.insert(copy.clone(), files[&other].clone());
            format!("{other} is copied to {copy}")
        }
        _ => {
            let (a, b) = (files[&file].clone(), files[&other].clone());
            files.insert(file.clone(), b);
            files.insert(other.clone(), a);
            format!("{file} and {other} are exchanged")
        }
    }
}

/// RULES.md C1 to C10, P8. Random damage to every golden log: flipped bits, sectors of zeros, blocks that are unreadable or
/// stand elsewhere, files that are cut off, gone, copied or exchanged; with the old checksums, and with new ones.
#[test]
fn an_open_and_an_inspection_agree_about_random_damage() {
    let mut verdicts: BTreeMap<(bool, Verdict), u32> = BTreeMap::new();
    let mut random = Random(11);
    for round in 0..rounds() {
        for (golden_name, _) in GOLDEN {
            let mut files = golden(golden_name);
            let mut unreadable = Vec::new();
            let mut image = format!("round {round} of {golden_name}");
            for _ in 0..=random.index(3) {
                image = format!("{image}; {}", change(&mut files, &mut unreadable, &mut random));
            }
            let is_sealed = random.index(3) == 0;
            if is_sealed {
                files.values_mut().for_each(|file| logdrive_wal::fuzz::seal(file));
            }
            let mut machine = Machine::new(&files);
            if !files.contains_key("manifest") {
                machine.platter.set_manifest(None);
            }
            for (file, at) in unreadable {
                let segment = file.strip_suffix(".seg").and_then(|number| number.parse().ok());
                let len = files.get(&file).map_or(0, Vec::len);
                if let Some(segment) = segment
                    && at + BLOCK <= len
                {
                    machine.platter.fail_reads_in(SegmentSeq(segment), at..at + BLOCK);
                }
            }
            let (platter, config) = (machine.platter.clone(), machine.config.clone());
            if let Some(verdict) = agree(&image, &platter, &config, || machine.open()) {
                *verdicts.entry((is_sealed, verdict)).or_default() += 1;
            }
        }
    }
    println!("{verdicts:?}");
    let (once, all) = (verdicts.len(), verdicts.values().all(|count| *count >= 20));
    assert!(once == 8 && all, "not every verdict was met often: {verdicts:?}");
}

/// Rounds for each golden log; `WAL_MUTATIONS` for a longer run.
fn rounds() -> u64 {
    std::env::var("WAL_MUTATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(250)
}

/// Every input that fuzzing starts from or has found.
#[test]
fn an_open_and_an_inspection_agree_about_the_corpus() {
    let bases = Base::all();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/open");
    let mut inputs = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let file = entry.unwrap().path();
        let bytes = std::fs::read(&file).unwrap();
        let files = Input::parse(&bytes).expect("two bytes at least").apply(&bases);
        let mut machine = Machine::new(&files);
        let (platter, config) = (machine.platter.clone(), machine.config.clone());
        agree(&file.display().to_string(), &platter, &config, || machine.open());
        inputs += 1;
    }
    assert!(inputs > 10, "{inputs}");
}

// --- Images about which an open and an inspection once came to different verdicts ---

const FIRST: SegmentSeq = SegmentSeq(1);

fn agreed(image: &str, sim: &Sim) -> Verdict {
    agree(image, &sim.platter, &sim.config, || sim.try_open()).expect("a verdict")
}

fn edit(sim: &Sim, segment: SegmentSeq, edit: impl FnOnce(&mut SegmentBytes)) {
    let mut bytes = SegmentBytes::of(sim, segment);
    edit(&mut bytes);
    sim.platter.set_segment(segment, Some(bytes.0));
}

/// Three batches of three groups; with `opens` of 2, a second segment behind them.
fn written(opens: u32) -> Sim {
    let sim = Sim::new(1);
    for open in 0..opens {
        let (mut wal, _) = sim.open();
        for group in 1..=3 {
            let group = group + 3 * u64::from(open);
            wal.append(&write(group, group, &entries(group, 1, 1, 5, 1700))).unwrap();
            sim.settle(&mut wal);
        }
        sim.platter.complete_all();
        sim.platter.crash();
    }
    sim
}

/// An inspection called the unreadable body a damaged batch header, for which a log is refused, and looked for the next
/// header.
#[test]
fn a_durable_body_that_cannot_be_read_fences_its_groups() {
    let sim = written(1);
    let place = SegmentBytes::of(&sim, FIRST).batches()[2].clone();
    assert!(place.end - place.at > 2 * BLOCK);
    sim.platter.fail_reads_in(FIRST, place.at + BLOCK..place.at + 2 * BLOCK);
    assert_eq!(agreed("an unreadable body", &sim), Verdict::Fenced);
}

/// An inspection took such a batch for whole, counted its records, and found the log sound.
#[test]
fn a_batch_that_runs_past_the_end_of_its_segment_is_refused() {
    let sim = written(2);
    let last = SegmentBytes::of(&sim, FIRST).batches().pop().unwrap();
    let newer = sim.platter.segments().into_iter().skip(1);
    let newer = newer.filter(|seq| SegmentBytes::of(&sim, *seq).is_used()).min().unwrap();
    edit(&sim, newer, |bytes| {
        let first = bytes.batches()[0].clone();
        let end = u32::try_from(last.end - BLOCK).unwrap();
        assert!(end as usize > last.at);
        bytes.put(first.records.start + 16, &end.to_le_bytes());
        bytes.sign_start();
        bytes.sign(&first);
    });
    assert_eq!(agreed("a segment that ended within its last batch", &sim), Verdict::Refused);
}

/// An inspection said that the copy is a swapped segment, and never found a duplicate.
#[test]
fn a_copy_of_a_segment_is_a_duplicate() {
    let sim = written(2);
    let newest = *sim.platter.segments().last().unwrap();
    sim.platter.set_segment(SegmentSeq(newest.0 + 1), Some(sim.platter.segment(FIRST)));
    assert_eq!(agreed("a copy", &sim), Verdict::Refused);
}

/// An inspection said that the file is truncated.
#[test]
fn a_foreign_segment_of_another_size_is_foreign() {
    let sim = written(2);
    edit(&sim, FIRST, |bytes| {
        bytes.put(40, &7u128.to_le_bytes());
        bytes.sign_header();
        bytes.0.resize(bytes.0.len() + BLOCK, 0);
    });
    assert_eq!(agreed("a larger file of another store", &sim), Verdict::Refused);
}

/// An inspection named the end of the log. An open named the place behind the hole, but for a log so short that an open
/// writes it again as a whole, the place where the record would then have stood: in a file that there never was.
#[test]
fn missing_entries_are_named_with_the_place_behind_them() {
    for bytes in [100, 1700] {
        let sim = Sim::new(1);
        let (mut wal, _) = sim.open();
        for n in 0..3u64 {
            wal.append(&write(1, n + 1, &entries(1, 1, 1 + n * 5, 5, bytes))).unwrap();
            sim.settle(&mut wal);
        }
        sim.platter.crash();
        drop(wal);
        edit(&sim, FIRST, |bytes| {
            let place = bytes.batches()[2].clone();
            bytes.put(place.records.start + 8, &2u64.to_le_bytes());
            bytes.put(place.directory.start, &2u64.to_le_bytes());
            bytes.put(place.records.start + 16, &1u64.to_le_bytes());
            bytes.sign_entries(place.records.start);
            bytes.sign(&place);
            let header = bytes.0[place.at + 4..place.at + 8].to_vec();
            let next = bytes.batches()[3].clone();
            bytes.put(next.at + 44, &header);
            bytes.sign(&next);
        });
        let behind = SegmentBytes::of(&sim, FIRST).batches()[3].records.start;
        match sim.try_open().map(|(_, recovered)| recovered) {
            Err(WalError::Corrupt(Corrupt { file, offset, .. })) => {
                assert_eq!((name(&file).as_str(), offset), ("0000000001.seg", behind as u64));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(agreed("a hole", &sim), Verdict::Refused);
    }
}

/// An inspection named the place of the directory, the open the batch's.
#[test]
fn a_whole_batch_whose_directory_fails_is_senseless_at_its_beginning() {
    let sim = written(1);
    edit(&sim, FIRST, |bytes| {
        let last = bytes.batches().pop().unwrap();
        bytes.sign(&last);
        let sum = bytes.u32(last.at + 52) ^ 1;
        bytes.put(last.at + 52, &sum.to_le_bytes());
        bytes.sign_batch_header(&last);
    });
    assert_eq!(agreed("a directory", &sim), Verdict::Refused);
}

/// An inspection took the log for one that was not closed, and the bytes behind it for a torn tail.
#[test]
fn a_footer_that_is_not_the_last_record_of_its_batch_ends_the_log() {
    let sim = written(1);
    let (wal, _) = sim.open();
    wal.close().unwrap();
    let used = sim.platter.segments().into_iter();
    let newest = used.filter(|seq| SegmentBytes::of(&sim, *seq).is_used()).max().unwrap();
    edit(&sim, newest, |bytes| {
        let last = bytes.batches().pop().unwrap();
        assert_eq!(bytes.0[last.records.start], 9, "a footer");
        // A record that may be skipped, of sixteen bytes, behind the footer.
        let more = last.records.end;
        bytes.put(more, &[200, 1, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        bytes.put(last.at + 32, &32u32.to_le_bytes());
        bytes.put(last.at + 40, &2u32.to_le_bytes());
        let last = bytes.batches().pop().unwrap();
        bytes.sign(&last);
        bytes.put(last.end, &[0xa5; 600]);
    });
    assert_eq!(agreed("a record behind a footer", &sim), Verdict::Sound);
    assert!(sim.open().1.groups.len() == 3);
}

/// An inspection took the log's end for the place behind the last whole batch, so a spare that stated the place behind a
/// damaged one as durable was evidence of a loss.
#[test]
fn the_end_of_a_log_stands_behind_its_last_batch_though_that_is_damaged() {
    let sim = one_batch(3);
    drop(sim.open());
    sim.platter.complete_all();
    sim.platter.crash();
    let used = sim.platter.segments().into_iter();
    let last = used.filter(|seq| SegmentBytes::of(&sim, *seq).is_used()).max().unwrap();
    let batch = SegmentBytes::of(&sim, last).batches()[0].clone();
    sim.platter.flip(last, batch.at + BLOCK + 100, 1);
    assert_eq!(agreed("a damaged batch that was written again", &sim), Verdict::Fenced);
}
