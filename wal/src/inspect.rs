//! Inspection of a stream's directory: the same judge as recovery's, for a reader that must not change the directory.
//!
//! In:     a path: the directory of a stopped node's stream, of a running node's, or a copy, also on a read-only file
//!         system.
//! Out:    every batch and record in order, every fault with its place, and the totals.
//! Cost:   one pass; memory for one or two segments, and for the groups' state as recovery would build it. Nothing is
//!         opened for writing, and no lock is taken.
//! Fails:  a fault of the log is a [`Finding`], and the scan goes on behind it as far as it can; [`InspectError`] is
//!         only for files that cannot be looked at.
//! Source: RULES.md rules 19-25; `judge.rs`; `recovery.rs` has the table of cases.
//!
//! A running node writes while a scan reads. So where the judge finds a fault, the segment is read once more, and only
//! the places that the first read stated as durable are evidence against the second one. A segment that the node gives
//! up meanwhile is passed over.
//!
//! A scan also checks that each entry's payload has the checksum that travels with the entry, and each snapshot's content
//! its own. An open does not, because every read of an entry or of a snapshot checks it.

mod files;
mod node;
mod record;

use crate::disk::{Scan, SegmentFile, first_of, is_nearly_a_segments};
use crate::format::{self, BLOCK_BYTES, Manifest, Position, SegmentSeq};
use crate::home::Identity;
use crate::judge::{self, Case, CutTail, Decision, End, Fault, Found, Judge, Look, Visitor};
use crate::snapshot::{Installing, SnapshotMark};
use files::{Dir, Files, Listing};
use logdrive_raft::{GroupId, HardState, LogIndex, NodeId, Term};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

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
    /// Bytes of entries and snapshots that are still needed.
    pub live_bytes: u64,
}

/// One group, as the log has it.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// Entries up to this one were released; the group's log begins behind it.
    pub released: LogIndex,
    /// The group's newest entry.
    pub last: LogIndex,
    /// The term of the newest entry, also where the entry is released; [`Term::ZERO`] if there was none.
    pub last_term: Term,
    /// The latest hard state.
    pub hard_state: HardState,
    /// The size of the latest membership, in bytes.
    pub membership_bytes: usize,
    /// The latest snapshot.
    pub snapshot: Option<SnapshotMark>,
    /// The snapshot that is being installed.
    pub installing: Option<Installing>,
    /// True if the group was destroyed.
    pub destroyed: bool,
    /// Where the group lost something; a fenced group must not act.
    pub fenced: Option<Position>,
}

impl Group {
    fn new(group: &crate::group::Group) -> Self {
        let last = group.index.last();
        let (released, released_term) = group.index.released();
        let newest = group.index.terms().last().filter(|_| last > released);
        Self {
            released,
            last,
            last_term: newest.map_or(released_term, |run| run.term),
            hard_state: group.bounded_hard_state(),
            membership_bytes: group.membership.len(),
            snapshot: group.snapshot().map(|kept| kept.head.mark),
            installing: group.installing(),
            destroyed: false,
            fenced: group.fence,
        }
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
    look(&mut Dir::new(dir), dir, owner, visit)
}

/// Scans, as [`scan`] does, a stream on the simulated disk, to which nothing writes meanwhile.
///
/// # Errors
/// Any [`InspectError`].
#[cfg(feature = "sim")]
pub fn scan_disk(
    disk: &mut dyn crate::disk::Disk,
    owner: Option<(&Identity, u32)>,
    visit: &mut dyn FnMut(Event<'_>) -> io::Result<()>,
) -> Result<Report, InspectError> {
    let dir = disk.manifest_path();
    look(&mut files::OnDisk(disk), &dir, owner, visit)
}

fn look(
    files: &mut dyn Files,
    dir: &Path,
    owner: Option<(&Identity, u32)>,
    visit: &mut dyn FnMut(Event<'_>) -> io::Result<()>,
) -> Result<Report, InspectError> {
    let dir_error = |source| InspectError::Io { file: dir.to_owned(), source };
    // The manifest is read before the listing: every segment that it says was made is then in the listing, unless the
    // segment is given up meanwhile.
    let manifest = files.manifest().map_err(dir_error)?;
    let listing = files.list().map_err(dir_error)?;
    if manifest.is_none() && listing.segments.is_empty() {
        return Err(InspectError::NoLog(dir.to_owned()));
    }
    let owner = owner.map(|(identity, shard)| judge::Owner::of(identity, shard));
    let mut judge = Judge::new(owner.unwrap_or_default());
    let mut looker = Looker {
        files,
        visit,
        report: Report::default(),
        first: None,
        beginnings: BTreeMap::new(),
        whole: BTreeMap::new(),
    };
    let manifest = judge.manifest(manifest, &mut looker)?;
    looker.first = manifest.map(|manifest| manifest.first);
    looker.other_files(&listing)?;
    let listed = looker.read_beginnings(&listing);
    let found = judge.files(&listed, manifest.as_ref(), &mut looker)?;
    for (seq, case) in found.void.iter().filter(|(_, case)| *case == Case::Leftover) {
        let file = looker.files.path(*seq);
        looker.find(*case, file, 0, "the manifest has passed it")?;
    }
    // Spares are read before the chain, because a running node may write to both: any place that a batch in a spare
    // states as durable has then been written by the time the chain is read.
    let mut claims = Vec::new();
    for file in found.spares() {
        let mut whole = looker.files.segment(file.seq(), file.header.bytes);
        match first_of(&mut whole) {
            Ok(scanned) => {
                let found: Vec<_> = judge::Bytes::new(file, scanned).claims().collect();
                claims.push((file, found));
            }
            Err(source) => looker.unread(file.seq(), source)?,
        }
    }
    let mut end = Position::ZERO;
    for (file, bytes, sealed) in found.chain() {
        judge.begin(file, &mut looker)?;
        judge.ledger.begin(file.seq());
        let mut whole = looker.files.segment(file.seq(), bytes);
        let ended = match first_of(&mut whole) {
            Ok(scanned) => judge.batches(file, scanned, sealed, Look::First, &mut looker)?,
            Err(source) => {
                let end = End { position: end, cut: None };
                judge.unread(file, end, source, &mut looker)?
            }
        };
        judge.ledger.end(ended.position.offset());
        end = ended.position;
        if let Some(cut) = ended.cut {
            looker.cut(cut)?;
        }
    }
    for (file, claims) in claims {
        // This is no damage if the node has begun to use the segment since the scan read its header.
        if !looker.now_begins(file) {
            judge.judge_spare(file, claims, end, &mut looker)?;
        }
    }
    judge.check_whole(found.chain.first().copied(), &mut looker)?;
    looker.report.end = end;
    Ok(looker.finish(judge, &found, &listed))
}

/// The visitor that looks at everything and changes nothing.
struct Looker<'a> {
    files: &'a mut dyn Files,
    visit: &'a mut dyn FnMut(Event<'_>) -> io::Result<()>,
    report: Report,
    /// The oldest segment that was needed when the scan began; `None` if that is not known.
    first: Option<SegmentSeq>,
    /// The first blocks of the segments, until the judge has looked at them.
    beginnings: BTreeMap<SegmentSeq, io::Result<Vec<u8>>>,
    whole: BTreeMap<SegmentSeq, Whole>,
}

/// The whole batches of a segment.
#[derive(Clone, Copy, Default)]
struct Whole {
    batches: u64,
    bytes: u64,
}

impl Visitor for Looker<'_> {
    type Stop = InspectError;

    const IS_LIVE: bool = true;

    fn path(&self, segment: SegmentSeq) -> PathBuf {
        self.files.path(segment)
    }

    fn manifest_path(&self) -> PathBuf {
        self.files.manifest_path()
    }

    fn read(&mut self, segment: SegmentSeq, out: &mut [u8]) -> io::Result<()> {
        let beginning = self.beginnings.remove(&segment).expect("every listed segment was read");
        out.copy_from_slice(&beginning?);
        Ok(())
    }

    fn read_again(&mut self, segment: SegmentSeq, bytes: usize) -> io::Result<Box<dyn Scan>> {
        self.files.segment(segment, bytes as u64)
    }

    /// Does nothing if the segment was given up, returns an error if permission is missing, and reports a finding
    /// otherwise.
    fn unread(&mut self, segment: SegmentSeq, source: io::Error) -> Result<(), InspectError> {
        let file = self.files.path(segment);
        match source.kind() {
            io::ErrorKind::NotFound if self.is_given_up(segment) => Ok(()),
            io::ErrorKind::PermissionDenied => Err(InspectError::Io { file, source }),
            _ => self.find(Case::DamagedSegmentHeader, file, 0, source.to_string()),
        }
    }

    fn fault(&mut self, fault: Fault) -> Result<bool, InspectError> {
        let Fault { case, segment, file, offset, what, groups } = fault;
        let is_past = segment.is_some_and(|segment| match case {
            Case::OlderManifest => self.manifest_now().is_some_and(|now| segment <= now.made),
            _ => self.is_given_up(segment),
        });
        if !is_past {
            let finding = Finding::new(case, file, offset, what.to_string());
            self.tell(Finding { groups, ..finding })?;
        }
        Ok(!is_past)
    }

    fn batch(
        &mut self,
        file: &judge::Segment,
        batch: &judge::Batch<'_>,
        groups: &[GroupId],
    ) -> Result<(), InspectError> {
        let header = &batch.header;
        let batch = Batch {
            position: header.position,
            number: header.seq,
            durable: header.durable,
            bytes: header.padded_bytes() as u64,
            records: header.records,
            groups: groups.to_vec(),
        };
        let whole = self.whole.entry(file.seq()).or_default();
        whole.batches += 1;
        whole.bytes += batch.bytes;
        self.report.batches += 1;
        self.report.durable = header.durable;
        (self.visit)(Event::Batch(&batch)).map_err(InspectError::Stopped)
    }

    fn record(
        &mut self,
        file: &judge::Segment,
        at: usize,
        record: &format::Record<'_>,
        bytes: &[u8],
    ) -> Result<bool, InspectError> {
        let record = Record::new(record, bytes);
        let position = file.position(at);
        (self.visit)(Event::Record(position, record)).map_err(InspectError::Stopped)?;
        if let Record::Entries(run) | Record::Carried(run) = record {
            self.report.entries += u64::from(run.count);
            if run.entries().any(|entry| !entry.is_whole()) {
                self.tell(Finding {
                    label: "damaged_payload",
                    damage: true,
                    file: file.path.clone(),
                    offset: at as u64,
                    groups: vec![run.group],
                    what: "an entry's payload fails the checksum it travels with".to_owned(),
                })?;
            }
        }
        if let Record::Snapshot { group, is_whole: false, .. } = record {
            self.tell(Finding {
                label: "damaged_snapshot",
                damage: true,
                file: file.path.clone(),
                offset: at as u64,
                groups: vec![group],
                what: "a snapshot's content fails its checksum".to_owned(),
            })?;
        }
        Ok(false)
    }
}

impl Looker<'_> {
    fn other_files(&mut self, listing: &Listing) -> Result<(), InspectError> {
        for file in &listing.temporary {
            let what = "in the making, or to be used again";
            self.find(Case::HalfMadeSegment, file.clone(), 0, what)?;
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

    /// Reads the first blocks of every needed segment, of the newest first: an older segment is then complete up to
    /// where the newer one follows it. Returns the segments that are there, in order.
    fn read_beginnings(&mut self, listing: &Listing) -> Vec<SegmentFile> {
        let mut listed = Vec::new();
        for (segment, bytes) in listing.segments.iter().rev() {
            if self.first.is_none_or(|first| first <= *segment) {
                match self.files.beginning(*segment) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    beginning => drop(self.beginnings.insert(*segment, beginning)),
                }
            }
            listed.push(SegmentFile { segment: *segment, bytes: *bytes });
        }
        listed.reverse();
        listed
    }

    /// Whether the segment's start record can be read by now.
    fn now_begins(&mut self, file: &judge::Segment) -> bool {
        self.files
            .beginning(file.seq())
            .is_ok_and(|blocks| file.begins_with(&blocks[BLOCK_BYTES..]))
    }

    /// True if a running node has given up this segment since the scan began.
    fn is_given_up(&mut self, seq: SegmentSeq) -> bool {
        let then = self.first;
        let is_below = |first| then.is_some_and(|then| then < first) && seq < first;
        self.manifest_now().is_some_and(|manifest| is_below(manifest.first))
    }

    fn manifest_now(&mut self) -> Option<Manifest> {
        let bytes = self.files.manifest().ok().flatten()?;
        Manifest::decode(&bytes).ok()
    }

    fn cut(&mut self, cut: CutTail) -> Result<(), InspectError> {
        let CutTail { case, file, position, mut what, whole_behind } = cut;
        if case == Case::ReorderedTail {
            what = format!("{what}; {whole_behind} whole batches behind it");
        }
        self.find(case, file, u64::from(position.offset()), what)
    }

    fn find(
        &mut self,
        case: Case,
        file: PathBuf,
        offset: u64,
        what: impl Into<String>,
    ) -> Result<(), InspectError> {
        self.tell(Finding::new(case, file, offset, what.into()))
    }

    fn tell(&mut self, finding: Finding) -> Result<(), InspectError> {
        let count = if finding.damage { &mut self.report.damage } else { &mut self.report.notes };
        *count += 1;
        (self.visit)(Event::Finding(&finding)).map_err(InspectError::Stopped)
    }

    fn finish(mut self, judge: Judge, found: &Found, listed: &[SegmentFile]) -> Report {
        let mut live_bytes: BTreeMap<SegmentSeq, u64> = BTreeMap::new();
        for (id, group) in &judge.groups {
            self.report.groups.insert(*id, Group::new(group));
            for piece in group.index.pieces_from(LogIndex(1)) {
                *live_bytes.entry(piece.place.segment()).or_default() += u64::from(piece.bytes);
            }
            if let Some(kept) = group.snapshot() {
                let bytes = kept.head.padded_bytes() as u64;
                *live_bytes.entry(kept.place.segment()).or_default() += bytes;
            }
        }
        for id in judge.tombstones.keys() {
            self.report.groups.insert(*id, Group { destroyed: true, ..Group::default() });
        }
        let (store, node, shard) = judge.owner.ids.unwrap_or_default();
        let cluster = judge.owner.cluster.unwrap_or_default();
        self.report.owner = Owner { cluster, node, store, shard };
        self.report.closed = judge.closed;
        for SegmentFile { segment, bytes } in listed {
            let Some((role, header)) = found.role(*segment) else { continue };
            let whole = self.whole.get(segment).copied().unwrap_or_default();
            self.report.segments.push(Segment {
                segment: *segment,
                file: self.files.path(*segment),
                bytes: *bytes,
                role,
                id: header.map_or(0, |header| header.id),
                incarnation: header.map_or(0, |header| header.incarnation),
                used_bytes: whole.bytes,
                batches: whole.batches,
                live_bytes: live_bytes.get(segment).copied().unwrap_or(0),
            });
        }
        self.report
    }
}

impl Found {
    /// The role of a segment file, and the file's header, if that holds; `None` for a leftover.
    fn role(&self, seq: SegmentSeq) -> Option<(Role, Option<&format::SegmentHeader>)> {
        if let Some(header) = self.damaged.get(&seq) {
            return Some((Role::Damaged, header.as_ref()));
        }
        let header = &self.segments.get(&seq)?.header;
        let last = self.chain.last();
        let role = if last == Some(&seq) {
            Role::Active
        } else if self.chain.contains(&seq) {
            Role::Sealed
        } else if last.is_some_and(|last| seq < *last) {
            Role::Void
        } else {
            Role::Spare
        };
        Some((role, Some(header)))
    }
}

impl Finding {
    fn new(case: Case, file: PathBuf, offset: u64, what: String) -> Self {
        let damage = matches!(case.decision(), Decision::Fence | Decision::Refuse);
        Self { label: case.label(), damage, file, offset, groups: Vec::new(), what }
    }
}
