//! Recovery of a stream from its files after a restart: replayed, cut, fenced, or refused.
//!
//! In:     the files a [`Disk`] finds.
//! Out:    every group's state, and where the stream ends.
//! Cost:   one pass, read ahead; memory for two segments and the groups.
//! Fails:  by the table. Nothing on disk is changed.
//! Source: RULES.md rules 19-25, 27, 30; C1-C10, P8, W2, W3, W8, W11, W12.
//!
//! A segment is *used* if the start record in its first batch is readable. The last used one, `L`, names the one
//! before it, and so on down to the first that the manifest needs: the *chain*. A batch is *vouched for* if it was
//! durable for sure: a later segment of the chain follows it, a later batch of its segment knew it, or it begins its
//! segment with what an open wrote again, whose start record is written last (`moved.rs`).
//!
//! | label | what is found | decision | because |
//! |---|---|---|---|
//! | clean_stop | a footer is the last record of `L` | end | it was written when all else was durable |
//! | clean_end | only zeros behind the last batch of `L`, or no more room; or a block of zeros, and behind it nothing that can be read | end | a segment is zeros where it was never written, and batches are written one behind the other |
//! | recycled_bytes | behind it a batch header of another segment | end | it fails the seeded checksum: the file was that segment once |
//! | torn_tail | a batch that is not whole, nobody vouches, nothing whole behind | cut | writes in flight land in part; C3 |
//! | reordered_tail | the same, whole batches behind that nobody vouches for | cut | writes in flight land in any order; rule 21 |
//! | unreadable_tail | nobody vouches, and the device cannot read where something may stand | refuse | there may be a batch, and a retry may read it; a cut is for ever |
//! | damaged_body | vouched for; header and directory hold, the rest does not | fence | the directory says which groups lost something; rule 24 |
//! | unreadable_body | the same, the device cannot read it | fence | C9: the same as a failed checksum |
//! | damaged_batch_header | vouched for, no header there | refuse | nobody knows which groups lost something, nor where the next batch is |
//! | damaged_directory | vouched for; the header holds, the directory does not | refuse | nobody knows which groups lost something |
//! | misdirected_batch | vouched for, and a whole batch of another place or number | refuse | the batch of this place is lost; C10 |
//! | unknown_record | a mandatory record of an unknown kind | refuse | a newer version wrote it; P8, rule 30 |
//! | senseless_record | a whole batch with what no log writes | refuse | it was written so: a fault of ours, not of the disk |
//! | missing_entries | whole batches, but a group's log has a hole that no damage explains | refuse | a segment that is still needed was given up, or never written |
//! | damaged_segment_header | block 0 fails its checksum, or cannot be read | refuse | it was synced before the file had its name; C4 |
//! | damaged_start | the first batch of a used segment fails, or continues another one | refuse | what it follows is not known |
//! | truncated_segment | a file of another size than its header says | refuse | its size was synced before it had its name |
//! | missing_segment | a number the manifest or a start record needs has no file | refuse | an empty log would vote twice; rule 27, C5 |
//! | missing_manifest | no manifest | refuse | the same |
//! | damaged_manifest | a manifest that fails its checksum: torn, empty | refuse | it is replaced by rename, so it is never torn by a crash; C8 |
//! | older_manifest | a used segment above the newest it knows | refuse | a segment is used only when the manifest names it; C8 |
//! | foreign_file | a file of another cluster, node, store or shard | refuse | C4, C7 |
//! | duplicate_segment | two files with one segment's id | refuse | C6 |
//! | swapped_segment | a file whose header has another number, or another id than its successor says | refuse | C6 |
//! | newer_version | a manifest or segment of another version | refuse | P8 |
//! | half_made_segment | above `L`, without a start record; nothing in it knows it durable | pass over | it was made for later, or its first write is torn; W11 |
//! | passed_over | below `L`, not in the chain | pass over | a start record has voided it: nothing in it was acknowledged |
//! | leftover | below the manifest's first | pass over | what was live in it was carried on before the manifest moved, and damage has its other name by then (rule 25) |
//!
//! Where the log ends, the next segment's start record says so, durably, before anything else is done: behind that
//! place nothing counts again, whatever a dead process's writes do. So a second crash finds the same (W3). It may say that
//! the log ended earlier: what stood behind is then written again in its own batch (`moved.rs`).

mod batches;
mod case;
mod files;
mod moved;

pub(crate) use batches::{Named, claimed_position, is_of_earlier_life};
pub use case::{Case, Decision};
pub(crate) use moved::{Moved, is_moved};

use crate::Config;
use crate::checksum::Seed;
use crate::disk::{Disk, Scan, ScanFile, Scanned};
use crate::error::{Corrupt, WalError};
use crate::format::{
    BATCH_HEADER_BYTES, BLOCK_BYTES, Bad, FIRST_BATCH_AT, Position, Record, RecordKind, Records,
    SegmentSeq, Start, UNKNOWN_KIND,
};
use crate::group::{Group, Groups, Small};
use crate::ledger::{Ledger, Tombstones};
use batches::{Batch, Bytes as SegmentBytes, Flaw};
use bytes::Bytes;
use files::Segment;
use hashbrown::{HashMap, HashSet};
use logdrive_raft::{Durable, GroupId, HardState, LogIndex, Term, TermRun, WriteId};
use std::path::PathBuf;

/// The state that a log found on its disk.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// Every group ever mentioned and not destroyed, by id.
    pub groups: Vec<RecoveredGroup>,
    /// Groups that were destroyed, by id: they never live again.
    pub destroyed: Vec<GroupId>,
    /// The torn tail that was cut off, if there was one. It was never acknowledged.
    pub cut: Option<CutTail>,
    /// True if the log was closed: its last record is a footer.
    pub closed: bool,
    /// Bytes of batches that were replayed.
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
    /// Entries up to this one were released: its log begins behind it. `ZERO` if none were.
    pub released: LogIndex,
    /// The term of that entry.
    pub released_term: Term,
    /// The terms of its entries.
    pub runs: Vec<TermRun>,
    /// Its last entry; `released` if there is none behind that.
    pub last: LogIndex,
    /// The group lost something here. Nothing else is said of it: it must not vote, acknowledge or lead, and the log
    /// takes nothing for it.
    pub fenced: Option<Corrupt>,
    /// Says that all of this is on disk ([`WriteId::ZERO`]).
    pub durable: Durable,
}

/// A tail that was not whole.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CutTail {
    /// The case that the tail was taken for.
    pub case: Case,
    /// The file.
    pub file: PathBuf,
    /// Where it was cut.
    pub position: Position,
    /// A description of the fault there.
    pub what: String,
    /// Batches behind the cut that were whole but had not been acknowledged.
    pub whole_behind: u64,
}

/// The state that the stream goes on from.
pub(crate) struct Replayed {
    pub(crate) recovered: Recovered,
    pub(crate) groups: Groups,
    /// Groups that are gone for good, and where it says so.
    pub(crate) tombstones: Tombstones,
    pub(crate) ledger: Ledger,
    /// Segments that hold the log, oldest first.
    pub(crate) chain: Vec<Link>,
    /// Files that hold nothing; to be removed once the new segment's start is durable.
    pub(crate) void: Vec<SegmentSeq>,
    pub(crate) next_segment: SegmentSeq,
    pub(crate) next_batch: u64,
    /// The content of the new segment's start record.
    pub(crate) start: Start,
    /// The records that stand behind it, in the same batch.
    pub(crate) moved: Moved,
}

/// One segment that holds the log.
pub(crate) struct Link {
    pub(crate) seq: SegmentSeq,
    pub(crate) seed: Seed,
    /// Of its file.
    pub(crate) bytes: u64,
    pub(crate) damaged: bool,
}

/// Reads the whole stream, which goes on in a segment of this seed. Changes nothing on disk but to sync what was read of
/// its end.
pub(crate) fn replay(
    disk: &mut dyn Disk,
    config: &Config,
    next_seed: Seed,
) -> Result<Replayed, WalError> {
    let mut found = files::find(disk, config)?;
    let mut scan = disk.scan(found.to_scan()).map_err(|source| WalError::Io {
        file: config.dir.clone(),
        what: "starting to read",
        source,
    })?;
    let is_direct = disk.info().direct_io;
    let mut replay = Replay::new(disk);
    let mut end = End { position: Position::ZERO, cut: None };
    let last = found.chain.last().copied();
    for (file, sealed_at) in found.chain() {
        let scanned = scan.next().map_err(|source| unread(file, source))?;
        if Some(file.seq()) != last {
            end = replay.segment(file, scanned, sealed_at, None, true)?;
            continue;
        }
        // The records to be written again are chosen on the same bytes from which they are taken.
        let mut bytes = SegmentBytes::new(file, scanned);
        let follows = (file.first_batch(), file.start().prev_crc);
        let mut survey = moved::survey(&mut bytes, file.seed, follows);
        let mut again;
        let is_first = !survey.is_doubtful;
        let mut scanned = scanned;
        if survey.is_doubtful {
            again = replay.read_again(file, bytes.len())?;
            scanned = again.next().map_err(|source| unread(file, source))?;
            bytes = SegmentBytes::new(file, scanned);
            survey = moved::survey(&mut bytes, file.seed, follows);
        }
        let moved_from = moved::moved_from(&bytes, &survey, config.segment_bytes, is_direct);
        end = replay.segment(file, scanned, sealed_at, moved_from, is_first)?;
    }
    let last = last.map(|seq| found.segment(seq));
    if let Some(last) = last {
        replay.write_again(last, found.next, next_seed)?;
    } else {
        replay.ledger.begin(found.next);
    }
    replay.check_whole(found.chain.first().copied())?;
    for file in found.spares() {
        let scanned = scan.next().map_err(|source| unread(file, source))?;
        replay.judge_spare(file, scanned, end.position)?;
    }
    drop(scan);
    // The bytes that were read may be in the page cache only (rule 19). Earlier segments were synced before later ones
    // were written.
    if let Some(last) = last {
        replay.disk.sync(last.seq()).map_err(|source| WalError::Io {
            file: last.path.clone(),
            what: "sync",
            source,
        })?;
    }

    let start = match replay.ended {
        Some((start, _)) if start.end.segment() < end.position.segment() => start,
        Some((start, _)) => Start { cut: end.cut.is_some() || start.end < end.position, ..start },
        None => Start {
            end: end.position,
            id: last.map_or(0, |file| file.header.id),
            prev_crc: replay.follows.map_or(0, |(_, crc)| crc),
            cut: end.cut.is_some(),
        },
    };
    // Of a segment that is written again as a whole nothing counts any more.
    if let Some(last) = last.map(Segment::seq).filter(|last| start.end.segment() < *last) {
        found.chain.pop();
        found.void.push(last);
    }
    let link = |(file, _): (&Segment, _)| Link {
        seq: file.seq(),
        seed: file.seed,
        bytes: file.header.bytes,
        damaged: replay.damaged.contains(&file.seq()),
    };
    let chain = found.chain().map(link).collect();
    Ok(replay.finish(end.cut, start, chain, found.void, found.next))
}

/// Where a segment's batches end.
struct End {
    position: Position,
    cut: Option<CutTail>,
}

struct Replay<'a> {
    disk: &'a mut dyn Disk,
    groups: Groups,
    tombstones: Tombstones,
    ledger: Ledger,
    /// Where groups lost something that nobody had found yet.
    damage: HashMap<GroupId, Corrupt>,
    damaged: HashSet<SegmentSeq>,
    /// The groups a batch's directory names.
    named: Named,
    /// The number and the predecessor's checksum that the next batch must have; `None` before the first.
    follows: Option<(u64, u32)>,
    /// A footer was the last record.
    closed: bool,
    /// Where the stream ends before the records that are written again, and the number of the batch behind; `None`
    /// as long as there are none.
    ended: Option<(Start, u64)>,
    /// Those records.
    tail: moved::Tail,
    moved: Moved,
    batches: u64,
    bytes: u64,
}

impl<'a> Replay<'a> {
    fn new(disk: &'a mut dyn Disk) -> Self {
        Self {
            disk,
            groups: HashMap::new(),
            tombstones: HashMap::new(),
            ledger: Ledger::default(),
            damage: HashMap::new(),
            damaged: HashSet::new(),
            named: Named::default(),
            follows: None,
            closed: false,
            ended: None,
            tail: moved::Tail::default(),
            moved: Moved::default(),
            batches: 0,
            bytes: 0,
        }
    }

    /// Replays one segment; `sealed_at` is where the next one says it ended. Its batches from `moved_from` on are kept,
    /// to be written again. `is_first`: its bytes may be read once more.
    fn segment(
        &mut self,
        file: &Segment,
        scanned: &Scanned,
        sealed_at: Option<Position>,
        moved_from: Option<usize>,
        is_first: bool,
    ) -> Result<End, WalError> {
        self.begin(file)?;
        if moved_from != Some(FIRST_BATCH_AT as usize) {
            self.ledger.begin(file.seq());
        }
        let first = FIRST_BATCH_AT as usize;
        let end = self.batches_of(file, scanned, sealed_at, moved_from, first, is_first)?;
        if moved_from != Some(FIRST_BATCH_AT as usize) {
            let ended = self.ended.map_or(end.position, |(start, _)| start.end);
            self.ledger.end(ended.offset());
        }
        Ok(end)
    }

    /// Replays the batches from byte `at` on. Nothing is decided on a single bad read: the first time, the segment is
    /// read once more.
    fn batches_of(
        &mut self,
        file: &Segment,
        scanned: &Scanned,
        sealed_at: Option<Position>,
        moved_from: Option<usize>,
        mut at: usize,
        is_first: bool,
    ) -> Result<End, WalError> {
        let mut bytes = SegmentBytes::new(file, scanned);
        loop {
            let position = file.position(at);
            if self.ended.is_none() && moved_from.is_some_and(|from| from <= at) {
                self.end_before(file, at);
            }
            if at == bytes.len() {
                return Ok(End { position, cut: None });
            }
            let flaw = match self.in_order(bytes.batch(at)) {
                Ok(batch) => {
                    self.batch(file, at, &batch)?;
                    at += self.behind(&batch);
                    continue;
                }
                Err(flaw) => flaw,
            };
            let case = if self.closed {
                Case::CleanStop
            } else {
                bytes.case(at, &flaw, sealed_at.is_some())
            };
            if is_first && !matches!(case, Case::CleanStop | Case::CleanEnd) {
                let mut again = self.read_again(file, bytes.len())?;
                let scanned = again.next().map_err(|source| unread(file, source))?;
                return self.batches_of(file, scanned, sealed_at, moved_from, at, false);
            }
            match case.decision() {
                Decision::End => return Ok(End { position, cut: None }),
                Decision::Cut => {
                    let whole_behind = bytes.whole_behind(at);
                    let (file, what) = (file.path.clone(), flaw.what.0.to_owned());
                    let cut = CutTail { case, file, position, what, whole_behind };
                    return Ok(End { position, cut: Some(cut) });
                }
                Decision::Fence => {
                    let batch = flaw.limited_to.expect("the directory says which groups");
                    if !logdrive_raft::bug!("damage_passed_over") {
                        self.fence_batch(file, at, &batch, case, flaw.what);
                    }
                    at += self.behind(&batch);
                }
                Decision::Refuse => {
                    return Err(refuse_corrupt(case, file.path.clone(), at as u64, flaw.what.0));
                }
                Decision::PassOver => unreachable!("{case:?} is no case of a batch"),
            }
        }
    }

    fn read_again(&mut self, file: &Segment, bytes: usize) -> Result<Box<dyn Scan>, WalError> {
        let again = vec![ScanFile { segment: file.seq(), bytes: bytes as u64 }];
        self.disk.scan(again).map_err(|source| unread(file, source))
    }

    /// The first batch of the chain says where it stands in the stream; all others follow the one before.
    fn begin(&mut self, file: &Segment) -> Result<(), WalError> {
        let says = (file.first_batch(), file.start().prev_crc);
        if *self.follows.get_or_insert(says) != says {
            let what = "segment does not continue the one before it";
            let (path, at) = (file.path.clone(), u64::from(FIRST_BATCH_AT));
            return Err(refuse_corrupt(Case::DamagedStart, path, at, what));
        }
        self.closed = false;
        Ok(())
    }

    /// From byte `at` of the last segment on its batches are written again.
    fn end_before(&mut self, file: &Segment, at: usize) {
        let (next_batch, prev_crc) = self.follows.expect("set where the segment began");
        let start = if at == FIRST_BATCH_AT as usize {
            file.start()
        } else {
            Start { end: file.position(at), id: file.header.id, prev_crc, cut: false }
        };
        self.ended = Some((start, next_batch));
    }

    /// Takes in what was kept of the last segment, as records of the next one, in which they are written again.
    fn write_again(
        &mut self,
        last: &Segment,
        next: SegmentSeq,
        seed: Seed,
    ) -> Result<(), WalError> {
        self.ledger.begin(next);
        let tail = std::mem::take(&mut self.tail);
        let mut moved = Moved::default();
        let mut groups = HashSet::new();
        for (record, bytes, at) in tail.records(last.seed) {
            let place = MOVED_AT + moved.push(&record, bytes, seed);
            let place = u32::try_from(place).expect("segments are below 4 GiB");
            self.apply(&record, Position::new(next, place), 0, 0).map_err(|bad| {
                refuse_corrupt(Case::SenselessRecord, last.path.clone(), at as u64, bad.0)
            })?;
            let group = record.group().expect("only records of groups are kept");
            if groups.insert(group) {
                moved.groups.push(group);
            }
        }
        if moved.count > 0 {
            logdrive_raft::reached!("end of the log written again");
        }
        self.moved = moved;
        Ok(())
    }

    /// A batch that holds, or holds but for its records, must be the next one.
    fn in_order<'b>(&self, found: Result<Batch<'b>, Flaw<'b>>) -> Result<Batch<'b>, Flaw<'b>> {
        let header = match &found {
            Ok(batch) | Err(Flaw { limited_to: Some(batch), .. }) => batch.header,
            Err(_) => return found,
        };
        if self.follows == Some((header.seq, header.prev_crc)) {
            found
        } else {
            Err(Flaw::out_of_order())
        }
    }

    /// Goes on behind a batch; returns its size.
    fn behind(&mut self, batch: &Batch<'_>) -> usize {
        self.follows = Some((batch.header.seq + 1, batch.crc));
        batch.header.padded_bytes()
    }

    fn batch(&mut self, file: &Segment, at: usize, batch: &Batch<'_>) -> Result<(), WalError> {
        let senseless = |offset: usize, bad: Bad| {
            refuse_corrupt(Case::SenselessRecord, file.path.clone(), offset as u64, bad.0)
        };
        if self.closed {
            return Err(senseless(at, Bad("a batch behind a footer")));
        }
        let body_at = at + BATCH_HEADER_BYTES;
        let (header, body) = (&batch.header, batch.body);
        let directory = header.directory(body, file.seed).map_err(|bad| senseless(at, bad))?;
        self.named.set(directory);
        let mut records = 0u32;
        for (offset, record) in Records::new(&body[..header.records_bytes()], file.seed) {
            let place = body_at + offset;
            let record = match record {
                Err(bad) if bad == UNKNOWN_KIND => {
                    let (found, known) = (body[offset].into(), RecordKind::Footer as u32);
                    let (file, what) = (file.path.clone(), "a record of kind");
                    return Err(WalError::Version { file, what, found, known });
                }
                record => record.map_err(|bad| senseless(place, bad))?,
            };
            if record.group().is_some_and(|group| !self.named.has(group)) {
                return Err(senseless(place, Bad("a record of a group its batch does not name")));
            }
            if self.ended.is_some() && record.group().is_some() {
                self.tail.push(&record, &body[offset..], place);
            } else {
                self.apply(&record, file.position(place), at, offset)
                    .map_err(|bad| senseless(place, bad))?;
            }
            records += 1;
        }
        if records != header.records {
            return Err(senseless(at, Bad("batch has not the records its header counts")));
        }
        self.batches += 1;
        self.bytes += header.padded_bytes() as u64;
        Ok(())
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
                self.set(*group, place, Small::Membership(Bytes::copy_from_slice(bytes)))?;
            }
            Record::HardState { group, state } => {
                let known = self.groups.get(group).is_some_and(|g| g.hard_state.term > Term::ZERO);
                if logdrive_raft::bug!("recovery_keeps_the_first_vote") && known {
                    return Ok(());
                }
                self.set(*group, place, Small::HardState(*state))?;
            }
            Record::Release { group, release } => {
                self.set(*group, place, Small::Release(*release))?;
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
            Record::Tombstone { group } => {
                let segment = place.segment();
                if let Some(group) = self.groups.remove(group) {
                    group.bury(&mut self.ledger);
                }
                crate::ledger::tombstone(&mut self.tombstones, *group, segment, &mut self.ledger);
            }
            Record::Footer => self.closed = true,
            Record::Optional => {}
        }
        Ok(())
    }

    /// A group that lives, to take in a record at `place`; `None` if it is fenced: then nothing more is kept of it.
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

    /// The group lost something at `damage`, so nothing of it may be relied on: only that is kept. It stands at
    /// `place`, as a record or as the damage itself, which is written as a record before anything of the group goes.
    fn fence(&mut self, id: GroupId, damage: Position, place: Position) {
        // One that is gone for good has nothing to lose.
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

    /// No group's log has a hole: what was given up with its segment was released, or stands elsewhere.
    fn check_whole(&self, first: Option<SegmentSeq>) -> Result<(), WalError> {
        let whole = self.groups.iter().filter(|(_, group)| group.fence.is_none());
        let holes = whole.filter_map(|(id, group)| Some((*id, group.index.hole()?)));
        // The first of them: the same log is refused with the same words every time.
        let Some((id, (index, behind))) = holes.min_by_key(|(id, _)| *id) else { return Ok(()) };
        let first = first.map_or(Position::ZERO, |seq| Position::new(seq, 0));
        let at = behind.unwrap_or(first);
        let what = format!("entry {} of group {} is missing", index.get(), id.get());
        let (file, offset) = (self.disk.path(at.segment()), u64::from(at.offset()));
        Err(refuse_corrupt(Case::MissingEntries, file, offset, &what))
    }

    /// Rule 24: the groups of a damaged batch have lost something there.
    fn fence_batch(&mut self, file: &Segment, at: usize, batch: &Batch<'_>, case: Case, what: Bad) {
        let what = format!("{} [{}]", what.0, case.label());
        let corrupt = Corrupt { file: file.path.clone(), offset: at as u64, what };
        let directory = batch.header.directory(batch.body, file.seed);
        for group in directory.expect("it holds, or the case were another") {
            self.fence(group, file.position(at), file.position(at));
            self.damage.entry(group).or_insert_with(|| corrupt.clone());
        }
        self.damaged.insert(file.seq());
        tracing::error!(%corrupt, groups = batch.header.groups, "a durable batch is damaged: its groups are fenced on this node");
    }

    /// Segments above the last used one hold nothing that was acknowledged, or the log is damaged: batches in
    /// them know how far it was durable.
    fn judge_spare(
        &self,
        file: &Segment,
        scanned: &Scanned,
        end: Position,
    ) -> Result<(), WalError> {
        let first = file.position(FIRST_BATCH_AT as usize);
        for (_, header) in SegmentBytes::new(file, scanned).headers(FIRST_BATCH_AT as usize) {
            if header.durable > first {
                let what = "the segment's first batch was durable and cannot be read";
                let (path, at) = (file.path.clone(), u64::from(FIRST_BATCH_AT));
                return Err(refuse_corrupt(Case::DamagedStart, path, at, what));
            }
            if header.durable > end {
                let what = "batches that were durable cannot be read";
                let (path, at) = (self.disk.path(end.segment()), u64::from(end.offset()));
                return Err(refuse_corrupt(Case::DamagedBatchHeader, path, at, what));
            }
        }
        Ok(())
    }

    /// The report on a group once all is replayed.
    fn recovered_group(&self, id: GroupId, group: &Group) -> RecoveredGroup {
        let last = group.index.last();
        let (released, released_term) = group.index.released();
        let fenced = group.fence.map(|at| {
            self.damage.get(&id).cloned().unwrap_or_else(|| Corrupt {
                file: self.disk.path(at.segment()),
                offset: u64::from(at.offset()),
                what: "it was found damaged here before".to_owned(),
            })
        });
        RecoveredGroup {
            group: id,
            membership: group.membership.clone(),
            hard_state: group.hard_state,
            runs: group.index.terms().to_vec(),
            released,
            released_term,
            last,
            fenced,
            durable: crate::stream::recovered_durable(id, WriteId::ZERO),
        }
    }

    fn finish(
        mut self,
        cut: Option<CutTail>,
        start: Start,
        chain: Vec<Link>,
        void: Vec<SegmentSeq>,
        next_segment: SegmentSeq,
    ) -> Replayed {
        for group in self.groups.values_mut() {
            // A disk that has lost its end may have kept the state that was carried before the entries under it. A
            // state that is carried from here on says no more than this state says now.
            group.hard_state.commit = group.hard_state.commit.min(group.index.last());
        }
        let groups = self.groups.iter();
        let mut found: Vec<_> =
            groups.map(|(id, group)| self.recovered_group(*id, group)).collect();
        found.sort_unstable_by_key(|group| group.group);
        let mut destroyed: Vec<GroupId> = self.tombstones.keys().copied().collect();
        destroyed.sort_unstable();
        let (closed, bytes, batches) = (self.closed, self.bytes, self.batches);
        let next_batch = self.follows.map_or(1, |(next, _)| next);
        Replayed {
            recovered: Recovered { groups: found, destroyed, cut, closed, bytes, batches },
            groups: self.groups,
            tombstones: self.tombstones,
            ledger: self.ledger,
            chain,
            void,
            next_segment,
            next_batch: self.ended.map(|(_, next)| next).unwrap_or(next_batch),
            start,
            moved: self.moved,
        }
    }
}

/// Where the records that are written again begin in the new segment: in the block behind the start record's.
pub(crate) const MOVED_AT: usize = FIRST_BATCH_AT as usize + BLOCK_BYTES;

fn unread(file: &Segment, source: std::io::Error) -> WalError {
    WalError::Io { file: file.path.clone(), what: "read", source }
}

/// The error of a case that is about a file.
fn refuse(case: Case, file: PathBuf, what: &str) -> WalError {
    assert!(case.decision() == Decision::Refuse, "{case:?} is refused");
    let what = format!("{what} [{}]", case.label());
    match case {
        Case::MissingSegment | Case::MissingManifest => WalError::Missing { file, what },
        _ => WalError::Foreign { file, what },
    }
}

/// The error of a case that is about bytes.
fn refuse_corrupt(case: Case, file: PathBuf, offset: u64, what: &str) -> WalError {
    assert!(case.decision() == Decision::Refuse, "{case:?} is refused");
    Corrupt { file, offset, what: format!("{what} [{}]", case.label()) }.into()
}
