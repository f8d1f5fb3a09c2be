//! Recovery of a stream from its files after a restart: replayed, cut, fenced, or refused.
//!
//! In:     the files that a [`Disk`] lists, judged by the one judge of bytes (`judge.rs`).
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
//! | unknown_record | a mandatory record, or an entry, of an unknown kind | refuse | a newer version wrote the record; P8, rule 30 |
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
//! | other_version | a manifest or segment of another version | refuse | P8 |
//! | half_made_segment | a segment above `L`, without a start record, and none of its batches states that it was durable | pass over | it was made ahead, or its first write is torn; W11 |
//! | passed_over | a segment below `L` that is not in the chain | pass over | a start record has voided it: nothing in it was acknowledged, or what was acknowledged has been written again |
//! | leftover | a segment below the manifest's first | pass over | its live records were carried before the manifest moved on, and a damaged segment has been renamed by then (rule 25) |
//!
//! The next segment's start record states where the log ends, and is durable before anything else is done: nothing
//! behind that place ever counts again, whatever the writes of a dead process still change there. So a second crash
//! leads to the same end (W3). The start record may state an earlier end than recovery found: what stood behind the
//! earlier end is then written again in the start record's own batch (`moved.rs`).

mod moved;

pub(crate) use moved::{Moved, Tail as MovedTail};

use crate::Config;
use crate::checksum::Seed;
use crate::disk::{Disk, Scan, ScanFile, Scanned, first_of};
use crate::error::{Corrupt, WalError};
use crate::format::{BLOCK_BYTES, FIRST_BATCH_AT, Position, Record, SegmentSeq, Start};
use crate::group::{Group, Groups};
use crate::judge::{
    Batch, Bytes as SegmentBytes, Case, CutTail, Decision, End, Fault, Found, Judge, Look,
    NextBatch, Owner, Segment, Visitor, What,
};
use crate::ledger::{Ledger, Tombstones};
use crate::snapshot::{Installing, SnapshotMark};
use bytes::Bytes;
use hashbrown::{HashMap, HashSet};
use logdrive_raft::{Durable, GroupId, HardState, LogIndex, Term, TermRun, WriteId};
use std::io;
use std::path::PathBuf;

/// The state that a log found on its disk.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// Every group that the log mentions and that was not destroyed, in order of id.
    pub groups: Vec<RecoveredGroup>,
    /// Groups that were destroyed, in order of id: a destroyed group never lives again.
    pub destroyed: Vec<Destroyed>,
    /// Where the log ended: the place behind the last batch that counts.
    pub end: Position,
    /// The torn tail that was cut off, if there was one; it was never acknowledged.
    pub cut: Option<CutTail>,
    /// True if the log was closed: its last record is a footer.
    pub closed: bool,
    /// Bytes of batches that were replayed.
    pub bytes: u64,
    /// Batches that were replayed.
    pub batches: u64,
}

/// A group that was destroyed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Destroyed {
    /// The group.
    pub group: GroupId,
    /// The replica that is gone was added at this index, and every earlier one is gone, too.
    pub since: LogIndex,
}

/// One group's state on disk.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RecoveredGroup {
    /// The group.
    pub group: GroupId,
    /// The membership at `released`, as the embedder gave it; empty if none was written. A configuration in the entries
    /// behind `released` is newer.
    pub membership: Bytes,
    /// The latest hard state written; its commit index is never past `last`, and never below `released`.
    pub hard_state: HardState,
    /// Entries up to this one were released: the group's log begins behind it. `ZERO` if no entry was released.
    pub released: LogIndex,
    /// The term of the entry at `released`.
    pub released_term: Term,
    /// The terms of the group's entries.
    pub runs: Vec<TermRun>,
    /// The group's last entry; the same as `released` if no entry stands behind that one.
    pub last: LogIndex,
    /// The latest snapshot, at `released` or behind it.
    pub snapshot: Option<SnapshotMark>,
    /// Set if the process ended while the group's machine was replaced by this snapshot: the machine may be behind `last`.
    pub installing: Option<Installing>,
    /// Set if the group lost something on this node. Then the other fields say nothing of it: the group must not vote,
    /// acknowledge or lead, and the log takes nothing for it.
    pub fenced: Option<Corrupt>,
    /// States that everything in this struct is on disk ([`WriteId::ZERO`]).
    pub durable: Durable,
}

/// The state that the stream goes on from.
pub(crate) struct Replayed {
    pub(crate) recovered: Recovered,
    pub(crate) groups: Groups,
    /// Groups that were destroyed.
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
    let is_direct = disk.info().direct_io;
    let mut judge = Judge::new(Owner::of(&config.identity, config.shard));
    let mut replay = Replay::new(disk);
    let (mut found, next) = replay.find(&mut judge)?;
    let mut scan = replay.disk.scan(to_scan(&found)).map_err(|source| WalError::Io {
        file: config.dir.clone(),
        what: "starting to read",
        source,
    })?;
    let mut end = End { position: Position::ZERO, cut: None };
    let last = found.chain.last().copied();
    for (file, _, sealed) in found.chain() {
        let scanned = scan.next().map_err(|source| unread(file, source))?;
        if Some(file.seq()) != last {
            end = replay.segment(&mut judge, file, scanned, sealed, Look::First)?;
            continue;
        }
        // The records to be written again are chosen on the same bytes from which they are taken.
        let mut bytes = SegmentBytes::new(file, scanned);
        let mut survey = moved::survey(&mut bytes, file.seed, file.follows());
        let mut again;
        let (mut scanned, mut look) = (scanned, Look::First);
        if survey.is_doubtful {
            look = Look::Second;
            again = replay.read_again(file.seq(), bytes.len());
            scanned = first_of(&mut again).map_err(|source| unread(file, source))?;
            bytes = SegmentBytes::new(file, scanned);
            survey = moved::survey(&mut bytes, file.seed, file.follows());
        }
        replay.moved_from = moved::moved_from(&bytes, &survey, config.segment_bytes, is_direct);
        end = replay.segment(&mut judge, file, scanned, sealed, look)?;
    }
    let last = last.map(|seq| &found.segments[&seq]);
    if let Some(last) = last {
        replay.write_again(&mut judge, last, next, next_seed)?;
    } else {
        judge.ledger.begin(next);
    }
    judge.check_whole(found.chain.first().copied(), &mut replay)?;
    for file in found.spares() {
        let scanned = scan.next().map_err(|source| unread(file, source))?;
        let claims = SegmentBytes::new(file, scanned);
        judge.judge_spare(file, claims.claims(), end.position, &mut replay)?;
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
        Some(Ended { start, .. }) if start.end.segment() < end.position.segment() => start,
        Some(Ended { start, .. }) => {
            Start { cut: end.cut.is_some() || start.end < end.position, ..start }
        }
        None => Start {
            end: end.position,
            id: last.map_or(0, |file| file.header.id),
            prev_crc: judge.follows.map_or(0, |next| next.prev_crc),
            cut: end.cut.is_some(),
        },
    };
    let mut void: Vec<SegmentSeq> = found.void.iter().map(|(seq, _)| *seq).collect();
    // Nothing counts any more in a segment that is written again as a whole.
    if let Some(last) = last.map(Segment::seq).filter(|last| start.end.segment() < *last) {
        found.chain.pop();
        void.push(last);
    }
    let link = |(file, ..): (&Segment, u64, bool)| Link {
        seq: file.seq(),
        seed: file.seed,
        bytes: file.header.bytes,
        damaged: replay.damaged.contains(&file.seq()),
    };
    let chain = found.chain().map(link).collect();
    Ok(replay.finish(judge, end, start, chain, void, next))
}

/// The files that have to be read, in this order: the segments of the chain, as far as they count; then the spares as
/// a whole.
fn to_scan(found: &Found) -> Vec<ScanFile> {
    let chain = found.chain().map(|(file, bytes, _)| ScanFile { segment: file.seq(), bytes });
    let spares =
        found.spares().map(|file| ScanFile { segment: file.seq(), bytes: file.header.bytes });
    chain.chain(spares).collect()
}

/// The visitor that opens the log: the part of a recovery that is not the judge's.
struct Replay<'a> {
    disk: &'a mut dyn Disk,
    /// The damage that this recovery found, by the group that lost something in it.
    damage: HashMap<GroupId, Corrupt>,
    damaged: HashSet<SegmentSeq>,
    /// The batches of the last segment from this byte on are kept, to be written again.
    moved_from: Option<usize>,
    /// The end of the stream before the records that are written again; `None` as long as there are no such records.
    ended: Option<Ended>,
    /// The records that are written again.
    tail: moved::Tail,
    moved: Moved,
    /// The places of these records, in order.
    moved_places: Vec<MovedPlace>,
    batches: u64,
    bytes: u64,
}

/// The end of a stream before records that are written again.
#[derive(Clone, Copy)]
struct Ended {
    /// The content of the start record that ends the stream there.
    start: Start,
    /// The number of the first batch behind that end.
    next_batch: u64,
}

/// The places of one record that is written again.
struct MovedPlace {
    /// Where the record will stand.
    then: Position,
    /// Where the record stands now.
    now: Position,
}

impl Visitor for Replay<'_> {
    type Stop = WalError;

    const IS_LIVE: bool = false;

    fn path(&self, segment: SegmentSeq) -> PathBuf {
        self.disk.path(segment)
    }

    fn manifest_path(&self) -> PathBuf {
        self.disk.manifest_path()
    }

    fn read(&mut self, segment: SegmentSeq, out: &mut [u8]) -> io::Result<()> {
        self.disk.read(segment, 0, out)
    }

    fn read_again(&mut self, segment: SegmentSeq, bytes: usize) -> io::Result<Box<dyn Scan>> {
        self.disk.scan(vec![ScanFile { segment, bytes: bytes as u64 }])
    }

    fn stands(&self, place: Position) -> Position {
        let moved = self.moved_places.binary_search_by_key(&place, |moved| moved.then);
        moved.map_or(place, |n| self.moved_places[n].now)
    }

    fn unread(&mut self, segment: SegmentSeq, source: io::Error) -> Result<(), WalError> {
        Err(WalError::Io { file: self.disk.path(segment), what: "read", source })
    }

    /// The groups of a damaged batch, which have lost something in it, are fenced (rule 24). Every other fault is refused.
    fn fault(&mut self, fault: Fault) -> Result<bool, WalError> {
        if fault.case.decision() != Decision::Fence {
            return Err(refusal(fault));
        }
        let Fault { case, segment, file, offset, what, groups } = fault;
        let corrupt = Corrupt { file, offset, what: format!("{what} [{}]", case.label()) };
        for group in &groups {
            self.damage.entry(*group).or_insert_with(|| corrupt.clone());
        }
        self.damaged.extend(segment);
        tracing::error!(%corrupt, groups = groups.len(), "a durable batch is damaged: its groups are fenced on this node");
        Ok(true)
    }

    /// Ends the stream at the first batch that is written again.
    fn reach(&mut self, file: &Segment, at: usize, follows: Option<NextBatch>) {
        if self.ended.is_some() || self.moved_from.is_none_or(|from| from > at) {
            return;
        }
        let next = follows.expect("set where the segment began");
        let start = if at == FIRST_BATCH_AT as usize {
            file.start()
        } else {
            let end = file.position(at);
            Start { end, id: file.header.id, prev_crc: next.prev_crc, cut: false }
        };
        self.ended = Some(Ended { start, next_batch: next.number });
    }

    fn batch(&mut self, _: &Segment, batch: &Batch<'_>, _: &[GroupId]) -> Result<(), WalError> {
        self.batches += 1;
        self.bytes += batch.header.padded_bytes() as u64;
        Ok(())
    }

    fn record(
        &mut self,
        _: &Segment,
        at: usize,
        record: &Record<'_>,
        bytes: &[u8],
    ) -> Result<bool, WalError> {
        let is_kept = self.ended.is_some() && record.group().is_some();
        if is_kept {
            self.tail.push(record, bytes, at);
        }
        Ok(is_kept)
    }
}

impl<'a> Replay<'a> {
    fn new(disk: &'a mut dyn Disk) -> Self {
        Self {
            disk,
            damage: HashMap::new(),
            damaged: HashSet::new(),
            moved_from: None,
            ended: None,
            tail: moved::Tail::default(),
            moved: Moved::default(),
            moved_places: Vec::new(),
            batches: 0,
            bytes: 0,
        }
    }

    /// Sorts out the files of the stream. Returns with them the number of the next segment, which is above the number of
    /// every segment ever made.
    fn find(&mut self, judge: &mut Judge) -> Result<(Found, SegmentSeq), WalError> {
        let file = self.disk.manifest_path();
        let failed = |what, source| WalError::Io { file: file.clone(), what, source };
        let bytes = self.disk.manifest().map_err(|source| failed("read", source))?;
        let manifest = judge.manifest(bytes, self)?.expect("every fault of a manifest is refused");
        let listed = self.disk.segments();
        let listed = listed.map_err(|source| failed("listing the directory", source))?;
        let found = judge.files(&listed, Some(&manifest), self)?;
        for (seq, case) in &found.void {
            assert!(case.decision() == Decision::PassOver, "{case:?} is void");
            tracing::debug!(?seq, case = case.label(), "the segment holds nothing that counts");
        }
        let newest = listed.iter().map(|file| file.segment).max().unwrap_or(SegmentSeq(0));
        let next = newest.max(manifest.made).0.checked_add(1).map(SegmentSeq);
        let next =
            next.ok_or_else(|| WalError::Config("segment numbers are used up".to_owned()))?;
        Ok((found, next))
    }

    /// Replays one segment.
    fn segment(
        &mut self,
        judge: &mut Judge,
        file: &Segment,
        scanned: &Scanned,
        sealed: bool,
        look: Look,
    ) -> Result<End, WalError> {
        judge.begin(file, self)?;
        let is_moved = self.moved_from == Some(FIRST_BATCH_AT as usize);
        if !is_moved {
            judge.ledger.begin(file.seq());
        }
        let end = judge.batches(file, scanned, sealed, look, self)?;
        if !is_moved {
            let ended = self.ended.map_or(end.position, |ended| ended.start.end);
            judge.ledger.end(ended.offset());
        }
        Ok(end)
    }

    /// Takes in the records that were kept of the last segment, as records of the next segment, into which they are
    /// written again.
    fn write_again(
        &mut self,
        judge: &mut Judge,
        last: &Segment,
        next: SegmentSeq,
        seed: Seed,
    ) -> Result<(), WalError> {
        judge.ledger.begin(next);
        let tail = std::mem::take(&mut self.tail);
        let mut moved = Moved::default();
        let mut groups = HashSet::new();
        for (record, bytes, at) in tail.records(last.seed) {
            let place = MOVED_AT + moved.push(&record, bytes, seed);
            let place = u32::try_from(place).expect("segments are below 4 GiB");
            let place = Position::new(next, place);
            judge
                .apply(&record, place, false)
                .map_err(|bad| refusal(last.fault(Case::SenselessRecord, at, bad.0)))?;
            self.moved_places.push(MovedPlace { then: place, now: last.position(at) });
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
            snapshot: group.snapshot().map(|kept| kept.head.mark),
            installing: group.installing(),
            fenced,
            durable: crate::stream::recovered_durable(id, WriteId::ZERO),
        }
    }

    fn finish(
        self,
        mut judge: Judge,
        end: End,
        start: Start,
        chain: Vec<Link>,
        void: Vec<SegmentSeq>,
        next_segment: SegmentSeq,
    ) -> Replayed {
        for group in judge.groups.values_mut() {
            // A disk that has lost the end of the log may have kept a carried hard state without the entries under its
            // commit index. A hard state that is carried from here on states no more than this one does now.
            group.hard_state = group.bounded_hard_state();
        }
        let groups = judge.groups.iter();
        let mut found: Vec<_> =
            groups.map(|(id, group)| self.recovered_group(*id, group)).collect();
        found.sort_unstable_by_key(|group| group.group);
        let destroyed = judge.tombstones.iter();
        let mut destroyed: Vec<_> = destroyed
            .map(|(group, tombstone)| Destroyed { group: *group, since: tombstone.since })
            .collect();
        destroyed.sort_unstable_by_key(|gone| gone.group);
        let next_batch = judge.follows.map_or(1, |next| next.number);
        let recovered = Recovered {
            groups: found,
            destroyed,
            end: end.position,
            cut: end.cut,
            closed: judge.closed,
            bytes: self.bytes,
            batches: self.batches,
        };
        Replayed {
            recovered,
            groups: judge.groups,
            tombstones: judge.tombstones,
            ledger: judge.ledger,
            chain,
            void,
            next_segment,
            next_batch: self.ended.map_or(next_batch, |ended| ended.next_batch),
            start,
            moved: self.moved,
        }
    }
}

/// Where the records that are written again begin in the new segment: in the block behind the block of the start
/// record.
pub(crate) const MOVED_AT: usize = FIRST_BATCH_AT as usize + BLOCK_BYTES;

fn unread(file: &Segment, source: io::Error) -> WalError {
    WalError::Io { file: file.path.clone(), what: "read", source }
}

/// The error of a fault for which the log is not opened.
fn refusal(fault: Fault) -> WalError {
    let Fault { case, file, offset, what, .. } = fault;
    assert!(case.decision() == Decision::Refuse, "{case:?} is refused");
    let what = match what {
        What::Version { what, found, known } => {
            return WalError::Version { file, what, found, known };
        }
        What::Text(what) => format!("{what} [{}]", case.label()),
    };
    match case {
        Case::MissingSegment | Case::MissingManifest => WalError::Missing { file, what },
        Case::ForeignFile | Case::DuplicateSegment | Case::SwappedSegment => {
            WalError::Foreign { file, what }
        }
        _ => Corrupt { file, offset, what }.into(),
    }
}
