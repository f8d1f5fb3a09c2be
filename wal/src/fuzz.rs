//! The format's inside, opened for fuzzing: the decoders with their oracle, and a way past the checksums.
//!
//! In:     arbitrary bytes.
//! Out:    nothing, or a panic that says which promise was broken.
//! Cost:   nothing is allocated in proportion to a length that the bytes claim.
//! Fails:  by panicking.
//! Source: RULES.md T5: no panic, no allocation above a cap, `decode(encode(x)) = x`.

use crate::checksum::Seed;
use crate::format::{
    BATCH_HEADER_BYTES, BATCH_MAGIC, BLOCK_BYTES, Bad, BatchHeader, ENTRIES_HEAD_BYTES,
    ENTRY_HEADER_BYTES, EntriesHead, FIRST_BATCH_AT, FLAG_OPTIONAL, Manifest, Position,
    RECORD_ALIGN_BYTES, RECORD_HEADER_BYTES, Record, RecordKind, Records, SNAPSHOT_HEAD_BYTES,
    SegmentHeader, SegmentSeq, SnapshotHead, decode_entry_header, encode_entries, encode_fence,
    encode_footer, encode_hard_state, encode_installing, encode_membership, encode_release,
    encode_snapshot, encode_tombstone, u32_at, u128_at,
};
use bytes::Bytes;
use logdrive_raft::{Entry, LogIndex};

/// Decodes `bytes` as everything the format has. Any value that is accepted is encoded again, and gives the same bytes.
pub fn decode(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    let seed = Seed::of(u128::from(*first));
    records(rest, seed);
    let mut sealed = rest.to_vec();
    seal_records(&mut sealed, seed);
    records(&sealed, seed);
    batch_header(rest, seed);
    manifest(rest);
    segment_header(rest);
}

fn records(body: &[u8], seed: Seed) {
    let mut end = 0;
    for (at, record) in Records::new(body, seed) {
        assert!(at == end, "a record at {at} behind one that ends at {end}");
        let Ok(record) = record else { return };
        let len = (u32_at(body, at + 4) as usize).next_multiple_of(RECORD_ALIGN_BYTES);
        end = at + len;
        // A known kind may say that it can be skipped; this version never writes that.
        if !matches!(record, Record::Optional) && body[at + 1] & FLAG_OPTIONAL == 0 {
            let mut again = vec![0xee; len];
            let used = encode(&mut again, seed, &record, &body[at..end]);
            assert!(used == len && again == body[at..end], "{record:?} is encoded otherwise");
        }
    }
}

fn encode(out: &mut [u8], seed: Seed, record: &Record<'_>, bytes: &[u8]) -> usize {
    match record {
        Record::Start(start) => {
            out.copy_from_slice(&start.encode(seed));
            out.len()
        }
        Record::Membership { group, bytes } => encode_membership(out, *group, bytes),
        Record::HardState { group, state } => encode_hard_state(out, *group, state),
        Record::Entries(head) => {
            encode_entries(out, seed, RecordKind::Entries, head.group, &entries(head, bytes))
        }
        Record::Carried(head) => {
            encode_entries(out, seed, RecordKind::Carried, head.group, &entries(head, bytes))
        }
        Record::Release { group, release } => encode_release(out, *group, release),
        Record::Tombstone { group, since } => encode_tombstone(out, *group, *since),
        Record::Fence { group, position } => encode_fence(out, *group, *position),
        Record::Snapshot(head) => {
            let content = &bytes[SNAPSHOT_HEAD_BYTES..][..head.content_bytes()];
            if !head.is_content(content) {
                // Only a read of the snapshot looks at its content.
                out.copy_from_slice(bytes);
                return out.len();
            }
            encode_snapshot(out, seed, head.group, &head.with_content(content));
            head.padded_bytes()
        }
        Record::Installing { group, installing } => encode_installing(out, *group, installing),
        Record::Footer => encode_footer(out),
        Record::Optional => unreachable!("it is not decoded"),
    }
}

fn entries(head: &EntriesHead, bytes: &[u8]) -> Vec<Entry> {
    let (headers, mut payloads) = bytes.split_at(head.headers_bytes());
    let headers = headers[ENTRIES_HEAD_BYTES..].chunks_exact(ENTRY_HEADER_BYTES);
    let entry = |(n, header)| {
        let entry = decode_entry_header(header).expect("verified");
        let (payload, rest) = payloads.split_at(entry.bytes);
        payloads = rest;
        Entry {
            term: head.term,
            index: LogIndex(head.first.get() + n as u64),
            kind: entry.kind,
            checksum: entry.checksum,
            payload: Bytes::copy_from_slice(payload),
        }
    };
    headers.enumerate().map(entry).collect()
}

fn batch_header(bytes: &[u8], seed: Seed) {
    if bytes.len() < BATCH_HEADER_BYTES {
        return;
    }
    let mut block = bytes[..BATCH_HEADER_BYTES].to_vec();
    block[..4].copy_from_slice(&BATCH_MAGIC.to_le_bytes());
    let crc = seed.checksum(&block[8..]);
    block[4..8].copy_from_slice(&crc.to_le_bytes());
    let position = Position::new(SegmentSeq(u32_at(&block, 20)), u32_at(&block, 16));
    let Ok((header, found)) = BatchHeader::decode(&block, seed, position, SEGMENT_BYTES) else {
        return;
    };
    assert!(found == crc && header.encode(seed) == (block.try_into().expect("its size"), crc));
    assert!(header.padded_bytes() as u64 <= SEGMENT_BYTES + BLOCK_BYTES as u64);
    let body = &bytes[BATCH_HEADER_BYTES..];
    if let Ok(groups) = header.directory(body, seed) {
        assert!(groups.len() == header.groups as usize);
    }
}

fn manifest(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    for _ in 0..2 {
        if let Ok(manifest) = Manifest::decode(&bytes) {
            assert!(manifest.encode() == bytes, "{manifest:?} is encoded otherwise");
        }
        seal_end(&mut bytes);
    }
}

fn segment_header(bytes: &[u8]) {
    let mut block = Box::new([0u8; BLOCK_BYTES]);
    let len = bytes.len().min(BLOCK_BYTES);
    block[..len].copy_from_slice(&bytes[..len]);
    seal_end(&mut block[..]);
    if let Ok(header) = SegmentHeader::decode(&block) {
        let again = SegmentHeader::decode(&header.encode());
        assert!(again.as_ref() == Ok(&header), "{header:?} comes back as {again:?}");
    }
}

/// Makes the checksums of a file of a stream hold, as far as its lengths lead: what fuzzing changed is then judged for what
/// it says.
pub fn seal(file: &mut [u8]) {
    if file.len() < 2 * BLOCK_BYTES {
        return seal_end(file);
    }
    seal_end(&mut file[..BLOCK_BYTES]);
    let seed = Seed::of(u128_at(file, 24));
    let mut at = FIRST_BATCH_AT as usize;
    let mut prev_crc = None;
    while let Ok(end) = seal_batch(file, at, seed, &mut prev_crc) {
        at = end;
    }
}

/// Returns where the next batch stands.
fn seal_batch(
    file: &mut [u8],
    at: usize,
    seed: Seed,
    prev_crc: &mut Option<u32>,
) -> Result<usize, Bad> {
    let batch = file.get_mut(at..).unwrap_or_default();
    if batch.len() < BATCH_HEADER_BYTES || u32_at(batch, 0) != BATCH_MAGIC {
        return Err(Bad("no batch"));
    }
    let body_bytes = u32_at(batch, 32) as usize;
    let directory_bytes = (u32_at(batch, 48) as usize).saturating_mul(8);
    let (header, rest) = batch.split_at_mut(BATCH_HEADER_BYTES);
    let body = rest.get_mut(..body_bytes).ok_or(Bad("no body"))?;
    if let Some(records_bytes) = body_bytes.checked_sub(directory_bytes) {
        let (records, directory) = body.split_at_mut(records_bytes);
        seal_records(records, seed);
        header[52..56].copy_from_slice(&seed.checksum(directory).to_le_bytes());
    }
    header[36..40].copy_from_slice(&seed.checksum(body).to_le_bytes());
    if let Some(prev_crc) = prev_crc {
        header[44..48].copy_from_slice(&prev_crc.to_le_bytes());
    }
    let crc = seed.checksum(&header[8..]);
    header[4..8].copy_from_slice(&crc.to_le_bytes());
    *prev_crc = Some(crc);
    Ok(at + (BATCH_HEADER_BYTES + body_bytes).next_multiple_of(BLOCK_BYTES))
}

fn seal_records(records: &mut [u8], seed: Seed) {
    let mut rest = records;
    while rest.len() >= RECORD_HEADER_BYTES {
        let len = u32_at(rest, 4) as usize;
        if len < RECORD_HEADER_BYTES || len > rest.len() {
            return;
        }
        let record = &mut rest[..len];
        if record[0] == RecordKind::Start as u8 && len >= START_CRC_AT + 4 {
            let crc = seed.checksum(&record[..START_CRC_AT]);
            record[START_CRC_AT..START_CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        } else if record[0] == RecordKind::Snapshot as u8 && len >= SNAPSHOT_HEAD_BYTES {
            SnapshotHead::reseed(record, seed);
        } else if let Ok(head) = EntriesHead::decode(record)
            && let Some(headers) = record.get(ENTRIES_HEAD_BYTES..head.headers_bytes())
        {
            let crc = seed.checksum_parts(&[&record[..ENTRIES_CRC_AT], headers]);
            record[ENTRIES_CRC_AT..ENTRIES_HEAD_BYTES].copy_from_slice(&crc.to_le_bytes());
        }
        let padded = len.next_multiple_of(RECORD_ALIGN_BYTES).min(rest.len());
        rest = &mut rest[padded..];
    }
}

/// The manifest, and a segment's header block, end with the checksum of what stands before.
fn seal_end(file: &mut [u8]) {
    if let Some(at) = file.len().checked_sub(4) {
        let crc = crate::checksum(&file[..at]);
        file[at..].copy_from_slice(&crc.to_le_bytes());
    }
}

const SEGMENT_BYTES: u64 = 64 << 10;
const START_CRC_AT: usize = RECORD_HEADER_BYTES + 32;
const ENTRIES_CRC_AT: usize = ENTRIES_HEAD_BYTES - 4;
