//! One segment's batches: which of them hold, and which case of the table it is where one does not.
//!
//! In:     a segment of the chain; where the next segment, if there is one, says that this one ended.
//! Out:    the segment's batches and records, told in order.
//! Cost:   one checksum over every byte, and one more behind a segment's first bad batch; 16 bytes of memory for each
//!         batch there.
//! Fails:  a batch that does not hold is a finding; the scan goes on behind it, or at the next header that holds.
//! Source: RULES.md rules 5, 20-22; C1-C3, C9, C10, W2, W12.

use super::files::Window;
use super::record::{Record, records};
use super::{Batch, Event, Finding, InspectError, Role, Scan, Segment};
use crate::format::{
    BATCH_HEADER_BYTES, BLOCK_BYTES, Bad, BatchHeader, FIRST_BATCH_AT, Position, SegmentSeq,
    UNKNOWN_KIND,
};
use crate::judge::{Case, Named, claimed_position, is_of_earlier_life};
use logdrive_raft::GroupId;
use std::collections::BTreeMap;
use std::io;

/// Why a batch does not hold.
struct Flaw {
    what: &'static str,
    part: Part,
    /// The batch, if its header and directory hold all the same.
    limited_to: Option<(BatchHeader, u32, Vec<GroupId>)>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Part {
    Header,
    Place,
    Directory,
    Body,
}

/// The content of a segment behind its first bad batch.
#[derive(Default)]
struct Behind {
    /// True if some of the content cannot be read.
    is_unreadable: bool,
    /// The highest place that a batch there states as durable. A batch that states a place behind a later bad batch as
    /// durable stands behind that bad batch itself.
    durable: Position,
    /// Where each batch header that holds stands, and whether its whole batch holds.
    headers: Vec<(u64, bool)>,
    /// The offset of the last block that is not zeros.
    last: u64,
}

impl Behind {
    /// The first header behind `at` that holds.
    fn header(&self, at: u64) -> Option<u64> {
        let first = self.headers.partition_point(|(header, _)| *header <= at);
        self.headers.get(first).map(|(header, _)| *header)
    }

    /// The number of whole batches behind `at`.
    fn whole(&self, at: u64) -> usize {
        let first = self.headers.partition_point(|(header, _)| *header <= at);
        self.headers[first..].iter().filter(|(_, whole)| *whole).count()
    }
}

impl Scan<'_> {
    /// Finds the places that batches in spares state as durable, before the chain is read, because a running node may
    /// write to both.
    pub(super) fn spares(
        &mut self,
        segments: &BTreeMap<SegmentSeq, Segment>,
    ) -> Result<(), InspectError> {
        let first = u64::from(FIRST_BATCH_AT);
        for segment in segments.values().filter(|segment| segment.role == Role::Spare) {
            let behind = Window::open(&segment.file)
                .and_then(|mut window| behind(segment, &mut window, first));
            match behind {
                Ok(behind) if behind.durable > segment.position(first) => {
                    // This is no damage if the node has begun to use the segment since the scan read its header.
                    if segment.now_begins() || self.given_up(segment.segment) {
                        continue;
                    }
                    let what = "the segment's first batch was durable and cannot be read";
                    self.find(Case::DamagedStart, &segment.file, first, what)?;
                    self.blind = true;
                }
                Ok(behind) => self.known_durable = self.known_durable.max(behind.durable),
                Err(error) => {
                    self.unreadable(segment, Case::UnreadableTail, first, error)?;
                }
            }
        }
        Ok(())
    }

    /// Scans one segment of the chain, batch by batch. `newer`: where the next segment says that the log before it
    /// ended.
    pub(super) fn segment(
        &mut self,
        segment: &mut Segment,
        newer: Option<Position>,
    ) -> Result<(), InspectError> {
        let first = u64::from(FIRST_BATCH_AT);
        let mut window = match Window::open(&segment.file) {
            Ok(window) => window,
            Err(error) => {
                return self.unreadable(segment, Case::DamagedSegmentHeader, 0, error);
            }
        };
        let says = (segment.first.expect("chain members are used").0, segment.start().prev_crc);
        if *self.follows.get_or_insert(says) != says {
            let what = "segment does not continue the one before it";
            self.find(Case::DamagedStart, &segment.file, first, what)?;
            self.follows = Some(says);
        }
        self.report.closed = false;
        let end = match newer {
            Some(end) if end.segment() == segment.segment => {
                u64::from(end.offset()).min(segment.bytes)
            }
            _ => segment.bytes,
        };
        let mut at = first;
        let mut seen: Option<(u64, io::Result<Behind>)> = None;
        while at < end {
            let flaw = match self.whole_batch(segment, &mut window, at) {
                Ok(Ok((header, crc))) => {
                    self.batch(segment, &mut window, at, &header)?;
                    at = self.behind_batch(at, &header, crc);
                    continue;
                }
                Ok(Err(flaw)) => Ok(flaw),
                Err(error) => Err(error),
            };
            // The batches found behind this one are evidence against it only if it is bad when it is read after them.
            // The search behind runs once, unless an unreadable place ended that search before it came here.
            let behind = match &seen {
                Some((from, behind)) if behind.is_ok() || *from == at => behind,
                _ => {
                    let found = behind(segment, &mut window, at + BLOCK_BYTES as u64);
                    seen = Some((at, found));
                    window.forget();
                    continue;
                }
            };
            if self.given_up(segment.segment) {
                return Ok(());
            }
            let case = if self.report.closed {
                Case::CleanStop
            } else {
                judge(segment, &mut window, at, newer.is_some(), &flaw, behind)
            };
            let what = match &flaw {
                Ok(flaw) => flaw.what.to_owned(),
                Err(error) => error.to_string(),
            };
            match case {
                Case::CleanStop | Case::CleanEnd | Case::RecycledBytes => return Ok(()),
                Case::TornTail | Case::UnreadableTail => {
                    return self.find(case, &segment.file, at, what);
                }
                Case::ReorderedTail => {
                    let whole = behind.as_ref().map_or(0, |behind| behind.whole(at));
                    let what = format!("{what}; {whole} whole batches behind it");
                    return self.find(case, &segment.file, at, what);
                }
                _ => {}
            }
            let limited = flaw.ok().and_then(|flaw| flaw.limited_to);
            let groups = limited.as_ref().map_or(Vec::new(), |(_, _, groups)| groups.clone());
            self.ledger.fence(&groups, segment.position(at));
            let finding = Finding { groups, ..self.case(case, segment.file.clone(), at, what) };
            self.tell(finding)?;
            if let Some((header, crc, _)) = limited {
                at = self.behind_batch(at, &header, crc);
                continue;
            }
            self.blind = true;
            self.follows = None;
            match behind.as_ref().ok().and_then(|behind| behind.header(at)) {
                Some(next) => at = next,
                None => return Ok(()),
            }
        }
        Ok(())
    }

    fn behind_batch(&mut self, at: u64, header: &BatchHeader, crc: u32) -> u64 {
        self.follows = Some((header.seq + 1, crc));
        at + header.padded_bytes() as u64
    }

    /// The batch at `at`, if all of it holds and it follows the one before.
    fn whole_batch(
        &self,
        segment: &Segment,
        window: &mut Window,
        at: u64,
    ) -> io::Result<Result<(BatchHeader, u32), Flaw>> {
        let found = check_batch(segment, window, at)?;
        let (Ok((header, _)) | Err(Flaw { limited_to: Some((header, ..)), .. })) = &found else {
            return Ok(found);
        };
        let says = (header.seq, header.prev_crc);
        if self.follows.is_none_or(|follows| follows == says) {
            return Ok(found);
        }
        let what = "batch does not follow the one before it";
        Ok(Err(Flaw { what, part: Part::Place, limited_to: None }))
    }

    /// Tells `visit` of a whole batch and its records.
    fn batch(
        &mut self,
        segment: &mut Segment,
        window: &mut Window,
        at: u64,
        header: &BatchHeader,
    ) -> Result<(), InspectError> {
        let body_at = at + BATCH_HEADER_BYTES as u64;
        let body = match window.get(body_at, header.body_bytes as usize) {
            Ok(body) => body,
            Err(error) => {
                return self.unreadable(segment, Case::UnreadableBody, body_at, error);
            }
        };
        let directory = header.directory(body, segment.seed).map(Vec::from_iter);
        let batch = Batch {
            position: header.position,
            number: header.seq,
            durable: header.durable,
            bytes: header.padded_bytes() as u64,
            records: header.records,
            groups: directory.clone().unwrap_or_default(),
        };
        (self.visit)(Event::Batch(&batch)).map_err(InspectError::Stopped)?;
        segment.batches += 1;
        segment.used_bytes += batch.bytes;
        self.report.batches += 1;
        self.report.durable = header.durable;
        self.report.end = segment.position(at + batch.bytes);
        let mut findings: Vec<(Case, u64, &str)> = Vec::new();
        if std::mem::take(&mut self.report.closed) {
            findings.push((Case::SenselessRecord, at, "a batch behind a footer"));
        }
        let mut payloads: Vec<(u64, GroupId)> = Vec::new();
        let mut named = Named::default();
        named.set(batch.groups.iter().copied());
        if let Err(bad) = directory {
            let place = body_at + header.records_bytes() as u64;
            findings.push((Case::SenselessRecord, place, bad.0));
        }
        let mut count = 0;
        for (behind, record) in records(&body[..header.records_bytes()], segment.seed) {
            let place = body_at + behind as u64;
            let record = match record {
                Ok(record) => record,
                Err(bad) => {
                    let unknown = bad == UNKNOWN_KIND;
                    let case = if unknown { Case::UnknownRecord } else { Case::SenselessRecord };
                    findings.push((case, place, bad.0));
                    break;
                }
            };
            count += 1;
            let is_start = matches!(record, Record::Start { .. });
            if is_start && (at, behind) != (u64::from(FIRST_BATCH_AT), 0) {
                let what = "a start record where none belongs";
                findings.push((Case::SenselessRecord, place, what));
            }
            if record.group().is_some_and(|group| !named.has(group)) {
                let what = "a record of a group that the batch's directory does not name";
                findings.push((Case::SenselessRecord, place, what));
            }
            self.report.closed = matches!(record, Record::Footer);
            if let Record::Entries(run) | Record::Carried(run) = &record {
                self.report.entries += u64::from(run.count);
                if run.entries().any(|entry| !entry.is_whole()) {
                    payloads.push((place, run.group));
                }
            }
            if let Err(bad) = self.ledger.record(segment.segment, &record)
                && !self.blind
            {
                findings.push((Case::SenselessRecord, place, bad.0));
            }
            (self.visit)(Event::Record(segment.position(place), record))
                .map_err(InspectError::Stopped)?;
        }
        if findings.is_empty() && count != header.records {
            let what = "batch has not the records its header counts";
            findings.push((Case::SenselessRecord, at, what));
        }
        for (case, place, what) in findings {
            self.find(case, &segment.file, place, what)?;
        }
        for (offset, group) in payloads {
            self.tell(Finding {
                label: "damaged_payload",
                damage: true,
                file: segment.file.clone(),
                offset,
                groups: vec![group],
                what: "an entry's payload fails the checksum it travels with".to_owned(),
            })?;
        }
        Ok(())
    }
}

impl Segment {
    fn position(&self, at: u64) -> Position {
        Position::new(self.segment, u32::try_from(at).expect("segments are below 4 GiB"))
    }

    /// Whether the segment's first batch holds by now.
    fn now_begins(&self) -> bool {
        Window::open(&self.file).is_ok_and(|mut window| {
            check_batch(self, &mut window, u64::from(FIRST_BATCH_AT))
                .is_ok_and(|found| found.is_ok())
        })
    }
}

/// The batch at `at`, if all of it holds: header, directory and body.
fn check_batch(
    segment: &Segment,
    window: &mut Window,
    at: u64,
) -> io::Result<Result<(BatchHeader, u32), Flaw>> {
    let position = segment.position(at);
    let block = window.get(at, BLOCK_BYTES)?;
    let flaw = |part, bad: Bad| Flaw { what: bad.0, part, limited_to: None };
    let (header, crc) = match BatchHeader::decode(block, segment.seed, position, segment.bytes) {
        Ok(found) => found,
        Err(bad) => {
            let elsewhere = claimed_position(block).filter(|claimed| *claimed != position);
            let misplaced = elsewhere.is_some_and(|claimed| {
                BatchHeader::decode(block, segment.seed, claimed, segment.bytes).is_ok()
            });
            return Ok(Err(flaw(if misplaced { Part::Place } else { Part::Header }, bad)));
        }
    };
    if at + header.padded_bytes() as u64 > segment.bytes {
        return Ok(Err(flaw(Part::Place, Bad("batch's padding runs past its segment"))));
    }
    let batch = window.get(at, header.padded_bytes())?;
    let body = &batch[BATCH_HEADER_BYTES..][..header.body_bytes as usize];
    let bad = if segment.seed.checksum(body) != header.body_crc {
        Bad("batch body fails its checksum")
    } else {
        return Ok(Ok((header, crc)));
    };
    Ok(Err(match header.directory(body, segment.seed) {
        Ok(groups) => {
            Flaw { limited_to: Some((header, crc, groups.collect())), ..flaw(Part::Body, bad) }
        }
        Err(bad) => flaw(Part::Directory, bad),
    }))
}

/// Judges what stands at `at`, which is no whole batch: returns its case in the table. `sealed`: a later segment says
/// that the log goes on behind this one.
fn judge(
    segment: &Segment,
    window: &mut Window,
    at: u64,
    sealed: bool,
    flaw: &io::Result<Flaw>,
    behind: &io::Result<Behind>,
) -> Case {
    let known = behind.as_ref().map_or(Position::ZERO, |behind| behind.durable);
    let is_moved = segment.is_moved && at == u64::from(FIRST_BATCH_AT);
    if sealed || is_moved || known > segment.position(at) {
        return match flaw {
            Ok(Flaw { part: Part::Body, .. }) => Case::DamagedBody,
            Ok(Flaw { part: Part::Directory, .. }) => Case::DamagedDirectory,
            Ok(Flaw { part: Part::Place, .. }) => Case::MisdirectedBatch,
            Ok(Flaw { part: Part::Header, .. }) | Err(_) => Case::DamagedBatchHeader,
        };
    }
    let (Ok(_), Ok(behind)) = (flaw, behind) else { return Case::UnreadableTail };
    let Ok(block) = window.get(at, BLOCK_BYTES) else { return Case::UnreadableTail };
    let zero = block.iter().all(|byte| *byte == 0);
    let is_empty = zero && behind.headers.is_empty();
    if behind.is_unreadable && !is_empty {
        Case::UnreadableTail
    } else if behind.is_unreadable {
        Case::CleanEnd
    } else if behind.whole(at) > 0 {
        Case::ReorderedTail
    } else if zero && behind.last <= at {
        Case::CleanEnd
    } else if is_of_earlier_life(block, segment.position(at)) {
        Case::RecycledBytes
    } else {
        Case::TornTail
    }
}

/// The content of a segment from byte `from` on.
fn behind(segment: &Segment, window: &mut Window, from: u64) -> io::Result<Behind> {
    let mut found = Behind::default();
    let mut at = from;
    while at < segment.bytes {
        let Ok(block) = window.get(at, BLOCK_BYTES) else {
            found.is_unreadable = true;
            at += BLOCK_BYTES as u64;
            continue;
        };
        if block.iter().any(|byte| *byte != 0) {
            found.last = at;
        }
        let header = BatchHeader::decode(block, segment.seed, segment.position(at), segment.bytes);
        if let Ok((header, _)) = header {
            found.durable = found.durable.max(header.durable);
            let whole = check_batch(segment, window, at).is_ok_and(|found| found.is_ok());
            found.headers.push((at, whole));
        }
        at += BLOCK_BYTES as u64;
    }
    Ok(found)
}
