//! What a stream's files say after a restart: replayed, cut, or refused.
//!
//! In:     the files a [`Disk`] finds.
//! Out:    every group's state, and where the stream ends.
//! Cost:   one pass; memory for one segment and the groups.
//! Fails:  damage, a missing or a foreign file is an error that names it; nothing on disk is changed.
//! Source: FAULTS' rules 19-23, 27, 30; C1-C8, W2, W3, W11, W12.
//!
//! The table of cases. A segment is *used* if the start record in its first batch is readable. The last used
//! one, `L`, names the one before it, and so on: the *chain*. All others below `L` are void (a later start record
//! passed them over), all others above are spares.
//!
//! | what is bad                                          | seen as   | because                                 |
//! |------------------------------------------------------|-----------|-----------------------------------------|
//! | a header block                                       | damage    | it was synced before the file had a name|
//! | a batch of a chain member before `L`                 | damage    | the next was written after it completed |
//! | a batch at X in `L`, later one knows more than X durable | damage | rule 21                                 |
//! | a spare's first batch, later one knows it durable    | damage    | rule 21                                 |
//! | a batch at X in `L`, later ones know at most X       | torn: cut | writes in flight land in any order      |
//! | a batch at X in `L`, nothing valid behind            | torn: cut | C3, or the clean end if all is zero     |
//! | a number in the manifest's range without a file, not void | missing | rule 27                                |

use crate::Config;
use crate::checksum::Seed;
use crate::disk::{Disk, SegmentFile};
use crate::error::{Corrupt, WalError};
use crate::format::{
    BATCH_HEADER_BYTES, BLOCK_BYTES, Bad, BatchHeader, FIRST_BATCH_AT, FORMAT_VERSION, Manifest,
    Position, Record, Records, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SegmentHeader, SegmentSeq,
    Start,
};
use crate::index::{GroupIndex, Groups};
use bytes::Bytes;
use hashbrown::HashMap;
use logdrive_raft::{Durable, GroupId, HardState, LogIndex, Term, TermRun, WriteId};
use std::collections::BTreeMap;

/// What a log found of itself.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// Every group ever mentioned, by id.
    pub groups: Vec<RecoveredGroup>,
    /// The torn tail that was cut off, if there was one. It was never acknowledged.
    pub cut: Option<CutTail>,
    /// Bytes of segments that were read and replayed.
    pub bytes: u64,
    /// Batches that were replayed.
    pub batches: u64,
}

/// One group's state on disk.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RecoveredGroup {
    /// The group.
    pub group: GroupId,
    /// The latest membership written, as it was given; empty if none was.
    pub membership: Bytes,
    /// The latest hard state written; its commit index is never past `last`.
    pub hard_state: HardState,
    /// The terms of its entries.
    pub runs: Vec<TermRun>,
    /// Its last entry.
    pub last: LogIndex,
    /// Says that all of this is on disk ([`WriteId::ZERO`]).
    pub durable: Durable,
}

/// A tail that was not whole.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CutTail {
    /// The file.
    pub file: std::path::PathBuf,
    /// Where it was cut.
    pub position: Position,
    /// What was wrong there.
    pub what: String,
    /// Batches behind the cut that were whole but had not been acknowledged.
    pub whole_behind: u64,
}

/// What the stream goes on from.
pub(crate) struct Replayed {
    pub(crate) recovered: Recovered,
    pub(crate) groups: Groups,
    /// Segments that hold the log, oldest first, with what seeds their checksums.
    pub(crate) chain: Vec<(SegmentSeq, Seed)>,
    /// Files that hold nothing; to be removed once the new segment's start is durable.
    pub(crate) void: Vec<SegmentSeq>,
    pub(crate) next_segment: SegmentSeq,
    pub(crate) next_batch: u64,
    /// What the new segment's start record says.
    pub(crate) start: Start,
}

/// Reads the whole stream. Changes nothing on disk but to sync what was read of its end.
pub(crate) fn replay(disk: &mut dyn Disk, config: &Config) -> Result<Replayed, WalError> {
    let manifest = read_manifest(disk, config)?;
    let files = read_headers(disk, config)?;
    let chain = find_chain(disk, &manifest, &files)?;
    let mut replay =
        Replay { disk, groups: BTreeMap::new(), next_batch: 1, prev_crc: 0, batches: 0, bytes: 0 };

    let mut buffer = Vec::new();
    let mut end = Position::ZERO;
    let mut cut = None;
    for (n, seq) in chain.iter().enumerate() {
        let file = &files[seq];
        replay.read(file, &mut buffer)?;
        let sealed_at = chain.get(n + 1).map(|next| files[next].start.expect("used").end);
        let (stop, bad) = replay.segment(file, &buffer, sealed_at)?;
        if let Some(bad) = bad {
            cut = replay.judge_tail(file, &buffer, stop, bad)?;
        }
        end = stop;
    }
    replay.judge_spares(&files, chain.last().copied(), end, &mut buffer)?;
    // What was read may be in the page cache only (rule 19). Earlier segments were synced before later ones
    // were written.
    if let Some(last) = chain.last() {
        replay.disk.sync(*last).map_err(|source| WalError::Io {
            file: replay.disk.path(*last),
            what: "sync",
            source,
        })?;
    }

    let newest = files.keys().next_back().copied().unwrap_or(SegmentSeq(0)).max(manifest.made);
    let next = newest
        .0
        .checked_add(1)
        .ok_or_else(|| WalError::Config("segment numbers are used up".to_owned()))?;
    let start = Start {
        end,
        id: chain.last().map_or(0, |seq| files[seq].header.id),
        prev_crc: replay.prev_crc,
        cut: cut.is_some(),
    };
    let void = files.keys().filter(|seq| !chain.contains(seq)).copied().collect();
    let (next_batch, batches, bytes) = (replay.next_batch, replay.batches, replay.bytes);
    let (groups, found): (Groups, Vec<_>) = replay
        .groups
        .into_iter()
        .map(|(group, state)| {
            let (index, recovered) = state.finish(group);
            ((group, index), recovered)
        })
        .unzip();
    Ok(Replayed {
        recovered: Recovered { groups: found, cut, bytes, batches },
        groups,
        chain: chain.iter().map(|seq| (*seq, files[seq].seed)).collect(),
        void,
        next_segment: SegmentSeq(next),
        next_batch,
        start,
    })
}

/// A segment file whose header holds.
struct Segment {
    header: SegmentHeader,
    seed: Seed,
    /// From its first batch, if that can be read.
    start: Option<Start>,
}

impl Segment {
    fn seq(&self) -> SegmentSeq {
        self.header.seq
    }

    fn batch(&self, bytes: &[u8], offset: usize) -> Result<(BatchHeader, u32), Bad> {
        let at = u32::try_from(offset).map_err(|_| Bad("offset overflows"))?;
        let position = Position::new(self.seq(), at);
        BatchHeader::decode(&bytes[offset..], self.seed, position, self.header.bytes)
    }
}

fn read_manifest(disk: &mut dyn Disk, config: &Config) -> Result<Manifest, WalError> {
    let file = disk.manifest_path();
    let bytes = disk
        .manifest()
        .map_err(|source| WalError::Io { file: file.clone(), what: "read", source })?
        .ok_or_else(|| WalError::Missing {
            file: file.clone(),
            what: "every stream has one from the day its directory is made".to_owned(),
        })?;
    let manifest = Manifest::decode(&bytes).map_err(|bad| Corrupt {
        file: file.clone(),
        offset: 0,
        what: bad.0.to_owned(),
    })?;
    let mine = (config.identity.store, config.identity.node, config.shard);
    if (manifest.store, manifest.node, manifest.shard) != mine {
        return Err(WalError::Foreign {
            file,
            what: format!(
                "made for store {:032x}, node {}, shard {}",
                manifest.store, manifest.node, manifest.shard
            ),
        });
    }
    check_version(file, "a manifest of version", manifest.version)?;
    Ok(manifest)
}

fn check_version(file: std::path::PathBuf, what: &'static str, found: u32) -> Result<(), WalError> {
    if found == FORMAT_VERSION {
        return Ok(());
    }
    Err(WalError::Version { file, what, found, known: FORMAT_VERSION })
}

/// Reads every file's header and start record.
fn read_headers(
    disk: &mut dyn Disk,
    config: &Config,
) -> Result<BTreeMap<SegmentSeq, Segment>, WalError> {
    let dir = disk.manifest_path();
    let found =
        disk.segments().map_err(|source| WalError::Io { file: dir, what: "listing", source })?;
    let mut files = BTreeMap::new();
    let mut ids: HashMap<u128, SegmentSeq> = HashMap::new();
    for file in found {
        let segment = read_header(disk, config, file)?;
        if let Some(twin) = ids.insert(segment.header.id, file.segment) {
            return Err(WalError::Foreign {
                file: disk.path(file.segment),
                what: format!("a copy of segment {}", twin.0),
            });
        }
        files.insert(file.segment, segment);
    }
    Ok(files)
}

fn read_header(
    disk: &mut dyn Disk,
    config: &Config,
    file: SegmentFile,
) -> Result<Segment, WalError> {
    let path = disk.path(file.segment);
    let corrupt = |offset: u64, what: &str| {
        WalError::Corrupt(Corrupt { file: path.clone(), offset, what: what.to_owned() })
    };
    if file.bytes < SEGMENT_BYTES_MIN {
        return Err(corrupt(file.bytes, "a segment file of less than the least size"));
    }
    let mut block = Box::new([0u8; BLOCK_BYTES]);
    read(disk, file.segment, 0, block.as_mut_slice())?;
    let header = SegmentHeader::decode(&block).map_err(|bad| corrupt(0, bad.0))?;
    check_version(path.clone(), "a segment of version", header.version)?;
    let mine = (config.identity.store, config.identity.node, config.shard);
    if (header.store, header.node, header.shard) != mine
        || header.cluster != config.identity.cluster
    {
        return Err(WalError::Foreign {
            file: path,
            what: format!(
                "made for cluster {:?}, store {:032x}, node {}, shard {}",
                header.cluster, header.store, header.node, header.shard
            ),
        });
    }
    if header.seq != file.segment {
        return Err(WalError::Foreign {
            file: path,
            what: format!("it is segment {} by its header", header.seq.0),
        });
    }
    if header.bytes != file.bytes
        || !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&header.bytes)
        || !header.bytes.is_multiple_of(BLOCK_BYTES as u64)
    {
        return Err(corrupt(file.bytes, "the file has not the size its header says"));
    }
    let seed = Seed::of(header.id);
    read(disk, file.segment, u64::from(FIRST_BATCH_AT), block.as_mut_slice())?;
    let position = Position::new(file.segment, FIRST_BATCH_AT);
    let start = BatchHeader::decode(block.as_slice(), seed, position, header.bytes)
        .and_then(|_| Start::decode(&block[BATCH_HEADER_BYTES..], seed))
        .ok();
    Ok(Segment { header, seed, start })
}

fn read(
    disk: &mut dyn Disk,
    segment: SegmentSeq,
    offset: u64,
    out: &mut [u8],
) -> Result<(), WalError> {
    disk.read(segment, offset, out).map_err(|source| WalError::Io {
        file: disk.path(segment),
        what: "read",
        source,
    })
}

/// The segments that hold the log, oldest first; refuses a stream with holes.
fn find_chain(
    disk: &dyn Disk,
    manifest: &Manifest,
    files: &BTreeMap<SegmentSeq, Segment>,
) -> Result<Vec<SegmentSeq>, WalError> {
    let missing = |seq: SegmentSeq, what: String| WalError::Missing { file: disk.path(seq), what };
    let mut chain = Vec::new();
    let mut newer: Option<&Segment> = files.values().rev().find(|file| file.start.is_some());
    while let Some(file) = newer {
        chain.push(file.seq());
        let start = file.start.expect("chain members are used");
        if start.end == Position::ZERO {
            break;
        }
        let before = start.end.segment();
        let Some(found) = files.get(&before) else {
            return Err(missing(before, format!("segment {} follows it", file.seq().0)));
        };
        if found.header.id != start.id || before >= file.seq() {
            return Err(WalError::Foreign {
                file: disk.path(before),
                what: format!("not the segment that segment {} follows", file.seq().0),
            });
        }
        if found.start.is_none() {
            return Err(WalError::Corrupt(Corrupt {
                file: disk.path(before),
                offset: u64::from(FIRST_BATCH_AT),
                what: "the first batch of a full segment cannot be read".to_owned(),
            }));
        }
        newer = Some(found);
    }
    chain.reverse();
    let void_below = chain.last().copied().unwrap_or(SegmentSeq(0));
    for seq in (manifest.first.0..=manifest.made.0).map(SegmentSeq) {
        if seq > void_below && !files.contains_key(&seq) {
            return Err(missing(seq, "the manifest says it was made".to_owned()));
        }
    }
    Ok(chain)
}

/// A group while the stream is replayed.
#[derive(Default)]
struct GroupState {
    membership: Bytes,
    hard_state: HardState,
    runs: Vec<TermRun>,
    index: GroupIndex,
}

impl GroupState {
    fn put(
        &mut self,
        first: LogIndex,
        last: LogIndex,
        term: Term,
        place: Position,
    ) -> Result<(), Bad> {
        if !self.index.follows(first) {
            return Err(Bad("entries leave a hole in their group's log"));
        }
        while self.runs.last().is_some_and(|run| run.first >= first) {
            self.runs.pop();
        }
        match self.runs.last() {
            Some(run) if run.term > term => return Err(Bad("entries whose term falls")),
            Some(run) if run.term == term => {}
            _ => self.runs.push(TermRun { first, term }),
        }
        self.index.put(first, last, place);
        Ok(())
    }

    fn finish(self, group: GroupId) -> (GroupIndex, RecoveredGroup) {
        let last = self.index.last();
        let commit = self.hard_state.commit.min(last);
        let recovered = RecoveredGroup {
            group,
            membership: self.membership,
            hard_state: HardState { commit, ..self.hard_state },
            runs: self.runs,
            last,
            durable: crate::stream::recovered_durable(group, WriteId::ZERO),
        };
        (self.index, recovered)
    }
}

struct Replay<'a> {
    disk: &'a mut dyn Disk,
    groups: BTreeMap<GroupId, GroupState>,
    next_batch: u64,
    prev_crc: u32,
    batches: u64,
    bytes: u64,
}

impl Replay<'_> {
    fn read(&mut self, file: &Segment, buffer: &mut Vec<u8>) -> Result<(), WalError> {
        buffer.resize(usize::try_from(file.header.bytes).expect("bounded"), 0);
        read(self.disk, file.seq(), 0, buffer)
    }

    /// Replays one segment. Returns where it ended, and what was bad there if its end is not known from
    /// a successor.
    fn segment(
        &mut self,
        file: &Segment,
        bytes: &[u8],
        sealed_at: Option<Position>,
    ) -> Result<(Position, Option<Bad>), WalError> {
        let start = file.start.expect("chain members are used");
        if start.prev_crc != self.prev_crc {
            let what = Bad("segment does not continue the one before it");
            return Err(self.corrupt(file, FIRST_BATCH_AT as usize, what));
        }
        let mut at = FIRST_BATCH_AT as usize;
        loop {
            let position =
                Position::new(file.seq(), u32::try_from(at).expect("segments are below 4 GiB"));
            if sealed_at == Some(position) {
                return Ok((position, None));
            }
            if at == bytes.len() && sealed_at.is_none() {
                return Ok((position, None));
            }
            match self.batch(file, bytes, at)? {
                Ok(padded) => at += padded,
                Err(bad) if sealed_at.is_some() => return Err(self.corrupt(file, at, bad)),
                Err(bad) => return Ok((position, Some(bad))),
            }
        }
    }

    /// Replays the batch at `at`; returns its size. The inner error is a batch that is not whole, the outer
    /// one a whole batch that makes no sense.
    fn batch(
        &mut self,
        file: &Segment,
        bytes: &[u8],
        at: usize,
    ) -> Result<Result<usize, Bad>, WalError> {
        let (header, crc) = match check_batch(file, bytes, at) {
            Ok(found) => found,
            Err(bad) => return Ok(Err(bad)),
        };
        if header.seq != self.next_batch || header.prev_crc != self.prev_crc {
            return Ok(Err(Bad("batch does not follow the one before it")));
        }
        let body_at = at + BATCH_HEADER_BYTES;
        let body = &bytes[body_at..body_at + header.body_bytes as usize];
        let mut records = 0u32;
        for record in Records::new(body, file.seed) {
            let (offset, record) = record.map_err(|bad| self.corrupt(file, body_at, bad))?;
            let place = u32::try_from(body_at + offset).expect("segments are below 4 GiB");
            self.apply(&record, Position::new(file.seq(), place), at, offset)
                .map_err(|bad| self.corrupt(file, body_at + offset, bad))?;
            records += 1;
        }
        if records != header.records {
            return Err(self.corrupt(file, at, Bad("batch has not the records its header counts")));
        }
        self.next_batch += 1;
        self.prev_crc = crc;
        self.batches += 1;
        self.bytes += header.padded_bytes() as u64;
        Ok(Ok(header.padded_bytes()))
    }

    fn apply(
        &mut self,
        record: &Record<'_>,
        place: Position,
        batch_at: usize,
        offset: usize,
    ) -> Result<(), Bad> {
        match record {
            Record::Start(_) if batch_at == FIRST_BATCH_AT as usize && offset == 0 => {}
            Record::Start(_) => return Err(Bad("a start record where none belongs")),
            Record::Membership { group, bytes } => {
                self.groups.entry(*group).or_default().membership = Bytes::copy_from_slice(bytes);
            }
            Record::HardState { group, state } => {
                self.groups.entry(*group).or_default().hard_state = *state;
            }
            Record::Entries(head) => {
                let last = head.first.forward(u64::from(head.count) - 1);
                self.groups
                    .entry(head.group)
                    .or_default()
                    .put(head.first, last, head.term, place)?;
            }
            Record::Optional => {}
        }
        Ok(())
    }

    /// Rule 21: what is bad at `stop` in the last used segment is a torn tail, or damage.
    fn judge_tail(
        &mut self,
        file: &Segment,
        bytes: &[u8],
        stop: Position,
        bad: Bad,
    ) -> Result<Option<CutTail>, WalError> {
        let at = stop.offset() as usize;
        let mut whole_behind = 0;
        for (offset, header) in valid_headers(file, bytes, at + BLOCK_BYTES) {
            if header.durable > stop {
                return Err(self.corrupt(file, at, bad));
            }
            whole_behind += u64::from(check_batch(file, bytes, offset).is_ok());
        }
        if whole_behind == 0 && bytes[at..].iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        Ok(Some(CutTail {
            file: self.disk.path(file.seq()),
            position: stop,
            what: bad.0.to_owned(),
            whole_behind,
        }))
    }

    /// Segments above the last used one hold nothing that was acknowledged, or the log is damaged: batches in
    /// them know how far it was durable.
    fn judge_spares(
        &mut self,
        files: &BTreeMap<SegmentSeq, Segment>,
        last: Option<SegmentSeq>,
        end: Position,
        buffer: &mut Vec<u8>,
    ) -> Result<(), WalError> {
        let spares = files.values().filter(|file| last.is_none_or(|last| file.seq() > last));
        for file in spares {
            self.read(file, buffer)?;
            let first = Position::new(file.seq(), FIRST_BATCH_AT);
            for (_, header) in valid_headers(file, buffer, FIRST_BATCH_AT as usize) {
                if header.durable > first {
                    let bad = Bad("the segment's first batch was durable and cannot be read");
                    return Err(self.corrupt(file, FIRST_BATCH_AT as usize, bad));
                }
                if header.durable > end {
                    let bad = Bad("batches that were durable cannot be read");
                    let (segment, offset) = (end.segment(), u64::from(end.offset()));
                    let path = self.disk.path(segment);
                    return Err(Corrupt { file: path, offset, what: bad.0.to_owned() }.into());
                }
            }
        }
        Ok(())
    }

    fn corrupt(&self, file: &Segment, offset: usize, bad: Bad) -> WalError {
        WalError::Corrupt(Corrupt {
            file: self.disk.path(file.seq()),
            offset: offset as u64,
            what: bad.0.to_owned(),
        })
    }
}

/// The batch at `at`, if all of it holds: header, body and padding.
fn check_batch(file: &Segment, bytes: &[u8], at: usize) -> Result<(BatchHeader, u32), Bad> {
    let (header, crc) = file.batch(bytes, at)?;
    let body_at = at + BATCH_HEADER_BYTES;
    let body_end = body_at + header.body_bytes as usize;
    let padding = bytes.get(body_end..at + header.padded_bytes());
    let padding = padding.ok_or(Bad("batch's padding runs past its segment"))?;
    if file.seed.checksum(&bytes[body_at..body_end]) != header.body_crc {
        return Err(Bad("batch body fails its checksum"));
    }
    if padding.iter().any(|byte| *byte != 0) {
        return Err(Bad("batch padding is not zero"));
    }
    Ok((header, crc))
}

/// Batch headers that hold, at block boundaries from `from` on.
fn valid_headers<'a>(
    file: &'a Segment,
    bytes: &'a [u8],
    from: usize,
) -> impl Iterator<Item = (usize, BatchHeader)> + 'a {
    (from..bytes.len())
        .step_by(BLOCK_BYTES)
        .filter_map(|at| file.batch(bytes, at).ok().map(|(header, _)| (at, header)))
}
