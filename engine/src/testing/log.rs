//! One shard's log on a simulated disk, and what is known of it from outside.
//!
//! In:     the writes that have landed, as the disk says.
//! Out:    the log, opened as a real node opens it; what became durable in it; what was taken from it.
//! Fails:  as the log does.

use super::{
    event::{Change, LogState, Mark},
    harm::{Harm, Stored},
    invariants::{Broken, require},
    random::Random,
    shape::Shape,
};
use crate::{Config, GroupId, LogIndex};
use logdrive_raft::{Entry, WriteId};
use logdrive_wal::{
    BLOCK_BYTES, Identity, Recovered, RecoveredGroup, SegmentSeq, Wal, WalError,
    disk::sim::SimPlatter,
    landed::{LandedBatch, LandedRecord, landed},
};
use std::{collections::BTreeMap, path::PathBuf};

/// The segments that a log may have beside what was written to it: the active one, which has any of the sizes there are; one
/// of which the last quarter is not full; and one more.
const SEGMENTS_MORE: u64 = 3;

/// A shard's log; its disk outlives the processes that open it.
pub(super) struct SimLog {
    pub(super) platter: SimPlatter,
    shard: u32,
    /// Batches that were whole on its platter, or that the platter said were.
    batches: Vec<Stored>,
    failures: u64,
    /// The first segment when the log was last looked at.
    first_segment: Option<SegmentSeq>,
    next_batch: u64,
    /// Batches that have landed before a batch in front of them.
    early: BTreeMap<u64, LandedBatch>,
    heads: BTreeMap<SegmentSeq, Vec<u8>>,
    /// Bytes of the batches that have landed since the log was opened; what an open writes is not among them.
    written: u64,
    /// The bytes that its files may take by now; `None` before the first open.
    files_max: Option<u64>,
}

impl SimLog {
    /// An empty log on a disk of its own.
    pub(super) fn new(seed: u64, identity: &Identity, shard: u32) -> Self {
        Self {
            platter: SimPlatter::new(seed, identity, shard),
            shard,
            batches: Vec::new(),
            failures: 0,
            first_segment: None,
            next_batch: 0,
            early: BTreeMap::new(),
            heads: BTreeMap::new(),
            written: 0,
            files_max: None,
        }
    }

    /// Opens it for a new process.
    pub(super) fn open(
        &mut self,
        identity: &Identity,
        shape: &Shape,
        config: &Config,
        mut entropy: Random,
    ) -> Result<(Wal, Recovered), WalError> {
        self.first_segment = None;
        let ids = move || u128::from(entropy.any()) << 64 | u128::from(entropy.any());
        // A batch that landed after the last look was not reported yet, but is on the disk.
        let _ = self.landed();
        let disk = self.platter.disk(config.segment_bytes);
        let config = self.config(identity, shape, config);
        let opened = Wal::open_on(disk, config, Box::new(ids));
        if opened.is_err() {
            // The bytes that this open wrote are on the disk all the same; they are read before the disk changes
            // again.
            let _ = self.landed();
        }
        let (wal, recovered) = opened?;
        if recovered.cut.is_some() {
            logdrive_raft::reached!("torn tail cut");
        }
        self.heads.clear();
        // The number of a segment that was lost may be given again.
        let begun = wal.durable().segment();
        self.batches.retain(|batch| batch.position.segment() < begun);
        self.early.clear();
        self.next_batch = 0;
        let written = self.written;
        for batch in self.landed() {
            self.next_batch = self.next_batch.max(batch.number + 1);
        }
        self.written = written;
        Ok((wal, recovered))
    }

    /// Judges the space of a log that was just opened: it grows with what is written, not with the number of opens. An
    /// open leaves the last segment as it is only if more than a quarter of a segment is needed of it, and a segment
    /// that is full has a quarter at least of new batches. So each byte that landed allows for four, or more if segments
    /// differ in size; beside that a log may have so much more that three segments are not too few. A log of which `is_whole`
    /// is false is not judged: a damaged segment stays, however little is in it.
    pub(super) fn check_start(&mut self, shape: &Shape, is_whole: bool) -> Result<(), String> {
        let files = self.platter.segment_bytes();
        let sizes = &shape.segment_sizes;
        let [Some(least), Some(most)] = [sizes.iter().min(), sizes.iter().max()] else {
            panic!("segments have a size")
        };
        // The next open also writes again all that it reads through a page cache and does not know to be on disk.
        let times = 4 * most / least * if shape.page_cache { 2 } else { 1 };
        let written = std::mem::take(&mut self.written);
        let before = self.files_max.replace(files).filter(|_| is_whole);
        let Some(max) = before.map(|max| max + times * written) else { return Ok(()) };
        self.files_max = Some(max.min(files));
        require(files <= max + SEGMENTS_MORE * most, || {
            format!(
                "has {files} bytes of segments after an open, at most {max} by what was written"
            )
        })
    }

    fn config(&self, identity: &Identity, shape: &Shape, config: &Config) -> logdrive_wal::Config {
        let mut config = config.log(PathBuf::from("sim"), identity, self.shard);
        config.batch_bytes_max = shape.batch_bytes_max;
        config
    }

    /// True if the log has given up a segment since the last look.
    pub(super) fn has_given_back(&mut self) -> bool {
        let first = self.platter.segments().first().copied();
        let before = std::mem::replace(&mut self.first_segment, first);
        before.is_some() && before < first
    }

    /// The state that would be found of each group if the power failed now, and took all that is not durable. `None`
    /// for a group that would be fenced.
    pub(super) fn after_power_loss(
        &self,
        identity: &Identity,
        shape: &Shape,
        config: &Config,
    ) -> Result<Vec<(GroupId, Option<LogState>)>, WalError> {
        let platter = self.platter.twin();
        platter.crash_choosing(|_| false);
        let disk = platter.disk(config.segment_bytes);
        let config = self.config(identity, shape, config);
        let (wal, recovered) = Wal::open_on(disk, config, Box::new(|| 1))?;
        let state = |found: RecoveredGroup| {
            (found.group, found.fenced.is_none().then(|| read_back(&wal, &found)))
        };
        Ok(recovered.groups.into_iter().map(state).collect())
    }

    /// The changes that are durable now with all before them, in the stream's order.
    pub(super) fn newly_durable(&mut self) -> Vec<(GroupId, Change)> {
        let mut changes = Vec::new();
        for batch in self.landed() {
            // Everything before a segment's first batch is there. One with an earlier number stands in for batches that
            // were reported: it says nothing new, and those behind it have its next numbers.
            if batch.start.is_some() && batch.number < self.next_batch {
                self.next_batch = batch.number + 1;
            } else {
                self.early.insert(batch.number, batch);
            }
            while let Some(batch) = self.early.remove(&self.next_batch) {
                self.next_batch += 1;
                changes.extend(batch.records.into_iter().map(change));
            }
        }
        changes
    }

    /// Destroys the last `batches` of the newest segment, but not its first one, whose loss would be noticed. False if
    /// there are none.
    pub(super) fn lose_end(&mut self, batches: usize) -> bool {
        let _ = self.landed();
        let is_first = |batch: &Stored| batch.position.offset() as usize == BLOCK_BYTES;
        // A disk that lied may have lost the names of files, too.
        let segments = self.platter.segments();
        let there = self.batches.iter().map(|batch| batch.position.segment());
        let Some(segment) = there.filter(|segment| segments.contains(segment)).max() else {
            return false;
        };
        let mut places: Vec<_> = self.batches.iter().filter(|batch| !is_first(batch)).collect();
        places.retain(|batch| batch.position.segment() == segment);
        places.sort_unstable_by_key(|batch| batch.position);
        let first = places.len().saturating_sub(batches);
        let Some(from) = places.get(first).map(|batch| batch.position) else { return false };
        self.platter.zero_from(segment, from.offset() as usize);
        self.batches.retain(|batch| batch.position < from);
        true
    }

    /// True if a write has failed since the process began.
    pub(super) fn has_failed(&self) -> bool {
        self.platter.failures() > self.failures
    }

    /// Batches that a later batch records as durable, in segments that still exist.
    pub(super) fn vouched_batches(&self) -> Vec<&Stored> {
        let known = self.batches.iter().map(|batch| batch.durable).max();
        let segments = self.platter.segments();
        let is_vouched = |batch: &&Stored| {
            Some(batch.position) < known && segments.contains(&batch.position.segment())
        };
        self.batches.iter().filter(is_vouched).collect()
    }

    /// The losses of its disk; `lied` says that names and sizes of files may be lost, too.
    pub(super) fn harm(&self, lied: bool) -> Harm {
        let (segments, damage) = (self.platter.segments(), self.platter.damage());
        Harm::of(&self.batches, &segments, &damage, lied)
    }

    /// A new process begins: failures count from here.
    pub(super) fn forget_failures(&mut self) {
        self.failures = self.platter.failures();
    }

    /// Another directory is there now: what was known of this one is of no use.
    pub(super) fn forget(&mut self) {
        self.batches.clear();
        self.early.clear();
        self.heads.clear();
        self.files_max = None;
    }

    fn landed(&mut self) -> Vec<LandedBatch> {
        let mut batches = Vec::new();
        for write in self.platter.take_landed() {
            self.written += write.bytes.len() as u64;
            let head = self
                .heads
                .entry(write.segment)
                .or_insert_with(|| self.platter.segment_head(write.segment, BLOCK_BYTES));
            let batch = landed(write.segment, head, write.offset, &write.bytes);
            let batch = batch.unwrap_or_else(|| {
                let (segment, at, bytes) = (write.segment, write.offset, write.bytes.len());
                panic!("{bytes} bytes that landed at {at} of {segment:?} are no batch")
            });
            if let Some(end) = batch.start {
                let here = batch.position.segment();
                self.batches.retain(|b| b.position < end || b.position.segment() >= here);
            }
            self.batches.push(Stored::new(&batch, write.bytes.len() as u64));
            batches.push(batch);
        }
        batches
    }
}

/// A recovered group's hard state, and every entry of it, read from its disk.
pub(super) fn read_back(wal: &Wal, found: &RecoveredGroup) -> LogState {
    let mut log: Vec<Mark> = Vec::new();
    while (log.len() as u64) < found.last.get() {
        let first = LogIndex(log.len() as u64 + 1);
        let plan = wal.plan_read(found.group, first, found.last, usize::MAX / 2);
        let entries = plan.and_then(|plan| plan.run());
        let entries = entries.unwrap_or_else(|error| {
            let what =
                format!("{first:?} of {:?} was recovered and is not there: {error}", found.group);
            Broken { invariant: "14 prefix recovery".to_owned(), what }.throw()
        });
        assert!(!entries.is_empty(), "a read of {first:?} gave nothing");
        log.extend(entries.as_slice().iter().map(mark));
    }
    LogState { hard_state: found.hard_state, log }
}

pub(super) fn mark(entry: &Entry) -> Mark {
    Mark { term: entry.term, checksum: entry.checksum }
}

fn change(record: LandedRecord) -> (GroupId, Change) {
    match record {
        LandedRecord::HardState { group, state } => {
            let (first, entries) = (LogIndex::ZERO, Vec::new());
            let hard_state = Some(state);
            (
                group,
                Change { write: WriteId::ZERO, hard_state, first, entries, cost_bytes: Vec::new() },
            )
        }
        LandedRecord::Entries { group, first, term, checksums } => {
            let entries = checksums.into_iter().map(|checksum| Mark { term, checksum }).collect();
            let (write, hard_state) = (WriteId::ZERO, None);
            (group, Change { write, hard_state, first, entries, cost_bytes: Vec::new() })
        }
    }
}
