//! Which files are the log: the manifest, every segment's header, and the chain of start records.
//!
//! In:     the manifest's bytes, and the segment files that a directory lists.
//! Out:    the chain, oldest first; the segments made ahead; the files that hold nothing.
//! Cost:   two blocks of each segment, read twice if no log begins in them.
//! Fails:  a file that is missing, foreign, damaged or there twice is a [`Fault`]. If the visitor goes on, the chain goes
//!         on at the next segment below that was in use.
//! Source: RULES.md rules 8, 23, 26-28; C4-C8, W11, W12.

use super::{Case, Fault, Judge, NextBatch, Visitor, What};
use crate::checksum::Seed;
use crate::disk::SegmentFile;
use crate::format::{
    BATCH_HEADER_BYTES, BLOCK_BYTES, Bad, BatchHeader, FIRST_BATCH_AT, FORMAT_VERSION, Manifest,
    Position, RECORD_HEADER_BYTES, SEGMENT_BYTES_MIN, START_RECORD_BYTES, SegmentHeader,
    SegmentSeq, Start, encode_filler, is_segment_file_bytes,
};
use hashbrown::HashMap;
use std::collections::BTreeMap;
use std::ops::RangeBounds;
use std::path::PathBuf;

/// The files of a stream, sorted out.
pub(crate) struct Found {
    /// The segments whose headers hold, and that are this stream's.
    pub(crate) segments: BTreeMap<SegmentSeq, Segment>,
    /// The other files that have a segment's name, with their headers, if these hold.
    pub(crate) damaged: BTreeMap<SegmentSeq, Option<SegmentHeader>>,
    /// The segments that hold the log, oldest first.
    pub(crate) chain: Vec<SegmentSeq>,
    /// Segments whose files hold nothing that counts.
    pub(crate) void: Vec<(SegmentSeq, Case)>,
}

/// A segment file whose header holds.
pub(crate) struct Segment {
    pub(crate) path: PathBuf,
    pub(crate) header: SegmentHeader,
    pub(crate) seed: Seed,
    /// The number of the segment's first batch, and the start record in it; `None` if they cannot be read.
    first: Option<(u64, Start)>,
    /// True if the first batch holds what an open wrote again: that batch was durable as a whole.
    pub(super) is_moved: bool,
    /// True if something was written where the segment's first batch would stand.
    written: bool,
}

impl Segment {
    /// Looks at the first batch's first block, `first`.
    fn new(path: PathBuf, header: SegmentHeader, first: &[u8]) -> Self {
        let begun = begun(&header, first);
        Self {
            path,
            seed: Seed::of(header.id),
            header,
            first: begun.map(|(batch, start)| (batch.seq, start)),
            is_moved: begun.is_some_and(|(batch, _)| is_moved(&batch, first)),
            written: first.iter().any(|byte| *byte != 0),
        }
    }

    /// Whether the segment is in use by now, if its first batch's first block is `first`.
    pub(crate) fn begins_with(&self, first: &[u8]) -> bool {
        begun(&self.header, first).is_some()
    }

    pub(crate) fn seq(&self) -> SegmentSeq {
        self.header.seq
    }

    /// True if the segment is in use: its start record can be read.
    pub(crate) fn is_used(&self) -> bool {
        self.first.is_some()
    }

    /// The start record in the segment's first batch, which describes the stream before the segment. Panics for a
    /// segment that is not of the chain.
    pub(crate) fn start(&self) -> Start {
        self.first.expect("chain members are used").1
    }

    /// The place in the stream that the segment's first batch has. Panics for a segment that is not of the chain.
    pub(crate) fn follows(&self) -> NextBatch {
        let (number, start) = self.first.expect("chain members are used");
        NextBatch { number, prev_crc: start.prev_crc }
    }

    pub(crate) fn position(&self, offset: usize) -> Position {
        Position::new(self.seq(), u32::try_from(offset).expect("segments are below 4 GiB"))
    }

    pub(crate) fn fault(&self, case: Case, offset: usize, what: impl Into<String>) -> Fault {
        Fault::new(case, Some(self.seq()), self.path.clone(), what).at(offset)
    }
}

impl Found {
    /// The segments of the chain, each with the number of its bytes that count, and whether a later segment says that
    /// the log goes on behind it.
    pub(crate) fn chain(&self) -> impl Iterator<Item = (&Segment, u64, bool)> {
        let newer = self.chain.iter().skip(1).map(|seq| Some(self.segments[seq].start()));
        self.chain.iter().zip(newer.chain([None])).map(|(seq, newer)| {
            let file = &self.segments[seq];
            let whole = file.header.bytes;
            // If the chain is damaged, the later segment may follow another segment than this one.
            let end = newer.filter(|start| start.end.segment() == *seq && start.can_end(whole));
            let bytes = end.map_or(whole, |start| u64::from(start.end.offset()));
            (file, bytes, newer.is_some())
        })
    }

    /// Segments above the last used one.
    pub(crate) fn spares(&self) -> impl Iterator<Item = &Segment> {
        let last = self.chain.last().copied();
        self.segments.values().filter(move |file| last.is_none_or(|last| file.seq() > last))
    }

    /// The newest of some segments that was in use.
    fn used(&self, among: impl RangeBounds<SegmentSeq>) -> Option<&Segment> {
        self.segments.range(among).rev().map(|(_, file)| file).find(|file| file.is_used())
    }
}

impl Judge {
    /// Judges the manifest's bytes; `None` if there is no manifest, or none that holds.
    pub(crate) fn manifest<V: Visitor>(
        &mut self,
        bytes: Option<Vec<u8>>,
        visitor: &mut V,
    ) -> Result<Option<Manifest>, V::Stop> {
        let fault = |case, what: &str| Fault::new(case, None, visitor.manifest_path(), what);
        let fault = match bytes.as_deref().map(Manifest::decode) {
            None => {
                let what = "every stream has one from the day its directory is made";
                fault(Case::MissingManifest, what)
            }
            Some(Err(bad)) => fault(Case::DamagedManifest, bad.0),
            Some(Ok(Manifest { version, .. })) if version != FORMAT_VERSION => {
                let what = version_of("a manifest of version", version);
                Fault { what, ..fault(Case::OtherVersion, "") }
            }
            Some(Ok(manifest)) => {
                let Manifest { store, node, shard, .. } = manifest;
                if self.owner.has_ids((store, node, shard)) {
                    return Ok(Some(manifest));
                }
                let what = format!("made for store {store:032x}, node {node}, shard {shard}");
                fault(Case::ForeignFile, &what)
            }
        };
        visitor.fault(fault)?;
        Ok(None)
    }

    /// Sorts out the segment files that are listed, in order. Without a manifest, all of them may be needed.
    pub(crate) fn files<V: Visitor>(
        &mut self,
        listed: &[SegmentFile],
        manifest: Option<&Manifest>,
        visitor: &mut V,
    ) -> Result<Found, V::Stop> {
        let needed = manifest.map_or(SegmentSeq(0), |manifest| manifest.first);
        let (leftovers, listed): (Vec<_>, Vec<_>) =
            listed.iter().copied().partition(|file| file.segment < needed);
        let (segments, damaged) = self.headers(&listed, visitor)?;
        let mut found = Found { segments, damaged, chain: Vec::new(), void: Vec::new() };
        found.chain = self.chain(&found, manifest, visitor)?;

        let last = found.chain.last().copied();
        let leftovers = leftovers.iter().map(|file| (file.segment, Case::Leftover));
        let others = found.segments.keys().filter(|seq| !found.chain.contains(seq)).map(|seq| {
            let is_passed = last.is_some_and(|last| *seq < last);
            (*seq, if is_passed { Case::PassedOver } else { Case::HalfMadeSegment })
        });
        found.void = leftovers.chain(others).collect();
        Ok(found)
    }

    /// Reads every file's header and start record.
    #[allow(clippy::type_complexity)] // Two fields of `Found`.
    fn headers<V: Visitor>(
        &mut self,
        listed: &[SegmentFile],
        visitor: &mut V,
    ) -> Result<(BTreeMap<SegmentSeq, Segment>, BTreeMap<SegmentSeq, Option<SegmentHeader>>), V::Stop>
    {
        let (mut segments, mut damaged) = (BTreeMap::new(), BTreeMap::new());
        let mut ids: HashMap<u128, SegmentSeq> = HashMap::new();
        for file in listed {
            let seq = file.segment;
            let segment = match self.header(*file, visitor)? {
                Ok(segment) => segment,
                Err(header) => {
                    damaged.insert(seq, header);
                    continue;
                }
            };
            let (case, what) = if let Some(twin) = ids.insert(segment.header.id, seq) {
                (Case::DuplicateSegment, format!("a copy of segment {}", twin.0))
            } else if segment.seq() != seq {
                let what = format!("it is segment {} by its header", segment.seq().0);
                (Case::SwappedSegment, what)
            } else {
                segments.insert(seq, segment);
                continue;
            };
            visitor.fault(Fault::new(case, Some(seq), segment.path, what))?;
            damaged.insert(seq, Some(segment.header));
        }
        Ok((segments, damaged))
    }

    /// Reads one file's header and start record; an error, with the header if that holds, for a file that is none of
    /// the stream's segments.
    fn header<V: Visitor>(
        &mut self,
        file: SegmentFile,
        visitor: &mut V,
    ) -> Result<Result<Segment, Option<SegmentHeader>>, V::Stop> {
        let path = visitor.path(file.segment);
        let fault = |case, what: &str| Fault::new(case, Some(file.segment), path.clone(), what);
        let truncated = |what| Fault { offset: file.bytes, ..fault(Case::TruncatedSegment, what) };
        if file.bytes < SEGMENT_BYTES_MIN {
            visitor.fault(truncated("a segment file of less than the least size"))?;
            return Ok(Err(None));
        }
        let blocks = match read_blocks(file.segment, visitor) {
            Ok(blocks) => blocks,
            Err(source) => {
                visitor.unread(file.segment, source)?;
                return Ok(Err(None));
            }
        };
        let (block, first) = split(&blocks);
        let header = match SegmentHeader::decode(block) {
            Ok(header) => header,
            Err(Bad(what)) => {
                visitor.fault(fault(Case::DamagedSegmentHeader, what))?;
                return Ok(Err(None));
            }
        };
        let SegmentHeader { cluster, store, node, shard, .. } = &header;
        let fault = if header.version != FORMAT_VERSION {
            let what = version_of("a segment of version", header.version);
            Fault { what, ..fault(Case::OtherVersion, "") }
        } else if !self.owner.has_ids((*store, *node, *shard)) || !self.owner.has_cluster(cluster) {
            let what = format!(
                "made for cluster {cluster:?}, store {store:032x}, node {node}, shard {shard}"
            );
            fault(Case::ForeignFile, &what)
        } else if header.bytes != file.bytes || !is_segment_file_bytes(header.bytes) {
            truncated("the file has not the size its header says")
        } else {
            return Ok(Ok(Segment::new(path, header, first)));
        };
        visitor.fault(fault)?;
        Ok(Err(Some(header)))
    }

    /// The segments that hold the log, oldest first.
    fn chain<V: Visitor>(
        &mut self,
        found: &Found,
        manifest: Option<&Manifest>,
        visitor: &mut V,
    ) -> Result<Vec<SegmentSeq>, V::Stop> {
        let last = found.used(..);
        if let (Some(last), Some(manifest)) = (last.map(Segment::seq), manifest)
            && last > manifest.made
        {
            let what = format!("segment {} is in use, and it does not know it", last.0);
            let file = visitor.manifest_path();
            visitor.fault(Fault::new(Case::OlderManifest, Some(last), file, what))?;
        }
        let needed = manifest.map_or(SegmentSeq(0), |manifest| manifest.first);
        let mut chain = Vec::new();
        let mut newer = last;
        while let Some(file) = newer {
            chain.push(file.seq());
            let end = file.start().end;
            if end == Position::ZERO || end.segment() < needed {
                break;
            }
            newer = self.older(found, file, visitor)?;
        }
        chain.reverse();
        if let Some(manifest) = manifest {
            self.made(found, last.map(Segment::seq), manifest, visitor)?;
        }
        Ok(chain)
    }

    /// The segment that `newer` follows; if that one does not hold, and the visitor goes on, the next segment below that
    /// was in use.
    fn older<'a, V: Visitor>(
        &mut self,
        found: &'a Found,
        newer: &Segment,
        visitor: &mut V,
    ) -> Result<Option<&'a Segment>, V::Stop> {
        let start = newer.start();
        let before = start.end.segment();
        let first = FIRST_BATCH_AT as usize;
        let fault = match found.segments.get(&before) {
            // The damage was reported already.
            None if found.damaged.contains_key(&before) => None,
            None => {
                let (file, what) =
                    (visitor.path(before), format!("segment {} follows it", newer.seq().0));
                Some(Fault::new(Case::MissingSegment, Some(before), file, what))
            }
            Some(file) if file.header.id != start.id || before >= newer.seq() => {
                let what = format!("not the segment that segment {} follows", newer.seq().0);
                Some(file.fault(Case::SwappedSegment, 0, what))
            }
            Some(file) => {
                let can_end = start.can_end(file.header.bytes);
                if !can_end {
                    let what = format!("it follows {:?}, where no batch ends", start.end);
                    visitor.fault(newer.fault(Case::DamagedStart, first, what))?;
                    self.blind = true;
                }
                if file.is_used() {
                    return Ok(Some(file));
                }
                let what = "the first batch of a full segment cannot be read";
                can_end.then(|| file.fault(Case::DamagedStart, first, what))
            }
        };
        if let Some(fault) = fault {
            visitor.fault(fault)?;
        }
        self.blind = true;
        Ok(found.used(..newer.seq().min(before)))
    }

    /// Checks that the segments are there that the manifest says were made. The segments that a start record passed
    /// over are removed once that record is durable. So of several segments without a file only the newest is reported
    /// as missing. If a segment above it was in use and has lost its start record to damage, that segment is reported
    /// instead.
    fn made<V: Visitor>(
        &mut self,
        found: &Found,
        last: Option<SegmentSeq>,
        manifest: &Manifest,
        visitor: &mut V,
    ) -> Result<(), V::Stop> {
        let first = FIRST_BATCH_AT as usize;
        let made = (manifest.first.0..=manifest.made.0).rev().map(SegmentSeq);
        let is_there =
            |seq: &SegmentSeq| found.segments.contains_key(seq) || found.damaged.contains_key(seq);
        let void_below = last.unwrap_or(SegmentSeq(0));
        let mut missing = made.take_while(|seq| *seq > void_below).filter(|seq| !is_there(seq));
        if let Some(seq) = missing.next() {
            let fault = match found.segments.values().find(|file| file.seq() > seq && file.written)
            {
                Some(used) => {
                    let what =
                        format!("its first batch cannot be read, and segment {} is gone", seq.0);
                    self.blind = true;
                    used.fault(Case::DamagedStart, first, what)
                }
                None => {
                    let what = "the manifest says it was made";
                    Fault::new(Case::MissingSegment, None, visitor.path(seq), what)
                }
            };
            visitor.fault(Fault { segment: Some(seq), ..fault })?;
        }
        // The manifest's first needed segment moves on only once a later segment is in use.
        if last.is_none() && manifest.first > SegmentSeq(1) {
            let what = "segments before it were given up, and no later one can be read";
            let file = visitor.path(manifest.first);
            let fault = Fault::new(Case::DamagedStart, Some(manifest.first), file, what);
            visitor.fault(fault.at(first))?;
        }
        Ok(())
    }
}

/// A segment's first two blocks. No decision rests on a single bad read: unless a header and a start record are found,
/// the blocks are read once more, past the page cache where that is possible. Without the second look a segment in use
/// could be taken for one that was only made, so if the second look cannot read them, the first one does not count.
fn read_blocks<V: Visitor>(segment: SegmentSeq, visitor: &mut V) -> std::io::Result<Box<Blocks>> {
    let mut blocks: Box<Blocks> = Box::new([0; 2 * BLOCK_BYTES]);
    let read = visitor.read(segment, blocks.as_mut_slice());
    let (block, first) = split(&blocks);
    let is_whole = |header: SegmentHeader| header.seq == segment && begun(&header, first).is_some();
    if read.is_err() || !SegmentHeader::decode(block).is_ok_and(is_whole) {
        let mut again = visitor.read_again(segment, blocks.len())?;
        let again = again.next()?;
        if !again.is_readable(0..blocks.len()) {
            read?;
            return Err(rustix::io::Errno::IO.into());
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

/// The header of a segment's first batch and its start record, if both hold in the batch's first block.
fn begun(header: &SegmentHeader, first: &[u8]) -> Option<(BatchHeader, Start)> {
    let seed = Seed::of(header.id);
    let position = Position::new(header.seq, FIRST_BATCH_AT);
    let (batch, _) = BatchHeader::decode(first, seed, position, header.bytes).ok()?;
    let start = Start::decode(&first[BATCH_HEADER_BYTES..], seed).ok()?;
    Some((batch, start))
}

fn version_of(what: &'static str, found: u32) -> What {
    What::Version { what, found, known: FORMAT_VERSION }
}

/// Whether a segment's first batch, whose first block is given, holds what an open wrote again. That block is written
/// when everything behind it in the batch is durable (`stream/first.rs`), so a first block that can be read vouches for
/// its batch. In that block only the batch's header and the start record have checksums of their own, so either the
/// filler's header or the zeros behind that header are enough: no other batch of several blocks has either there, and
/// one bad sector does not take both.
fn is_moved(header: &BatchHeader, first_block: &[u8]) -> bool {
    let at = BATCH_HEADER_BYTES + START_RECORD_BYTES;
    let mut filler = [0; BLOCK_BYTES];
    encode_filler(&mut filler[at..]);
    let (head, zeros) = filler[at..].split_at(RECORD_HEADER_BYTES);
    let found = &first_block[at..BLOCK_BYTES];
    header.padded_bytes() > BLOCK_BYTES && (found.starts_with(head) || found.ends_with(zeros))
}
