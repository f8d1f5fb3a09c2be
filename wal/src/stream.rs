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
//! Bytes between durable and submitted may be on disk too; only those before durable certainly are.
//!
//! The parts, each with its invariants at the head of its file: [`Contents`] (what the log holds), [`Chain`] (its full
//! segments), [`Tail`] (where the log grows), [`Pipeline`] (batches on their way to the disk), [`Space`] (what fits,
//! and the segments to come), [`Carrying`] (the oldest segment, given back), [`Renewal`] (the votes' reserve on a full disk).

mod append;
mod carry;
mod chain;
mod contents;
mod fence;
mod first;
mod pipeline;
mod plan;
mod renew;
mod seal;
mod space;
mod supply;
mod tail;

use crate::checksum::Seed;
use crate::disk::{Disk, DiskEvent, is_shortage};
use crate::error::WalError;
use crate::format::{
    BATCH_HEADER_BYTES, BLOCK_BYTES, DIRECTORY_ENTRY_BYTES, ENTRIES_HEAD_BYTES, ENTRY_HEADER_BYTES,
    FIRST_BATCH_AT, Position, SegmentSeq, decode_entry_header,
};
use crate::image::{Frozen, Image, ImageWriter};
use crate::metrics::{Description, Metrics};
use crate::recovery::{Recovered, replay};
use crate::{Config, disk, rules};
use bytes::Bytes;
use logdrive_raft::{Durable, Entry, GroupId, HardState, LogIndex, Term, WriteId};
use std::os::fd::BorrowedFd;

use carry::Carrying;
use chain::{Chain, Sealed};
use contents::Contents;
use pipeline::{InFlight, Pipeline};
use renew::Renewal;
use space::Space;
use supply::{Spare, Supply};
use tail::{Began, Link, RunPlace, Segment, Tail};

pub use carry::{CarryDone, CarryPlan};
pub use space::{Holder, Holders, Usage};

/// One group's part of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Append<'a> {
    /// The group.
    pub group: GroupId,
    /// Names this write in the [`Durable`] that covers it.
    pub write: WriteId,
    /// The membership that the group begins with, opaque to the log; a later one comes with a release ([`Wal::release`]).
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
    contents: Contents,
    chain: Chain,
    tail: Tail,
    pipeline: Pipeline,
    space: Space,
    carrying: Carrying,
    /// The votes' segment that is being written again, if there is one.
    renewal: Option<Renewal>,
    /// The first failure, if there was one.
    poisoned: Option<String>,
    /// Empty between two polls; the list is kept for its memory.
    events: Vec<DiskEvent>,
    metrics: Metrics,
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
        let in_flight_max = rules::writes_in_flight(disk.info().direct_io, config.in_flight_max);
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
        let link = Link {
            seq: replayed.next_batch,
            prev_crc: replayed.start.prev_crc,
            durable: replayed.start.end,
        };
        let began = Began { start: replayed.start, batch: replayed.next_batch };
        let supply = Supply::new(entropy, SegmentSeq(seq.0 - 1));
        let mut wal = Self {
            disk,
            contents: Contents::new(replayed.groups, replayed.tombstones, replayed.ledger),
            chain: Chain::new(sealed),
            tail: Tail::new(Segment::new(seq, id, image), began),
            pipeline: Pipeline::new(in_flight_max, link),
            space: Space::new(&config, supply),
            carrying: Carrying::new(),
            renewal: None,
            poisoned: None,
            events: Vec::new(),
            metrics: Metrics::default(),
            config,
        };
        wal.metrics.rotations = 1;
        wal.order(Spare { seq, id, bytes }, true);
        wal.tail.begin();
        wal.take_over(moved);
        // The start record is durable before anything else happens (rule 23).
        wal.write_first_batch()?;
        // The start record passes over these segments, so they are void from now on. Whatever was acknowledged in them
        // and is still needed has been carried or written again.
        for void in replayed.void {
            let removed = wal.disk.remove(void);
            removed.map_err(|source| wal.fail(void, "remove", source))?;
        }
        wal.space.set_bytes_limit(wal.used());
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
        self.submit_open();
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
            return Err(self.fail(self.tail.seq(), "collecting finished writes", source));
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
        self.finish_renewal();
        self.pipeline.count_answers(completed.len() - before, self.disk.chunks_made());
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
        self.pipeline.waiting() == 0 && self.pipeline.has_slot()
    }

    /// True if writes are in flight, or batches wait for a slot or to be submitted.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.pipeline.in_flight() > 0 || self.pipeline.waiting() > 0 || self.tail.has_open()
    }

    /// True if the disk owes an answer: a write is in flight, or waits for a segment that is being made. A write that
    /// waits for lack of room does not count: the lack is reported, and passes by itself.
    #[must_use]
    pub fn awaits_disk(&self) -> bool {
        self.pipeline.in_flight() > 0
            || (self.pipeline.waiting() > 0 && !self.space.supply().is_disk_full())
    }

    /// The number of the disk's answers, which stands still while a disk that owes one ([`Wal::awaits_disk`]) is
    /// silent. Batches that became durable count; while no write is in flight, so do the chunks written to the segment
    /// that writes wait for, because a large segment takes its time on a slow disk. A write that is stuck is not
    /// excused by such chunks.
    #[must_use]
    pub fn disk_answers(&self) -> u64 {
        self.pipeline.disk_answers()
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
            in_flight: self.pipeline.in_flight(),
            waiting: self.pipeline.waiting(),
            segments: self.chain.len() + 1,
            index_bytes: self.contents.groups().map(|(_, group)| group.heap_bytes()).sum(),
            ..self.metrics
        }
    }

    /// Everything before this place is on disk.
    #[must_use]
    pub fn durable(&self) -> Position {
        self.pipeline.durable()
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
            if self.pipeline.in_flight() == 0 && self.space.supply().is_disk_full() {
                return Err(WalError::NoSpace);
            }
            self.wait()?;
            self.poll(0, &mut completed)?;
        }
        Ok(())
    }

    // --- batches and segments ---

    /// True if the segment has its file, so that it can be written.
    #[inline]
    fn is_made(&self, segment: SegmentSeq) -> bool {
        self.space.supply().is_made(segment)
    }

    /// Notes that the open batch, if there is something in it, is to be written once a slot is free.
    #[inline]
    fn submit_open(&mut self) {
        if self.tail.has_open() {
            self.pipeline.want_submit();
        }
    }

    /// Closes the open batch, if there is something in it.
    #[inline]
    fn close_batch(&mut self) {
        if self.tail.has_open() {
            self.close_open();
        }
    }

    /// Closes the open batch, even if there is nothing in it.
    fn close_open(&mut self) {
        let closed = self.tail.close(self.pipeline.link());
        self.space.count(closed.taken);
        if closed.passes_middle {
            self.hurry_if_needed_soon();
        }
        self.pipeline.push(closed.batch, closed.crc);
    }

    /// The maker of segments pauses between its writes until the next segment is needed soon.
    fn hurry_if_needed_soon(&mut self) {
        if self.space.needs_segment_soon(self.used()) {
            self.disk.hurry();
        }
    }

    /// Goes on in the next segment's image. The segment's file may still be in the making: writes wait for the file.
    /// Segments that are ordered now have `least` bytes at least.
    fn next_segment(&mut self, least: u64) -> Result<(), WalError> {
        // A batch of writes without records still belongs to the segment before.
        self.close_batch();
        if self.space.supply().ahead() == 0 {
            // The caller, which appends, has checked before that there is room.
            self.order_spare(least);
        }
        if !self.renew()? {
            self.go_on(false)?;
        }
        // One segment of that size is enough.
        let is_long_enough = self.tail.segment().bytes() >= least;
        self.keep_spares(if is_long_enough { 0 } else { least });
        self.seal_finished();
        Ok(())
    }

    /// Goes on in the next segment, behind the active one, or in its place.
    fn go_on(&mut self, in_place: bool) -> Result<(), WalError> {
        let spare = self.space.supply_mut().take().expect("ordered before");
        let image = image(self.disk.as_mut(), &self.config, spare.bytes)
            .map_err(|source| self.fail(self.tail.seq(), "getting memory for an image", source))?;
        let end = self.tail.position();
        let next = Segment::new(spare.seq, spare.id, image);
        let full = if in_place {
            let Began { start, batch } = self.tail.began();
            self.pipeline.go_back(batch, start.prev_crc);
            self.tail.go_on_in_place(next)
        } else {
            self.tail.go_on(next, self.pipeline.link())
        };
        self.chain.close(full);
        self.contents.go_on(end.offset(), spare.seq);
        self.metrics.rotations += 1;
        logdrive_raft::reached!("segment changed");
        if !self.is_made(spare.seq) {
            self.disk.hurry();
        }
        Ok(())
    }

    // --- writing ---

    /// Fills free write slots: closed batches first, then the open batch if it was submitted.
    fn pump(&mut self, stamp: u64) -> Result<(), WalError> {
        while self.pipeline.has_slot() {
            if self.pipeline.wants_open() {
                self.close_batch();
            }
            let is_made = |segment| self.space.supply().is_made(segment);
            let Some(write) = self.pipeline.start(stamp, is_made) else { break };
            let segment = write.segment;
            if let Err(source) = self.disk.write(write) {
                return Err(self.fail(segment, "write", source));
            }
        }
        Ok(())
    }

    fn on_event(&mut self, event: DiskEvent) -> Result<(), WalError> {
        match event {
            DiskEvent::Written { token, result } => {
                let Some(segment) = self.pipeline.segment_of(token) else { return Ok(()) };
                match rules::outcome_of_write(result, || self.disk.sync(segment)) {
                    Ok(()) => self.pipeline.finish(token),
                    Err(source) => return Err(self.fail(segment, "write", source)),
                }
            }
            DiskEvent::Made { segment, result } => match result {
                Ok(origin) => {
                    if self.space.supply_mut().on_made(segment, origin) {
                        logdrive_raft::reached!("segment made of one given back");
                        self.metrics.recycled += 1;
                    }
                    // The maker has made one in a hurry, and pauses again.
                    self.hurry_if_needed_soon();
                }
                Err(source) if is_shortage(&source) => {
                    if self.space.supply_mut().on_disk_full() {
                        tracing::warn!(?segment, %source, "the log's next segment cannot be made now: entries are refused until it can");
                    }
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
        for _ in 0..self.pipeline.finished() {
            let InFlight { batch, stamp, .. } = self.pipeline.pop();
            self.metrics.batches += 1;
            self.metrics.bytes += batch.bytes.len() as u64;
            self.metrics.padding_bytes += batch.padding as u64;
            self.contents.relocate(batch.copies);
            self.seal_finished();
            completed.push(Completed {
                stamp,
                durable: batch.writes,
                frozen: freeze_runs(batch.bytes, batch.runs),
                sealed: self.chain.take_news(),
            });
        }
    }

    /// Full segments whose last batch is durable are read from their files from now on.
    fn seal_finished(&mut self) {
        self.chain.seal_upto(self.pipeline.durable(), |segment| self.disk.reader(segment));
    }

    fn wait(&mut self) -> Result<(), WalError> {
        self.disk.wait().map_err(|source| self.fail(self.tail.seq(), "waiting for writes", source))
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
