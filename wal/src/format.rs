//! Every byte on disk: segment headers, batch headers, records. FORMAT.md draws what this file encodes.
//!
//! In:     numbers and byte slices; a [`Seed`] for what belongs to one segment.
//! Out:    encoded bytes, or decoded values that have passed their checksums and bounds.
//! Cost:   16 bytes of header per entry record plus 8 per entry; no allocation.
//! Fails:  decoding anything but what was encoded gives a [`Bad`] that says what is wrong.
//! Source: RULES.md rules 1-6 (format), 11 (order inside a batch), 30 (unknown records).

mod record;

use crate::checksum::Seed;
use crate::snapshot::{Installing, Snapshot, SnapshotContent, SnapshotMark};
use logdrive_raft::{EntryKind, GroupId, HardState, LogId, LogIndex, NodeId, Term};
use std::fmt;

use record::record_header;
pub(crate) use record::*;

/// Number of a segment: its place in the stream, and its file's name.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SegmentSeq(pub u32);

impl fmt::Debug for SegmentSeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}", self.0)
    }
}

/// A place in the stream: segment and byte. Later places compare greater, across segments too.
#[derive(Clone, Copy, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Position(u64);

impl Position {
    /// Before everything.
    pub const ZERO: Self = Self(0);

    /// Byte `offset` of segment `segment`.
    #[must_use]
    pub fn new(segment: SegmentSeq, offset: u32) -> Self {
        Self(u64::from(segment.0) << 32 | u64::from(offset))
    }

    /// The segment.
    #[must_use]
    #[allow(clippy::cast_possible_truncation)] // The upper half of 64 bits is 32 bits.
    pub fn segment(self) -> SegmentSeq {
        SegmentSeq((self.0 >> 32) as u32)
    }

    /// The byte in it.
    #[must_use]
    #[allow(clippy::cast_possible_truncation)] // The lower half is meant.
    pub fn offset(self) -> u32 {
        self.0 as u32
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}+{}", self.segment(), self.offset())
    }
}

/// The reason why some bytes are refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Bad(pub(crate) &'static str);

/// A record that may not be skipped, of a kind of some later version.
pub(crate) const UNKNOWN_KIND: Bad = Bad("a kind of record this version does not know");
/// An entry of a kind of some later version.
pub(crate) const UNKNOWN_ENTRY: Bad = Bad("a kind of entry this version does not know");

/// The first block of a segment file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct SegmentHeader {
    pub(crate) version: u32,
    pub(crate) shard: u32,
    pub(crate) seq: SegmentSeq,
    /// Random, drawn anew each time a file becomes a segment.
    pub(crate) id: u128,
    pub(crate) store: u128,
    pub(crate) node: NodeId,
    pub(crate) incarnation: u64,
    pub(crate) bytes: u64,
    pub(crate) cluster: String,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Box<[u8; BLOCK_BYTES]> {
        assert!(self.cluster.len() <= CLUSTER_BYTES_MAX, "cluster name of {}", self.cluster.len());
        let mut block = Box::new([0u8; BLOCK_BYTES]);
        let mut at = Cursor(block.as_mut_slice());
        at.put(&SEGMENT_MAGIC);
        at.put_u32(self.version);
        at.put_u32(self.shard);
        at.put_u64(u64::from(self.seq.0));
        at.put(&self.id.to_le_bytes());
        at.put(&self.store.to_le_bytes());
        at.put_u64(self.node.get());
        at.put_u64(self.incarnation);
        at.put_u64(self.bytes);
        at.put_u64(self.cluster.len() as u64);
        at.put(self.cluster.as_bytes());
        let crc = crate::checksum::checksum(&block[..SEGMENT_CRC_AT]);
        block[SEGMENT_CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        block
    }

    /// Decodes a header block whose checksum holds. Its version may be one this code does not know:
    /// the caller asks.
    pub(crate) fn decode(block: &[u8; BLOCK_BYTES]) -> Result<Self, Bad> {
        if block[..SEGMENT_MAGIC.len()] != SEGMENT_MAGIC {
            return Err(Bad("not a segment header"));
        }
        if u32_at(block, SEGMENT_CRC_AT) != crate::checksum::checksum(&block[..SEGMENT_CRC_AT]) {
            return Err(Bad("segment header fails its checksum"));
        }
        let seq = u32::try_from(u64_at(block, 16)).map_err(|_| Bad("segment number overflows"))?;
        let cluster_len = usize::try_from(u64_at(block, 80))
            .ok()
            .filter(|len| *len <= CLUSTER_BYTES_MAX)
            .ok_or(Bad("cluster name is too long"))?;
        let cluster = std::str::from_utf8(&block[88..88 + cluster_len])
            .map_err(|_| Bad("cluster name is not UTF-8"))?;
        Ok(Self {
            version: u32_at(block, 8),
            shard: u32_at(block, 12),
            seq: SegmentSeq(seq),
            id: u128_at(block, 24),
            store: u128_at(block, 40),
            node: NodeId(u64_at(block, 56)),
            incarnation: u64_at(block, 64),
            bytes: u64_at(block, 72),
            cluster: cluster.to_owned(),
        })
    }
}

/// The stream's small file that says which segments there must be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Manifest {
    pub(crate) version: u32,
    pub(crate) shard: u32,
    pub(crate) store: u128,
    pub(crate) node: NodeId,
    /// The oldest segment that is still needed.
    pub(crate) first: SegmentSeq,
    /// The newest segment ever made. Those in between exist, or a later segment's start record has
    /// made them void. Zero: none yet.
    pub(crate) made: SegmentSeq,
}

impl Manifest {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![0u8; MANIFEST_BYTES];
        let mut at = Cursor(&mut out);
        at.put(&MANIFEST_MAGIC);
        at.put_u32(self.version);
        at.put_u32(self.shard);
        at.put(&self.store.to_le_bytes());
        at.put_u64(self.node.get());
        at.put_u32(self.first.0);
        at.put_u32(self.made.0);
        let crc = crate::checksum::checksum(&out[..MANIFEST_CRC_AT]);
        out[MANIFEST_CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Bad> {
        if bytes.len() != MANIFEST_BYTES || bytes[..8] != MANIFEST_MAGIC {
            return Err(Bad("not a manifest"));
        }
        if u32_at(bytes, MANIFEST_CRC_AT) != crate::checksum::checksum(&bytes[..MANIFEST_CRC_AT]) {
            return Err(Bad("manifest fails its checksum"));
        }
        Ok(Self {
            version: u32_at(bytes, 8),
            shard: u32_at(bytes, 12),
            store: u128_at(bytes, 16),
            node: NodeId(u64_at(bytes, 32)),
            first: SegmentSeq(u32_at(bytes, 40)),
            made: SegmentSeq(u32_at(bytes, 44)),
        })
    }
}

/// The header that stands before a batch's records.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct BatchHeader {
    /// Counts batches over the stream's whole life; the first is 1.
    pub(crate) seq: u64,
    /// Where this batch stands. Part of the checksum: a batch at the wrong place is no batch.
    pub(crate) position: Position,
    /// Everything below was known to be on disk when this batch was closed.
    pub(crate) durable: Position,
    pub(crate) body_bytes: u32,
    pub(crate) body_crc: u32,
    pub(crate) records: u32,
    /// `header_crc` of the batch before, in this segment or the one before; zero for the first.
    pub(crate) prev_crc: u32,
    /// How many groups the directory at the body's end names.
    pub(crate) groups: u32,
    pub(crate) directory_crc: u32,
}

impl BatchHeader {
    /// Encodes; returns the header with its own checksum, which names the whole batch.
    pub(crate) fn encode(&self, seed: Seed) -> ([u8; BATCH_HEADER_BYTES], u32) {
        let mut out = [0u8; BATCH_HEADER_BYTES];
        let mut at = Cursor(&mut out);
        at.put_u32(BATCH_MAGIC);
        at.put_u32(0);
        at.put_u64(self.seq);
        at.put_u64(self.position.0);
        at.put_u64(self.durable.0);
        at.put_u32(self.body_bytes);
        at.put_u32(self.body_crc);
        at.put_u32(self.records);
        at.put_u32(self.prev_crc);
        at.put_u32(self.groups);
        at.put_u32(self.directory_crc);
        let crc = seed.checksum(&out[BATCH_CRC_AT + 4..]);
        out[BATCH_CRC_AT..BATCH_CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        (out, crc)
    }

    /// Decodes the header that should stand at `position` in a segment of `segment_bytes`. Returns it with
    /// its checksum. The body is not looked at.
    pub(crate) fn decode(
        bytes: &[u8],
        seed: Seed,
        position: Position,
        segment_bytes: u64,
    ) -> Result<(Self, u32), Bad> {
        if bytes.len() < BATCH_HEADER_BYTES || u32_at(bytes, 0) != BATCH_MAGIC {
            return Err(Bad("no batch header"));
        }
        let crc = u32_at(bytes, BATCH_CRC_AT);
        if crc != seed.checksum(&bytes[BATCH_CRC_AT + 4..BATCH_HEADER_BYTES]) {
            return Err(Bad("batch header fails its checksum"));
        }
        let header = Self {
            seq: u64_at(bytes, 8),
            position: Position(u64_at(bytes, 16)),
            durable: Position(u64_at(bytes, 24)),
            body_bytes: u32_at(bytes, 32),
            body_crc: u32_at(bytes, 36),
            records: u32_at(bytes, 40),
            prev_crc: u32_at(bytes, 44),
            groups: u32_at(bytes, 48),
            directory_crc: u32_at(bytes, 52),
        };
        if header.seq > BATCH_SEQ_MAX {
            return Err(Bad("batch number that no log comes to"));
        }
        if header.position != position {
            return Err(Bad("batch belongs to another place"));
        }
        if header.durable > position {
            return Err(Bad("batch claims bytes behind itself durable"));
        }
        let end =
            u64::from(position.offset()) + BATCH_HEADER_BYTES as u64 + u64::from(header.body_bytes);
        if end > segment_bytes {
            return Err(Bad("batch runs past its segment"));
        }
        if u64::from(header.groups) * DIRECTORY_ENTRY_BYTES as u64 > u64::from(header.body_bytes) {
            return Err(Bad("batch names more groups than its body holds"));
        }
        Ok((header, crc))
    }

    /// Bytes of the records: the body without the directory.
    pub(crate) fn records_bytes(&self) -> usize {
        self.body_bytes as usize - self.groups as usize * DIRECTORY_ENTRY_BYTES
    }

    /// The groups that have something in this batch, from its body, whose records may be damaged.
    pub(crate) fn directory<'a>(
        &self,
        body: &'a [u8],
        seed: Seed,
    ) -> Result<impl ExactSizeIterator<Item = GroupId> + 'a, Bad> {
        let directory = body
            .get(self.records_bytes()..self.body_bytes as usize)
            .ok_or(Bad("batch directory is cut off"))?;
        if seed.checksum(directory) != self.directory_crc {
            return Err(Bad("batch directory fails its checksum"));
        }
        let ids = directory.as_chunks::<DIRECTORY_ENTRY_BYTES>().0;
        Ok(ids.iter().map(|id| GroupId(u64::from_le_bytes(*id))))
    }

    /// Bytes on disk, padding included.
    pub(crate) fn padded_bytes(&self) -> usize {
        (BATCH_HEADER_BYTES + self.body_bytes as usize).next_multiple_of(BLOCK_BYTES)
    }
}

/// The first record of a segment's first batch: what came before, and up to where it counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Start {
    /// Where the segment before ended: nothing at or behind this place counts. `ZERO`: there was none.
    pub(crate) end: Position,
    /// The segment before.
    pub(crate) id: u128,
    /// The last batch's header checksum there, or the one carried over from still earlier.
    pub(crate) prev_crc: u32,
    /// True if recovery ended it (a torn tail may lie behind `end`), false if it was full.
    pub(crate) cut: bool,
}

impl Start {
    pub(crate) fn encode(&self, seed: Seed) -> [u8; START_RECORD_BYTES] {
        let mut out = [0u8; START_RECORD_BYTES];
        let (head, body) = out.split_at_mut(RECORD_HEADER_BYTES);
        head.copy_from_slice(&record_header(RecordKind::Start, START_RECORD_BYTES, GroupId(0)));
        let mut at = Cursor(body);
        at.put_u64(self.end.0);
        at.put(&self.id.to_le_bytes());
        at.put_u32(self.prev_crc);
        at.put_u32(u32::from(self.cut));
        let crc = seed.checksum(&out[..START_CRC_AT]);
        out[START_CRC_AT..START_CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Decodes a start record from its own bytes alone: it must be readable though the rest of its batch
    /// is torn.
    pub(crate) fn decode(bytes: &[u8], seed: Seed) -> Result<Self, Bad> {
        let bytes = bytes.get(..START_RECORD_BYTES).ok_or(Bad("start record is short"))?;
        let head = record_header(RecordKind::Start, START_RECORD_BYTES, GroupId(0));
        if bytes[..RECORD_HEADER_BYTES] != head {
            return Err(Bad("not a start record"));
        }
        if u32_at(bytes, START_CRC_AT) != seed.checksum(&bytes[..START_CRC_AT]) {
            return Err(Bad("start record fails its checksum"));
        }
        Ok(Self {
            end: Position(u64_at(bytes, 16)),
            id: u128_at(bytes, 24),
            prev_crc: u32_at(bytes, 40),
            cut: u32_at(bytes, 44) == 1,
        })
    }

    /// Whether the segment before, of `bytes` bytes, can have ended there.
    pub(crate) fn can_end(&self, bytes: u64) -> bool {
        let end = self.end.offset();
        (u64::from(FIRST_BATCH_AT)..=bytes).contains(&u64::from(end))
            && end.is_multiple_of(FIRST_BATCH_AT)
    }
}

/// Writes fields one behind the other.
struct Cursor<'a>(&'a mut [u8]);

impl Cursor<'_> {
    fn put(&mut self, bytes: &[u8]) {
        let (here, rest) = std::mem::take(&mut self.0).split_at_mut(bytes.len());
        here.copy_from_slice(bytes);
        self.0 = rest;
    }

    fn put_u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

pub(crate) fn u128_at(bytes: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(bytes[at..at + 16].try_into().expect("sixteen bytes"))
}

/// The unit of writing: batches start on it, and no two share one.
pub const BLOCK_BYTES: usize = 4096;
/// The version of everything in this file.
pub(crate) const FORMAT_VERSION: u32 = 2;

pub(crate) const SEGMENT_MAGIC: [u8; 8] = *b"LDRVSEG1";
pub(crate) const SEGMENT_CRC_AT: usize = BLOCK_BYTES - 4;
/// Longest cluster name.
pub(crate) const CLUSTER_BYTES_MAX: usize = 128;
/// Where a segment's first batch stands: behind its header.
#[allow(clippy::cast_possible_truncation)] // 4096.
pub(crate) const FIRST_BATCH_AT: u32 = BLOCK_BYTES as u32;

pub(crate) const MANIFEST_MAGIC: [u8; 8] = *b"LDRVMAN1";
const MANIFEST_CRC_AT: usize = 8 + 4 + 4 + 16 + 8 + 4 + 4;
const MANIFEST_BYTES: usize = MANIFEST_CRC_AT + 4;

/// "LDB1" as little-endian bytes; the first is not zero, so that zeros are never a batch.
pub(crate) const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"LDB1");
const BATCH_CRC_AT: usize = 4;
/// A log that writes a billion batches a second comes to it after a century: there is always a next number.
const BATCH_SEQ_MAX: u64 = 1 << 62;
pub(crate) const BATCH_HEADER_BYTES: usize = 4 + 4 + 3 * 8 + 6 * 4;
/// A group's id in a batch's directory.
pub(crate) const DIRECTORY_ENTRY_BYTES: usize = 8;

pub(crate) const RECORD_ALIGN_BYTES: usize = 8;
pub(crate) const RECORD_HEADER_BYTES: usize = 1 + 1 + 2 + 4 + 8;
pub(crate) const FLAG_OPTIONAL: u8 = 1;
/// Of a hard state.
const FLAG_MARKED: u8 = 2;
const START_CRC_AT: usize = RECORD_HEADER_BYTES + 8 + 16 + 4 + 4;
pub(crate) const START_RECORD_BYTES: usize = START_CRC_AT + 8;
pub(crate) const HARD_STATE_RECORD_BYTES: usize = RECORD_HEADER_BYTES + 3 * 8;
pub(crate) const RELEASE_RECORD_BYTES: usize = RECORD_HEADER_BYTES + 3 * 8;
pub(crate) const TOMBSTONE_RECORD_BYTES: usize = RECORD_HEADER_BYTES + 8;
pub(crate) const FENCE_RECORD_BYTES: usize = RECORD_HEADER_BYTES + 8;
pub(crate) const FOOTER_RECORD_BYTES: usize = RECORD_HEADER_BYTES;
const SNAPSHOT_CRC_AT: usize = RECORD_HEADER_BYTES + 8 + 8 + 16 + 8 + 4 + 4;
pub(crate) const SNAPSHOT_HEAD_BYTES: usize = SNAPSHOT_CRC_AT + 8;
pub(crate) const INSTALLING_RECORD_BYTES: usize = RECORD_HEADER_BYTES + 8 + 8 + 16;
const ENTRIES_CRC_AT: usize = RECORD_HEADER_BYTES + 8 + 8 + 4;
pub(crate) const ENTRIES_HEAD_BYTES: usize = ENTRIES_CRC_AT + 4;
pub(crate) const ENTRY_HEADER_BYTES: usize = 4 + 4;
/// The low bits of an entry header's first word are its payload's length; the top byte is its kind.
pub(crate) const ENTRY_LEN_MASK: u32 = (1 << 24) - 1;

/// Smallest segment: room for a header, a first batch and a few more.
pub const SEGMENT_BYTES_MIN: u64 = 64 << 10;
/// Largest segment: offsets are 32 bits, and an image of it stays in memory.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// Largest segment file. One that an open writes again may have a block more than it had. With records of R bytes, of g
/// groups, in batches that name d groups together (g is d at most), it had 4,096 + 56 * batches + 56 + R + 8 * d bytes at
/// least, and then has 8,192 + R + 8 * g: less than a block more, and both are whole blocks. It does not grow again.
const SEGMENT_FILE_BYTES_MAX: u64 = SEGMENT_BYTES_MAX + BLOCK_BYTES as u64;

/// Whether a segment's file may have so many bytes.
pub(crate) fn is_segment_file_bytes(bytes: u64) -> bool {
    (SEGMENT_BYTES_MIN..=SEGMENT_FILE_BYTES_MAX).contains(&bytes)
        && bytes.is_multiple_of(BLOCK_BYTES as u64)
}

// A start record must be readable from the first block of its batch alone.
const _: () = assert!(BATCH_HEADER_BYTES + START_RECORD_BYTES <= BLOCK_BYTES);
// Records follow one another aligned, from the first on.
const _: () = assert!(BATCH_HEADER_BYTES.is_multiple_of(RECORD_ALIGN_BYTES));
const _: () = assert!(START_RECORD_BYTES.is_multiple_of(RECORD_ALIGN_BYTES));
const _: () = assert!(HARD_STATE_RECORD_BYTES.is_multiple_of(RECORD_ALIGN_BYTES));
const _: () = assert!(RELEASE_RECORD_BYTES.is_multiple_of(RECORD_ALIGN_BYTES));
const _: () = assert!(TOMBSTONE_RECORD_BYTES.is_multiple_of(RECORD_ALIGN_BYTES));
const _: () = assert!(FENCE_RECORD_BYTES.is_multiple_of(RECORD_ALIGN_BYTES));
const _: () = assert!(FOOTER_RECORD_BYTES.is_multiple_of(RECORD_ALIGN_BYTES));
const _: () = assert!(SNAPSHOT_HEAD_BYTES.is_multiple_of(RECORD_ALIGN_BYTES));
const _: () = assert!(INSTALLING_RECORD_BYTES.is_multiple_of(RECORD_ALIGN_BYTES));
const _: () = assert!(DIRECTORY_ENTRY_BYTES.is_multiple_of(RECORD_ALIGN_BYTES));
const _: () = assert!(ENTRIES_HEAD_BYTES.is_multiple_of(RECORD_ALIGN_BYTES));
const _: () = assert!(88 + CLUSTER_BYTES_MAX <= SEGMENT_CRC_AT);
const _: () = assert!(
    SEGMENT_FILE_BYTES_MAX <= u32::MAX as u64 && SEGMENT_BYTES_MIN >= 4 * BLOCK_BYTES as u64
);
// Zeros are never a batch (rule 5).
const _: () = assert!(BATCH_MAGIC.to_le_bytes()[0] != 0);

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use logdrive_raft::Entry;

    fn entries(term: u64, first: u64, payloads: &[&[u8]]) -> Vec<Entry> {
        payloads
            .iter()
            .zip(first..)
            .map(|(payload, index)| Entry {
                term: Term(term),
                index: LogIndex(index),
                kind: if payload.is_empty() { EntryKind::Noop } else { EntryKind::Command },
                checksum: crate::checksum::checksum(payload),
                payload: Bytes::copy_from_slice(payload),
            })
            .collect()
    }

    #[test]
    fn a_segment_header_comes_back() {
        let header = SegmentHeader {
            version: FORMAT_VERSION,
            shard: 3,
            seq: SegmentSeq(9),
            id: 1 << 100,
            store: 77,
            node: NodeId(5),
            incarnation: 12,
            bytes: 64 << 20,
            cluster: "prod".into(),
        };
        let mut block = header.encode();
        assert_eq!(SegmentHeader::decode(&block), Ok(header));
        for at in 0..BLOCK_BYTES {
            block[at] ^= 0x10;
            assert!(SegmentHeader::decode(&block).is_err(), "flip of byte {at} went unseen");
            block[at] ^= 0x10;
        }
    }

    #[test]
    fn records_come_back_in_order() {
        let seed = Seed::of(42);
        let mut body = vec![0xaau8; 4096];
        let start =
            Start { end: Position::new(SegmentSeq(2), 8192), id: 8, prev_crc: 5, cut: true };
        let mut at = START_RECORD_BYTES;
        body[..at].copy_from_slice(&start.encode(seed));
        at += encode_membership(&mut body[at..], GroupId(1), b"abc");
        let (voted_for, commit) = (Some(NodeId(2)), LogIndex(6));
        let state = HardState { term: Term(4), voted_for, commit, marked: false };
        at += encode_hard_state(&mut body[at..], GroupId(1), &state);
        let run = entries(4, 7, &[b"", b"hello", b"worlds"]);
        let entries_at = at;
        at += encode_entries(&mut body[at..], seed, RecordKind::Entries, GroupId(1), &run);
        let carried_at = at;
        at += encode_entries(&mut body[at..], seed, RecordKind::Carried, GroupId(2), &run);
        let release = Release { index: LogIndex(7), term: Term(4), last: LogIndex(9) };
        at += encode_release(&mut body[at..], GroupId(1), &release);
        at += encode_tombstone(&mut body[at..], GroupId(3), LogIndex(12));
        let position = Position::new(SegmentSeq(7), 4096);
        at += encode_fence(&mut body[at..], GroupId(4), position);
        let marked = HardState { marked: true, ..state };
        at += encode_hard_state(&mut body[at..], GroupId(1), &marked);
        let id = LogId { term: Term(4), index: LogIndex(9) };
        let snapshots =
            [SnapshotContent::InLog(b"state"), SnapshotContent::InFiles { bytes: 1 << 40 }];
        let snapshots = snapshots.map(|content| Snapshot { at: id, digest: 1 << 99 | 7, content });
        let snapshot_at = at;
        for snapshot in &snapshots {
            at += encode_snapshot(&mut body[at..], seed, GroupId(5), snapshot).padded_bytes();
        }
        let installing = Installing { at: id, digest: 1 << 100 };
        at += encode_installing(&mut body[at..], GroupId(6), &installing);
        at += encode_footer(&mut body[at..]);
        let found: Vec<_> =
            Records::new(&body[..at], seed).map(|(at, record)| (at, record.unwrap())).collect();
        assert_eq!(found.len(), 13);
        let (offset, Record::Carried(head)) = found[4] else { panic!("{:?}", found[4]) };
        assert_eq!((offset, head.group, head.count), (carried_at, GroupId(2), 3));
        assert_eq!(found[5].1, Record::Release { group: GroupId(1), release });
        assert_eq!(found[6].1, Record::Tombstone { group: GroupId(3), since: LogIndex(12) });
        assert_eq!(found[7].1, Record::Fence { group: GroupId(4), position });
        assert_eq!(found[8].1, Record::HardState { group: GroupId(1), state: marked });
        for (n, snapshot) in (9..).zip(&snapshots) {
            let Record::Snapshot(head) = found[n].1 else { panic!("{:?}", found[n]) };
            let is_in_log = n == 9;
            let bytes = if is_in_log { 5 } else { 1 << 40 };
            let mark = SnapshotMark { at: id, digest: snapshot.digest, bytes, is_in_log };
            assert_eq!((head.group, head.mark), (GroupId(5), mark));
        }
        assert_eq!(found[9].0, snapshot_at);
        assert_eq!(&body[snapshot_at + SNAPSHOT_HEAD_BYTES..][..5], b"state");
        assert_eq!(found[11].1, Record::Installing { group: GroupId(6), installing });
        assert_eq!(found[12].1, Record::Footer);
        assert_eq!(found[0], (0, Record::Start(start)));
        assert_eq!(found[1].1, Record::Membership { group: GroupId(1), bytes: b"abc" });
        assert_eq!(found[2].1, Record::HardState { group: GroupId(1), state });
        let (offset, Record::Entries(head)) = found[3] else { panic!("{:?}", found[3]) };
        assert_eq!(offset, entries_at);
        assert_eq!((head.first, head.term, head.count), (LogIndex(7), Term(4), 3));
        let headers = head.verify(&body[entries_at..at], seed).unwrap();
        let heads = headers.chunks_exact(ENTRY_HEADER_BYTES).map(decode_entry_header);
        let lens: Vec<_> = heads.map(|head| head.unwrap().bytes).collect();
        assert_eq!(lens, [0, 5, 6]);
        assert_eq!(&body[entries_at + head.headers_bytes()..][..11], b"helloworlds");
    }

    /// RULES.md P8.
    #[test]
    fn an_unknown_record_is_skipped_only_if_it_says_so() {
        let seed = Seed::of(1);
        let mut body = vec![0u8; 24];
        body[0] = 200;
        body[4] = 20;
        assert_eq!(Records::new(&body, seed).next(), Some((0, Err(UNKNOWN_KIND))));
        body[1] = FLAG_OPTIONAL;
        assert_eq!(Records::new(&body, seed).next(), Some((0, Ok(Record::Optional))));
    }

    /// RULES.md P8.
    #[test]
    fn only_a_hard_state_is_marked() {
        let seed = Seed::of(1);
        let mut body = [0u8; TOMBSTONE_RECORD_BYTES];
        encode_tombstone(&mut body, GroupId(3), LogIndex::ZERO);
        body[1] = FLAG_MARKED;
        let (_, refused) = Records::new(&body, seed).next().unwrap();
        assert_eq!(refused, Err(Bad("a record has flags this version does not know")));
    }

    /// RULES.md C10.
    #[test]
    fn a_batch_at_another_place_or_in_another_segment_is_no_batch() {
        let position = Position::new(SegmentSeq(1), 8192);
        let header = BatchHeader {
            seq: 1,
            position,
            durable: Position::ZERO,
            body_bytes: 8,
            body_crc: 1,
            records: 1,
            prev_crc: 0,
            groups: 1,
            directory_crc: Seed::of(1).checksum(&9u64.to_le_bytes()),
        };
        let (bytes, crc) = header.encode(Seed::of(1));
        assert_eq!(BatchHeader::decode(&bytes, Seed::of(1), position, 1 << 20), Ok((header, crc)));
        let elsewhere = Position::new(SegmentSeq(1), 4096);
        assert!(BatchHeader::decode(&bytes, Seed::of(1), elsewhere, 1 << 20).is_err());
        assert!(BatchHeader::decode(&bytes, Seed::of(2), position, 1 << 20).is_err());
        assert!(BatchHeader::decode(&bytes, Seed::of(1), position, 8192 + 40).is_err());
        let many = BatchHeader { groups: 2, ..header };
        assert!(
            BatchHeader::decode(&many.encode(Seed::of(1)).0, Seed::of(1), position, 1 << 20)
                .is_err()
        );
        let groups: Vec<_> = header.directory(&9u64.to_le_bytes(), Seed::of(1)).unwrap().collect();
        assert_eq!(groups, [GroupId(9)]);
        assert!(header.directory(&8u64.to_le_bytes(), Seed::of(1)).is_err());
        assert!(header.directory(&[0; 7], Seed::of(1)).is_err());
    }

    proptest::proptest! {
        /// RULES.md I5.
        #[test]
        fn decoding_any_bytes_never_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let seed = Seed::of(3);
            let _ = Records::new(&bytes, seed).count();
            let _ = BatchHeader::decode(&bytes, seed, Position::new(SegmentSeq(1), 4096), 1 << 16);
            if let Ok(head) = EntriesHead::decode(&bytes) {
                let _ = head.verify(&bytes, seed);
            }
        }
    }
}
