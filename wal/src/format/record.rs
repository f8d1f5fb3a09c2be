//! The records in a batch's body: what each kind holds.
//!
//! In:     values, or the bytes of a body whose checksum holds.
//! Out:    encoded records, padded; decoded ones that have passed their checksums and bounds.
//! Cost:   16 bytes of header per record, 24 more per run of entries and 8 per entry; no allocation.
//! Fails:  decoding anything but what was encoded gives a [`Bad`] that says what is wrong.
//! Source: RULES.md rules 3, 4, 11, 28, 30 (unknown records).

use super::*;

/// The kind of a record's content.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum RecordKind {
    Start = 1,
    Membership = 2,
    HardState = 3,
    Entries = 4,
    Release = 5,
    Carried = 6,
    Tombstone = 7,
    Fence = 8,
    Footer = 9,
    // 10 is the filler's, which every reader skips.
    Snapshot = 11,
    Installing = 12,
}

impl RecordKind {
    /// The highest kind that this version knows.
    pub(crate) const LAST: Self = Self::Installing;
}

/// One decoded record.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Record<'a> {
    Start(Start),
    Membership {
        group: GroupId,
        bytes: &'a [u8],
    },
    HardState {
        group: GroupId,
        state: HardState,
    },
    /// A run of one group's entries of one term. They replace what stood there and behind.
    Entries(EntriesHead),
    /// A copy of such entries, made before the segment they stood in is given up. Replaces nothing behind them.
    Carried(EntriesHead),
    /// The group's log begins behind an index, and ends where it says.
    Release {
        group: GroupId,
        release: Release,
    },
    /// The group is gone for good: the replica that was added at `since`, and every earlier one.
    Tombstone {
        group: GroupId,
        since: LogIndex,
    },
    /// The group lost something at a place in the stream, and must not act.
    Fence {
        group: GroupId,
        position: Position,
    },
    /// The group's machine as it was at an entry, or where that is.
    Snapshot(SnapshotHead),
    /// The group's machine is being replaced by such a snapshot.
    Installing {
        group: GroupId,
        installing: Installing,
    },
    /// The log was closed: nothing follows.
    Footer,
    /// A kind this version does not know and may skip.
    Optional,
}

impl Record<'_> {
    /// The group that the record belongs to; `None` for a record of the stream itself.
    pub(crate) fn group(&self) -> Option<GroupId> {
        match self {
            Self::Membership { group, .. }
            | Self::HardState { group, .. }
            | Self::Release { group, .. }
            | Self::Tombstone { group, .. }
            | Self::Fence { group, .. } => Some(*group),
            Self::Entries(head) | Self::Carried(head) => Some(head.group),
            Self::Snapshot(head) => Some(head.group),
            Self::Installing { group, .. } => Some(*group),
            Self::Start(_) | Self::Footer | Self::Optional => None,
        }
    }
}

/// Up to where a group's log is no longer needed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Release {
    /// Entries up to this one are dead.
    pub(crate) index: LogIndex,
    /// The term of that entry.
    pub(crate) term: Term,
    /// The group's last entry from then on; at least `index`. Entries that stood behind are dead too.
    pub(crate) last: LogIndex,
}

/// The fixed part of a record of entries, as they were appended or carried.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct EntriesHead {
    pub(crate) group: GroupId,
    pub(crate) first: LogIndex,
    pub(crate) term: Term,
    pub(crate) count: u32,
    /// The whole record without padding.
    pub(crate) record_bytes: u32,
    head_crc: u32,
}

/// One entry's header inside its record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct EntryHead {
    pub(crate) kind: EntryKind,
    pub(crate) bytes: usize,
    pub(crate) checksum: u32,
}

impl EntriesHead {
    /// Decodes and bounds the fixed part, unverified: the checksum also covers the entry headers.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Bad> {
        if bytes.len() < ENTRIES_HEAD_BYTES {
            return Err(Bad("entries record is short"));
        }
        let kinds = [RecordKind::Entries as u8, RecordKind::Carried as u8];
        if !kinds.contains(&bytes[0]) || bytes[1..4] != [0; 3] {
            return Err(Bad("not an entries record"));
        }
        let head = Self {
            record_bytes: u32_at(bytes, 4),
            group: GroupId(u64_at(bytes, 8)),
            first: LogIndex(u64_at(bytes, 16)),
            term: Term(u64_at(bytes, 24)),
            count: u32_at(bytes, 32),
            head_crc: u32_at(bytes, 36),
        };
        let least = ENTRIES_HEAD_BYTES as u64 + u64::from(head.count) * ENTRY_HEADER_BYTES as u64;
        if head.count == 0 || u64::from(head.record_bytes) < least {
            return Err(Bad("entries record has no room for its entries"));
        }
        if head.first == LogIndex::ZERO
            || head.first.get().checked_add(u64::from(head.count)).is_none()
            || head.term == Term::ZERO
        {
            return Err(Bad("entries record with an index or a term out of range"));
        }
        Ok(head)
    }

    /// The fixed part and the entry headers, in bytes.
    pub(crate) fn headers_bytes(&self) -> usize {
        ENTRIES_HEAD_BYTES + self.count as usize * ENTRY_HEADER_BYTES
    }

    /// Gives the record that begins `bytes` the checksum that it has in another segment.
    pub(crate) fn reseed(&self, bytes: &mut [u8], seed: Seed) {
        let headers = &bytes[ENTRIES_HEAD_BYTES..self.headers_bytes()];
        let crc = seed.checksum_parts(&[&bytes[..ENTRIES_CRC_AT], headers]);
        bytes[ENTRIES_CRC_AT..ENTRIES_HEAD_BYTES].copy_from_slice(&crc.to_le_bytes());
    }

    /// Checks the fixed part with its entry headers, which stand at the start of `bytes`, and returns the
    /// entry headers. Payloads need not be there.
    pub(crate) fn verify<'a>(&self, bytes: &'a [u8], seed: Seed) -> Result<&'a [u8], Bad> {
        let headers = bytes
            .get(ENTRIES_HEAD_BYTES..self.headers_bytes())
            .ok_or(Bad("entries record is short"))?;
        let crc = seed.checksum_parts(&[&bytes[..ENTRIES_CRC_AT], headers]);
        if crc != self.head_crc {
            return Err(Bad("entry headers fail their checksum"));
        }
        let payload_bytes: u64 = headers
            .chunks_exact(ENTRY_HEADER_BYTES)
            .map(|header| u64::from(u32_at(header, 0) & ENTRY_LEN_MASK))
            .sum();
        if self.headers_bytes() as u64 + payload_bytes != u64::from(self.record_bytes) {
            return Err(Bad("entries record's length is not that of its entries"));
        }
        for header in headers.chunks_exact(ENTRY_HEADER_BYTES) {
            decode_entry_header(header)?;
        }
        Ok(headers)
    }
}

/// The fixed part of a snapshot's record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct SnapshotHead {
    pub(crate) group: GroupId,
    pub(crate) mark: SnapshotMark,
    content_crc: u32,
    /// The whole record without padding.
    pub(crate) record_bytes: u32,
}

impl SnapshotHead {
    /// Decodes the fixed part by its own checksum: the content need not be there.
    pub(crate) fn decode(bytes: &[u8], seed: Seed) -> Result<Self, Bad> {
        let bytes = bytes.get(..SNAPSHOT_HEAD_BYTES).ok_or(Bad("snapshot record is short"))?;
        if bytes[0] != RecordKind::Snapshot as u8 || bytes[1..4] != [0; 3] {
            return Err(Bad("not a snapshot record"));
        }
        if u32_at(bytes, SNAPSHOT_CRC_AT) != seed.checksum(&bytes[..SNAPSHOT_CRC_AT])
            || u32_at(bytes, SNAPSHOT_CRC_AT + 4) != 0
        {
            return Err(Bad("snapshot record fails its checksum"));
        }
        let is_in_log = match u32_at(bytes, 56) {
            PLACE_LOG => true,
            PLACE_FILES => false,
            _ => return Err(Bad("snapshot record of an unknown place")),
        };
        let head = Self {
            group: GroupId(u64_at(bytes, 8)),
            mark: SnapshotMark {
                at: LogId { term: Term(u64_at(bytes, 24)), index: LogIndex(u64_at(bytes, 16)) },
                digest: u128_at(bytes, 32),
                bytes: u64_at(bytes, 48),
                is_in_log,
            },
            content_crc: u32_at(bytes, 60),
            record_bytes: u32_at(bytes, 4),
        };
        let content = if is_in_log { head.mark.bytes } else { 0 };
        if content.checked_add(SNAPSHOT_HEAD_BYTES as u64) != Some(u64::from(head.record_bytes)) {
            return Err(Bad("snapshot record's length is not that of its content"));
        }
        if !(LogIndex(1)..LogIndex(u64::MAX)).contains(&head.mark.at.index) {
            return Err(Bad("snapshot record with an index out of range"));
        }
        Ok(head)
    }

    /// The bytes of content that stand in the record.
    pub(crate) fn content_bytes(&self) -> usize {
        self.record_bytes as usize - SNAPSHOT_HEAD_BYTES
    }

    /// The bytes of the record, padding included.
    pub(crate) fn padded_bytes(&self) -> usize {
        (self.record_bytes as usize).next_multiple_of(RECORD_ALIGN_BYTES)
    }

    /// Whether this is the record's content.
    pub(crate) fn is_content(&self, content: &[u8]) -> bool {
        crate::checksum::checksum(content) == self.content_crc
    }

    /// The snapshot again, with its content.
    pub(crate) fn with_content<'a>(&self, content: &'a [u8]) -> Snapshot<'a> {
        let SnapshotMark { at, digest, bytes, is_in_log } = self.mark;
        let content = match is_in_log {
            true => SnapshotContent::InLog(content),
            false => SnapshotContent::InFiles { bytes },
        };
        Snapshot { at, digest, content }
    }

    /// Gives the record that begins `bytes` the checksum that it has in another segment.
    pub(crate) fn reseed(bytes: &mut [u8], seed: Seed) {
        let crc = seed.checksum(&bytes[..SNAPSHOT_CRC_AT]);
        bytes[SNAPSHOT_CRC_AT..SNAPSHOT_CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    }
}

/// The bytes that a snapshot's record takes, padding included.
pub(crate) fn snapshot_record_bytes(snapshot: &Snapshot<'_>) -> usize {
    let SnapshotContent::InLog(content) = snapshot.content else { return SNAPSHOT_HEAD_BYTES };
    (SNAPSHOT_HEAD_BYTES + content.len()).next_multiple_of(RECORD_ALIGN_BYTES)
}

/// Encodes a snapshot; returns its head.
pub(crate) fn encode_snapshot(
    out: &mut [u8],
    seed: Seed,
    group: GroupId,
    snapshot: &Snapshot<'_>,
) -> SnapshotHead {
    let (content, bytes, place) = match snapshot.content {
        SnapshotContent::InLog(content) => (content, content.len() as u64, PLACE_LOG),
        SnapshotContent::InFiles { bytes } => (&[][..], bytes, PLACE_FILES),
    };
    let end = SNAPSHOT_HEAD_BYTES + content.len();
    let (head, rest) = out[..snapshot_record_bytes(snapshot)].split_at_mut(SNAPSHOT_HEAD_BYTES);
    let mut at = Cursor(head);
    at.put(&record_header(RecordKind::Snapshot, end, group));
    at.put_u64(snapshot.at.index.get());
    at.put_u64(snapshot.at.term.get());
    at.put(&snapshot.digest.to_le_bytes());
    at.put_u64(bytes);
    at.put_u32(place);
    at.put_u32(crate::checksum::checksum(content));
    at.put_u64(0);
    SnapshotHead::reseed(head, seed);
    rest[..content.len()].copy_from_slice(content);
    rest[content.len()..].fill(0);
    SnapshotHead::decode(head, seed).expect("encoded just now")
}

/// Bytes that the record of an install takes.
pub(crate) fn encode_installing(out: &mut [u8], group: GroupId, installing: &Installing) -> usize {
    let mut at = Cursor(&mut out[..INSTALLING_RECORD_BYTES]);
    at.put(&record_header(RecordKind::Installing, INSTALLING_RECORD_BYTES, group));
    at.put_u64(installing.at.index.get());
    at.put_u64(installing.at.term.get());
    at.put(&installing.digest.to_le_bytes());
    INSTALLING_RECORD_BYTES
}

/// Decodes one entry header.
pub(crate) fn decode_entry_header(header: &[u8]) -> Result<EntryHead, Bad> {
    let word = u32_at(header, 0);
    let kind = EntryKind::from_byte(word.to_le_bytes()[3]).ok_or(UNKNOWN_ENTRY)?;
    Ok(EntryHead { kind, bytes: (word & ENTRY_LEN_MASK) as usize, checksum: u32_at(header, 4) })
}

/// The first kind of entry that this version does not know, in a record of entries that has one.
pub(crate) fn unknown_entry(record: &[u8]) -> u8 {
    let headers = record[ENTRIES_HEAD_BYTES..].chunks_exact(ENTRY_HEADER_BYTES);
    let mut kinds = headers.map(|header| u32_at(header, 0).to_le_bytes()[3]);
    kinds.find(|kind| EntryKind::from_byte(*kind).is_none()).expect("the record has one")
}

/// Bytes a run of entries takes, without padding.
pub(crate) fn entries_record_bytes(count: usize, payload_bytes: usize) -> usize {
    ENTRIES_HEAD_BYTES + count * ENTRY_HEADER_BYTES + payload_bytes
}

/// Encodes `entries` (one term, contiguous, not empty) over the start of `out`, as appended or as carried;
/// returns the bytes used, padding included.
pub(crate) fn encode_entries(
    out: &mut [u8],
    seed: Seed,
    kind: RecordKind,
    group: GroupId,
    entries: &[logdrive_raft::Entry],
) -> usize {
    let first = entries.first().expect("a run of entries is not empty");
    let headers_end = ENTRIES_HEAD_BYTES + entries.len() * ENTRY_HEADER_BYTES;
    let mut at = headers_end;
    for (entry, header) in
        entries.iter().zip(out[ENTRIES_HEAD_BYTES..].as_chunks_mut::<ENTRY_HEADER_BYTES>().0)
    {
        let bytes = u32::try_from(entry.payload.len()).expect("entries are bounded by a segment");
        debug_assert!(bytes <= ENTRY_LEN_MASK);
        let word = bytes | u32::from(entry.kind as u8) << 24;
        header[..4].copy_from_slice(&word.to_le_bytes());
        header[4..].copy_from_slice(&entry.checksum.to_le_bytes());
    }
    for entry in entries {
        out[at..at + entry.payload.len()].copy_from_slice(&entry.payload);
        at += entry.payload.len();
    }
    let end = at.next_multiple_of(RECORD_ALIGN_BYTES);
    out[at..end].fill(0);

    out[..RECORD_HEADER_BYTES].copy_from_slice(&record_header(kind, at, group));
    let mut head = Cursor(&mut out[RECORD_HEADER_BYTES..ENTRIES_HEAD_BYTES]);
    head.put_u64(first.index.get());
    head.put_u64(first.term.get());
    head.put_u32(u32::try_from(entries.len()).expect("entries are bounded by a segment"));
    let crc = seed.checksum_parts(&[&out[..ENTRIES_CRC_AT], &out[ENTRIES_HEAD_BYTES..headers_end]]);
    out[ENTRIES_CRC_AT..ENTRIES_HEAD_BYTES].copy_from_slice(&crc.to_le_bytes());
    end
}

/// Bytes a hard state takes.
pub(crate) fn encode_hard_state(out: &mut [u8], group: GroupId, state: &HardState) -> usize {
    let mut at = Cursor(&mut out[..HARD_STATE_RECORD_BYTES]);
    let mut header = record_header(RecordKind::HardState, HARD_STATE_RECORD_BYTES, group);
    header[1] = if state.marked { FLAG_MARKED } else { 0 };
    at.put(&header);
    at.put_u64(state.term.get());
    at.put_u64(state.voted_for.map_or(0, NodeId::get));
    at.put_u64(state.commit.get());
    HARD_STATE_RECORD_BYTES
}

/// Bytes a release takes.
pub(crate) fn encode_release(out: &mut [u8], group: GroupId, release: &Release) -> usize {
    let mut at = Cursor(&mut out[..RELEASE_RECORD_BYTES]);
    at.put(&record_header(RecordKind::Release, RELEASE_RECORD_BYTES, group));
    at.put_u64(release.index.get());
    at.put_u64(release.term.get());
    at.put_u64(release.last.get());
    RELEASE_RECORD_BYTES
}

/// Bytes a tombstone takes.
pub(crate) fn encode_tombstone(out: &mut [u8], group: GroupId, since: LogIndex) -> usize {
    let mut at = Cursor(&mut out[..TOMBSTONE_RECORD_BYTES]);
    at.put(&record_header(RecordKind::Tombstone, TOMBSTONE_RECORD_BYTES, group));
    at.put_u64(since.get());
    TOMBSTONE_RECORD_BYTES
}

/// Bytes a fence takes.
pub(crate) fn encode_fence(out: &mut [u8], group: GroupId, position: Position) -> usize {
    let mut at = Cursor(&mut out[..FENCE_RECORD_BYTES]);
    at.put(&record_header(RecordKind::Fence, FENCE_RECORD_BYTES, group));
    at.put_u64(position.0);
    FENCE_RECORD_BYTES
}

/// Bytes a footer takes.
pub(crate) fn encode_footer(out: &mut [u8]) -> usize {
    let header = record_header(RecordKind::Footer, FOOTER_RECORD_BYTES, GroupId(0));
    out[..FOOTER_RECORD_BYTES].copy_from_slice(&header);
    FOOTER_RECORD_BYTES
}

/// Fills `out` with zeros behind a header that says that a reader may skip them. Whole records, so `out` is padded.
pub(crate) fn encode_filler(out: &mut [u8]) {
    out.fill(0);
    out[0] = FILLER_KIND;
    out[1] = FLAG_OPTIONAL;
    let bytes = u32::try_from(out.len()).expect("records are bounded by a segment");
    out[4..8].copy_from_slice(&bytes.to_le_bytes());
}

/// Bytes a membership takes, padding included.
pub(crate) fn membership_record_bytes(bytes: usize) -> usize {
    (RECORD_HEADER_BYTES + bytes).next_multiple_of(RECORD_ALIGN_BYTES)
}

/// Encodes a membership; returns the bytes used, padding included.
pub(crate) fn encode_membership(out: &mut [u8], group: GroupId, membership: &[u8]) -> usize {
    let end = RECORD_HEADER_BYTES + membership.len();
    out[..RECORD_HEADER_BYTES].copy_from_slice(&record_header(RecordKind::Membership, end, group));
    out[RECORD_HEADER_BYTES..end].copy_from_slice(membership);
    let padded = end.next_multiple_of(RECORD_ALIGN_BYTES);
    out[end..padded].fill(0);
    padded
}

/// Walks the records of a body whose checksum holds. Each item is the record and its offset in the body.
pub(crate) struct Records<'a> {
    body: &'a [u8],
    at: usize,
    seed: Seed,
}

impl<'a> Records<'a> {
    pub(crate) fn new(body: &'a [u8], seed: Seed) -> Self {
        Self { body, at: 0, seed }
    }

    fn decode_next(&mut self) -> Result<Record<'a>, Bad> {
        let rest = &self.body[self.at..];
        if rest.len() < RECORD_HEADER_BYTES {
            return Err(Bad("a record's header is cut off"));
        }
        let len = u32_at(rest, 4) as usize;
        if len < RECORD_HEADER_BYTES || len > rest.len() {
            return Err(Bad("a record's length is out of range"));
        }
        let padded = len.next_multiple_of(RECORD_ALIGN_BYTES);
        let padding = rest.get(len..padded).ok_or(Bad("a record's padding is cut off"))?;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(Bad("a record's padding is not zero"));
        }
        let record = decode_record(&rest[..len], self.seed)?;
        self.at += padded;
        Ok(record)
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = (usize, Result<Record<'a>, Bad>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.at == self.body.len() {
            return None;
        }
        let at = self.at;
        let record = self.decode_next();
        if record.is_err() {
            self.at = self.body.len();
        }
        Some((at, record))
    }
}

fn decode_record(bytes: &[u8], seed: Seed) -> Result<Record<'_>, Bad> {
    let group = GroupId(u64_at(bytes, 8));
    let own_flags = if bytes[0] == RecordKind::HardState as u8 { FLAG_MARKED } else { 0 };
    if bytes[1] & !(FLAG_OPTIONAL | own_flags) != 0 || bytes[2..4] != [0, 0] {
        return Err(Bad("a record has flags this version does not know"));
    }
    let record = match bytes[0] {
        kind if kind == RecordKind::Start as u8 => Record::Start(Start::decode(bytes, seed)?),
        kind if kind == RecordKind::Membership as u8 => {
            Record::Membership { group, bytes: &bytes[RECORD_HEADER_BYTES..] }
        }
        kind if kind == RecordKind::HardState as u8 => {
            if bytes.len() != HARD_STATE_RECORD_BYTES {
                return Err(Bad("a hard state of the wrong length"));
            }
            let voted_for = u64_at(bytes, 24);
            let state = HardState {
                term: Term(u64_at(bytes, 16)),
                voted_for: (voted_for != 0).then_some(NodeId(voted_for)),
                commit: LogIndex(u64_at(bytes, 32)),
                marked: bytes[1] & FLAG_MARKED != 0,
            };
            Record::HardState { group, state }
        }
        kind if kind == RecordKind::Entries as u8 => {
            let head = EntriesHead::decode(bytes)?;
            head.verify(bytes, seed)?;
            Record::Entries(head)
        }
        kind if kind == RecordKind::Carried as u8 => {
            let head = EntriesHead::decode(bytes)?;
            head.verify(bytes, seed)?;
            Record::Carried(head)
        }
        kind if kind == RecordKind::Release as u8 => {
            if bytes.len() != RELEASE_RECORD_BYTES {
                return Err(Bad("a release of the wrong length"));
            }
            let release = Release {
                index: LogIndex(u64_at(bytes, 16)),
                term: Term(u64_at(bytes, 24)),
                last: LogIndex(u64_at(bytes, 32)),
            };
            if release.index == LogIndex::ZERO
                || release.last < release.index
                || release.last == LogIndex(u64::MAX)
            {
                return Err(Bad("a release with an index out of range"));
            }
            Record::Release { group, release }
        }
        kind if kind == RecordKind::Tombstone as u8 => {
            if bytes.len() != TOMBSTONE_RECORD_BYTES {
                return Err(Bad("a tombstone of the wrong length"));
            }
            Record::Tombstone { group, since: LogIndex(u64_at(bytes, 16)) }
        }
        kind if kind == RecordKind::Fence as u8 => {
            if bytes.len() != FENCE_RECORD_BYTES {
                return Err(Bad("a fence of the wrong length"));
            }
            Record::Fence { group, position: Position(u64_at(bytes, 16)) }
        }
        kind if kind == RecordKind::Snapshot as u8 => {
            Record::Snapshot(SnapshotHead::decode(bytes, seed)?)
        }
        kind if kind == RecordKind::Installing as u8 => {
            if bytes.len() != INSTALLING_RECORD_BYTES {
                return Err(Bad("an install of the wrong length"));
            }
            let at = LogId { term: Term(u64_at(bytes, 24)), index: LogIndex(u64_at(bytes, 16)) };
            if !(LogIndex(1)..LogIndex(u64::MAX)).contains(&at.index) {
                return Err(Bad("an install with an index out of range"));
            }
            let installing = Installing { at, digest: u128_at(bytes, 32) };
            Record::Installing { group, installing }
        }
        kind if kind == RecordKind::Footer as u8 => {
            if bytes.len() != FOOTER_RECORD_BYTES || group != GroupId(0) {
                return Err(Bad("a footer of the wrong length, or of a group"));
            }
            Record::Footer
        }
        _ if bytes[1] & FLAG_OPTIONAL != 0 => Record::Optional,
        _ => return Err(UNKNOWN_KIND),
    };
    Ok(record)
}

/// No reader knows it, and each may skip it.
const FILLER_KIND: u8 = 10;
/// The place of a snapshot's content.
const PLACE_LOG: u32 = 1;
const PLACE_FILES: u32 = 2;

pub(super) fn record_header(
    kind: RecordKind,
    bytes: usize,
    group: GroupId,
) -> [u8; RECORD_HEADER_BYTES] {
    let mut out = [0u8; RECORD_HEADER_BYTES];
    out[0] = kind as u8;
    let bytes = u32::try_from(bytes).expect("records are bounded by a segment");
    out[4..8].copy_from_slice(&bytes.to_le_bytes());
    out[8..].copy_from_slice(&group.get().to_le_bytes());
    out
}
