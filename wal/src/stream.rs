//! Group commit: many groups' appends become one durable write.
//!
//! In:     [`Append`]s, encoded at once at the tail of the active segment's image.
//! Out:    [`Completed`] batches, in log order; a batch counts as durable once its write and all writes before it have
//!         finished.
//! Cost:   one write per batch; a batch is whatever was appended while the write slots were taken.
//! Fails:  the first failed write, sync or segment poisons the log ([`WalError::Poisoned`]); lack of room is reported
//!         before anything is encoded ([`WalError::NoSpace`]).
//! Source: Hagmann 1987 (group commit); thesis §10.2.2 (batching), §3.8 (what must be durable first);
//!         RULES.md rules 2, 6, 8-11, 17.
//!
//! The cursors, in bytes of the stream:
//!
//! ```text
//!   durable ≤ submitted ≤ closed ≤ tail
//!            |           |        `- the open batch grows here
//!            |           `- closed batches wait for a slot, or for their segment's file
//!            `- writes in flight, finished in any order
//! ```
//!
//! It is not claimed that the bytes between durable and submitted are not on disk yet.

mod append;
mod carry;
mod fence;
mod first;
mod plan;
mod seal;
mod space;

use crate::checksum::{Seed, Sum};
use crate::disk::{Disk, DiskEvent, SegmentOrigin, SegmentReader, WriteSegment, is_no_space};
use crate::error::WalError;
use crate::format::{
    BATCH_HEADER_BYTES, BLOCK_BYTES, BatchHeader, DIRECTORY_ENTRY_BYTES, ENTRIES_HEAD_BYTES,
    ENTRY_HEADER_BYTES, FIRST_BATCH_AT, Position, SegmentSeq, Start, decode_entry_header,
};
use crate::group::{Group, Groups};
use crate::image::{Frozen, Image, ImageWriter};
use crate::index::Placed;
use crate::ledger::{Ledger, Tombstones};
use crate::metrics::{Description, Metrics};
use crate::recovery::{Recovered, replay};
use crate::{Config, disk};
use bytes::Bytes;
use logdrive_raft::{Durable, Entry, GroupId, HardState, LogIndex, Term, WriteId};
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

pub use carry::{CarryDone, CarryPlan};
pub use space::Usage;

/// One group's part of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Append<'a> {
    /// The group.
    pub group: GroupId,
    /// Names this write in the [`Durable`] that covers it.
    pub write: WriteId,
    /// The group's new membership, opaque to the log.
    pub membership: Option<&'a [u8]>,
    /// The group's new hard state. It is written before the entries, and its commit index is saved only as far as it
    /// covers none of them.
    pub hard_state: Option<HardState>,
    /// The entries to append, contiguous. The new entries replace what the group's log has from the first one's index
    /// on.
    pub entries: &'a [Entry],
}

/// A batch that has become durable, and with it everything before.
#[derive(Debug)]
pub struct Completed {
    /// The stamp that [`Wal::submit`] or [`Wal::poll`] was given when the batch was submitted.
    pub stamp: u64,
    /// The newest write of each group that ended in this batch.
    pub durable: Vec<Durable>,
    /// The batch's entries, which the caller may borrow from the log instead of keeping its own copies.
    pub frozen: Vec<FrozenRun>,
    /// True if a segment is full and on disk: bytes that are borrowed from older batches should be let go soon, so that
    /// the images of full segments can be used again.
    pub sealed: bool,
}

/// Entries of one group in a durable batch; they point into the log's memory.
#[derive(Clone, Debug)]
pub struct FrozenRun {
    /// The group.
    pub group: GroupId,
    /// The first entry's index.
    pub first: LogIndex,
    /// The term of all the entries.
    pub term: Term,
    /// How many entries.
    pub count: u32,
    batch: Bytes,
    offset: usize,
}

impl FrozenRun {
    /// The entries in order: term, checksum and payload. The payloads are not copied: each keeps the
    /// segment's image from being used again while it lives.
    pub fn payloads(&self) -> impl Iterator<Item = (Term, u32, Bytes)> + '_ {
        let headers_at = self.offset + ENTRIES_HEAD_BYTES;
        let mut at = headers_at + self.count as usize * ENTRY_HEADER_BYTES;
        self.batch[headers_at..at].chunks_exact(ENTRY_HEADER_BYTES).map(move |header| {
            let head = decode_entry_header(header).expect("encoded by this log");
            let payload = self.batch.slice(at..at + head.bytes);
            at += head.bytes;
            (self.term, head.checksum, payload)
        })
    }
}

/// Whether the log takes entries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Room {
    /// It takes entries.
    Free,
    /// The next segment is being made, but more slowly than this one fills; or the log is at its quota and is giving
    /// space back: take nothing new for a moment.
    Behind,
    /// No next segment could be made, for lack of space: propose nothing. The room left is for hard states, so that
    /// votes and heartbeats go on. This state passes by itself when there is room again.
    Reserve,
    /// The log has nearly the size it may have ([`Config::log_bytes_max`]): propose nothing. This state passes when
    /// enough is released or destroyed; votes and heartbeats go on.
    Quota,
}

/// A log: the stream of segments of one shard. Owned by the shard's thread.
pub struct Wal {
    disk: Box<dyn Disk>,
    config: Config,
    entropy: Box<dyn FnMut() -> u128>,
    groups: Groups,
    tombstones: Tombstones,
    ledger: Ledger,
    /// Full segments, all on disk, oldest first.
    sealed: VecDeque<Sealed>,
    /// The sum of the sealed segments' file sizes.
    sealed_bytes: u64,
    /// The quota, or more if the log was over its quota when it was opened.
    bytes_limit: Option<u64>,
    /// Full segments with batches not yet durable, oldest first.
    closing: VecDeque<Segment>,
    active: Segment,
    open: OpenBatch,
    /// Segments ordered for later, oldest first.
    spares: VecDeque<Spare>,
    /// All segments up to this one have their file.
    made: SegmentSeq,
    /// True if the maker of segments reported no room, and has not yet succeeded again.
    no_space: bool,
    /// The bytes that refused entries needed; 0 once there was that much room.
    refused: u64,
    carry: carry::Carry,
    /// Bytes that copies of the victim's records have taken so far.
    carry_taken: u64,
    /// Bytes that batches without copies have taken since the last round for votes began, less their records of
    /// entries: a round wins back what stands beside a new leader's no-op as it wins back a vote.
    small_bytes: u64,
    /// The round for votes goes on up to this segment.
    round_end: SegmentSeq,
    /// The bytes of each file that is being given up, in order: they count until the file is gone.
    leaving: VecDeque<u64>,
    /// The number of files of given-up segments that are kept to be made into new ones.
    free_segments: usize,
    waiting: VecDeque<ClosedBatch>,
    in_flight: VecDeque<InFlight>,
    durable: Position,
    /// The place behind the newest seal.
    sealed_upto: Position,
    /// True if some group is fenced.
    has_fences: bool,
    next_batch: u64,
    prev_crc: u32,
    /// True if the open batch was submitted while no slot was free: the batch is written when one is.
    submit_wanted: bool,
    /// See [`Wal::disk_answers`].
    disk_answers: u64,
    /// The disk's count of chunks written to segments in the making, as it was when last read.
    chunks_made: u64,
    seal_pending: bool,
    poisoned: Option<String>,
    events: Vec<DiskEvent>,
    metrics: Metrics,
}

struct Sealed {
    seq: SegmentSeq,
    seed: Seed,
    bytes: u64,
    reader: Arc<dyn SegmentReader>,
    /// True if recovery read the segment: its file is never used again, because a killed process may still write to it
    /// (rule 8).
    inherited: bool,
    /// True if bytes in the segment are not the ones that were written: its file is set aside, not removed (rule 25).
    damaged: bool,
}

struct Segment {
    seq: SegmentSeq,
    id: u128,
    seed: Seed,
    image: ImageWriter,
    /// The offset behind the last closed batch.
    closed: usize,
    /// The stream's first unwritten place when the segment was full.
    end: Position,
}

struct Spare {
    seq: SegmentSeq,
    id: u128,
    bytes: u64,
}

/// The batch at the tail.
struct OpenBatch {
    /// The offset of the next record in the active image. If it is right behind the batch's header, or before that, the
    /// batch has no records.
    tail: usize,
    /// The checksum of the body up to `summed`, taken early so that little is left to do once a slot is free.
    sum: Sum,
    summed: usize,
    records: u32,
    /// The groups that have something in the batch, each once.
    directory: Vec<GroupId>,
    writes: Vec<Durable>,
    runs: Vec<RunPlace>,
    copies: Vec<Copied>,
    /// Bytes of the batch's records of entries.
    entry_bytes: u64,
    /// True if something in the batch was written again to give space back.
    carries: bool,
}

/// Carried entries: the index finds them at `to` once the batch is durable.
struct Copied {
    group: GroupId,
    from: Position,
    to: Placed,
}

struct RunPlace {
    group: GroupId,
    first: LogIndex,
    term: Term,
    count: u32,
    /// The record's offset from the batch's start.
    offset: usize,
}

struct ClosedBatch {
    seq: u64,
    position: Position,
    bytes: Frozen,
    /// The part that is still to be written: the whole batch, or only the first block of the batch that an open begins
    /// with.
    unwritten: Frozen,
    padding: usize,
    writes: Vec<Durable>,
    runs: Vec<RunPlace>,
    copies: Vec<Copied>,
}

struct InFlight {
    batch: ClosedBatch,
    stamp: u64,
    done: bool,
}

/// The statement of the batch that lists `write`, once that batch is on disk; until then nobody sees the statement.
fn once_written(group: GroupId, write: WriteId) -> Durable {
    Durable::new(group, write)
}

/// States what recovery read as durable.
pub(crate) fn recovered_durable(group: GroupId, upto: WriteId) -> Durable {
    Durable::new(group, upto)
}

impl Wal {
    /// Opens the stream in `config.dir`, which [`crate::Home`] has made and locked; replays it, and starts a new
    /// segment. Blocks. Call it on the thread that will own the log.
    ///
    /// # Errors
    /// Any [`WalError`]; damage and missing files leave everything as it is.
    pub fn open(config: Config) -> Result<(Self, Recovered), WalError> {
        config.check()?;
        let disk =
            disk::open(&config.dir, config.segment_bytes, config.in_flight_max, config.driver)
                .map_err(|source| WalError::Io {
                    file: config.dir.clone(),
                    what: "opening",
                    source,
                })?;
        Self::open_on(disk, config, Box::new(crate::home::random_u128))
    }

    /// Opens the stream on `disk`. `entropy` draws the random ids of segments: two equal draws in one stream's
    /// life would let stale bytes pass for new ones.
    ///
    /// # Errors
    /// As [`Wal::open`].
    pub fn open_on(
        mut disk: Box<dyn Disk>,
        config: Config,
        mut entropy: Box<dyn FnMut() -> u128>,
    ) -> Result<(Self, Recovered), WalError> {
        config.check()?;
        // When several buffered writes share an open file, the kernel reports an error once, to any of them: a write
        // that failed may be reported as a success. So one is in flight at a time.
        let in_flight_max = if disk.info().direct_io { config.in_flight_max } else { 1 };
        let config = Config { in_flight_max, ..config };
        let id = entropy();
        let replayed = replay(disk.as_mut(), &config, Seed::of(id))?;
        // The open cannot be refused any more, so the temporary files have served their purpose; the first segment may
        // need their room.
        disk.remove_temporary().map_err(|source| WalError::Io {
            file: config.dir.clone(),
            what: "removing temporary files",
            source,
        })?;
        let seq = replayed.next_segment;
        let moved = replayed.moved;
        let needed = segment_bytes_for(BLOCK_BYTES + moved.records.len(), moved.groups.len());
        let bytes = config.segment_bytes.max(needed);
        let image = image(disk.as_mut(), &config, bytes).map_err(|source| WalError::Io {
            file: disk.path(seq),
            what: "getting memory for an image",
            source,
        })?;
        let sealed = replayed
            .chain
            .iter()
            .map(|link| Sealed {
                seq: link.seq,
                seed: link.seed,
                bytes: link.bytes,
                reader: disk.reader(link.seq),
                inherited: true,
                damaged: link.damaged,
            })
            .collect();
        let mut wal = Self {
            active: Segment {
                seq,
                id,
                seed: Seed::of(id),
                image,
                closed: FIRST_BATCH_AT as usize,
                end: Position::ZERO,
            },
            disk,
            entropy,
            groups: replayed.groups,
            tombstones: replayed.tombstones,
            ledger: replayed.ledger,
            bytes_limit: None,
            sealed_bytes: replayed.chain.iter().map(|link| link.bytes).sum(),
            sealed,
            closing: VecDeque::new(),
            open: OpenBatch {
                tail: 0,
                sum: Seed::of(id).sum(),
                summed: 0,
                records: 0,
                directory: Vec::new(),
                writes: Vec::new(),
                runs: Vec::new(),
                copies: Vec::new(),
                entry_bytes: 0,
                carries: false,
            },
            spares: VecDeque::new(),
            made: SegmentSeq(seq.0 - 1),
            no_space: false,
            refused: 0,
            carry: carry::Carry::default(),
            carry_taken: 0,
            small_bytes: 0,
            round_end: SegmentSeq(0),
            leaving: VecDeque::new(),
            free_segments: 0,
            waiting: VecDeque::new(),
            in_flight: VecDeque::new(),
            durable: replayed.start.end,
            sealed_upto: Position::ZERO,
            has_fences: replayed.recovered.groups.iter().any(|group| group.fenced.is_some()),
            next_batch: replayed.next_batch,
            prev_crc: replayed.start.prev_crc,
            submit_wanted: false,
            disk_answers: 0,
            chunks_made: 0,
            seal_pending: false,
            poisoned: None,
            events: Vec::new(),
            metrics: Metrics::default(),
            config,
        };
        wal.metrics.rotations = 1;
        wal.order(seq, id, bytes, true);
        wal.begin_segment(&replayed.start);
        wal.take_over(moved);
        // The start record is durable before anything else happens (rule 23).
        wal.write_first_batch()?;
        // The start record passes over these segments, so they are void from now on. Whatever was acknowledged in them
        // and is still needed has been carried or written again.
        for void in replayed.void {
            let removed = wal.disk.remove(void);
            removed.map_err(|source| wal.fail(void, "remove", source))?;
        }
        wal.set_bytes_limit();
        wal.keep_spares(0);
        Ok((wal, replayed.recovered))
    }

    /// Writes the open batch if a write slot is free; otherwise the batch goes on growing, and [`Wal::poll`] writes it
    /// when a slot is free. `stamp` comes back in [`Completed`]; the log reads no clock.
    ///
    /// # Errors
    /// [`WalError::Io`] if the write could not be started, [`WalError::Poisoned`].
    pub fn submit(&mut self, stamp: u64) -> Result<(), WalError> {
        self.check_poisoned()?;
        self.submit_wanted |= self.has_open();
        self.pump(stamp)
    }

    /// Takes finished writes, adds the batches that became durable to `completed`, in log order, and starts the write
    /// of a waiting batch with `stamp`. Never blocks.
    ///
    /// # Errors
    /// [`WalError::Io`] for the first write or segment that failed, [`WalError::Poisoned`] ever after. Batches that
    /// became durable before the failure are in `completed`.
    pub fn poll(&mut self, stamp: u64, completed: &mut Vec<Completed>) -> Result<(), WalError> {
        self.check_poisoned()?;
        let mut events = std::mem::take(&mut self.events);
        if let Err(source) = self.disk.poll(&mut events) {
            return Err(self.fail(self.active.seq, "collecting finished writes", source));
        }
        let mut failed = None;
        for event in events.drain(..) {
            if let Err(error) = self.on_event(event) {
                failed = failed.or(Some(error));
            }
        }
        self.events = events;
        let before = completed.len();
        self.complete(completed);
        self.disk_answers += (completed.len() - before) as u64;
        let chunks = self.disk.chunks_made();
        if self.in_flight.is_empty() {
            self.disk_answers += chunks - self.chunks_made;
        }
        self.chunks_made = chunks;
        if let Some(error) = failed {
            return Err(error);
        }
        self.pump(stamp)
    }

    /// A file descriptor that is readable when [`Wal::poll`] may have something to take; `None` in the simulator. Wait
    /// for it edge-triggered: nothing reads from the descriptor, so it stays readable.
    #[must_use]
    pub fn readiness(&self) -> Option<BorrowedFd<'_>> {
        self.disk.readiness()
    }

    /// True if a batch submitted now would go to the disk at once.
    #[must_use]
    pub fn has_slot(&self) -> bool {
        self.waiting.is_empty() && self.in_flight.len() < self.config.in_flight_max
    }

    /// True if writes are in flight, or batches wait for a slot or to be submitted.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.in_flight.is_empty() || !self.waiting.is_empty() || self.has_open()
    }

    /// True if the disk owes an answer: a write is in flight, or waits for a segment that is being made. A write that
    /// waits for lack of room does not count: the lack is reported, and passes by itself.
    #[must_use]
    pub fn awaits_disk(&self) -> bool {
        !self.in_flight.is_empty() || (!self.waiting.is_empty() && !self.no_space)
    }

    /// The number of the disk's answers, which stands still while a disk that owes one ([`Wal::awaits_disk`]) is
    /// silent. Batches that became durable count; while no write is in flight, so do the chunks written to the segment
    /// that writes wait for, because a large segment takes its time on a slow disk. A write that is stuck is not
    /// excused by such chunks.
    #[must_use]
    pub fn disk_answers(&self) -> u64 {
        self.disk_answers
    }

    /// The largest payload an entry may have, and the largest membership, in bytes.
    #[must_use]
    pub fn entry_bytes_max(&self) -> usize {
        self.config.entry_bytes_max()
    }

    /// The disk and the sizes that the log runs on.
    #[must_use]
    pub fn describe(&self) -> Description {
        Description {
            disk: self.disk.info(),
            in_flight_max: self.config.in_flight_max,
            segment_bytes: self.config.segment_bytes,
        }
    }

    /// The log's counters. This call walks the groups, so it is not meant for every round.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        Metrics {
            in_flight: self.in_flight.len(),
            waiting: self.waiting.len(),
            segments: self.sealed.len() + self.closing.len() + 1,
            index_bytes: self.groups.values().map(Group::heap_bytes).sum(),
            ..self.metrics
        }
    }

    /// Everything before this place is on disk.
    #[must_use]
    pub fn durable(&self) -> Position {
        self.durable
    }

    /// Submits the open batch, waits for all writes, and ends the log with a footer. Blocks.
    ///
    /// # Errors
    /// The first failure; a write that was not reported durable has an unknown outcome. [`WalError::NoSpace`] if
    /// batches wait for a segment that cannot be made.
    pub fn close(mut self) -> Result<(), WalError> {
        self.write_all()?;
        self.append_footer()?;
        self.write_all()
    }

    /// Writes the open batch, and waits for all writes.
    fn write_all(&mut self) -> Result<(), WalError> {
        self.close_batch();
        let mut completed = Vec::new();
        self.poll(0, &mut completed)?;
        while self.has_work() {
            if self.in_flight.is_empty() && self.no_space {
                return Err(WalError::NoSpace);
            }
            self.wait()?;
            self.poll(0, &mut completed)?;
        }
        Ok(())
    }

    // --- batches and segments ---

    fn has_open(&self) -> bool {
        self.open.records > 0 || !self.open.writes.is_empty()
    }

    fn tail_position(&self) -> Position {
        Position::new(self.active.seq, offset_u32(self.active.closed))
    }

    /// Puts a segment's start record at its tail.
    fn begin_segment(&mut self, start: &Start) {
        self.begin_batch();
        let record = start.encode(self.active.seed);
        self.tail(record.len()).copy_from_slice(&record);
        self.advance(record.len());
    }

    /// Closes the open batch: header, checksums, padding; from here on its bytes never change.
    fn close_batch(&mut self) {
        if self.has_open() {
            self.close_open();
        }
    }

    /// Closes the open batch, even if there is nothing in it.
    fn close_open(&mut self) {
        let start = self.active.closed;
        let body_at = start + BATCH_HEADER_BYTES;
        let records_end = self.open.tail;
        let mut directory = std::mem::take(&mut self.open.directory);
        let tail = records_end + directory.len() * DIRECTORY_ENTRY_BYTES;
        let image = self.active.image.tail_mut(records_end..tail);
        for (id, group) in image.chunks_exact_mut(DIRECTORY_ENTRY_BYTES).zip(&directory) {
            id.copy_from_slice(&group.get().to_le_bytes());
        }
        let end = tail.next_multiple_of(BLOCK_BYTES);
        let position = self.tail_position();
        self.active.image.tail_mut(tail..end).fill(0);
        self.sum_upto(tail);
        let header = BatchHeader {
            seq: self.next_batch,
            position,
            durable: self.durable,
            body_bytes: offset_u32(tail - body_at),
            body_crc: self.open.sum.finish(),
            records: self.open.records,
            prev_crc: self.prev_crc,
            groups: offset_u32(directory.len()),
            directory_crc: self.active.seed.checksum(self.active.image.bytes(records_end..tail)),
        };
        let taken = (end - start) as u64;
        if self.open.carries {
            self.carry_taken += taken;
        } else {
            self.small_bytes += taken - self.open.entry_bytes;
        }
        let (bytes, crc) = header.encode(self.active.seed);
        self.active.image.tail_mut(start..body_at).copy_from_slice(&bytes);
        self.active.image.freeze(end);
        self.waiting.push_back(ClosedBatch {
            seq: self.next_batch,
            position,
            bytes: self.active.image.share(start..end),
            unwritten: self.active.image.share(start..end),
            padding: end - tail,
            writes: take_list(&mut self.open.writes),
            runs: take_list(&mut self.open.runs),
            copies: std::mem::take(&mut self.open.copies),
        });
        self.prev_crc = crc;
        self.next_batch += 1;
        // The maker of segments pauses between its writes until the next segment is needed soon.
        let half = self.active.image.len() / 2;
        if start < half && end >= half && self.ready_spares() == 0 {
            self.disk.hurry();
        }
        self.active.closed = end;
        // The list is kept for its memory.
        directory.clear();
        self.open.directory = directory;
        self.begin_batch();
        self.submit_wanted = false;
    }

    /// Goes on in the next segment's image. The segment's file may still be in the making: writes wait for the file.
    /// Segments that are ordered now have `least` bytes at least.
    fn next_segment(&mut self, least: u64) -> Result<(), WalError> {
        // A batch of writes without records still belongs to the segment before.
        self.close_batch();
        if self.spares.is_empty() {
            // The caller, which appends, has checked before that there is room.
            self.order_spare(least);
        }
        let spare = self.spares.pop_front().expect("ordered above");
        let image = image(self.disk.as_mut(), &self.config, spare.bytes)
            .map_err(|source| self.fail(self.active.seq, "getting memory for an image", source))?;
        let end = self.tail_position();
        let start = Start { end, id: self.active.id, prev_crc: self.prev_crc, cut: false };
        let next = Segment {
            seq: spare.seq,
            id: spare.id,
            seed: Seed::of(spare.id),
            image,
            closed: FIRST_BATCH_AT as usize,
            end: Position::ZERO,
        };
        let mut full = std::mem::replace(&mut self.active, next);
        full.end = end;
        self.closing.push_back(full);
        self.ledger.end(end.offset());
        self.ledger.begin(self.active.seq);
        self.metrics.rotations += 1;
        logdrive_raft::reached!("segment changed");
        if !self.is_made(self.active.seq) {
            self.disk.hurry();
        }
        self.keep_spares(least);
        self.begin_segment(&start);
        self.seal_finished();
        Ok(())
    }

    // --- writing ---

    /// Fills free write slots: closed batches first, then the open batch if it was submitted.
    fn pump(&mut self, stamp: u64) -> Result<(), WalError> {
        while self.in_flight.len() < self.config.in_flight_max {
            if self.waiting.is_empty() && self.submit_wanted {
                self.close_batch();
            }
            let Some(batch) = self.waiting.front() else { break };
            let segment = batch.position.segment();
            // A segment's first write is started only when all writes before it are durable: so a bad batch in a
            // segment that has a successor is damage, never a torn tail (rule 8).
            let first = batch.position.offset() == FIRST_BATCH_AT;
            let early = logdrive_raft::bug!("segment_before_the_last_is_durable");
            if (first && !early && !self.in_flight.is_empty()) || !self.is_made(segment) {
                break;
            }
            let batch = self.waiting.pop_front().expect("looked at above");
            let write = WriteSegment {
                token: batch.seq,
                segment,
                offset: u64::from(batch.position.offset()),
                bytes: batch.unwritten.clone(),
            };
            self.in_flight.push_back(InFlight { batch, stamp, done: false });
            if let Err(source) = self.disk.write(write) {
                return Err(self.fail(segment, "write", source));
            }
        }
        Ok(())
    }

    fn on_event(&mut self, event: DiskEvent) -> Result<(), WalError> {
        match event {
            DiskEvent::Written { token, result } => {
                if logdrive_raft::bug!("durable_by_any_completion")
                    && self.in_flight.front().is_none_or(|first| token < first.batch.seq)
                {
                    return Ok(());
                }
                let first = self.in_flight.front().expect("an event of a write in flight");
                let at = usize::try_from(token - first.batch.seq).expect("a write in flight");
                let segment = self.in_flight[at].batch.position.segment();
                match result {
                    Ok(()) => {
                        if at > 0 {
                            logdrive_raft::reached!("writes finished out of order");
                        }
                        self.in_flight[at].done = true;
                    }
                    Err(_) if logdrive_raft::bug!("failed_write_taken_for_done") => {
                        self.in_flight[at].done = true;
                    }
                    Err(_)
                        if logdrive_raft::bug!("sync_retried")
                            && self.disk.sync(segment).is_ok() =>
                    {
                        self.in_flight[at].done = true;
                    }
                    Err(source) => return Err(self.fail(segment, "write", source)),
                }
            }
            DiskEvent::Made { segment, result } => match result {
                Ok(origin) => {
                    assert!(segment > self.made, "{segment:?} was made twice");
                    self.made = segment;
                    self.no_space = false;
                    if origin == SegmentOrigin::Recycled {
                        logdrive_raft::reached!("segment made of one given back");
                        self.metrics.recycled += 1;
                        self.free_segments -= 1;
                    }
                }
                Err(source) if is_no_space(&source) => {
                    if !self.no_space {
                        tracing::warn!(?segment, %source, "the disk has no room for the log's next segment: entries are refused until it has");
                    }
                    self.no_space = true;
                }
                Err(source) => return Err(self.fail(segment, "making", source)),
            },
            DiskEvent::Retired { segment, result } => match result {
                Ok(()) => self.retired(segment),
                Err(source) => return Err(self.fail(segment, "giving up", source)),
            },
        }
        Ok(())
    }

    /// Hands out the contiguous prefix of finished writes.
    fn complete(&mut self, completed: &mut Vec<Completed>) {
        let any = logdrive_raft::bug!("durable_by_any_completion")
            && self.in_flight.iter().any(|write| write.done);
        while self.in_flight.front().is_some_and(|write| write.done || any) {
            let InFlight { batch, stamp, .. } = self.in_flight.pop_front().expect("looked at");
            let bytes = batch.bytes.len();
            let end = Position::new(
                batch.position.segment(),
                batch.position.offset() + offset_u32(bytes),
            );
            assert!(end > self.durable, "durable would move back from {:?}", self.durable);
            self.durable = end;
            self.metrics.batches += 1;
            self.metrics.bytes += bytes as u64;
            self.metrics.padding_bytes += batch.padding as u64;
            self.relocate(batch.copies);
            self.seal_finished();
            completed.push(Completed {
                stamp,
                durable: batch.writes,
                frozen: freeze_runs(batch.bytes, batch.runs),
                sealed: std::mem::take(&mut self.seal_pending),
            });
        }
    }

    /// Full segments whose last batch is durable are read from their files from now on.
    fn seal_finished(&mut self) {
        while let Some(segment) = self.closing.pop_front() {
            if segment.end > self.durable {
                self.closing.push_front(segment);
                return;
            }
            let reader = self.disk.reader(segment.seq);
            self.sealed.push_back(Sealed {
                seq: segment.seq,
                seed: segment.seed,
                bytes: segment.image.len() as u64,
                reader,
                inherited: false,
                damaged: false,
            });
            self.sealed_bytes += segment.image.len() as u64;
            self.seal_pending = true;
        }
    }

    fn wait(&mut self) -> Result<(), WalError> {
        self.disk.wait().map_err(|source| self.fail(self.active.seq, "waiting for writes", source))
    }

    fn check_poisoned(&self) -> Result<(), WalError> {
        match &self.poisoned {
            None => Ok(()),
            Some(first) => Err(WalError::Poisoned { first: first.clone() }),
        }
    }

    /// Latches the first failure. Retrying would prove nothing: the kernel reports such an error once.
    fn fail(
        &mut self,
        segment: SegmentSeq,
        what: &'static str,
        source: std::io::Error,
    ) -> WalError {
        let error = WalError::Io { file: self.disk.path(segment), what, source };
        if let Some(first) = &self.poisoned {
            return WalError::Poisoned { first: first.clone() };
        }
        tracing::error!(%error, "the log is poisoned: it takes nothing more until the node starts again");
        self.poisoned = Some(error.to_string());
        error
    }
}

/// Takes a list out and leaves an empty one with as much room: a batch mostly has as many parts as the one before.
fn take_list<T>(list: &mut Vec<T>) -> Vec<T> {
    let room = list.len();
    std::mem::replace(list, Vec::with_capacity(room))
}

/// Memory for a segment of `bytes`, which may be larger than the others.
fn image(disk: &mut dyn Disk, config: &Config, bytes: u64) -> std::io::Result<ImageWriter> {
    if bytes == config.segment_bytes {
        return disk.image();
    }
    let mut image = Image::new(usize::try_from(bytes).expect("segments fit memory"))?;
    Ok(ImageWriter::claim(&mut image).expect("a new image has one owner"))
}

/// The least size of a segment whose first batch holds records of `bytes` bytes that belong to `groups` groups.
fn segment_bytes_for(bytes: usize, groups: usize) -> u64 {
    let batch = BATCH_HEADER_BYTES + bytes + groups * DIRECTORY_ENTRY_BYTES;
    (FIRST_BATCH_AT as usize + batch).next_multiple_of(BLOCK_BYTES) as u64
}

fn freeze_runs(bytes: Frozen, runs: Vec<RunPlace>) -> Vec<FrozenRun> {
    if runs.is_empty() {
        return Vec::new();
    }
    let batch = bytes.into_bytes();
    runs.into_iter()
        .map(|run| FrozenRun {
            group: run.group,
            first: run.first,
            term: run.term,
            count: run.count,
            batch: batch.clone(),
            offset: run.offset,
        })
        .collect()
}

fn offset_u32(offset: usize) -> u32 {
    u32::try_from(offset).expect("segments are below 4 GiB")
}
