//! Which files are the log: the manifest, every segment's header, and the chain of start records.
//!
//! In:     what a [`Disk`] lists.
//! Out:    the chain, oldest first; the files that hold nothing; or a refusal that names a file.
//! Cost:   two blocks of each segment, read twice if no log begins in them.
//! Fails:  if a file is missing, foreign, damaged or there twice; nothing is changed.
//! Source: RULES.md rules 8, 23, 26-28; C4-C8, W11, W12.

use super::{Case, Decision, moved, refuse, refuse_corrupt};
use crate::Config;
use crate::checksum::Seed;
use crate::disk::{Disk, ScanFile, SegmentFile};
use crate::error::WalError;
use crate::format::{
    BATCH_HEADER_BYTES, BLOCK_BYTES, BatchHeader, FIRST_BATCH_AT, FORMAT_VERSION, Manifest,
    Position, SEGMENT_BYTES_MIN, SegmentHeader, SegmentSeq, Start, is_segment_file_bytes,
};
use hashbrown::HashMap;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The files of a stream, sorted out.
pub(super) struct Found {
    segments: BTreeMap<SegmentSeq, Segment>,
    /// The segments that hold the log, oldest first.
    pub(super) chain: Vec<SegmentSeq>,
    /// Segments whose files hold nothing that counts.
    pub(super) void: Vec<SegmentSeq>,
    /// The next segment's number, above every segment ever made.
    pub(super) next: SegmentSeq,
}

/// A segment file whose header holds.
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) header: SegmentHeader,
    pub(super) seed: Seed,
    /// The number of the segment's first batch, and the start record in it; `None` if they cannot be read.
    first: Option<(u64, Start)>,
    /// True if the first batch holds what an open wrote again: that batch was durable as a whole.
    pub(super) is_moved: bool,
    /// True if something was written where the segment's first batch would stand.
    written: bool,
}

impl Segment {
    pub(super) fn seq(&self) -> SegmentSeq {
        self.header.seq
    }

    /// The start record in the segment's first batch, which describes the stream before the segment. Panics for a
    /// segment that is not of the chain.
    pub(super) fn start(&self) -> Start {
        self.first.expect("chain members are used").1
    }

    /// The number of the segment's first batch. Panics for a segment that is not of the chain.
    pub(super) fn first_batch(&self) -> u64 {
        self.first.expect("chain members are used").0
    }

    pub(super) fn position(&self, offset: usize) -> Position {
        Position::new(self.seq(), u32::try_from(offset).expect("segments are below 4 GiB"))
    }
}

impl Found {
    pub(super) fn segment(&self, seq: SegmentSeq) -> &Segment {
        &self.segments[&seq]
    }

    /// The segments of the chain, each with the place where the next segment says that this one ended.
    pub(super) fn chain(&self) -> impl Iterator<Item = (&Segment, Option<Position>)> {
        let ends = self.chain.iter().skip(1).map(|next| Some(self.segments[next].start().end));
        self.chain.iter().map(|seq| &self.segments[seq]).zip(ends.chain([None]))
    }

    /// Segments above the last used one.
    pub(super) fn spares(&self) -> impl Iterator<Item = &Segment> {
        let last = self.chain.last().copied();
        self.segments.values().filter(move |file| last.is_none_or(|last| file.seq() > last))
    }

    /// The files that have to be read, in this order: the segments of the chain, as far as they count; then the spares
    /// as a whole.
    pub(super) fn to_scan(&self) -> Vec<ScanFile> {
        let chain = self.chain().map(|(file, end)| ScanFile {
            segment: file.seq(),
            bytes: end.map_or(file.header.bytes, |end| u64::from(end.offset())),
        });
        let spares =
            self.spares().map(|file| ScanFile { segment: file.seq(), bytes: file.header.bytes });
        chain.chain(spares).collect()
    }
}

/// Sorts out the files of a stream.
pub(super) fn find(disk: &mut dyn Disk, config: &Config) -> Result<Found, WalError> {
    let manifest = read_manifest(disk, config)?;
    let listed = disk.segments().map_err(|source| WalError::Io {
        file: disk.manifest_path(),
        what: "listing the directory",
        source,
    })?;
    let newest = listed.iter().map(|file| file.segment).max().unwrap_or(SegmentSeq(0));
    let (leftovers, needed): (Vec<_>, Vec<_>) =
        listed.into_iter().partition(|file| file.segment < manifest.first);
    let segments = read_headers(disk, config, &needed)?;
    let chain = find_chain(disk, &manifest, &segments)?;

    let last = chain.last().copied();
    let mut void = Vec::new();
    let others = segments.keys().filter(|seq| !chain.contains(seq)).copied();
    for seq in leftovers.iter().map(|file| file.segment).chain(others) {
        let case = if seq < manifest.first {
            Case::Leftover
        } else if last.is_some_and(|last| seq < last) {
            Case::PassedOver
        } else {
            Case::HalfMadeSegment
        };
        assert!(case.decision() == Decision::PassOver, "{case:?} is void");
        tracing::debug!(?seq, case = case.label(), "the segment holds nothing that counts");
        void.push(seq);
    }
    let next = newest.max(manifest.made).0.checked_add(1).map(SegmentSeq);
    let next = next.ok_or_else(|| WalError::Config("segment numbers are used up".to_owned()))?;
    Ok(Found { segments, chain, void, next })
}

fn read_manifest(disk: &mut dyn Disk, config: &Config) -> Result<Manifest, WalError> {
    let file = disk.manifest_path();
    let bytes = disk.manifest().map_err(|source| WalError::Io {
        file: file.clone(),
        what: "read",
        source,
    })?;
    let Some(bytes) = bytes else {
        let what = "every stream has one from the day its directory is made";
        return Err(refuse(Case::MissingManifest, file, what));
    };
    let manifest = Manifest::decode(&bytes)
        .map_err(|bad| refuse_corrupt(Case::DamagedManifest, file.clone(), 0, bad.0))?;
    check_version(&file, "a manifest of version", manifest.version)?;
    let mine = (config.identity.store, config.identity.node, config.shard);
    if (manifest.store, manifest.node, manifest.shard) != mine {
        let Manifest { store, node, shard, .. } = manifest;
        let what = format!("made for store {store:032x}, node {node}, shard {shard}");
        return Err(refuse(Case::ForeignFile, file, &what));
    }
    Ok(manifest)
}

fn check_version(file: &std::path::Path, what: &'static str, found: u32) -> Result<(), WalError> {
    if found == FORMAT_VERSION {
        return Ok(());
    }
    Err(WalError::Version { file: file.to_owned(), what, found, known: FORMAT_VERSION })
}

/// Reads every file's header and start record.
fn read_headers(
    disk: &mut dyn Disk,
    config: &Config,
    listed: &[SegmentFile],
) -> Result<BTreeMap<SegmentSeq, Segment>, WalError> {
    let mut segments = BTreeMap::new();
    let mut ids: HashMap<u128, SegmentSeq> = HashMap::new();
    for file in listed {
        let segment = read_header(disk, config, *file)?;
        if let Some(twin) = ids.insert(segment.header.id, file.segment) {
            let what = format!("a copy of segment {}", twin.0);
            return Err(refuse(Case::DuplicateSegment, segment.path, &what));
        }
        if segment.header.seq != file.segment {
            let what = format!("it is segment {} by its header", segment.header.seq.0);
            return Err(refuse(Case::SwappedSegment, segment.path, &what));
        }
        segments.insert(file.segment, segment);
    }
    Ok(segments)
}

fn read_header(
    disk: &mut dyn Disk,
    config: &Config,
    file: SegmentFile,
) -> Result<Segment, WalError> {
    let path = disk.path(file.segment);
    if file.bytes < SEGMENT_BYTES_MIN {
        let what = "a segment file of less than the least size";
        return Err(refuse_corrupt(Case::TruncatedSegment, path, file.bytes, what));
    }
    let blocks = read_blocks(disk, file.segment).map_err(|source| WalError::Io {
        file: path.clone(),
        what: "read",
        source,
    })?;
    let (block, first) = split(&blocks);
    let header = SegmentHeader::decode(block)
        .map_err(|bad| refuse_corrupt(Case::DamagedSegmentHeader, path.clone(), 0, bad.0))?;
    check_version(&path, "a segment of version", header.version)?;
    let mine = (config.identity.store, config.identity.node, config.shard);
    if (header.store, header.node, header.shard) != mine
        || header.cluster != config.identity.cluster
    {
        let SegmentHeader { cluster, store, node, shard, .. } = header;
        let what =
            format!("made for cluster {cluster:?}, store {store:032x}, node {node}, shard {shard}");
        return Err(refuse(Case::ForeignFile, path, &what));
    }
    if header.bytes != file.bytes || !is_segment_file_bytes(header.bytes) {
        let what = "the file has not the size its header says";
        return Err(refuse_corrupt(Case::TruncatedSegment, path, file.bytes, what));
    }
    let seed = Seed::of(header.id);
    let written = first.iter().any(|byte| *byte != 0);
    let begun = begun(&header, first);
    let is_moved = begun.as_ref().is_some_and(|(batch, _)| moved::is_moved(batch, first));
    let first = begun.map(|(batch, start)| (batch.seq, start));
    Ok(Segment { path, header, seed, first, is_moved, written })
}

/// A segment's first two blocks. No decision rests on a single bad read: unless a header and a start record are found,
/// the blocks are read once more, past the page cache where that is possible. Without the second look a segment in use
/// could be taken for one that was only made.
fn read_blocks(disk: &mut dyn Disk, segment: SegmentSeq) -> std::io::Result<Box<Blocks>> {
    let mut blocks: Box<Blocks> = Box::new([0; 2 * BLOCK_BYTES]);
    let read = disk.read(segment, 0, blocks.as_mut_slice());
    let (block, first) = split(&blocks);
    let is_whole = |header: SegmentHeader| header.seq == segment && begun(&header, first).is_some();
    if read.is_err() || !SegmentHeader::decode(block).is_ok_and(is_whole) {
        let bytes = blocks.len();
        let mut again = disk.scan(vec![ScanFile { segment, bytes: bytes as u64 }])?;
        let again = again.next()?;
        if !again.is_readable(0..bytes) {
            return read.map(|()| blocks);
        }
        blocks.copy_from_slice(again.bytes());
    }
    Ok(blocks)
}

type Blocks = [u8; 2 * BLOCK_BYTES];

/// The header's block, and the first block of the first batch.
fn split(blocks: &Blocks) -> (&[u8; BLOCK_BYTES], &[u8]) {
    blocks.split_first_chunk().expect("two blocks")
}

/// The header and the start record of a segment's first batch, by the first block of it.
fn begun(header: &SegmentHeader, first: &[u8]) -> Option<(BatchHeader, Start)> {
    let (seed, position) = (Seed::of(header.id), Position::new(header.seq, FIRST_BATCH_AT));
    let (batch, _) = BatchHeader::decode(first, seed, position, header.bytes).ok()?;
    Some((batch, Start::decode(&first[BATCH_HEADER_BYTES..], seed).ok()?))
}

/// The segments that hold the log, oldest first; refuses a stream with holes.
fn find_chain(
    disk: &dyn Disk,
    manifest: &Manifest,
    segments: &BTreeMap<SegmentSeq, Segment>,
) -> Result<Vec<SegmentSeq>, WalError> {
    let last = segments.values().rev().find(|file| file.first.is_some());
    if let Some(last) = last.filter(|last| last.seq() > manifest.made) {
        let what = format!("segment {} is in use, and it does not know it", last.seq().0);
        return Err(refuse_corrupt(Case::OlderManifest, disk.manifest_path(), 0, &what));
    }
    let mut chain = Vec::new();
    let mut newer = last;
    while let Some(file) = newer {
        chain.push(file.seq());
        let start = file.start();
        let before = start.end.segment();
        if start.end == Position::ZERO || before < manifest.first {
            break;
        }
        let Some(found) = segments.get(&before) else {
            let what = format!("segment {} follows it", file.seq().0);
            return Err(refuse(Case::MissingSegment, disk.path(before), &what));
        };
        if found.header.id != start.id || before >= file.seq() {
            let what = format!("not the segment that segment {} follows", file.seq().0);
            return Err(refuse(Case::SwappedSegment, disk.path(before), &what));
        }
        if !start.can_end(found.header.bytes) {
            let what = format!("it follows {:?}, where no batch ends", start.end);
            let at = u64::from(FIRST_BATCH_AT);
            return Err(refuse_corrupt(Case::DamagedStart, file.path.clone(), at, &what));
        }
        if found.first.is_none() {
            let what = "the first batch of a full segment cannot be read";
            let at = u64::from(FIRST_BATCH_AT);
            return Err(refuse_corrupt(Case::DamagedStart, disk.path(before), at, what));
        }
        newer = Some(found);
    }
    chain.reverse();

    // The segments that a start record passed over are removed once that record is durable. So of several segments
    // without a file the newest is really missing; unless a segment above it was in use and has lost its start record
    // to damage.
    let void_below = last.map_or(SegmentSeq(0), Segment::seq);
    let made = (manifest.first.0..=manifest.made.0).rev().map(SegmentSeq);
    let mut missing = made.filter(|seq| *seq > void_below && !segments.contains_key(seq));
    if let Some(seq) = missing.next() {
        if let Some(used) = segments.values().find(|file| file.seq() > seq && file.written) {
            let what = format!("its first batch cannot be read, and segment {} is gone", seq.0);
            let at = u64::from(FIRST_BATCH_AT);
            return Err(refuse_corrupt(Case::DamagedStart, used.path.clone(), at, &what));
        }
        let what = "the manifest says it was made";
        return Err(refuse(Case::MissingSegment, disk.path(seq), what));
    }
    // The manifest's first needed segment moves on only once a later segment is in use.
    if chain.is_empty() && manifest.first > SegmentSeq(1) {
        let what = "segments before it were given up, and no later one can be read";
        let at = u64::from(FIRST_BATCH_AT);
        return Err(refuse_corrupt(Case::DamagedStart, disk.path(manifest.first), at, what));
    }
    Ok(chain)
}
