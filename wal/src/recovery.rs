//! Recovery of a stream from its files after a restart: replayed, cut, fenced, or refused.
//!
//! In:     the files a [`Disk`] finds.
//! Out:    every group's state, and where the stream ends.
//! Cost:   one pass over the segments, read ahead; memory for two segments and the groups.
//! Fails:  as the table below decides. Recovery changes nothing on disk.
//! Source: RULES.md rules 19-25, 27, 30; C1-C10, P8, W2, W3, W8, W11, W12.
//!
//! A segment is *used* if the start record in its first batch is readable. The last used segment, `L`, names the
//! segment before it, that one names the next older, and so on down to the first segment that the manifest needs: these
//! segments are the *chain*. A batch is *vouched for* if it was certainly durable: a later segment of the chain follows
//! its segment, or a later batch of its segment states that it was durable, or it is a segment's first batch and holds
//! what an open wrote again, because the start record of such a batch is written last (`moved.rs`).
//!
//! | label | what is found | decision | because |
//! |---|---|---|---|
//! | clean_stop | a footer is the last record of `L` | end | the footer was written when everything before it was durable |
//! | clean_end | behind the last batch of `L` only zeros, or no more room; or a block of zeros, then unreadable places, and no batch header that can be read | end | a segment is zeros where it was never written, and batches are written one behind the other |
//! | recycled_bytes | behind the last batch of `L` a batch header of an earlier segment | end | the header fails its checksum, which is seeded with the segment's id: the file was that earlier segment once |
//! | torn_tail | a batch that is not whole, with nothing that vouches for it and no whole batch behind it | cut | writes in flight may reach the disk in part; C3 |
//! | reordered_tail | a batch that is not whole, and whole batches behind it; nothing vouches for any of them | cut | writes in flight may reach the disk in any order; rule 21 |
//! | unreadable_tail | no whole batch, nothing that vouches for one, and places that the device cannot read where something may stand | refuse | a batch may stand there that a retry can read, and a cut is for ever |
//! | damaged_body | a batch that is vouched for: its header and directory hold, the rest of it does not | fence | the directory says which groups lost something; rule 24 |
//! | unreadable_body | a batch that is vouched for: its header and directory hold, and the device cannot read the rest of it | fence | C9: an unreadable place is the same as a failed checksum |
//! | damaged_batch_header | no batch header where a batch is vouched for | refuse | it is not known which groups lost something, nor where the next batch begins |
//! | damaged_directory | a batch that is vouched for: its header holds, its directory does not | refuse | it is not known which groups lost something |
//! | misdirected_batch | where a batch is vouched for, a batch with another place or number | refuse | the batch that belongs there is lost; C10 |
//! | unknown_record | a mandatory record of an unknown kind | refuse | a newer version wrote the record; P8, rule 30 |
//! | senseless_record | a whole batch with content that no log writes | refuse | the batch was written with this content: the fault is this program's, not the disk's |
//! | missing_entries | whole batches, but a group's log has a hole that no damage explains | refuse | a segment that was still needed was given up, or was never written |
//! | damaged_segment_header | block 0 fails its checksum, or cannot be read | refuse | the header was synced before the file had its name; C4 |
//! | damaged_start | the first batch of a used segment fails, or continues another batch than the one before it | refuse | it is not known what the segment follows |
//! | truncated_segment | a file of another size than its header says | refuse | the file's size was synced before the file had its name |
//! | missing_segment | a segment that the manifest or a start record needs has no file | refuse | an empty log in its place would vote twice; rule 27, C5 |
//! | missing_manifest | no manifest | refuse | an empty log in its place would vote twice; rule 27, C5 |
//! | damaged_manifest | a manifest that fails its checksum: torn, empty | refuse | a manifest is replaced by rename, so a crash never tears it; C8 |
//! | older_manifest | a used segment above the newest that the manifest knows | refuse | a segment is used only when the manifest names it; C8 |
//! | foreign_file | a file of another cluster, node, store or shard | refuse | C4, C7 |
//! | duplicate_segment | two files with one segment's id | refuse | C6 |
//! | swapped_segment | a file whose header has another number than its name, or another id than the start record that follows it says | refuse | C6 |
//! | newer_version | a manifest or segment of another version | refuse | P8 |
//! | half_made_segment | a segment above `L`, without a start record, and none of its batches states that it was durable | pass over | it was made ahead, or its first write is torn; W11 |
//! | passed_over | a segment below `L` that is not in the chain | pass over | a start record has voided it: nothing in it was acknowledged, or what was acknowledged has been written again |
//! | leftover | a segment below the manifest's first | pass over | its live records were carried before the manifest moved on, and a damaged segment has been renamed by then (rule 25) |
//!
//! The next segment's start record states where the log ends, and is durable before anything else is done: nothing
//! behind that place ever counts again, whatever the writes of a dead process still change there. So a second crash
//! leads to the same end (W3). The start record may state an earlier end than recovery found: what stood behind the
//! earlier end is then written again in the start record's own batch (`moved.rs`).

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
    /// Every group that the log mentions and that was not destroyed, in order of id.
    pub groups: Vec<RecoveredGroup>,
    /// Groups that were destroyed, in order of id: a destroyed group never lives again.
    pub destroyed: Vec<GroupId>,
    /// The torn tail that was cut off, if there was one; it was never acknowledged.
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
    /// The latest membership written, as the embedder gave it; empty if none was written.
    pub membership: Bytes,
    /// The latest hard state written; its commit index is never past `last`.
    pub hard_state: HardState,
    /// Entries up to this one were released: the group's log begins behind it. `ZERO` if no entry was released.
    pub released: LogIndex,
    /// The term of the entry at `released`.
    pub released_term: Term,
    /// The terms of the group's entries.
    pub runs: Vec<TermRun>,
    /// The group's last entry; the same as `released` if no entry stands behind that one.
    pub last: LogIndex,
    /// Set if the group lost something on this node. Then the other fields say nothing of it: the group must not vote,
    /// acknowledge or lead, and the log takes nothing for it.
    pub fenced: Option<Corrupt>,
    /// States that everything in this struct is on disk ([`WriteId::ZERO`]).
    pub durable: Durable,
}

/// A tail that was not whole.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CutTail {
    /// The case that the tail was taken for.
    pub case: Case,
    /// The file.
    pub file: PathBuf,
    /// Where the log was cut.
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
    /// Groups that were destroyed, each with the segment that holds its tombstone.
    pub(crate) tombstones: Tombstones,
    pub(crate) ledger: Ledger,
    /// Segments that hold the log, oldest first.
    pub(crate) chain: Vec<Link>,
    /// Segments whose files hold nothing that counts: the files are removed once the new segment's start record is
    /// durable.
    pub(crate) void: Vec<SegmentSeq>,
    pub(crate) next_segment: SegmentSeq,
    pub(crate) next_batch: u64,
    /// The content of the new segment's start record.
    pub(crate) start: Start,
    /// The records that stand behind the start record, in the same batch.
    pub(crate) moved: Moved,
}

/// One segment that holds the log.
pub(crate) struct Link {
    pub(crate) seq: SegmentSeq,
    pub(crate) seed: Seed,
    /// The size of the segment's file.
    pub(crate) bytes: u64,
    pub(crate) damaged: bool,
}

/// Reads the whole stream, which goes on in a new segment with the seed `next_seed`. Changes nothing on disk, except
/// that it syncs the last segment that was read.
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
    // Nothing counts any more in a segment that is written again as a whole.
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
    /// The damage that this recovery found, by the group that lost something in it.
    damage: HashMap<GroupId, Corrupt>,
    damaged: HashSet<SegmentSeq>,
    /// The groups that the current batch's directory names.
    named: Named,
    /// The number and the predecessor's checksum that the next batch must have; `None` before the first.
    follows: Option<(u64, u32)>,
    /// True if a footer was the last record.
    closed: bool,
    /// The start record that ends the stream before the records that are written again, and the number of the first
    /// batch behind that end; `None` as long as there are no such records.
    ended: Option<(Start, u64)>,
    /// The records that are written again.
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

    /// Replays one segment; `sealed_at` is where the next segment says that this one ended. The batches from
    /// `moved_from` on are kept, to be written again. `is_first`: the bytes come from the first read of the segment,
    /// which may be read once more.
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

    /// Replays the batches from byte `at` on. No decision rests on a single bad read: after the first read, the segment
    /// is read once more.
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
                    if crate::rules::damage_fences() {
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

    /// Checks how a segment begins: the first batch of the chain says where it stands in the stream, and the first
    /// batch of every other segment follows the batch before it.
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

    /// Ends the stream before byte `at` of the last segment: the batches from there on are written again.
    fn end_before(&mut self, file: &Segment, at: usize) {
        let (next_batch, prev_crc) = self.follows.expect("set where the segment began");
        let start = if at == FIRST_BATCH_AT as usize {
            file.start()
        } else {
            Start { end: file.position(at), id: file.header.id, prev_crc, cut: false }
        };
        self.ended = Some((start, next_batch));
    }

    /// Takes in the records that were kept of the last segment, as records of the next segment, into which they are
    /// written again.
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

    /// Refuses a batch whose header and directory hold but which is not the next one.
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

    /// Notes that the next batch to be read follows `batch`; returns the size of `batch` on disk.
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
                if !crate::rules::later_hard_state_counts(known) {
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

    /// The group, which is to take in a record at `place`; `None` if the group is fenced: then nothing more of it is
    /// kept.
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

    /// Fences a group that lost something at `damage`: nothing of the group may be relied on, so only the place of the
    /// damage is kept. `place` is where a fence record says so, or the damage itself; in the latter case a fence record
    /// is written before a segment with records of the group is given up.
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
    /// another segment.
    fn check_whole(&self, first: Option<SegmentSeq>) -> Result<(), WalError> {
        let whole = self.groups.iter().filter(|(_, group)| group.fence.is_none());
        let holes = whole.filter_map(|(id, group)| Some((*id, group.index.hole()?)));
        // The group with the lowest id is named: the same log is refused with the same words every time.
        let Some((id, (index, behind))) = holes.min_by_key(|(id, _)| *id) else { return Ok(()) };
        let first = first.map_or(Position::ZERO, |seq| Position::new(seq, 0));
        let at = behind.unwrap_or(first);
        let what = format!("entry {} of group {} is missing", index.get(), id.get());
        let (file, offset) = (self.disk.path(at.segment()), u64::from(at.offset()));
        Err(refuse_corrupt(Case::MissingEntries, file, offset, &what))
    }

    /// Fences the groups of a damaged batch, which have lost something in it (rule 24).
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

    /// Checks a segment above the last used one: it holds nothing that was acknowledged, or the log is damaged, since
    /// batches in the segment state how far the log was durable.
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
            // A disk that has lost the end of the log may have kept a carried hard state without the entries under its
            // commit index. A hard state that is carried from here on states no more than this one does now.
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

/// Where the records that are written again begin in the new segment: in the block behind the block of the start
/// record.
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
