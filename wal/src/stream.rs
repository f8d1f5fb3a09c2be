//! Group commit: many groups' appends become one durable write.
//!
//! In:     [`Append`]s, encoded at once at the tail of the active segment's image.
//! Out:    [`Completed`] batches, in log order; what they say durable is the contiguous prefix of finished writes.
//! Cost:   one write per batch; a batch is whatever was appended while the write slots were taken.
//! Fails:  the first failed write, sync or segment poisons the log ([`WalError::Poisoned`]); no room is met
//!         before anything is encoded ([`WalError::NoSpace`]).
//! Source: Hagmann 1987 (group commit); thesis §10.2.2 (batching), §3.8 (what must be durable first);
//!         FAULTS' rules 2, 6, 8-11, 17.
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
//! Not claimed: that what lies between durable and submitted is not on disk.

mod space;

use crate::checksum::Seed;
use crate::disk::{Disk, DiskEvent, SegmentReader, WriteSegment, is_no_space};
use crate::error::{ReadError, WalError};
use crate::format::{
    self, BATCH_HEADER_BYTES, BLOCK_BYTES, BatchHeader, ENTRIES_HEAD_BYTES, ENTRY_HEADER_BYTES,
    ENTRY_LEN_MASK, FIRST_BATCH_AT, HARD_STATE_RECORD_BYTES, Position, RECORD_ALIGN_BYTES,
    START_RECORD_BYTES, SegmentSeq, Start, decode_entry_header, entries_record_bytes,
    membership_record_bytes,
};
use crate::image::{Frozen, ImageWriter};
use crate::index::Groups;
use crate::metrics::{Description, Metrics};
use crate::read::{ReadPlan, Span};
use crate::recovery::{Recovered, replay};
use crate::{Config, disk};
use bytes::Bytes;
use logdrive_raft::{
    Durable, ENTRY_OVERHEAD_BYTES, Entry, GroupId, HardState, LogIndex, Term, WriteId,
};
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// One group's part of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Append<'a> {
    /// The group.
    pub group: GroupId,
    /// Names this write in the [`Durable`] that covers it.
    pub write: WriteId,
    /// The group's new membership, opaque to the log.
    pub membership: Option<&'a [u8]>,
    /// Its new hard state; stands before the entries.
    pub hard_state: Option<HardState>,
    /// Entries to append, contiguous. They replace what the group's log has from the first one's index on.
    pub entries: &'a [Entry],
}

/// A batch that has become durable, and with it everything before.
#[derive(Debug)]
pub struct Completed {
    /// What [`Wal::submit`] or [`Wal::poll`] was given when the batch was submitted.
    pub stamp: u64,
    /// The newest write of each group that ended in this batch.
    pub durable: Vec<Durable>,
    /// The batch's entries, to be borrowed from the log instead of kept.
    pub frozen: Vec<FrozenRun>,
    /// A segment is full and on disk: who borrows from older batches should let go soon, so that its image can
    /// be used again.
    pub sealed: bool,
}

/// Entries of one group in a durable batch; they point into the log's memory.
#[derive(Clone, Debug)]
pub struct FrozenRun {
    /// The group.
    pub group: GroupId,
    /// The first entry.
    pub first: LogIndex,
    /// The term of all of them.
    pub term: Term,
    /// How many.
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
    /// All there is.
    Free,
    /// The next segment is being made, but slower than this one fills: take nothing new for a moment.
    Behind,
    /// No next segment could be made, for lack of space: propose nothing. What is left is for hard states, so
    /// that votes and heartbeats go on. Passes by itself when there is room again.
    Reserve,
}

/// A log: the stream of segments of one shard. Owned by the shard's thread.
pub struct Wal {
    disk: Box<dyn Disk>,
    config: Config,
    entropy: Box<dyn FnMut() -> u128>,
    groups: Groups,
    /// Full segments, all on disk, oldest first.
    sealed: Vec<Sealed>,
    /// Full segments with batches not yet durable, oldest first.
    closing: VecDeque<Segment>,
    active: Segment,
    open: OpenBatch,
    /// Segments ordered for later, oldest first.
    spares: VecDeque<Spare>,
    /// All segments up to here have their file.
    made: SegmentSeq,
    /// The maker reported no room, and has not yet succeeded again.
    no_space: bool,
    waiting: VecDeque<ClosedBatch>,
    in_flight: VecDeque<InFlight>,
    durable: Position,
    next_batch: u64,
    prev_crc: u32,
    /// A batch is wanted on its way though no slot was free.
    submit_wanted: bool,
    seal_pending: bool,
    poisoned: Option<String>,
    events: Vec<DiskEvent>,
    metrics: Metrics,
}

struct Sealed {
    seq: SegmentSeq,
    seed: Seed,
    reader: Arc<dyn SegmentReader>,
}

struct Segment {
    seq: SegmentSeq,
    id: u128,
    seed: Seed,
    image: ImageWriter,
    /// Behind the last closed batch.
    closed: usize,
    /// The stream's first unwritten place when the segment was full.
    end: Position,
}

struct Spare {
    seq: SegmentSeq,
    id: u128,
}

/// The batch at the tail.
struct OpenBatch {
    /// Where the next record goes, in the active image. At most header and nothing else: nothing is open.
    tail: usize,
    records: u32,
    writes: Vec<Durable>,
    runs: Vec<RunPlace>,
}

struct RunPlace {
    group: GroupId,
    first: LogIndex,
    term: Term,
    count: u32,
    /// From the batch's start.
    offset: usize,
}

struct ClosedBatch {
    seq: u64,
    position: Position,
    bytes: Frozen,
    padding: usize,
    writes: Vec<Durable>,
    runs: Vec<RunPlace>,
}

struct InFlight {
    batch: ClosedBatch,
    stamp: u64,
    done: bool,
}

/// States what recovery read as durable; the only other maker of a [`Durable`] is a finished write.
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
        let replayed = replay(disk.as_mut(), &config)?;
        let seq = replayed.next_segment;
        let id = entropy();
        let image = disk.image().map_err(|source| WalError::Io {
            file: disk.path(seq),
            what: "image memory",
            source,
        })?;
        let sealed = replayed
            .chain
            .iter()
            .map(|(seq, seed)| Sealed { seq: *seq, seed: *seed, reader: disk.reader(*seq) })
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
            sealed,
            closing: VecDeque::new(),
            open: OpenBatch { tail: 0, records: 0, writes: Vec::new(), runs: Vec::new() },
            spares: VecDeque::new(),
            made: SegmentSeq(seq.0 - 1),
            no_space: false,
            waiting: VecDeque::new(),
            in_flight: VecDeque::new(),
            durable: replayed.start.end,
            next_batch: replayed.next_batch,
            prev_crc: replayed.start.prev_crc,
            submit_wanted: false,
            seal_pending: false,
            poisoned: None,
            events: Vec::new(),
            metrics: Metrics::default(),
            config,
        };
        wal.metrics.rotations = 1;
        wal.order(seq, id, true);
        wal.begin_segment(&replayed.start);
        // The start record is durable before anything else happens (rule 23).
        wal.close_batch();
        let mut completed = Vec::new();
        while wal.durable < wal.tail_position() {
            wal.poll(0, &mut completed)?;
            if wal.made < seq && wal.no_space {
                return Err(WalError::NoSpace);
            }
            if wal.durable < wal.tail_position() {
                wal.wait()?;
            }
        }
        // Void from now on: the start record passes over them. None of their bytes was ever acknowledged.
        for void in replayed.void {
            let removed = wal.disk.remove(void);
            removed.map_err(|source| wal.fail(void, "remove", source))?;
        }
        wal.keep_spares();
        Ok((wal, replayed.recovered))
    }

    /// Encodes one group's part at the tail of the open batch. It may end in a later batch, or a later segment, than
    /// it begins in. Nothing is written yet. Never blocks.
    ///
    /// # Errors
    /// [`WalError::TooLarge`] and [`WalError::NoSpace`]: nothing was encoded. [`WalError::Poisoned`].
    ///
    /// # Panics
    /// If the entries leave a hole in the group's log: the caller's invariant is broken.
    pub fn append(&mut self, append: &Append<'_>) -> Result<(), WalError> {
        self.check_poisoned()?;
        self.check_room(append)?;
        let group = append.group;
        if let Some(membership) = append.membership {
            let bytes = membership_record_bytes(membership.len());
            self.reserve(bytes)?;
            let used = format::encode_membership(self.tail(bytes), group, membership);
            self.advance(used);
        }
        if let Some(state) = &append.hard_state {
            self.reserve(HARD_STATE_RECORD_BYTES)?;
            let used = format::encode_hard_state(self.tail(HARD_STATE_RECORD_BYTES), group, state);
            self.advance(used);
        }
        for run in append.entries.chunk_by(|a, b| a.term == b.term) {
            self.append_run(group, run)?;
        }
        self.metrics.entries += append.entries.len() as u64;
        // A write of nothing is durable with what stands before it; it still needs a batch to say so.
        self.reserve(0)?;
        self.list_write(group, append.write);
        Ok(())
    }

    /// Sends the open batch on its way if a write slot is free; else it goes on growing, and goes when a slot
    /// is free, in [`Wal::poll`]. `stamp` comes back in [`Completed`]; the log reads no clock.
    ///
    /// # Errors
    /// [`WalError::Io`] if the write could not be started, [`WalError::Poisoned`].
    pub fn submit(&mut self, stamp: u64) -> Result<(), WalError> {
        self.check_poisoned()?;
        self.submit_wanted |= self.has_open();
        self.pump(stamp)
    }

    /// Takes finished writes, adds what became durable to `completed`, in log order, and sends a waiting batch on
    /// its way with `stamp`. Never blocks.
    ///
    /// # Errors
    /// [`WalError::Io`] for the first write or segment that failed, [`WalError::Poisoned`] ever after. What had become
    /// durable before it is in `completed`.
    pub fn poll(&mut self, stamp: u64, completed: &mut Vec<Completed>) -> Result<(), WalError> {
        self.check_poisoned()?;
        let mut events = std::mem::take(&mut self.events);
        if let Err(source) = self.disk.poll(&mut events) {
            return Err(self.fail(self.active.seq, "completion", source));
        }
        let mut failed = None;
        for event in events.drain(..) {
            if let Err(error) = self.on_event(event) {
                failed = failed.or(Some(error));
            }
        }
        self.events = events;
        self.complete(completed);
        if let Some(error) = failed {
            return Err(error);
        }
        self.pump(stamp)
    }

    /// Readable when [`Wal::poll`] may have something; `None` in the simulator. Wait for it edge-triggered: nobody
    /// reads it empty.
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

    /// Whether to go on proposing.
    #[must_use]
    pub fn room(&self) -> Room {
        let half_full = self.open.tail > self.active.image.len() / 2;
        let next_ready = self.ready_spares() > 0;
        let failing = self.no_space && !next_ready;
        let behind = !self.is_made(self.active.seq) && half_full;
        match (failing, behind) {
            (true, _) => Room::Reserve,
            (false, true) => Room::Behind,
            (false, false) => Room::Free,
        }
    }

    /// The largest payload an entry may have, and the largest membership, in bytes.
    #[must_use]
    pub fn entry_bytes_max(&self) -> usize {
        let segment = self.active.image.len();
        let overhead = FIRST_BATCH_AT as usize
            + BATCH_HEADER_BYTES
            + START_RECORD_BYTES
            + entries_record_bytes(1, 0)
            + RECORD_ALIGN_BYTES;
        (segment - overhead).min(ENTRY_LEN_MASK as usize)
    }

    /// Plans to read entries `first..=last` of a group, of which the plan then gives at least one, and not many
    /// more than `bytes_max` bytes. Cheap: no I/O.
    ///
    /// # Errors
    /// [`ReadError::UnknownGroup`], [`ReadError::OutOfRange`], or [`ReadError::NotDurable`] if not even `first` is durable;
    /// a range whose end is not durable is planned up to there.
    pub fn plan_read(
        &self,
        group: GroupId,
        first: LogIndex,
        last: LogIndex,
        bytes_max: usize,
    ) -> Result<ReadPlan, ReadError> {
        let index = self.groups.get(&group).ok_or(ReadError::UnknownGroup(group))?;
        let end = index.last();
        if first == LogIndex::ZERO || first > last || last > end {
            return Err(ReadError::OutOfRange { group, first, last, end });
        }
        // Each entry counts for at least its overhead, so this many are enough.
        let entries_max = bytes_max / ENTRY_OVERHEAD_BYTES + 1;
        let last = last.min(first.forward(entries_max as u64));
        let mut spans = Vec::new();
        for piece in index.pieces(first, last) {
            if piece.place >= self.durable {
                break;
            }
            let segment = piece.place.segment();
            let (source, seed) = self.source(segment);
            spans.push(Span {
                source,
                file: self.disk.path(segment),
                seed,
                offset: piece.place.offset(),
                first: piece.first,
                last: piece.last,
            });
        }
        if spans.is_empty() {
            return Err(ReadError::NotDurable { group, at: first });
        }
        Ok(ReadPlan { group, bytes_max, spans })
    }

    /// What the log runs on.
    #[must_use]
    pub fn describe(&self) -> Description {
        Description {
            disk: self.disk.info(),
            in_flight_max: self.config.in_flight_max,
            segment_bytes: self.config.segment_bytes,
        }
    }

    /// What it has counted. Walks the groups; not for every round.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        Metrics {
            in_flight: self.in_flight.len(),
            waiting: self.waiting.len(),
            segments: self.sealed.len() + self.closing.len() + 1,
            index_bytes: self.groups.values().map(crate::index::GroupIndex::heap_bytes).sum(),
            ..self.metrics
        }
    }

    /// Everything before this place is on disk.
    #[must_use]
    pub fn durable(&self) -> Position {
        self.durable
    }

    /// Submits what is open, waits for all of it, and closes the log. Blocks.
    ///
    /// # Errors
    /// The first failure; what was not reported durable has an unknown outcome. [`WalError::NoSpace`] if batches
    /// wait for a segment that cannot be made.
    pub fn close(mut self) -> Result<(), WalError> {
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

    // --- encoding ---

    fn append_run(&mut self, group: GroupId, run: &[Entry]) -> Result<(), WalError> {
        let mut rest = run;
        while let Some(first) = rest.first() {
            self.reserve(entries_record_bytes(1, first.payload.len()) + RECORD_ALIGN_BYTES)?;
            let room = self.room_in_batch() - RECORD_ALIGN_BYTES;
            let mut bytes = entries_record_bytes(0, 0);
            let mut fits = 0;
            for entry in rest {
                bytes += ENTRY_HEADER_BYTES + entry.payload.len();
                if bytes > room && fits > 0 {
                    bytes -= ENTRY_HEADER_BYTES + entry.payload.len();
                    break;
                }
                fits += 1;
            }
            let (now, later) = rest.split_at(fits);
            let seed = self.active.seed;
            let bytes = bytes.next_multiple_of(RECORD_ALIGN_BYTES);
            let used = format::encode_entries(self.tail(bytes), seed, group, now);
            let place = Position::new(self.active.seq, offset_u32(self.open.tail));
            let last = now.last().expect("at least one fits").index;
            self.groups.entry(group).or_default().put(first.index, last, place);
            self.open.runs.push(RunPlace {
                group,
                first: first.index,
                term: first.term,
                count: u32::try_from(fits).expect("bounded by a segment"),
                offset: self.open.tail - self.active.closed,
            });
            self.advance(used);
            rest = later;
        }
        Ok(())
    }

    /// Makes sure that a record of `bytes` fits at the tail: closes the batch, or goes on to the next segment.
    fn reserve(&mut self, bytes: usize) -> Result<(), WalError> {
        let body = self.open.tail - self.active.closed - BATCH_HEADER_BYTES;
        if self.has_open()
            && self.open.records > 0
            && body + bytes > self.config.batch_bytes_max as usize
        {
            self.close_batch();
        }
        if self.open.tail + bytes > self.active.image.len() {
            self.next_segment()?;
        }
        assert!(
            self.open.tail + bytes <= self.active.image.len(),
            "a record of {bytes} bytes fits no segment"
        );
        Ok(())
    }

    /// Bytes that still fit into the open batch; one record may go over the batch's own bound alone.
    fn room_in_batch(&self) -> usize {
        let segment = self.active.image.len() - self.open.tail;
        let body = self.open.tail - self.active.closed - BATCH_HEADER_BYTES;
        segment
            .min((self.config.batch_bytes_max as usize).saturating_sub(body))
            .max(RECORD_ALIGN_BYTES)
    }

    fn tail(&mut self, bytes: usize) -> &mut [u8] {
        self.active.image.tail_mut(self.open.tail..self.open.tail + bytes)
    }

    fn advance(&mut self, bytes: usize) {
        assert!(bytes.is_multiple_of(RECORD_ALIGN_BYTES), "record of {bytes} bytes is not padded");
        self.open.tail += bytes;
        self.open.records += 1;
    }

    /// Notes that `write` is whole once the open batch is durable.
    fn list_write(&mut self, group: GroupId, write: WriteId) {
        let durable = Durable::new(group, write);
        let index = self.groups.entry(group).or_default();
        match index.listed {
            Some((batch, at)) if batch == self.next_batch => {
                self.open.writes[at as usize] = durable;
            }
            _ => {
                index.listed = Some((self.next_batch, offset_u32(self.open.writes.len())));
                self.open.writes.push(durable);
            }
        }
    }

    fn has_open(&self) -> bool {
        self.open.records > 0 || !self.open.writes.is_empty()
    }

    fn tail_position(&self) -> Position {
        Position::new(self.active.seq, offset_u32(self.active.closed))
    }

    /// Puts a segment's start record at its tail.
    fn begin_segment(&mut self, start: &Start) {
        self.open.tail = self.active.closed + BATCH_HEADER_BYTES;
        let record = start.encode(self.active.seed);
        self.tail(record.len()).copy_from_slice(&record);
        self.advance(record.len());
    }

    /// Closes the open batch: header, checksums, padding; from here on its bytes never change.
    fn close_batch(&mut self) {
        if !self.has_open() {
            return;
        }
        let start = self.active.closed;
        let body_at = start + BATCH_HEADER_BYTES;
        let tail = self.open.tail;
        let end = tail.next_multiple_of(BLOCK_BYTES);
        let position = self.tail_position();
        self.active.image.tail_mut(tail..end).fill(0);
        let header = BatchHeader {
            seq: self.next_batch,
            position,
            durable: self.durable,
            body_bytes: offset_u32(tail - body_at),
            body_crc: self.active.seed.checksum(self.active.image.bytes(body_at..tail)),
            records: self.open.records,
            prev_crc: self.prev_crc,
        };
        let (bytes, crc) = header.encode(self.active.seed);
        self.active.image.tail_mut(start..body_at).copy_from_slice(&bytes);
        self.active.image.freeze(end);
        self.waiting.push_back(ClosedBatch {
            seq: self.next_batch,
            position,
            bytes: self.active.image.share(start..end),
            padding: end - tail,
            writes: std::mem::take(&mut self.open.writes),
            runs: std::mem::take(&mut self.open.runs),
        });
        self.prev_crc = crc;
        self.next_batch += 1;
        // The maker goes gently until the next segment comes near.
        let half = self.active.image.len() / 2;
        if start < half && end >= half && self.ready_spares() == 0 {
            self.disk.hurry();
        }
        self.active.closed = end;
        self.open.tail = end + BATCH_HEADER_BYTES;
        self.open.records = 0;
        self.submit_wanted = false;
    }

    /// Goes on in the next segment's image. Its file may still be in the making: writes wait for it.
    fn next_segment(&mut self) -> Result<(), WalError> {
        // A batch of writes without records still belongs to the segment before.
        self.close_batch();
        let image = self
            .disk
            .image()
            .map_err(|source| self.fail(self.active.seq, "image memory", source))?;
        self.keep_spares();
        let spare = self.spares.pop_front().expect("there is always one ahead");
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
        self.metrics.rotations += 1;
        if !self.is_made(self.active.seq) {
            self.disk.hurry();
        }
        self.keep_spares();
        self.begin_segment(&start);
        self.seal_finished();
        Ok(())
    }

    // --- writing ---

    /// Fills free write slots: closed batches first, then the open one if it is wanted.
    fn pump(&mut self, stamp: u64) -> Result<(), WalError> {
        while self.in_flight.len() < self.config.in_flight_max {
            if self.waiting.is_empty() && self.submit_wanted {
                self.close_batch();
            }
            let Some(batch) = self.waiting.front() else { break };
            let segment = batch.position.segment();
            // A segment's first write leaves only when all before it is durable: so a bad batch in a segment that
            // has a successor is damage, never a torn tail (rule 8).
            let first = batch.position.offset() == FIRST_BATCH_AT;
            if (first && !self.in_flight.is_empty()) || !self.is_made(segment) {
                break;
            }
            let batch = self.waiting.pop_front().expect("looked at above");
            let write = WriteSegment {
                token: batch.seq,
                segment,
                offset: u64::from(batch.position.offset()),
                bytes: batch.bytes.clone(),
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
                let first = self.in_flight.front().expect("an event of a write in flight");
                let at = usize::try_from(token - first.batch.seq).expect("a write in flight");
                let segment = self.in_flight[at].batch.position.segment();
                match result {
                    Ok(()) => self.in_flight[at].done = true,
                    Err(source) => return Err(self.fail(segment, "write", source)),
                }
            }
            DiskEvent::Made { segment, result } => match result {
                Ok(()) => {
                    assert!(segment > self.made, "{segment:?} was made twice");
                    self.made = segment;
                    self.no_space = false;
                }
                Err(source) if is_no_space(&source) => {
                    if !self.no_space {
                        tracing::warn!(?segment, %source, "no room for the next segment");
                    }
                    self.no_space = true;
                }
                Err(source) => return Err(self.fail(segment, "making", source)),
            },
        }
        Ok(())
    }

    /// Hands out the contiguous prefix of finished writes.
    fn complete(&mut self, completed: &mut Vec<Completed>) {
        while self.in_flight.front().is_some_and(|write| write.done) {
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
            self.sealed.push(Sealed { seq: segment.seq, seed: segment.seed, reader });
            self.seal_pending = true;
        }
    }

    /// Where durable bytes of a segment are read.
    fn source(&self, seq: SegmentSeq) -> (Arc<dyn SegmentReader>, Seed) {
        if let Ok(at) = self.sealed.binary_search_by_key(&seq, |sealed| sealed.seq) {
            let sealed = &self.sealed[at];
            return (Arc::clone(&sealed.reader), sealed.seed);
        }
        let segment =
            self.closing.iter().find(|segment| segment.seq == seq).unwrap_or(&self.active);
        assert!(segment.seq == seq, "the index points into {seq:?}, which is no segment");
        (Arc::new(segment.image.share(0..segment.closed)), segment.seed)
    }

    fn wait(&mut self) -> Result<(), WalError> {
        self.disk.wait().map_err(|source| self.fail(self.active.seq, "waiting", source))
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
        tracing::error!(%error, "the log is poisoned");
        self.poisoned = Some(error.to_string());
        error
    }
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
