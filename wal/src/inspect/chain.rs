//! Which files are the log: the manifest, every segment's header, and the chain of start records.
//!
//! In:     what the directory lists.
//! Out:    the chain, oldest first, and every file's [`Role`].
//! Cost:   two blocks of each segment.
//! Fails:  a file that is missing, foreign, damaged or there twice is a finding; the chain then goes on at the next
//!         segment below that was in use.
//! Source: RULES.md rules 8, 23, 26-28; C4-C8, W11, W12.

use super::files::{Listing, Window};
use super::{Finding, InspectError, Owner, Role, Scan, Segment};
use crate::checksum::Seed;
use crate::disk::is_nearly_a_segments;
use crate::format::{
    BATCH_HEADER_BYTES, BLOCK_BYTES, BatchHeader, FIRST_BATCH_AT, FORMAT_VERSION, Manifest,
    Position, SEGMENT_BYTES_MIN, SegmentHeader, SegmentSeq, Start, is_segment_file_bytes,
};
use crate::home::Identity;
use crate::judge::{Case, is_moved};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

type Segments = BTreeMap<SegmentSeq, Segment>;

impl Scan<'_> {
    pub(super) fn manifest(
        &mut self,
        bytes: Option<Vec<u8>>,
        owner: Option<(&Identity, u32)>,
    ) -> Result<Option<Manifest>, InspectError> {
        let file = self.dir.manifest_path();
        if let Some((identity, shard)) = owner {
            self.report.owner = Owner {
                cluster: identity.cluster.clone(),
                node: identity.node,
                store: identity.store,
                shard,
            };
        }
        let Some(bytes) = bytes else {
            self.find(Case::MissingManifest, &file, 0, "every stream has one")?;
            return Ok(None);
        };
        let manifest = match Manifest::decode(&bytes) {
            Ok(manifest) => manifest,
            Err(bad) => {
                self.find(Case::DamagedManifest, &file, 0, bad.0)?;
                return Ok(None);
            }
        };
        if manifest.version != FORMAT_VERSION {
            let what = format!("a manifest of version {}", manifest.version);
            self.find(Case::NewerVersion, &file, 0, what)?;
            return Ok(None);
        }
        let Manifest { store, node, shard, .. } = manifest;
        if owner.is_none() {
            self.report.owner = Owner { cluster: String::new(), node, store, shard };
        } else if (store, node, shard)
            != (self.report.owner.store, self.report.owner.node, self.report.owner.shard)
        {
            let what = format!("made for store {store:032x}, node {node}, shard {shard}");
            self.find(Case::ForeignFile, &file, 0, what)?;
            return Ok(None);
        }
        Ok(Some(manifest))
    }

    pub(super) fn other_files(&mut self, listing: &Listing) -> Result<(), InspectError> {
        for file in &listing.temporary {
            self.find(Case::HalfMadeSegment, file, 0, "in the making, or to be used again")?;
        }
        let strange = |label, damage, file: &PathBuf, what: &str| {
            let (file, what) = (file.clone(), what.to_owned());
            Finding { label, damage, file, offset: 0, groups: Vec::new(), what }
        };
        for file in &listing.set_aside {
            let what = "a damaged segment, given up or about to be; its groups are fenced";
            self.tell(strange("set_aside", false, file, what))?;
        }
        for file in &listing.others {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            self.tell(match is_nearly_a_segments(&name) {
                true => strange("strange_file", true, file, "not a segment's name"),
                false => strange("strange_file", false, file, "not the log's: passed over"),
            })?;
        }
        Ok(())
    }

    /// Reads every file's header and start record, the newest file first: an older segment is then complete up to where
    /// the newer one follows it.
    pub(super) fn headers(
        &mut self,
        listing: &Listing,
        manifest: Option<&Manifest>,
    ) -> Result<Segments, InspectError> {
        let needed = manifest.map_or(SegmentSeq(0), |manifest| manifest.first);
        let mut segments = Segments::new();
        for (seq, bytes) in listing.segments.iter().rev() {
            if *seq < needed {
                let file = self.dir.path(*seq);
                self.find(Case::Leftover, &file, 0, "the manifest has passed it")?;
            } else if let Some(segment) = self.header(*seq, *bytes)? {
                segments.insert(*seq, segment);
            }
        }
        if self.report.owner == Owner::default()
            && let Some(segment) = segments.values().find(|segment| segment.role != Role::Damaged)
        {
            self.report.owner = segment.owner.clone();
        }
        self.compare(&mut segments)?;
        Ok(segments)
    }

    fn header(&mut self, seq: SegmentSeq, bytes: u64) -> Result<Option<Segment>, InspectError> {
        let file = self.dir.path(seq);
        let mut segment = Segment {
            segment: seq,
            file: file.clone(),
            bytes,
            role: Role::Damaged,
            id: 0,
            incarnation: 0,
            used_bytes: 0,
            batches: 0,
            live_bytes: 0,
            seed: Seed::of(0),
            first: None,
            is_moved: false,
            written: false,
            owner: Owner::default(),
        };
        if bytes < SEGMENT_BYTES_MIN {
            let what = "a segment file of less than the least size";
            self.find(Case::TruncatedSegment, &file, bytes, what)?;
            return Ok(Some(segment));
        }
        let blocks =
            Window::open(&file).and_then(|mut window| Ok(window.get(0, 2 * BLOCK_BYTES)?.to_vec()));
        let blocks = match blocks {
            Ok(blocks) => blocks,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                self.unreadable(&segment, Case::DamagedSegmentHeader, 0, error)?;
                return Ok(Some(segment));
            }
        };
        let (block, first) = blocks.split_at(BLOCK_BYTES);
        let header = match SegmentHeader::decode(block.try_into().expect("one block")) {
            Ok(header) => header,
            Err(bad) => {
                self.find(Case::DamagedSegmentHeader, &file, 0, bad.0)?;
                return Ok(Some(segment));
            }
        };
        if header.version != FORMAT_VERSION {
            let what = format!("a segment of version {}", header.version);
            self.find(Case::NewerVersion, &file, 0, what)?;
            return Ok(Some(segment));
        }
        if header.bytes != bytes || !is_segment_file_bytes(header.bytes) {
            let what = "the file has not the size its header says";
            self.find(Case::TruncatedSegment, &file, bytes, what)?;
            return Ok(Some(segment));
        }
        segment.id = header.id;
        segment.incarnation = header.incarnation;
        segment.seed = Seed::of(header.id);
        segment.owner = Owner {
            cluster: header.cluster,
            node: header.node,
            store: header.store,
            shard: header.shard,
        };
        if header.seq != seq {
            let what = format!("it is segment {} by its header", header.seq.0);
            self.find(Case::SwappedSegment, &file, 0, what)?;
            return Ok(Some(segment));
        }
        segment.role = Role::Spare;
        let position = Position::new(seq, FIRST_BATCH_AT);
        segment.written = first.iter().any(|byte| *byte != 0);
        let seed = segment.seed;
        let begun = BatchHeader::decode(first, seed, position, bytes)
            .and_then(|(batch, _)| Ok((batch, Start::decode(&first[BATCH_HEADER_BYTES..], seed)?)));
        if let Ok((batch, start)) = begun {
            segment.is_moved = is_moved(&batch, first);
            segment.first = Some((batch.seq, start));
        }
        Ok(Some(segment))
    }

    /// Finds segments of another owner, and copies.
    fn compare(&mut self, segments: &mut Segments) -> Result<(), InspectError> {
        let mut ids: BTreeMap<u128, SegmentSeq> = BTreeMap::new();
        for segment in segments.values_mut().filter(|segment| segment.role != Role::Damaged) {
            // A stream's manifest does not name the cluster: the stream's first segment does.
            if self.report.owner.cluster.is_empty() {
                self.report.owner.cluster.clone_from(&segment.owner.cluster);
            }
            if segment.owner != self.report.owner {
                segment.role = Role::Damaged;
                let Owner { cluster, node, store, shard } = &segment.owner;
                let what = format!(
                    "made for cluster {cluster:?}, store {store:032x}, node {node}, shard {shard}"
                );
                self.find(Case::ForeignFile, &segment.file, 0, what)?;
            } else if let Some(twin) = ids.insert(segment.id, segment.segment) {
                segment.role = Role::Damaged;
                let what = format!("a copy of segment {}", twin.0);
                self.find(Case::DuplicateSegment, &segment.file, 0, what)?;
            }
        }
        Ok(())
    }

    /// Finds the segments that hold the log, oldest first, and sets every segment's role.
    pub(super) fn chain(
        &mut self,
        segments: &mut Segments,
        manifest: Option<&Manifest>,
    ) -> Result<Vec<SegmentSeq>, InspectError> {
        let needed = manifest.map_or(SegmentSeq(0), |manifest| manifest.first);
        let mut chain = Vec::new();
        let last = used_below(segments, SegmentSeq(u32::MAX));
        let mut newer = last;
        while let Some(seq) = newer {
            chain.push(seq);
            let end = segments[&seq].start().end;
            if end == Position::ZERO || end.segment() < needed {
                break;
            }
            newer = self.older(segments, seq)?;
        }
        chain.reverse();
        for (seq, segment) in segments.iter_mut().filter(|(_, found)| found.role != Role::Damaged) {
            segment.role = if Some(*seq) == last {
                Role::Active
            } else if chain.contains(seq) {
                Role::Sealed
            } else if last.is_some_and(|last| *seq < last) {
                Role::Void
            } else {
                Role::Spare
            };
        }
        if let Some(manifest) = manifest {
            self.compare_with_manifest(manifest, segments, last)?;
        }
        Ok(chain)
    }

    /// The segment that `newer` follows, or, where that one does not hold, the next segment below that was in use.
    fn older(
        &mut self,
        segments: &Segments,
        newer: SegmentSeq,
    ) -> Result<Option<SegmentSeq>, InspectError> {
        let start = segments[&newer].start();
        let before = start.end.segment();
        match segments.get(&before) {
            Some(found) if found.id == start.id && found.first.is_some() && before < newer => {
                if !start.can_end(found.bytes) {
                    let what = format!("it follows {:?}, where no batch ends", start.end);
                    let at = u64::from(FIRST_BATCH_AT);
                    self.find(Case::DamagedStart, &segments[&newer].file, at, what)?;
                    self.blind = true;
                }
                return Ok(Some(before));
            }
            // The damage was reported already.
            Some(found) if found.role == Role::Damaged => {}
            Some(found) if found.id == start.id && before < newer => {
                if !self.given_up(before) {
                    let what = "the first batch of a full segment cannot be read";
                    let at = u64::from(FIRST_BATCH_AT);
                    self.find(Case::DamagedStart, &found.file, at, what)?;
                }
            }
            Some(found) => {
                if !self.given_up(before) {
                    let what = format!("not the segment that segment {} follows", newer.0);
                    self.find(Case::SwappedSegment, &found.file, 0, what)?;
                }
            }
            None => self.missing(before, format!("segment {} follows it", newer.0))?,
        }
        self.blind = true;
        Ok(used_below(segments, newer.min(before)))
    }

    fn compare_with_manifest(
        &mut self,
        manifest: &Manifest,
        segments: &Segments,
        last: Option<SegmentSeq>,
    ) -> Result<(), InspectError> {
        if let Some(last) = last.filter(|last| *last > manifest.made)
            && self.manifest_now().is_none_or(|now| last > now.made)
        {
            let what = format!("segment {} is in use, and it does not know it", last.0);
            let file = self.dir.manifest_path();
            self.find(Case::OlderManifest, &file, 0, what)?;
        }
        // The segments that a start record passed over are removed once that record is durable. So of several segments
        // without a file the newest is really missing; unless a segment above it was in use and has lost its start
        // record to damage.
        let void_below = last.unwrap_or(SegmentSeq(0));
        let made = (manifest.first.0..=manifest.made.0).rev().map(SegmentSeq);
        let mut missing =
            made.take_while(|seq| *seq > void_below).filter(|seq| !segments.contains_key(seq));
        if let Some(seq) = missing.next() {
            match segments.values().find(|file| file.segment > seq && file.written) {
                Some(used) if !self.given_up(seq) => {
                    let what =
                        format!("its first batch cannot be read, and segment {} is gone", seq.0);
                    let at = u64::from(FIRST_BATCH_AT);
                    self.find(Case::DamagedStart, &used.file, at, what)?;
                    self.blind = true;
                }
                _ => self.missing(seq, "the manifest says it was made".to_owned())?,
            }
        }
        if last.is_none() && manifest.first > SegmentSeq(1) && !self.given_up(manifest.first) {
            let what = "segments before it were given up, and no later one can be read";
            let file = self.dir.path(manifest.first);
            self.find(Case::DamagedStart, &file, u64::from(FIRST_BATCH_AT), what)?;
        }
        Ok(())
    }

    fn missing(&mut self, seq: SegmentSeq, what: String) -> Result<(), InspectError> {
        if self.given_up(seq) {
            return Ok(());
        }
        let file = self.dir.path(seq);
        self.find(Case::MissingSegment, &file, 0, what)
    }
}

/// The newest segment below `seq` that was in use.
fn used_below(segments: &Segments, seq: SegmentSeq) -> Option<SegmentSeq> {
    let mut below = segments.range(..seq).rev();
    below
        .find(|(_, segment)| segment.role != Role::Damaged && segment.first.is_some())
        .map(|(seq, _)| *seq)
}
