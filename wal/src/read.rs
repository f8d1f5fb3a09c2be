//! Old entries back from the log: planned on the shard's thread, read on another, verified on the copy.
//!
//! In:     places from the index; a segment's file, or its image while it is active.
//! Out:    [`EntryBatch`], contiguous, every payload checked against the checksum it travels with.
//! Cost:   planning is a search and a few bytes per record; reading copies each payload once.
//! Fails:  bytes that are not what was written, or that cannot be read any more, are a [`ReadError::Corrupt`] with file and
//!         offset.
//! Source: RULES.md rules 4, 34, 35.

use crate::checksum::{Seed, checksum};
use crate::disk::{SegmentReader, is_unreadable};
use crate::error::{Corrupt, ReadError};
use crate::format::{
    BLOCK_BYTES, Bad, ENTRIES_HEAD_BYTES, ENTRY_HEADER_BYTES, EntriesHead, EntryHead, Position,
    SNAPSHOT_HEAD_BYTES, SnapshotHead, decode_entry_header,
};
use crate::image::Frozen;
use bytes::{Bytes, BytesMut};
use logdrive_raft::{ENTRY_OVERHEAD_BYTES, Entry, EntryBatch, GroupId, LogIndex};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// A read that can be done on any thread.
pub struct ReadPlan {
    pub(crate) group: GroupId,
    pub(crate) bytes_max: usize,
    pub(crate) spans: Vec<Span>,
}

/// Entries `first..=last`, all in one record.
#[derive(Clone)]
pub(crate) struct Span {
    pub(crate) spot: Spot,
    pub(crate) first: LogIndex,
    pub(crate) last: LogIndex,
}

/// A record's place, with all that it takes to read the record.
#[derive(Clone)]
pub(crate) struct Spot {
    pub(crate) source: Arc<dyn SegmentReader>,
    /// No record reaches past them.
    pub(crate) segment_bytes: u64,
    pub(crate) file: PathBuf,
    pub(crate) seed: Seed,
    pub(crate) place: Position,
}

/// Fills memory from a byte of a segment on.
type Source<'a> = dyn FnMut(u64, &mut [u8]) -> io::Result<()> + 'a;

impl ReadPlan {
    /// Reads. Gives at least one entry, and stops before [`Entry::cost_bytes`] of them pass `bytes_max`. May
    /// block on the disk; not for a shard thread.
    ///
    /// # Errors
    /// [`ReadError::Io`] or [`ReadError::Corrupt`].
    pub fn run(self) -> Result<EntryBatch, ReadError> {
        let mut left = self.bytes_max;
        let mut entries = Vec::new();
        for span in &self.spans {
            span.spot.source.ahead(u64::from(span.spot.place.offset()));
            let read = span.read(self.group, &mut left, &mut entries);
            if !read.map_err(|error| span.spot.lost(error))? {
                break;
            }
        }
        EntryBatch::from_entries(entries).map_err(|error| {
            let span = self.spans.first().expect("a plan has entries");
            ReadError::Corrupt(Corrupt {
                file: span.spot.file.clone(),
                offset: u64::from(span.spot.place.offset()),
                what: error.to_string(),
            })
        })
    }
}

impl Span {
    /// Reads what fits into `left`; false if it did not all fit. A record that is damaged, or that the device cannot
    /// read, is read once more, from the device: a group is fenced for such damage.
    pub(crate) fn read(
        &self,
        group: GroupId,
        left: &mut usize,
        entries: &mut Vec<Entry>,
    ) -> Result<bool, ReadError> {
        let (left_before, entries_before) = (*left, entries.len());
        let mut window = Window::default();
        let mut source = |at, out: &mut [u8]| window.read(&self.spot, at, out);
        match self.read_from(&mut source, group, left, entries) {
            Err(error) if is_doubtful(&error) => {
                tracing::warn!(%error, "a read gave damaged bytes, or none: read once more");
                *left = left_before;
                entries.truncate(entries_before);
                let mut source = |at, out: &mut [u8]| self.spot.source.read_again(at, out);
                self.read_from(&mut source, group, left, entries)
            }
            read => read,
        }
    }

    fn read_from(
        &self,
        source: &mut Source<'_>,
        group: GroupId,
        left: &mut usize,
        entries: &mut Vec<Entry>,
    ) -> Result<bool, ReadError> {
        let spot = &self.spot;
        let mut headers = vec![0u8; ENTRIES_HEAD_BYTES];
        spot.copy(source, 0, &mut headers)?;
        let head = EntriesHead::decode(&headers).map_err(|bad| spot.corrupt(0, bad))?;
        let wanted_last = head.first.get() + u64::from(head.count) - 1;
        if head.group != group || head.first > self.first || wanted_last < self.last.get() {
            return Err(spot.corrupt(0, Bad("another record stands where these entries should")));
        }
        // A count that was damaged upwards must not cost memory before the checksum finds it out.
        if u64::from(head.count) > self.last.get() - head.first.get() + 1 + COUNT_SLACK_MAX {
            return Err(spot.corrupt(0, Bad("record with too many entries")));
        }
        spot.check_end(head.record_bytes)?;
        headers.resize(head.headers_bytes(), 0);
        spot.copy(source, ENTRIES_HEAD_BYTES, &mut headers[ENTRIES_HEAD_BYTES..])?;
        let heads = head.verify(&headers, spot.seed).map_err(|bad| spot.corrupt(0, bad))?;
        let heads: Vec<EntryHead> = heads
            .chunks_exact(ENTRY_HEADER_BYTES)
            .map(|header| decode_entry_header(header).expect("verified"))
            .collect();

        let at = |index: LogIndex| {
            usize::try_from(head.first.entries_until(index)).expect("inside a record")
        };
        let skipped = &heads[..at(self.first)];
        let mut offset =
            head.headers_bytes() + skipped.iter().map(|head| head.bytes).sum::<usize>();
        let wanted = &heads[at(self.first)..=at(self.last)];
        let mut fits = 0;
        for entry in wanted {
            let cost = entry.bytes + ENTRY_OVERHEAD_BYTES;
            if cost > *left && (fits > 0 || !entries.is_empty()) {
                break;
            }
            *left = left.saturating_sub(cost);
            fits += 1;
        }
        let mut payloads = BytesMut::zeroed(wanted[..fits].iter().map(|entry| entry.bytes).sum());
        spot.copy(source, offset, &mut payloads)?;
        let mut payloads = payloads.freeze();
        let mut index = self.first;
        for entry in &wanted[..fits] {
            let payload: Bytes = payloads.split_to(entry.bytes);
            if checksum(&payload) != entry.checksum {
                return Err(spot.corrupt(offset, Bad("an entry's payload fails its checksum")));
            }
            entries.push(Entry {
                term: head.term,
                index,
                kind: entry.kind,
                checksum: entry.checksum,
                payload,
            });
            offset += entry.bytes;
            index = index.next();
        }
        Ok(fits == wanted.len())
    }
}

impl Spot {
    /// Reads a snapshot: its record's head, and the content if that is in the record. As with entries, bytes that are
    /// damaged or that the device cannot read are read once more.
    pub(crate) fn read_snapshot(&self, group: GroupId) -> Result<(SnapshotHead, Bytes), ReadError> {
        let mut window = Window::default();
        let read = self.snapshot_from(&mut |at, out| window.read(self, at, out), group);
        match read {
            Err(error) if is_doubtful(&error) => {
                tracing::warn!(%error, "a read gave a damaged snapshot, or none: read once more");
                self.snapshot_from(&mut |at, out| self.source.read_again(at, out), group)
            }
            read => read,
        }
    }

    fn snapshot_from(
        &self,
        source: &mut Source<'_>,
        group: GroupId,
    ) -> Result<(SnapshotHead, Bytes), ReadError> {
        let mut head = [0; SNAPSHOT_HEAD_BYTES];
        self.copy(source, 0, &mut head)?;
        let head = SnapshotHead::decode(&head, self.seed).map_err(|bad| self.corrupt(0, bad))?;
        if head.group != group {
            return Err(self.corrupt(0, Bad("another group's snapshot stands where this should")));
        }
        self.check_end(head.record_bytes)?;
        let mut content = BytesMut::zeroed(head.content_bytes());
        self.copy(source, SNAPSHOT_HEAD_BYTES, &mut content)?;
        if !head.is_content(&content) {
            let bad = Bad("a snapshot's content fails its checksum");
            return Err(self.corrupt(SNAPSHOT_HEAD_BYTES, bad));
        }
        Ok((head, content.freeze()))
    }

    fn check_end(&self, record_bytes: u32) -> Result<(), ReadError> {
        if u64::from(self.place.offset()) + u64::from(record_bytes) > self.segment_bytes {
            return Err(self.corrupt(0, Bad("record runs past its segment")));
        }
        Ok(())
    }

    /// For a reader of entries, a place that the device cannot read after a second look is the same as a failed checksum
    /// (C9), and so is a place behind the end of a file that somebody has cut short (C12).
    pub(crate) fn lost(&self, error: ReadError) -> ReadError {
        match error {
            ReadError::Io { file, source } if self.is_lost(&source) => {
                ReadError::Corrupt(Corrupt {
                    file,
                    offset: u64::from(self.place.offset()),
                    what: format!("the entries cannot be read: {source}"),
                })
            }
            error => error,
        }
    }

    /// Whether a place is lost for which the device gave this error. A device that can read nothing for a while, as after
    /// the reset of its controller, has lost nothing: the file's first block tells the two apart.
    fn is_lost(&self, error: &io::Error) -> bool {
        let answers = || self.source.read_again(0, &mut [0; BLOCK_BYTES]).is_ok();
        is_lost(error) && (!is_unreadable(error) || answers())
    }

    fn copy(
        &self,
        source: &mut Source<'_>,
        behind: usize,
        out: &mut [u8],
    ) -> Result<(), ReadError> {
        source(u64::from(self.place.offset()) + behind as u64, out)
            .map_err(|source| ReadError::Io { file: self.file.clone(), source })
    }

    fn corrupt(&self, behind: usize, bad: Bad) -> ReadError {
        ReadError::Corrupt(Corrupt {
            file: self.file.clone(),
            offset: u64::from(self.place.offset()) + behind as u64,
            what: bad.0.to_owned(),
        })
    }
}

/// The beginning of a record, of which a reader of files loads more bytes than were asked for: most records are small,
/// and one system call is then enough for a record's head, its entries' headers and their payloads.
#[derive(Default)]
struct Window {
    start: u64,
    held: Vec<u8>,
}

impl Window {
    fn read(&mut self, spot: &Spot, at: u64, out: &mut [u8]) -> io::Result<()> {
        let is_first = self.held.is_empty() && self.start == 0;
        let left = usize::try_from(spot.segment_bytes.saturating_sub(at)).unwrap_or(usize::MAX);
        let wanted = spot.source.window_bytes().min(left);
        if is_first && out.len() < wanted {
            self.start = at;
            self.held.resize(wanted, 0);
            // The bytes behind the record may be unreadable where the record is not.
            if spot.source.read(at, &mut self.held).is_err() {
                self.held.clear();
            }
        }
        let from = at.checked_sub(self.start).and_then(|from| usize::try_from(from).ok());
        let held = from.and_then(|from| self.held.get(from..)?.get(..out.len()));
        match held {
            Some(held) => out.copy_from_slice(held),
            None => spot.source.read(at, out)?,
        }
        Ok(())
    }
}

/// Whether a second read may find other bytes.
fn is_doubtful(error: &ReadError) -> bool {
    match error {
        ReadError::Corrupt(_) => true,
        ReadError::Io { source, .. } => is_lost(source),
        _ => false,
    }
}

fn is_lost(error: &io::Error) -> bool {
    is_unreadable(error) || error.kind() == io::ErrorKind::UnexpectedEof
}

/// Part of the active segment, read where it is.
impl SegmentReader for Frozen {
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = usize::try_from(offset)
            .ok()
            .and_then(|start| self.get(start..start.checked_add(out.len())?))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }
}

/// Entries a record may hold behind those the index still points at (they were replaced later).
const COUNT_SLACK_MAX: u64 = 1 << 24;
