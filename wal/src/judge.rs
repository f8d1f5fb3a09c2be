//! The one judge of a stream's bytes: its manifest, files, segments, batches and records, in the order of the log.
//!
//! In:     the bytes that a [`Visitor`] reads. A visitor is a recovery, which opens the log, or an inspection, which
//!         only looks at it.
//! Out:    to the visitor: every batch and record that holds, and every [`Fault`] with its [`Case`]. In [`Judge`]: the
//!         state of the groups. Returned: where the log ends ([`End`]).
//! Cost:   one checksum over every byte; memory for the groups and their indexes. The visitor holds the segment.
//! Fails:  as the visitor decides: a recovery ends at the first fault that is refused, and an inspection lets the judge
//!         go on behind each fault, at the next place that holds.
//! Source: RULES.md rules 5, 8, 19-28, 30; C1-C10, P8, W2, W3, W11, W12. The table of cases stands in `recovery.rs`.

mod batches;
mod case;
mod files;

pub use batches::CutTail;
pub(crate) use batches::{Batch, Bytes, End, Flaw, NextBatch};
pub use case::{Case, Decision};
pub(crate) use files::{Found, Segment};

use crate::disk::{Scan, Scanned, first_of};
use crate::format::{
    BATCH_HEADER_BYTES, Bad, FIRST_BATCH_AT, Position, Record, RecordKind, Records, SegmentSeq,
    UNKNOWN_ENTRY, UNKNOWN_KIND, unknown_entry,
};
use crate::group::{Group, Groups, Small};
use crate::home::Identity;
use crate::ledger::{Ledger, Tombstones};
use batches::Named;
use bytes::Bytes as Payload;
use logdrive_raft::{EntryKind, GroupId, NodeId, Term};
use std::fmt;
use std::io;
use std::path::PathBuf;

/// The reader for whom a stream is judged: it reads the files, hears what the judge finds, and decides whether the judge
/// goes on.
pub(crate) trait Visitor {
    /// Why the judge stopped.
    type Stop;

    /// True if a running node may write to the stream while it is read. A place that a batch states as durable is then
    /// evidence only against bytes that are read after that batch.
    const IS_LIVE: bool;

    /// The name of a segment's file.
    fn path(&self, segment: SegmentSeq) -> PathBuf;

    /// The name of the manifest's file.
    fn manifest_path(&self) -> PathBuf;

    /// Fills `out` with a segment file's first bytes.
    fn read(&mut self, segment: SegmentSeq, out: &mut [u8]) -> io::Result<()>;

    /// Reads the first `bytes` bytes of a segment once more: no decision rests on a single bad read.
    fn read_again(&mut self, segment: SegmentSeq, bytes: usize) -> io::Result<Box<dyn Scan>>;

    /// The place on disk of a record that the groups' state has at `place`. The two differ only for a record that the
    /// open is about to write again.
    fn stands(&self, place: Position) -> Position {
        place
    }

    /// Hears of a segment file that could not be read.
    fn unread(&mut self, segment: SegmentSeq, source: io::Error) -> Result<(), Self::Stop>;

    /// Hears of a fault. Returns false if the fault is none after all, because a running node has changed the files.
    fn fault(&mut self, fault: Fault) -> Result<bool, Self::Stop>;

    /// Hears that a batch should begin, or the segment ends, at byte `at`. `follows`: what a batch there must state.
    fn reach(&mut self, _file: &Segment, _at: usize, _follows: Option<NextBatch>) {}

    /// Hears of a whole batch, whose records follow.
    fn batch(
        &mut self,
        file: &Segment,
        batch: &Batch<'_>,
        groups: &[GroupId],
    ) -> Result<(), Self::Stop>;

    /// Hears of the record at byte `at` of the segment, with which `bytes` begin. Returns true if the visitor keeps the
    /// record: the judge then leaves the record out of the groups' state.
    fn record(
        &mut self,
        file: &Segment,
        at: usize,
        record: &Record<'_>,
        bytes: &[u8],
    ) -> Result<bool, Self::Stop>;
}

/// The first or the second read of a segment's bytes. No decision rests on a single bad read: a segment is read once more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Look {
    First,
    Second,
}

/// A fault of a stream, with its place.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) case: Case,
    /// The segment that is damaged or missing; for an old manifest, the segment that the manifest does not know.
    pub(crate) segment: Option<SegmentSeq>,
    pub(crate) file: PathBuf,
    pub(crate) offset: u64,
    pub(crate) what: What,
    /// The groups that have lost something, as far as they are known.
    pub(crate) groups: Vec<GroupId>,
}

/// A description of a fault.
#[derive(Debug)]
pub(crate) enum What {
    Text(String),
    /// Something that a newer version wrote: `what` names the thing, without the number.
    Version {
        what: &'static str,
        found: u32,
        known: u32,
    },
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Version { what, found, .. } => write!(f, "{what} {found}"),
        }
    }
}

impl Fault {
    fn new(
        case: Case,
        segment: Option<SegmentSeq>,
        file: PathBuf,
        what: impl Into<String>,
    ) -> Self {
        let what = What::Text(what.into());
        Self { case, segment, file, offset: 0, what, groups: Vec::new() }
    }

    fn at(self, offset: usize) -> Self {
        Self { offset: offset as u64, ..self }
    }
}

/// The owner that a stream must have. A field that is `None` is taken from the first file that states it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Owner {
    /// Store, node and shard.
    pub(crate) ids: Option<(u128, NodeId, u32)>,
    pub(crate) cluster: Option<String>,
}

impl Owner {
    pub(crate) fn of(identity: &Identity, shard: u32) -> Self {
        let ids = Some((identity.store, identity.node, shard));
        Self { ids, cluster: Some(identity.cluster.clone()) }
    }

    fn has_ids(&mut self, ids: (u128, NodeId, u32)) -> bool {
        *self.ids.get_or_insert(ids) == ids
    }

    fn has_cluster(&mut self, cluster: &str) -> bool {
        self.cluster.get_or_insert_with(|| cluster.to_owned()) == cluster
    }
}

/// The judge, with the state of the groups after the records that it has taken in.
pub(crate) struct Judge {
    pub(crate) owner: Owner,
    pub(crate) groups: Groups,
    /// Groups that were destroyed.
    pub(crate) tombstones: Tombstones,
    pub(crate) ledger: Ledger,
    /// The link that the next batch must state; `None` before the first batch, and behind a batch that cannot be read.
    pub(crate) follows: Option<NextBatch>,
    /// True if a footer was the last segment's last record.
    pub(crate) closed: bool,
    /// The groups that the current batch's directory names.
    named: Named,
    /// True if records were lost and it is not known of which groups. From then on it is no fault if a record does not
    /// fit the groups' state, or if a group's log has a hole. A recovery never sets this, because it ends at such a
    /// loss.
    blind: bool,
}

impl Judge {
    pub(crate) fn new(owner: Owner) -> Self {
        Self {
            owner,
            groups: Groups::new(),
            tombstones: Tombstones::new(),
            ledger: Ledger::default(),
            follows: None,
            closed: false,
            named: Named::default(),
            blind: false,
        }
    }

    /// Checks how a segment begins: the first batch of the chain says where it stands in the stream, and the first
    /// batch of every other segment follows the batch before it.
    pub(crate) fn begin<V: Visitor>(
        &mut self,
        file: &Segment,
        visitor: &mut V,
    ) -> Result<(), V::Stop> {
        let says = file.follows();
        if *self.follows.get_or_insert(says) != says {
            let what = "segment does not continue the one before it";
            visitor.fault(file.fault(Case::DamagedStart, FIRST_BATCH_AT as usize, what))?;
            self.follows = Some(says);
        }
        self.closed = false;
        Ok(())
    }

    /// Judges a segment's batches, of which `scanned` was read in `look`. `sealed`: a later segment says that the log
    /// goes on behind this one.
    pub(crate) fn batches<V: Visitor>(
        &mut self,
        file: &Segment,
        scanned: &Scanned,
        sealed: bool,
        look: Look,
        visitor: &mut V,
    ) -> Result<End, V::Stop> {
        let bytes = Bytes::new(file, scanned);
        self.batches_from(FIRST_BATCH_AT as usize, bytes, sealed, look, visitor)
    }

    /// Judges the batches from byte `at` on. No decision rests on a single bad read: after the first read, the segment
    /// is read once more.
    fn batches_from<V: Visitor>(
        &mut self,
        mut at: usize,
        mut bytes: Bytes<'_>,
        sealed: bool,
        look: Look,
        visitor: &mut V,
    ) -> Result<End, V::Stop> {
        let file = bytes.file();
        loop {
            let end = End { position: file.position(at), cut: None };
            visitor.reach(file, at, self.follows);
            if at == bytes.len() {
                return Ok(end);
            }
            let flaw = match self.in_order(bytes.batch(at)) {
                Ok(batch) => {
                    self.batch(file, at, &batch, visitor)?;
                    at += self.behind(&batch);
                    continue;
                }
                Err(flaw) => flaw,
            };
            let case = if self.closed { Case::CleanStop } else { bytes.case(at, &flaw, sealed) };
            if look == Look::First && !matches!(case, Case::CleanStop | Case::CleanEnd) {
                let known = V::IS_LIVE.then(|| bytes.known_durable_behind(at));
                let mut again = visitor.read_again(file.seq(), bytes.len());
                let scanned = match first_of(&mut again) {
                    Ok(scanned) => scanned,
                    Err(source) => return self.unread(file, end, source, visitor),
                };
                let bytes = Bytes::knowing(file, scanned, known);
                return self.batches_from(at, bytes, sealed, Look::Second, visitor);
            }
            match case.decision() {
                Decision::End => return Ok(end),
                Decision::Cut => return Ok(end.cut(case, file, flaw.what, bytes.whole_behind(at))),
                Decision::Fence => {
                    let batch = flaw.limited_to.expect("the directory says which groups");
                    if crate::rules::damage_fences() {
                        let directory = batch.header.directory(batch.body, file.seed);
                        let groups: Vec<_> = directory.expect("it holds").collect();
                        let fault = file.fault(case, at, flaw.what.0);
                        if !visitor.fault(Fault { groups: groups.clone(), ..fault })? {
                            return Ok(end);
                        }
                        for group in groups {
                            self.fence(group, end.position, end.position);
                        }
                    }
                    at += self.behind(&batch);
                }
                Decision::Refuse => {
                    let stands = visitor.fault(file.fault(case, at, flaw.what.0))?;
                    if !stands || case == Case::UnreadableTail {
                        return Ok(end);
                    }
                    self.blind = true;
                    self.follows = None;
                    let Some(next) = bytes.header_behind(at) else { return Ok(end) };
                    at = next;
                }
                Decision::PassOver => unreachable!("{case:?} is no case of a batch"),
            }
        }
    }

    /// Tells the visitor that the segment cannot be read. If the visitor goes on, the judge does so without the
    /// segment's records.
    pub(crate) fn unread<V: Visitor>(
        &mut self,
        file: &Segment,
        end: End,
        source: io::Error,
        visitor: &mut V,
    ) -> Result<End, V::Stop> {
        visitor.unread(file.seq(), source)?;
        self.blind = true;
        Ok(end)
    }

    /// Refuses a batch whose header and directory hold but which is not the next one.
    fn in_order<'b>(&self, found: Result<Batch<'b>, Flaw<'b>>) -> Result<Batch<'b>, Flaw<'b>> {
        let says = match &found {
            Ok(batch) | Err(Flaw { limited_to: Some(batch), .. }) => batch.says(),
            Err(_) => return found,
        };
        if self.follows.is_none_or(|follows| follows == says) {
            found
        } else {
            Err(Flaw::out_of_order())
        }
    }

    /// Notes that the next batch to be read follows `batch`; returns the size of `batch` on disk.
    fn behind(&mut self, batch: &Batch<'_>) -> usize {
        self.follows = Some(batch.next());
        batch.header.padded_bytes()
    }

    fn batch<V: Visitor>(
        &mut self,
        file: &Segment,
        at: usize,
        batch: &Batch<'_>,
        visitor: &mut V,
    ) -> Result<(), V::Stop> {
        let senseless = |visitor: &mut V, offset: usize, what: &'static str| {
            visitor.fault(file.fault(Case::SenselessRecord, offset, what)).map(drop)
        };
        if std::mem::take(&mut self.closed) {
            senseless(visitor, at, "a batch behind a footer")?;
        }
        let body_at = at + BATCH_HEADER_BYTES;
        let (header, body) = (&batch.header, batch.body);
        let is_named = match header.directory(body, file.seed) {
            Ok(directory) => {
                self.named.set(directory);
                true
            }
            Err(bad) => {
                senseless(visitor, at, bad.0)?;
                self.named.set(std::iter::empty());
                false
            }
        };
        visitor.batch(file, batch, self.named.groups())?;
        let mut records = 0u32;
        for (offset, record) in Records::new(&body[..header.records_bytes()], file.seed) {
            let place = body_at + offset;
            let record = match record {
                Ok(record) => record,
                Err(bad) => {
                    let mut fault = file.fault(Case::SenselessRecord, place, bad.0);
                    if bad == UNKNOWN_KIND {
                        fault.case = Case::UnknownRecord;
                        let (found, known) = (body[offset].into(), RecordKind::LAST as u32);
                        fault.what = What::Version { what: "a record of kind", found, known };
                    } else if bad == UNKNOWN_ENTRY {
                        fault.case = Case::UnknownRecord;
                        let found = unknown_entry(&body[offset..]).into();
                        let known = EntryKind::End as u32;
                        fault.what = What::Version { what: "an entry of kind", found, known };
                    }
                    visitor.fault(fault)?;
                    return Ok(());
                }
            };
            if is_named && record.group().is_some_and(|group| !self.named.has(group)) {
                senseless(visitor, place, "a record of a group its batch does not name")?;
            }
            let begins = at == FIRST_BATCH_AT as usize && offset == 0;
            if !visitor.record(file, place, &record, &body[offset..])?
                && let Err(bad) = self.apply(&record, file.position(place), begins)
                && !self.blind
            {
                senseless(visitor, place, bad.0)?;
            }
            records += 1;
        }
        if records != header.records {
            senseless(visitor, at, "batch has not the records its header counts")?;
        }
        Ok(())
    }

    /// Takes the record at `place` into the groups' state. `begins`: the record is the first one of its segment.
    pub(crate) fn apply(
        &mut self,
        record: &Record<'_>,
        place: Position,
        begins: bool,
    ) -> Result<(), Bad> {
        match record {
            Record::Start(_) if begins => {}
            Record::Start(_) => return Err(Bad("a start record where none belongs")),
            Record::Membership { group, bytes } => {
                self.set(*group, place, Small::Membership(Payload::copy_from_slice(bytes)))?;
            }
            Record::HardState { group, state } => {
                let known = self.groups.get(group).is_some_and(|g| g.hard_state.term > Term::ZERO);
                if !crate::rules::later_hard_state_counts(known) {
                    return Ok(());
                }
                self.set(*group, place, Small::HardState(*state))?;
            }
            Record::Release { group, release } => {
                self.set(*group, place, Small::Release(*release))?;
            }
            Record::Snapshot(head) => {
                if let Some((group, ledger)) = self.group(head.group, place)? {
                    if head.mark.at.index < group.index.released().0 {
                        return Err(Bad("a snapshot of before what was released"));
                    }
                    group.keep(*head, place, ledger);
                }
            }
            Record::Installing { group, installing } => {
                self.set(*group, place, Small::Installing(*installing))?;
            }
            Record::Fence { group, position } => self.fence(*group, *position, place),
            Record::Entries(head) => {
                if let Some((group, ledger)) = self.group(head.group, place)? {
                    group.put(head, place, false, ledger)?;
                }
            }
            Record::Carried(head) => {
                if let Some((group, ledger)) = self.group(head.group, place)? {
                    group.put(head, place, true, ledger)?;
                }
            }
            Record::Tombstone { group, since } => {
                let segment = place.segment();
                if let Some(group) = self.groups.remove(group) {
                    group.bury(&mut self.ledger);
                }
                let tombstones = &mut self.tombstones;
                crate::ledger::tombstone(tombstones, *group, *since, segment, &mut self.ledger);
            }
            Record::Footer => self.closed = true,
            Record::Optional => {}
        }
        Ok(())
    }

    /// The state of a group that is to take in a record at `place`; `None` if the group is fenced, because nothing more
    /// of a fenced group is kept.
    fn group(
        &mut self,
        id: GroupId,
        place: Position,
    ) -> Result<Option<(&mut Group, &mut Ledger)>, Bad> {
        if self.tombstones.contains_key(&id) {
            return Err(Bad("a record of a group that was destroyed before"));
        }
        let group = self.groups.entry(id).or_default();
        if group.fence.is_some() {
            return Ok(None);
        }
        group.enlist(id, place.segment(), &mut self.ledger);
        Ok(Some((group, &mut self.ledger)))
    }

    fn set(&mut self, id: GroupId, place: Position, small: Small) -> Result<(), Bad> {
        if let Some((group, ledger)) = self.group(id, place)? {
            group.set(small, place.segment(), ledger);
        }
        Ok(())
    }

    /// Fences a group that lost something at `damage` (rule 24): nothing of the group may be relied on, so only the
    /// place of the damage is kept. `place` is the place of the fence record, or that of the damage if there is no
    /// fence record yet; in the latter case one is written before a segment with records of the group is given up.
    fn fence(&mut self, id: GroupId, damage: Position, place: Position) {
        // A destroyed group has nothing to lose.
        if self.tombstones.contains_key(&id) {
            return;
        }
        let group = self.groups.entry(id).or_default();
        let recorded = damage != place;
        let damage = group.fence.unwrap_or(damage);
        std::mem::take(group).bury(&mut self.ledger);
        group.enlist(id, place.segment(), &mut self.ledger);
        group.set(Small::Fence(damage), place.segment(), &mut self.ledger);
        group.fence_recorded = recorded;
    }

    /// Checks that no group's log has a hole: an entry that was given up with its segment was released, or stands in
    /// another segment. `first`: the oldest segment of the chain.
    pub(crate) fn check_whole<V: Visitor>(
        &self,
        first: Option<SegmentSeq>,
        visitor: &mut V,
    ) -> Result<(), V::Stop> {
        let whole = self.groups.iter().filter(|(_, group)| group.fence.is_none());
        let mut holes: Vec<_> =
            whole.filter_map(|(id, group)| Some((*id, group.index.hole()?))).collect();
        // The group with the lowest id is named: the same log is refused with the same words every time.
        holes.sort_unstable_by_key(|(id, _)| *id);
        let Some((id, (index, behind))) = holes.first().filter(|_| !self.blind) else {
            return Ok(());
        };
        let first = first.map_or(Position::ZERO, |seq| Position::new(seq, 0));
        let at = behind.map_or(first, |place| visitor.stands(place));
        let what = format!("entry {} of group {} is missing", index.get(), id.get());
        let file = visitor.path(at.segment());
        let fault = Fault::new(Case::MissingEntries, None, file, what).at(at.offset() as usize);
        let groups = holes.iter().map(|(id, _)| *id).collect();
        visitor.fault(Fault { groups, ..fault }).map(drop)
    }

    /// Checks a segment above the last used one: it holds nothing that was acknowledged, or the log, which ends at `end`,
    /// is damaged. `claims`: the places that batches in the segment state as durable.
    pub(crate) fn judge_spare<V: Visitor>(
        &mut self,
        file: &Segment,
        claims: impl IntoIterator<Item = Position>,
        end: Position,
        visitor: &mut V,
    ) -> Result<(), V::Stop> {
        let first = FIRST_BATCH_AT as usize;
        for durable in claims {
            let fault = if durable > file.position(first) {
                let what = "the segment's first batch was durable and cannot be read";
                file.fault(Case::DamagedStart, first, what)
            } else if durable > end && !self.blind {
                let (at, what) = (end.segment(), "batches that were durable cannot be read");
                let file = visitor.path(at);
                Fault::new(Case::DamagedBatchHeader, Some(at), file, what).at(end.offset() as usize)
            } else {
                continue;
            };
            visitor.fault(fault)?;
            self.blind = true;
            return Ok(());
        }
        Ok(())
    }
}
