//! The content of a batch on a simulated platter, for an observer from outside (feature `sim`).
//!
//! In:     a segment's header block and one batch of it, as they are on the platter.
//! Out:    a [`LandedBatch`]: what it makes true of each group once all before it is there too.
//! Cost:   a decode of the batch.
//! Fails:  a batch that does not hold is `None`.
//! Source: RULES.md T2 (the ghost's durable state).

use crate::checksum::Seed;
use crate::format::{
    BATCH_HEADER_BYTES, BLOCK_BYTES, BatchHeader, ENTRY_HEADER_BYTES, Position, Record, Records,
    SegmentHeader, SegmentSeq, decode_entry_header,
};
use logdrive_raft::{GroupId, HardState, LogIndex, Term};

/// One batch.
#[derive(Clone, Debug)]
pub struct LandedBatch {
    /// Its number in the stream.
    pub number: u64,
    /// Where it stands.
    pub position: Position,
    /// The position before which all was durable when it was built.
    pub durable: Position,
    /// Of a segment's first batch: where the stream ended before. Bytes between there and here count no more.
    pub start: Option<Position>,
    /// The groups its directory names.
    pub groups: Vec<GroupId>,
    /// Where in it the directory stands, behind the records: from its beginning.
    pub directory_at: usize,
    /// The batch's records, in order.
    pub records: Vec<LandedRecord>,
}

/// One record of a group. The log's own are left out.
#[derive(Clone, Debug)]
pub enum LandedRecord {
    /// A term and a vote.
    HardState {
        /// Whose.
        group: GroupId,
        /// The hard state.
        state: HardState,
    },
    /// Entries that replace what the group's log has from `first` on.
    Entries {
        /// Whose.
        group: GroupId,
        /// The first entry.
        first: LogIndex,
        /// The term of all.
        term: Term,
        /// Their checksums.
        checksums: Vec<u32>,
    },
}

/// Reads the batch in `bytes`, which stands at `offset` of `segment`, whose first block is `header`.
#[must_use]
pub fn landed(
    segment: SegmentSeq,
    header: &[u8],
    offset: u64,
    bytes: &[u8],
) -> Option<LandedBatch> {
    let block: &[u8; BLOCK_BYTES] = header.get(..BLOCK_BYTES)?.try_into().ok()?;
    let header = SegmentHeader::decode(block).ok()?;
    let seed = Seed::of(header.id);
    let position = Position::new(segment, u32::try_from(offset).ok()?);
    let (batch, _) = BatchHeader::decode(bytes, seed, position, header.bytes).ok()?;
    let body = bytes.get(BATCH_HEADER_BYTES..BATCH_HEADER_BYTES + batch.body_bytes as usize)?;
    let groups = batch.directory(body, seed).ok()?.collect();
    let body = &body[..batch.records_bytes()];
    let (mut start, mut records) = (None, Vec::new());
    for (at, record) in Records::new(body, seed) {
        match record.ok()? {
            Record::Start(found) => start = Some(found.end),
            Record::HardState { group, state } => {
                records.push(LandedRecord::HardState { group, state });
            }
            Record::Entries(head) => {
                let headers = head.verify(&body[at..], seed).ok()?;
                let checksum = |header: &[u8]| decode_entry_header(header).map(|e| e.checksum);
                let checksums = headers.chunks_exact(ENTRY_HEADER_BYTES).map(checksum);
                records.push(LandedRecord::Entries {
                    group: head.group,
                    first: head.first,
                    term: head.term,
                    checksums: checksums.collect::<Result<_, _>>().ok()?,
                });
            }
            _ => {}
        }
    }
    let directory_at = BATCH_HEADER_BYTES + body.len();
    let (number, durable) = (batch.seq, batch.durable);
    Some(LandedBatch { number, position, durable, start, groups, directory_at, records })
}
