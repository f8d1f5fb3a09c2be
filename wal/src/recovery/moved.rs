//! The end of the last segment, written again at the beginning of the next one, whose start record then says that the
//! log ended before it.
//!
//! In:     the last segment's batches.
//! Out:    from which place on batches are written again, if any are; the records in them, encoded for another segment.
//! Cost:   one more checksum over the last segment; memory for a quarter of a segment, or for the batches that nothing
//!         vouches for.
//! Fails:  never. The batches that are vouched for stay where they are if one of them is damaged.
//! Source: RULES.md rules 8, 19, 25; W2, W7, W9.
//!
//! There are two reasons to write records again. Every open begins a segment, so the little that a short life of the
//! process wrote would take a whole segment for good: a last segment of which a quarter of a segment at most is needed
//! is written again as a whole, and then nothing counts in its file. And where reads come from the page cache, a batch
//! that no later batch states as durable may not be on the disk: its write may have failed, and its pages count as
//! clean all the same, so a sync would prove nothing.

use crate::checksum::Seed;
use crate::format::{
    FIRST_BATCH_AT, RECORD_ALIGN_BYTES, Record, RecordKind, Records, SnapshotHead, u32_at,
};
use crate::judge::{Bytes, Case, Decision, Flaw, NextBatch};
use hashbrown::HashMap;
use logdrive_raft::GroupId;

/// The records of the next segment's first batch, beside its start record.
#[derive(Debug, Default)]
pub(crate) struct Moved {
    /// Records, one behind the other.
    pub(crate) records: Vec<u8>,
    pub(crate) count: u32,
    /// The groups that the records belong to, each once.
    pub(crate) groups: Vec<GroupId>,
}

/// Records of the last segment that are to be written again.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    bytes: Vec<u8>,
    places: Vec<Place>,
    /// The latest record of each group and each kind of which only the last record counts, by its place in `places`.
    latest: HashMap<(GroupId, u8), usize>,
}

/// Where a record begins.
#[derive(Debug)]
struct Place {
    in_bytes: usize,
    in_segment: usize,
}

impl Tail {
    /// Takes in a record that stands at offset `in_segment` of its segment, and with which `bytes` begin.
    pub(crate) fn push(&mut self, record: &Record<'_>, bytes: &[u8], in_segment: usize) {
        let Some(group) = record.group() else { return };
        if let Some(kind) = replaced_kind(record) {
            self.latest.insert((group, kind), self.places.len());
        }
        self.places.push(Place { in_bytes: self.bytes.len(), in_segment });
        self.bytes.extend_from_slice(&bytes[..padded_bytes(bytes)]);
    }

    /// The records, each with its bytes and its offset in the segment. Left out is a record that a later one of its
    /// kind and group replaces.
    pub(crate) fn records(&self, seed: Seed) -> impl Iterator<Item = (Record<'_>, &[u8], usize)> {
        self.places.iter().enumerate().filter_map(move |(n, place)| {
            let bytes = &self.bytes[place.in_bytes..];
            let bytes = &bytes[..padded_bytes(bytes)];
            let (_, record) = Records::new(bytes, seed).next().expect("a record");
            let record = record.expect("it was decoded before");
            let group = record.group().expect("only records of groups are kept");
            let is_replaced = replaced_kind(&record)
                .is_some_and(|kind| self.latest.get(&(group, kind)) != Some(&n));
            (!is_replaced).then_some((record, bytes, place.in_segment))
        })
    }
}

impl Moved {
    /// Adds a record from another segment, with the checksum that it has under `seed`; returns its offset in `records`.
    pub(crate) fn push(&mut self, record: &Record<'_>, bytes: &[u8], seed: Seed) -> usize {
        let at = self.records.len();
        self.records.extend_from_slice(bytes);
        self.count += 1;
        match record {
            Record::Entries(head) | Record::Carried(head) => {
                head.reseed(&mut self.records[at..], seed);
            }
            Record::Snapshot(_) => SnapshotHead::reseed(&mut self.records[at..], seed),
            _ => {}
        }
        at
    }
}

/// The result of a first look at the last segment's batches.
pub(super) struct Survey {
    /// Bytes of the records in the whole batches that would be written again; `None` if there is damage, or a record
    /// that no log writes.
    needed: Option<usize>,
    /// True if the flaw that ends the batches may be a bad read.
    pub(super) is_doubtful: bool,
}

/// The offset from which on the last segment's batches are written again; `None` if all of them stay.
pub(super) fn moved_from(
    bytes: &Bytes<'_>,
    survey: &Survey,
    next_bytes: u64,
    is_direct: bool,
) -> Option<usize> {
    if crate::rules::is_page_cache_believed(is_direct) {
        return None;
    }
    let first = FIRST_BATCH_AT as usize;
    let little = usize::try_from(next_bytes / MOVED_PART).expect("segments fit memory");
    if crate::rules::is_written_again_as_a_whole(survey.needed, little) {
        return Some(first);
    }
    (!is_direct).then(|| bytes.vouched_for().max(first))
}

/// Looks at the last segment's batches. `follows` is what the first of them must state.
pub(super) fn survey(bytes: &mut Bytes<'_>, seed: Seed, mut follows: NextBatch) -> Survey {
    let mut at = FIRST_BATCH_AT as usize;
    let (mut needed, mut latest) = (0, HashMap::new());
    let flaw = loop {
        if at == bytes.len() {
            return Survey { needed: Some(needed), is_doubtful: false };
        }
        let batch = match bytes.batch(at) {
            Ok(batch) if batch.says() == follows => batch,
            Ok(_) => break Flaw::out_of_order(),
            Err(flaw) => break flaw,
        };
        let body = &batch.body[..batch.header.records_bytes()];
        for (offset, record) in Records::new(body, seed) {
            let Ok(record) = record else { return Survey { needed: None, is_doubtful: false } };
            let Some(group) = record.group() else { continue };
            let bytes = padded_bytes(&body[offset..]);
            needed += bytes;
            if let Some(kind) = replaced_kind(&record) {
                needed -= latest.insert((group, kind), bytes).unwrap_or(0);
            }
        }
        follows = batch.next();
        at += batch.header.padded_bytes();
    };
    let case: Case = bytes.case(at, &flaw, false);
    let is_end = matches!(case.decision(), Decision::End | Decision::Cut);
    Survey { needed: is_end.then_some(needed), is_doubtful: case != Case::CleanEnd }
}

/// The kind of a record of which only a group's last one counts; `None` for every other record.
fn replaced_kind(record: &Record<'_>) -> Option<u8> {
    match record {
        Record::HardState { .. } => Some(RecordKind::HardState as u8),
        Record::Membership { .. } => Some(RecordKind::Membership as u8),
        Record::Snapshot(_) => Some(RecordKind::Snapshot as u8),
        Record::Installing { .. } => Some(RecordKind::Installing as u8),
        _ => None,
    }
}

/// The padded length of the record that begins `bytes`.
fn padded_bytes(bytes: &[u8]) -> usize {
    (u32_at(bytes, 4) as usize).next_multiple_of(RECORD_ALIGN_BYTES)
}

/// A last segment is written again as a whole if the records that are needed of it fit this part (one quarter) of a new
/// segment.
const MOVED_PART: u64 = 4;
