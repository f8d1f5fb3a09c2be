//! A second reader of the format, written from FORMAT.md: it finds the state in the bytes of a stream with code that shares
//! nothing with the log.
//!
//! It is for streams without damage: the first batch that is not whole ends the log.

use super::model::{Group, Kept, State};
use logdrive_raft::{Entry, EntryKind, HardState, LogId, LogIndex, NodeId, Term};
use logdrive_wal::disk::sim::SimPlatter;
use logdrive_wal::{Installing, SegmentSeq, SnapshotMark, checksum};
use std::collections::{BTreeMap, BTreeSet};

const BLOCK: usize = 4096;
const HEADER: usize = 56;

/// One group, as the bytes have it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    pub(crate) membership: Vec<u8>,
    /// Term, vote, commit index, and whether the replica is marked.
    pub(crate) hard_state: (u64, u64, u64, bool),
    /// Index to term, kind and payload.
    pub(crate) entries: BTreeMap<u64, (u64, u8, Vec<u8>)>,
    /// The entry before the log's first, and its term.
    pub(crate) released: (u64, u64),
    pub(crate) snapshot: Option<Kept>,
    pub(crate) installing: Option<Installing>,
}

/// A stream, as the bytes have it.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    pub(crate) groups: BTreeMap<u64, Found>,
    pub(crate) destroyed: BTreeSet<u64>,
}

struct Segment {
    bytes: Vec<u8>,
    /// State of the checksum after the segment's id.
    seed: u32,
    id: [u8; 16],
    /// End of the segment before, its id, and the checksum of its last batch.
    start: Option<(u64, [u8; 16], u32)>,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn length(bytes: &[u8], at: usize) -> usize {
    usize::try_from(u32_at(bytes, at)).unwrap()
}

/// CRC-32C (Castagnoli) byte by byte, from any initial state.
fn crc_from(state: u32, parts: &[&[u8]]) -> u32 {
    let bytes = parts.iter().flat_map(|part| part.iter());
    !bytes.fold(state, |crc, byte| {
        (crc >> 8) ^ CRC_TABLE[usize::try_from((crc ^ u32::from(*byte)) & 0xFF).unwrap()]
    })
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82F6_3B78 } else { crc >> 1 };
            bit += 1;
        }
        table[byte as usize] = crc;
        byte += 1;
    }
    table
};

fn segment(number: u32, bytes: Vec<u8>) -> Segment {
    assert_eq!(&bytes[..8], b"LDRVSEG1", "segment {number} has no header");
    assert_eq!(u32_at(&bytes, 4092), crc_from(!0, &[&bytes[..4092]]), "header of {number}");
    assert_eq!(u64_at(&bytes, 16), u64::from(number));
    let id: [u8; 16] = bytes[24..40].try_into().unwrap();
    let mut segment = Segment { seed: crc_from(!0, &[&id]), id, start: None, bytes };
    let first = &segment.bytes[BLOCK..2 * BLOCK];
    let start = &first[HEADER..HEADER + 56];
    let whole_header =
        &first[..4] == b"LDB1" && u32_at(first, 4) == crc_from(segment.seed, &[&first[8..HEADER]]);
    if whole_header && start[0] == 1 && u32_at(start, 48) == crc_from(segment.seed, &[&start[..48]])
    {
        segment.start =
            Some((u64_at(start, 16), start[24..40].try_into().unwrap(), u32_at(start, 40)));
    }
    segment
}

/// The state in the bytes of a platter on which no write is undecided.
pub(crate) fn read(platter: &SimPlatter) -> Stream {
    let manifest = platter.manifest().expect("a manifest");
    assert_eq!((manifest.len(), &manifest[..8]), (52, &b"LDRVMAN1"[..]));
    assert_eq!(u32_at(&manifest, 48), crc_from(!0, &[&manifest[..48]]), "manifest's checksum");
    let (oldest, made) = (u32_at(&manifest, 40), u32_at(&manifest, 44));
    let segments: BTreeMap<u32, Segment> = platter
        .segments()
        .into_iter()
        .filter(|number| number.0 >= oldest)
        .map(|SegmentSeq(number)| (number, segment(number, platter.segment(SegmentSeq(number)))))
        .collect();

    // The chain, newest first.
    let mut chain: Vec<u32> = Vec::new();
    let mut at = segments.iter().rev().find(|(_, s)| s.start.is_some()).map(|(number, _)| *number);
    while let Some(number) = at {
        chain.push(number);
        let (end, id, _) = segments[&number].start.expect("used");
        let before = u32::try_from(end >> 32).unwrap();
        at = (end != 0 && before >= oldest).then_some(before);
        if let Some(before) = at {
            assert_eq!(segments[&before].id, id, "segment {before} is not the one meant");
        }
    }
    let newest = chain.first().copied().unwrap_or(0);
    for number in newest + 1..=made {
        let there = segments.keys();
        assert!(
            segments.contains_key(&number),
            "segment {number} was made and is gone; {there:?} are there, {chain:?} are used, \
             {oldest} to {made} are said to be"
        );
    }

    let mut stream = Stream::default();
    let mut last_batch: Option<(u64, u32)> = None;
    for (n, number) in chain.iter().rev().enumerate() {
        let segment = &segments[number];
        let (_, _, prev) = segment.start.expect("used");
        if let Some((_, crc)) = last_batch {
            assert_eq!(prev, crc, "segment {number} does not continue the one before");
        }
        let next = chain.iter().rev().nth(n + 1);
        let end = next.map(|next| {
            let (end, _, _) = segments[next].start.expect("used");
            usize::try_from(end & 0xFFFF_FFFF).unwrap()
        });
        let mut at = BLOCK;
        while at < end.unwrap_or(segment.bytes.len()) {
            let Some(body) = batch(segment, *number, at, prev, &mut last_batch) else {
                assert!(end.is_none(), "batch at {at} of full segment {number} is not whole");
                break;
            };
            let groups = length(&segment.bytes, at + 48);
            replay(segment, &segment.bytes[body.clone()], groups, &mut stream);
            at = body.end.next_multiple_of(BLOCK);
        }
    }
    stream.check();
    stream
}

impl Stream {
    /// Logs begin behind what was released, and have no holes (invariant 13).
    fn check(&mut self) {
        for (group, found) in &mut self.groups {
            let (released, released_term) = found.released;
            found.entries = found.entries.split_off(&(released + 1));
            let (mut next, mut least) = (released + 1, released_term);
            for (index, (term, _, _)) in &found.entries {
                assert_eq!(*index, next, "a hole in group {group} behind {released}");
                assert!(*term >= least, "a term that falls at {index} of group {group}");
                (next, least) = (next + 1, *term);
            }
        }
    }
}

/// The body of the batch at `at` if it is whole and follows the last one.
fn batch(
    segment: &Segment,
    number: u32,
    at: usize,
    first_prev: u32,
    last: &mut Option<(u64, u32)>,
) -> Option<std::ops::Range<usize>> {
    let header = &segment.bytes[at..at + HEADER];
    if &header[..4] != b"LDB1" || u32_at(header, 4) != crc_from(segment.seed, &[&header[8..]]) {
        return None;
    }
    assert_eq!(
        u64_at(header, 16),
        u64::from(number) << 32 | at as u64,
        "a batch at another's place"
    );
    assert!(u64_at(header, 24) <= u64_at(header, 16), "a batch that knows itself durable");
    let body = at + HEADER..at + HEADER + length(header, 32);
    let padding = body.end..body.end.next_multiple_of(BLOCK);
    let (seq, prev) = match *last {
        Some((seq, crc)) => (seq + 1, crc),
        None => (u64_at(header, 8), first_prev),
    };
    let whole = u32_at(header, 36) == crc_from(segment.seed, &[&segment.bytes[body.clone()]])
        && segment.bytes[padding].iter().all(|byte| *byte == 0)
        && (u64_at(header, 8), u32_at(header, 44)) == (seq, prev);
    whole.then(|| {
        *last = Some((seq, u32_at(header, 4)));
        body
    })
}

fn replay(segment: &Segment, body: &[u8], groups: usize, stream: &mut Stream) {
    let (body, directory) = body.split_at(body.len() - 8 * groups);
    let directory: Vec<u64> = directory.chunks(8).map(|id| u64_at(id, 0)).collect();
    let mut named = BTreeSet::new();
    let mut at = 0;
    while at < body.len() {
        let record = &body[at..at + length(body, at + 4)];
        at += record.len().next_multiple_of(8);
        if matches!(record[0], 1 | 9) || record[1] == 1 {
            continue;
        }
        let id = u64_at(record, 8);
        named.insert(id);
        assert!(!stream.destroyed.contains(&id) || record[0] == 7, "group {id} lives again");
        let group = stream.groups.entry(id).or_default();
        match record[0] {
            2 => group.membership = record[16..].to_vec(),
            3 => {
                let (term, vote, commit) =
                    (u64_at(record, 16), u64_at(record, 24), u64_at(record, 32));
                let state = (term, vote, commit, record[1] & 2 != 0);
                assert!(state.0 >= group.hard_state.0, "a term that falls (invariant 11)");
                group.hard_state = state;
            }
            4 => {
                let (first, commit) = (u64_at(record, 16), group.hard_state.2);
                assert!(first > commit, "{first} of group {id} is replaced, {commit} is committed");
                group.entries.split_off(&u64_at(record, 16));
                put_entries(segment, record, group);
            }
            5 => {
                group.released = (u64_at(record, 16), u64_at(record, 24));
                group.entries.split_off(&(u64_at(record, 32) + 1));
                let index = LogIndex(u64_at(record, 16));
                group.snapshot = group.snapshot.take().filter(|kept| kept.mark.at.index >= index);
                group.installing = group.installing.filter(|install| install.at.index > index);
            }
            6 => put_entries(segment, record, group),
            7 => {
                stream.groups.remove(&id);
                stream.destroyed.insert(id);
            }
            11 => group.snapshot = Some(snapshot(segment, record)),
            12 => {
                assert_eq!(record.len(), 48);
                group.installing = Some(Installing { at: log_id(record), digest: digest(record) });
            }
            kind => panic!("a record of kind {kind}"),
        }
    }
    let once: BTreeSet<u64> = directory.iter().copied().collect();
    assert_eq!(once.len(), directory.len(), "a directory names a group twice");
    assert!(named.is_subset(&once), "a directory lacks groups of its batch");
}

fn log_id(record: &[u8]) -> LogId {
    LogId { term: Term(u64_at(record, 24)), index: LogIndex(u64_at(record, 16)) }
}

fn digest(record: &[u8]) -> u128 {
    u128::from(u64_at(record, 32)) | u128::from(u64_at(record, 40)) << 64
}

fn snapshot(segment: &Segment, record: &[u8]) -> Kept {
    assert_eq!(u32_at(record, 64), crc_from(segment.seed, &[&record[..64]]), "a snapshot's head");
    assert_eq!(u32_at(record, 68), 0);
    let content = record[72..].to_vec();
    assert_eq!(u32_at(record, 60), crc_from(!0, &[&content]), "a snapshot's content");
    let (bytes, is_in_log) = (u64_at(record, 48), u32_at(record, 56) == 1);
    assert!(if is_in_log { bytes == content.len() as u64 } else { content.is_empty() });
    let mark = SnapshotMark { at: log_id(record), digest: digest(record), bytes, is_in_log };
    Kept { mark, content }
}

fn put_entries(segment: &Segment, record: &[u8], group: &mut Found) {
    let (first, term) = (u64_at(record, 16), u64_at(record, 24));
    let headers = &record[40..40 + length(record, 32) * 8];
    let crc = crc_from(segment.seed, &[&record[..36], headers]);
    assert_eq!(crc, u32_at(record, 36), "entry headers");
    let mut at = 40 + headers.len();
    for (index, header) in (first..).zip(headers.chunks(8)) {
        let payload = &record[at..at + (length(header, 0) & 0xFF_FFFF)];
        assert_eq!(u32_at(header, 4), crc_from(!0, &[payload]), "a payload");
        at += payload.len();
        group.entries.insert(index, (term, header[3], payload.to_vec()));
    }
    assert_eq!(at, record.len(), "a run is longer than its entries");
}

/// The state that is left, in the model's form, if the power fails now and everything is lost that can be lost.
pub(crate) fn durable_state(platter: &SimPlatter) -> State {
    let worst = platter.twin();
    worst.crash_choosing(|_| false);
    state(&worst)
}

/// The state found on the platter, in the model's form.
pub(crate) fn state(platter: &SimPlatter) -> State {
    let group = |(group, found): (u64, Found)| {
        let (released, released_term) = found.released;
        let last = found.entries.last_key_value().map_or(released, |(last, _)| *last);
        let (term, vote, commit, marked) = found.hard_state;
        let entries = found
            .entries
            .into_iter()
            .map(|(index, (term, kind, payload))| Entry {
                term: Term(term),
                index: LogIndex(index),
                kind: if kind == 1 { EntryKind::Noop } else { EntryKind::Command },
                checksum: checksum(&payload),
                payload: payload.into(),
            })
            .collect();
        let hard_state = HardState {
            term: Term(term),
            voted_for: (vote != 0).then_some(NodeId(vote)),
            commit: LogIndex(commit.min(last).max(released)),
            marked,
        };
        let found = Group {
            membership: found.membership,
            hard_state,
            snapshot: found.snapshot,
            installing: found.installing,
            released: (LogIndex(released), Term(released_term)),
            entries,
            destroyed: false,
        };
        (group, found)
    };
    let destroyed = |group| (group, Group { destroyed: true, ..Group::default() });
    let stream = read(platter);
    stream
        .groups
        .into_iter()
        .map(group)
        .chain(stream.destroyed.into_iter().map(destroyed))
        .collect()
}
