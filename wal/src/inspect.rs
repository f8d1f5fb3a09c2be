//! A stream's directory, read and judged as recovery would judge it, by a reader that must not change it.
//!
//! In:     a path: the directory of a stopped node's stream, of a running node's, or a copy, also on a read-only file
//!         system.
//! Out:    every batch and record in order, every fault with its place, and the totals.
//! Cost:   one pass; memory for one batch and the [`Group`]s. Nothing is opened for writing, no lock is taken.
//! Fails:  a fault of the log is a [`Finding`], and the scan goes on behind it as far as it can; [`InspectError`] is
//!         only for files that cannot be looked at.
//! Source: RULES.md rules 19-25; `recovery.rs` has the table of cases.
//!
//! A running node writes while a scan reads. So the scan looks for evidence of damage first, and after that once more
//! at the place that the evidence is against, before it reports damage there. A segment that the node gives up
//! meanwhile is passed over.

mod batches;
mod chain;
mod files;
mod ledger;
mod node;
mod record;

use crate::checksum::Seed;
use crate::format::{Manifest, Position, SegmentSeq, Start};
use crate::home::Identity;
use crate::judge::{Case, Decision};
use files::Dir;
use ledger::Ledger;
use logdrive_raft::{GroupId, NodeId};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

pub use ledger::Group;
pub use logdrive_raft::EntryKind;
pub use node::{Node, Stream};
pub use record::{EntryView, Record, Run};

/// One thing that a scan meets, in the order of the log.
#[derive(Debug)]
pub enum Event<'a> {
    /// A whole batch; its records follow.
    Batch(&'a Batch),
    /// A record, and where it stands.
    Record(Position, Record<'a>),
    /// A fault of the log, or a note.
    Finding(&'a Finding),
}

/// A batch, as its header describes it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Batch {
    /// Where the batch stands.
    pub position: Position,
    /// The batch's number; the first batch of the stream has number 1.
    pub number: u64,
    /// Everything before this place was on disk when the batch was closed.
    pub durable: Position,
    /// The batch's size on disk, header and padding included.
    pub bytes: u64,
    /// How many records the batch has, by its header.
    pub records: u32,
    /// The groups that have something in the batch.
    pub groups: Vec<GroupId>,
}

/// Something about the log, with its place.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// The name of the case: its label in recovery's table, if it is a case of that table.
    pub label: &'static str,
    /// False for a thing that a crash, or a running node, leaves behind.
    pub damage: bool,
    /// The file.
    pub file: PathBuf,
    /// The offset in the file, in bytes.
    pub offset: u64,
    /// The groups that the finding concerns, as far as they are known.
    pub groups: Vec<GroupId>,
    /// A description of the finding.
    pub what: String,
}

/// The role of a segment file in the log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// The segment is full, or an open has ended it.
    Sealed,
    /// The segment that was written to last.
    Active,
    /// The segment was made, and has not yet been written to.
    Spare,
    /// A later open passed over the segment, or it was given up: nothing in it counts.
    Void,
    /// The segment's header does not hold, or belongs to another log.
    Damaged,
}

/// One segment file.
#[derive(Clone, Debug)]
pub struct Segment {
    /// The segment's number.
    pub segment: SegmentSeq,
    /// The path of the segment's file.
    pub file: PathBuf,
    /// The size of the segment's file.
    pub bytes: u64,
    /// The segment's role.
    pub role: Role,
    /// The segment's random id; 0 if the segment's header does not hold.
    pub id: u128,
    /// The incarnation of the node that made the segment; 0 if the segment's header does not hold.
    pub incarnation: u64,
    /// Bytes of whole batches.
    pub used_bytes: u64,
    /// Whole batches.
    pub batches: u64,
    /// Bytes of entries that are still needed.
    pub live_bytes: u64,
    seed: Seed,
    /// The number of the segment's first batch, and the start record in it; `None` if they cannot be read.
    first: Option<(u64, Start)>,
    /// True if the first batch holds what an open wrote again: that batch was durable as a whole.
    is_moved: bool,
    /// True if something was written where the segment's first batch would stand.
    written: bool,
    owner: Owner,
}

impl Segment {
    /// The start record in the segment's first batch, which describes the stream before the segment. Panics for a
    /// segment that is not of the chain.
    fn start(&self) -> Start {
        self.first.expect("chain members are used").1
    }
}

/// The owner of a stream.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Owner {
    /// The cluster's name; empty as long as there is no segment.
    pub cluster: String,
    /// The node.
    pub node: NodeId,
    /// The node's directory, by its random id.
    pub store: u128,
    /// Which of the node's streams.
    pub shard: u32,
}

/// The result of a scan.
#[derive(Debug, Default)]
pub struct Report {
    /// The stream's owner, by its manifest, or by its segments if the manifest is damaged.
    pub owner: Owner,
    /// The segments, oldest first.
    pub segments: Vec<Segment>,
    /// The groups.
    pub groups: BTreeMap<GroupId, Group>,
    /// Whole batches.
    pub batches: u64,
    /// Entries in the whole batches, also those that were replaced or released later.
    pub entries: u64,
    /// The log's end: the place behind the last batch that counts.
    pub end: Position,
    /// The durable position that the last batch states.
    pub durable: Position,
    /// True if the log was closed, and not opened since.
    pub closed: bool,
    /// The number of findings that are damage.
    pub damage: u64,
    /// The number of findings that are not damage.
    pub notes: u64,
}

/// Why a scan has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError {
    /// The directory, or a file in it, cannot be read.
    #[error("cannot read {}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// The directory has neither a manifest nor a segment.
    #[error("{} is no log: it has neither a manifest nor a segment", .0.display())]
    NoLog(PathBuf),
    /// The `visit` callback wants no more events.
    #[error(transparent)]
    Stopped(io::Error),
}

/// Reads the stream in `dir` from its first batch to its last, and tells `visit` of everything on the way. An error
/// from `visit` ends the scan as [`InspectError::Stopped`]. `owner`: the identity and the shard that the stream must
/// have, if they are known.
///
/// # Errors
/// Any [`InspectError`].
pub fn scan(
    dir: &Path,
    owner: Option<(&Identity, u32)>,
    visit: &mut dyn FnMut(Event<'_>) -> io::Result<()>,
) -> Result<Report, InspectError> {
    let dir_error = |source| InspectError::Io { file: dir.to_owned(), source };
    let files = Dir::new(dir);
    // The manifest is read before the listing: every segment that it says was made is then in the listing, unless the
    // segment is given up meanwhile.
    let manifest = files.manifest().map_err(dir_error)?;
    let listing = files.list().map_err(dir_error)?;
    if manifest.is_none() && listing.segments.is_empty() {
        return Err(InspectError::NoLog(dir.to_owned()));
    }
    let mut scan = Scan {
        dir: files,
        visit,
        report: Report::default(),
        ledger: Ledger::default(),
        follows: None,
        known_durable: Position::ZERO,
        blind: false,
    };
    let manifest = scan.manifest(manifest, owner)?;
    scan.other_files(&listing)?;
    let mut segments = scan.headers(&listing, manifest.as_ref())?;
    let chain = scan.chain(&mut segments, manifest.as_ref())?;
    scan.spares(&segments)?;
    for (n, seq) in chain.iter().enumerate() {
        let newer = chain.get(n + 1).map(|next| segments[next].start().end);
        let segment = segments.get_mut(seq).expect("chain members are segments");
        scan.segment(segment, newer)?;
    }
    scan.finish(segments)
}

/// A scan in progress.
struct Scan<'a> {
    dir: Dir,
    visit: &'a mut dyn FnMut(Event<'_>) -> io::Result<()>,
    report: Report,
    ledger: Ledger,
    /// The number of the next batch, and the checksum of the one before; `None` if they are not known.
    follows: Option<(u64, u32)>,
    /// The highest place that batches in spares state as durable.
    known_durable: Position,
    /// True if records were lost of groups that are not known: a hole in a group's log then proves nothing any more.
    blind: bool,
}

impl Scan<'_> {
    fn finish(
        mut self,
        mut segments: BTreeMap<SegmentSeq, Segment>,
    ) -> Result<Report, InspectError> {
        let (end, case) = (self.report.end, Case::DamagedBatchHeader);
        if self.known_durable > end && !self.blind {
            let (file, at) = (self.dir.path(end.segment()), u64::from(end.offset()));
            self.find(case, &file, at, "batches that were durable cannot be read")?;
        }
        let holed = self.ledger.finish();
        if !holed.is_empty() && !self.blind {
            let finding = Finding {
                groups: holed,
                ..self.case(
                    Case::MissingEntries,
                    self.dir.path(self.report.end.segment()),
                    u64::from(self.report.end.offset()),
                    "groups whose entries have a hole",
                )
            };
            self.tell(finding)?;
        }
        for (segment, bytes) in self.ledger.live_bytes() {
            if let Some(segment) = segments.get_mut(&segment) {
                segment.live_bytes = bytes;
            }
        }
        self.report.segments = segments.into_values().collect();
        self.report.groups = self.ledger.groups;
        Ok(self.report)
    }

    /// True if a running node has given up this segment since the scan began.
    fn given_up(&self, seq: SegmentSeq) -> bool {
        self.manifest_now().is_some_and(|manifest| seq < manifest.first)
    }

    fn manifest_now(&self) -> Option<Manifest> {
        let bytes = self.dir.manifest().ok().flatten()?;
        Manifest::decode(&bytes).ok()
    }

    /// Judges a failed read: nothing if the segment was given up, an error if permission is missing, else a finding.
    fn unreadable(
        &mut self,
        segment: &Segment,
        case: Case,
        at: u64,
        source: io::Error,
    ) -> Result<(), InspectError> {
        match source.kind() {
            io::ErrorKind::NotFound if self.given_up(segment.segment) => Ok(()),
            io::ErrorKind::PermissionDenied => {
                Err(InspectError::Io { file: segment.file.clone(), source })
            }
            _ => self.find(case, &segment.file, at, source.to_string()),
        }
    }

    fn find(
        &mut self,
        case: Case,
        file: &Path,
        offset: u64,
        what: impl Into<String>,
    ) -> Result<(), InspectError> {
        let finding = self.case(case, file.to_owned(), offset, what);
        self.tell(finding)
    }

    fn case(&self, case: Case, file: PathBuf, offset: u64, what: impl Into<String>) -> Finding {
        Finding {
            label: case.label(),
            damage: matches!(case.decision(), Decision::Fence | Decision::Refuse),
            file,
            offset,
            groups: Vec::new(),
            what: what.into(),
        }
    }

    fn tell(&mut self, finding: Finding) -> Result<(), InspectError> {
        let count = if finding.damage { &mut self.report.damage } else { &mut self.report.notes };
        *count += 1;
        (self.visit)(Event::Finding(&finding)).map_err(InspectError::Stopped)
    }
}
