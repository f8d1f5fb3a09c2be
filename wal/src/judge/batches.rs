//! One segment's batches: which of them hold, and the case in the table for one that does not.
//!
//! In:     a segment's bytes, up to where the next segment, if there is one, says that this one ended.
//! Out:    batches that hold; a [`Case`] for one that does not.
//! Cost:   one checksum over every byte; one look at each block behind the last segment's last batch.
//! Fails:  never; the judge decides by the case.
//! Source: RULES.md rules 5, 20-22; C1-C3, C9, C10, W2, W12.

use super::{Case, Segment};
use crate::disk::Scanned;
use crate::format::{
    BATCH_HEADER_BYTES, BATCH_MAGIC, BLOCK_BYTES, Bad, BatchHeader, FIRST_BATCH_AT, Position,
    SegmentSeq, u32_at,
};
use logdrive_raft::GroupId;
use std::path::PathBuf;

/// Where a segment's batches end.
pub(crate) struct End {
    pub(crate) position: Position,
    pub(crate) cut: Option<CutTail>,
}

impl End {
    pub(super) fn cut(self, case: Case, file: &Segment, what: Bad, whole_behind: u64) -> Self {
        let Self { position, .. } = self;
        let (file, what) = (file.path.clone(), what.0.to_owned());
        Self { position, cut: Some(CutTail { case, file, position, what, whole_behind }) }
    }
}

/// A tail that was not whole.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CutTail {
    /// The case that the tail was taken for.
    pub case: Case,
    /// The file.
    pub file: PathBuf,
    /// Where the log was cut.
    pub position: Position,
    /// A description of the fault there.
    pub what: String,
    /// Batches behind the cut that were whole but had not been acknowledged.
    pub whole_behind: u64,
}

/// A batch whose header holds.
pub(crate) struct Batch<'a> {
    pub(crate) header: BatchHeader,
    /// The header's checksum, which the next batch's header states.
    pub(crate) crc: u32,
    /// Records and directory.
    pub(crate) body: &'a [u8],
}

impl Batch<'_> {
    /// The place in the stream that the batch says it has.
    pub(crate) fn says(&self) -> NextBatch {
        NextBatch { number: self.header.seq, prev_crc: self.header.prev_crc }
    }

    /// The place in the stream that the batch behind this one must have.
    pub(crate) fn next(&self) -> NextBatch {
        NextBatch { number: self.header.seq + 1, prev_crc: self.crc }
    }
}

/// The values that the header of a stream's next batch must state.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct NextBatch {
    pub(crate) number: u64,
    /// The checksum of the header of the batch before it.
    pub(crate) prev_crc: u32,
}

/// Why a batch does not hold.
pub(crate) struct Flaw<'a> {
    pub(crate) what: Bad,
    /// False if the device could not read the part that does not hold.
    readable: bool,
    /// The batch, if its header and directory hold all the same: then its groups and its end are known.
    pub(crate) limited_to: Option<Batch<'a>>,
    part: Part,
}

impl Flaw<'_> {
    /// The flaw of a whole batch that is not the one that should stand at its place.
    pub(crate) fn out_of_order() -> Self {
        let what = Bad("batch does not follow the one before it");
        Self { what, readable: true, limited_to: None, part: Part::Place }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Part {
    /// No batch header stands there.
    Header,
    /// A batch of this segment stands there, but not the batch of this place.
    Place,
    Directory,
    Body,
}

/// A segment with the bytes that were read of it.
pub(crate) struct Bytes<'a> {
    file: &'a Segment,
    scanned: &'a Scanned,
    /// The highest place that the batches behind the first bad one state as durable; `None` until it is first needed.
    known_durable: Option<Position>,
}

impl<'a> Bytes<'a> {
    pub(crate) fn new(file: &'a Segment, scanned: &'a Scanned) -> Self {
        Self::knowing(file, scanned, None)
    }

    /// The segment's bytes, judged by what an earlier read said is durable, if that is given.
    pub(super) fn knowing(
        file: &'a Segment,
        scanned: &'a Scanned,
        known_durable: Option<Position>,
    ) -> Self {
        Self { file, scanned, known_durable }
    }

    pub(super) fn file(&self) -> &'a Segment {
        self.file
    }

    pub(crate) fn len(&self) -> usize {
        self.scanned.bytes().len()
    }

    fn header(&self, at: usize) -> Result<(BatchHeader, u32), Bad> {
        let position = self.file.position(at);
        let rest = &self.scanned.bytes()[at..];
        BatchHeader::decode(rest, self.file.seed, position, self.file.header.bytes)
    }

    /// The batch at `at`, if all of it holds: header, directory and body.
    pub(crate) fn batch(&self, at: usize) -> Result<Batch<'a>, Flaw<'a>> {
        let bytes = self.scanned.bytes();
        let flaw = |part, what, range| Flaw {
            what,
            readable: self.scanned.is_readable(range),
            limited_to: None,
            part,
        };
        let head = at..(at + BATCH_HEADER_BYTES).min(bytes.len());
        let (header, crc) = self.header(at).map_err(|what| {
            flaw(if self.is_misplaced(at) { Part::Place } else { Part::Header }, what, head)
        })?;
        let body_at = at + BATCH_HEADER_BYTES;
        let body_end = body_at + header.body_bytes as usize;
        let end = at + header.padded_bytes();
        let Some(body) = bytes.get(body_at..body_end).filter(|_| end <= bytes.len()) else {
            let what = Bad("batch runs past where its segment ended");
            return Err(flaw(Part::Place, what, at..bytes.len()));
        };
        let whole = Batch { header, crc, body };
        let body_crc = self.file.seed.checksum(body);
        let what = if !crate::rules::is_body_whole(body_crc, header.body_crc) {
            Bad("batch body fails its checksum")
        } else {
            // The padding carries nothing, so its content does not matter.
            return Ok(whole);
        };
        let directory_at = body_at + header.records_bytes();
        if let Err(what) = header.directory(body, self.file.seed) {
            return Err(flaw(Part::Directory, what, directory_at..body_end));
        }
        Err(Flaw { limited_to: Some(whole), ..flaw(Part::Body, what, body_at..end) })
    }

    /// True if a batch header of this segment stands at `at` that says it stands elsewhere.
    fn is_misplaced(&self, at: usize) -> bool {
        let bytes = &self.scanned.bytes()[at..];
        let bound = self.file.header.bytes;
        claimed_position(bytes).filter(|claimed| *claimed != self.file.position(at)).is_some_and(
            |claimed| BatchHeader::decode(bytes, self.file.seed, claimed, bound).is_ok(),
        )
    }

    /// Judges what stands at `at`, which is no whole batch: returns its case in the table. `sealed`: a later segment
    /// says that the log goes on behind this one.
    pub(crate) fn case(&mut self, at: usize, flaw: &Flaw<'_>, sealed: bool) -> Case {
        let is_vouched_for = sealed
            || (self.file.is_moved && at == FIRST_BATCH_AT as usize)
            || self.known_durable_behind(at) > self.file.position(at);
        if crate::rules::is_damage(is_vouched_for) {
            return match flaw.part {
                Part::Body if flaw.readable => Case::DamagedBody,
                Part::Body => Case::UnreadableBody,
                Part::Directory => Case::DamagedDirectory,
                Part::Place => Case::MisdirectedBatch,
                Part::Header => Case::DamagedBatchHeader,
            };
        }
        // An unreadable place may hold a batch, which a later read may find, so it is not taken for empty. But batches
        // are written one behind the other: where the next batch would begin and nothing stands, nothing behind that
        // place counts.
        let block = at..(at + BLOCK_BYTES).min(self.len());
        let is_empty = self.scanned.is_readable(block.clone())
            && self.scanned.bytes()[block].iter().all(|byte| *byte == 0)
            && self.headers(at).next().is_none();
        if !is_empty && !self.scanned.is_readable(at..self.len()) {
            return Case::UnreadableTail;
        }
        if is_empty && !self.scanned.is_readable(at..self.len()) {
            return Case::CleanEnd;
        }
        if self.whole_behind(at) > 0 {
            return Case::ReorderedTail;
        }
        let tail = &self.scanned.bytes()[at..];
        if tail.iter().all(|byte| *byte == 0) {
            Case::CleanEnd
        } else if is_of_earlier_life(tail, self.file.position(at)) {
            Case::RecycledBytes
        } else {
            Case::TornTail
        }
    }

    /// The offset up to which the segment was durable, as its batches state; 0 if none of them states any.
    pub(crate) fn vouched_for(&self) -> usize {
        let known = self.headers(0).map(|(_, header)| header.durable);
        let here = known.filter(|known| known.segment() == self.file.seq());
        let known = here.map(|known| known.offset() as usize).max().unwrap_or(0);
        let first = FIRST_BATCH_AT as usize;
        match self.header(first) {
            Ok((header, _)) if self.file.is_moved => known.max(first + header.padded_bytes()),
            _ => known,
        }
    }

    /// The highest place that the batches behind `at` state as durable. A batch that states a place behind `at` as
    /// durable stands behind `at` itself, so the answer for the first bad batch serves for all later ones.
    pub(super) fn known_durable_behind(&mut self, at: usize) -> Position {
        if let Some(known) = self.known_durable {
            return known;
        }
        let known = self.headers(at + BLOCK_BYTES).map(|(_, header)| header.durable).max();
        *self.known_durable.insert(known.unwrap_or(Position::ZERO))
    }

    /// The number of whole batches behind a torn one at `at`.
    pub(super) fn whole_behind(&self, at: usize) -> u64 {
        let behind = self.headers(at + BLOCK_BYTES);
        behind.map(|(at, _)| u64::from(self.batch(at).is_ok())).sum()
    }

    /// The first place behind the bad batch at `at` where a batch header holds.
    pub(super) fn header_behind(&self, at: usize) -> Option<usize> {
        self.headers(at + BLOCK_BYTES).next().map(|(at, _)| at)
    }

    /// The places that the segment's batches state as durable.
    pub(crate) fn claims(&self) -> impl Iterator<Item = Position> + '_ {
        self.headers(FIRST_BATCH_AT as usize).map(|(_, header)| header.durable)
    }

    /// Batch headers that hold, at block boundaries from `from` on.
    fn headers(&self, from: usize) -> impl Iterator<Item = (usize, BatchHeader)> + '_ {
        let places = (from..self.len()).step_by(BLOCK_BYTES);
        places.filter_map(|at| self.header(at).ok().map(|(header, _)| (at, header)))
    }
}

/// The groups that a batch's directory names.
#[derive(Debug, Default)]
pub(super) struct Named {
    groups: Vec<GroupId>,
    sorted: Vec<GroupId>,
    /// The place in `groups` of the group that was last found there.
    at: usize,
}

impl Named {
    pub(super) fn groups(&self) -> &[GroupId] {
        &self.groups
    }

    pub(super) fn set(&mut self, groups: impl Iterator<Item = GroupId>) {
        self.groups.clear();
        self.groups.extend(groups);
        self.sorted.clone_from(&self.groups);
        self.sorted.sort_unstable();
        self.at = 0;
    }

    /// Whether the directory names `group`. A batch's records stand nearly in the directory's order, so mostly the
    /// group is the one that was found last, or the next one.
    pub(super) fn has(&mut self, group: GroupId) -> bool {
        let near = [self.at, self.at + 1];
        if let Some(at) = near.into_iter().find(|at| self.groups.get(*at) == Some(&group)) {
            self.at = at;
            return true;
        }
        self.sorted.binary_search(&group).is_ok()
    }
}

/// True if `bytes` begin with the header of a batch of the same place in an earlier segment: the file was that segment
/// once.
fn is_of_earlier_life(bytes: &[u8], here: Position) -> bool {
    claimed_position(bytes).is_some_and(|claimed| {
        claimed.offset() == here.offset()
            && (SegmentSeq(1)..here.segment()).contains(&claimed.segment())
    })
}

/// The position that a batch header states, whether its checksum holds or not.
fn claimed_position(bytes: &[u8]) -> Option<Position> {
    if bytes.len() < BATCH_HEADER_BYTES || u32_at(bytes, 0) != BATCH_MAGIC {
        return None;
    }
    let (segment, offset) = (u32_at(bytes, 20), u32_at(bytes, 16));
    Some(Position::new(SegmentSeq(segment), offset))
}
