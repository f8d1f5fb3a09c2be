//! Space is given back from the old end: what is still needed of the oldest segment is written again at the tail,
//! and when that is durable the segment goes.
//!
//! In:     [`Wal::maintain`], now and then; what a [`CarryPlan`] read, on another thread.
//! Out:    records of kind *carried*, small records written again, segments given up.
//! Cost:   a step ends at [`STEP_GROUPS`], [`STEP_RECORDS`], or before it would pass [`STEP_BYTES`] or what one batch holds,
//!         so that no turn is long, and no step leaves a second batch with little in it; one step at a time.
//! Fails:  a segment that cannot be read stays, and is tried again when a further one is full, or a while later: with no
//!         room left none ever is. Groups whose entries are damaged are fenced, and hold up nobody.
//! Source: RULES.md rule 28, S6, invariant 22; Rosenblum & Ousterhout 1992 §3.4-3.6 (cleaning and its price).
//!
//! When, and what it costs. Only the oldest segment is ever given up, so its live bytes are the price. With *live*
//! and *written* in record bytes, the oldest segment is carried when
//!
//! * at most a quarter of its used bytes lives, padding counted, or of the file is used: one byte written again
//!   frees three;
//! * or at most half of all that was written lives: going round the whole log, a byte written again frees one;
//! * or votes have taken their reserve up to the quota: until they have it back, or the log was gone round once;
//! * or the log is near its quota, or the disk is full, and at most three quarters of what was written lives: going
//!   round, three bytes written again free one.
//!
//! The last two look at the whole log, dead bytes that no segment has given back yet among them, and that is right: they
//! are what carrying is to win. Take what the log holds when a victim is taken by the second rule: as much of it is dead
//! as lives. Once all of that has been passed, everything of it that lived was written again once at most, and everything
//! dead is gone, and whatever died meanwhile. A round may stop on its way, when dead segments that it reached are gone and
//! more than half lives again; it goes on where it stopped, so nothing is written again twice before the round is over.
//! Padding does not count there: going round leaves some in every batch and segment, and counted as won it could have a
//! log of small segments go round for ever. Only the first rule counts it, where one segment is mostly that.
//!
//! So everything is written at most 1 + 1/3, 2, or 4 times over. Going round once leaves nothing dead, and what is
//! carried is written densely, so it comes to an end. Above that share the log does not work against itself: it
//! refuses entries ([`super::Room::Quota`]) until somebody releases some. A log in which nothing is released or
//! replaced carries nothing but what stands in small writes, among padding, and the few bytes of a segment that a
//! restart cut short.
//!
//! ```text
//!   scanning ──▶ reading ──▶ scanning … ──▶ landing ──▶ (next segment)
//!      │ small records         │ re-checked,   │ all of it is durable: the manifest
//!      │ written again         │ appended      │ moves on, then the file (the maker's thread)
//! ```
//!
//! The index finds an entry in its old place until the copy is durable.

use super::Wal;
use super::chain::Sealed;
use super::space;
use crate::disk::{Fate, RetireSegment};
use crate::error::{Corrupt, ReadError, WalError};
use crate::format::{
    BATCH_HEADER_BYTES, BLOCK_BYTES, DIRECTORY_ENTRY_BYTES, ENTRIES_HEAD_BYTES, ENTRY_HEADER_BYTES,
    Position, RECORD_ALIGN_BYTES, SegmentSeq, SnapshotHead, TOMBSTONE_RECORD_BYTES,
};
use crate::group::Small;
use crate::read::{Span, Spot};
use crate::rules;
use bytes::Bytes;
use logdrive_raft::{Entry, GroupId, LogIndex};
use std::sync::Arc;

/// Entries and snapshots to be read before their segment goes. For a thread that may block.
pub struct CarryPlan {
    parts: Vec<(GroupId, Wanted)>,
}

/// Something to be read.
enum Wanted {
    Entries(Span),
    Snapshot(Spot),
}

/// The result of reading by a [`CarryPlan`].
#[derive(Default)]
pub struct CarryDone {
    parts: Vec<Part>,
    /// The groups with damage, and that damage.
    damaged: Vec<(GroupId, Corrupt)>,
    /// Where the reading ended before its end.
    failed: Option<ReadError>,
}

/// The extent of a step so far.
#[derive(Default)]
struct Step {
    /// Written again, and planned.
    bytes: u64,
    /// Records of entries, in whatever segment.
    looked_at: usize,
    parts: Vec<(GroupId, Wanted)>,
}

impl Step {
    /// Whether something of so many bytes is for this step, too, which comes to `bytes_max` at most, or to one record.
    fn takes(&self, bytes: u64, bytes_max: u64) -> bool {
        let fits = self.bytes == 0 || self.bytes + bytes <= bytes_max;
        fits && self.looked_at < STEP_RECORDS
    }
}

struct Part {
    group: GroupId,
    from: Position,
    content: Content,
}

enum Content {
    Entries(Vec<Entry>),
    Snapshot(SnapshotHead, Bytes),
}

impl Wanted {
    fn spot(&self) -> &Spot {
        match self {
            Self::Entries(span) => &span.spot,
            Self::Snapshot(spot) => spot,
        }
    }

    fn read(&self, group: GroupId) -> Result<Content, ReadError> {
        match self {
            Self::Entries(span) => {
                let mut entries = Vec::new();
                let mut left = usize::MAX;
                span.read(group, &mut left, &mut entries)?;
                Ok(Content::Entries(entries))
            }
            Self::Snapshot(spot) => {
                let (head, content) = spot.read_snapshot(group)?;
                Ok(Content::Snapshot(head, content))
            }
        }
    }
}

/// The carrying of the oldest segment, which is its victim. One step at a time is on its way.
pub(super) struct Carrying {
    state: Carry,
    /// The round for votes goes on up to this segment.
    round_end: SegmentSeq,
}

/// Where the carrying is.
#[derive(Debug)]
enum Carry {
    Idle,
    /// Looks at the victim.
    Scanning(Cursor),
    /// A plan is out; then scanning goes on at `next`. Its step began at `begun`.
    Reading {
        begun: Cursor,
        next: Cursor,
    },
    /// Everything is written; durable below this place.
    Landing(Position),
    /// The step that begins here failed; tried again after so many rotations, or calls of [`Wal::maintain`].
    Stuck {
        begun: Cursor,
        rotations: u64,
        calls: u32,
    },
}

/// A place in the victim: its `group`-th group, and that one's entries from `from` on.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    group: usize,
    from: LogIndex,
}

impl Carrying {
    /// Nothing is carried.
    pub(super) fn new() -> Self {
        Self { state: Carry::Idle, round_end: SegmentSeq(0) }
    }
}

impl Content {
    /// The bytes that the records take at most.
    fn bytes(&self) -> usize {
        match self {
            Self::Entries(entries) => {
                let payloads = entries.iter().map(|entry| entry.payload.len() + ENTRY_HEADER_BYTES);
                payloads.sum::<usize>() + ENTRIES_HEAD_BYTES + RECORD_ALIGN_BYTES
            }
            Self::Snapshot(head, _) => head.padded_bytes(),
        }
    }

    /// The bytes of the largest part that stands in one segment.
    fn largest(&self) -> usize {
        match self {
            Self::Entries(entries) => {
                entries.iter().map(|entry| entry.payload.len()).max().unwrap_or(0)
            }
            Self::Snapshot(head, _) => head.padded_bytes(),
        }
    }
}

impl CarryPlan {
    /// Reads and verifies. May block on the disk; not for a shard thread.
    #[must_use]
    pub fn run(self) -> CarryDone {
        let mut done = CarryDone::default();
        for (group, wanted) in self.parts {
            match wanted.read(group) {
                Ok(content) => {
                    done.parts.push(Part { group, from: wanted.spot().place, content });
                }
                Err(ReadError::Corrupt(corrupt)) => done.damaged.push((group, corrupt)),
                Err(error) => {
                    done.failed = Some(error);
                    break;
                }
            }
        }
        done
    }
}

impl Wal {
    /// Goes on giving space back: decides, writes small records again, gives up segments. A plan it returns is to be
    /// run on a thread that may block, and its outcome brought to [`Wal::carried`]. Cheap when there is nothing to
    /// do; call it every turn.
    ///
    /// # Errors
    /// [`WalError::Io`] for image memory, [`WalError::Poisoned`].
    pub fn maintain(&mut self) -> Result<Option<CarryPlan>, WalError> {
        self.check_poisoned()?;
        self.space.forget_refusal(self.used());
        if let Carry::Landing(upto) = self.carrying.state
            && rules::may_give_up(self.pipeline.durable(), upto)
        {
            self.retire();
        }
        match &mut self.carrying.state {
            Carry::Idle => {
                if self.space.begins_round(self.used()) {
                    logdrive_raft::reached!("log carried round for votes");
                    self.carrying.round_end = self.tail.seq();
                }
                if self.is_worth_carrying() && self.has_carry_room() {
                    return self.scan(Cursor::default());
                }
                Ok(None)
            }
            Carry::Scanning(at) => {
                let at = *at;
                self.scan(at)
            }
            Carry::Reading { .. } | Carry::Landing(_) => Ok(None),
            Carry::Stuck { begun, rotations, calls } => {
                let begun = *begun;
                *calls = calls.saturating_sub(1);
                if *calls > 0 && self.metrics.rotations < *rotations {
                    return Ok(None);
                }
                self.scan(begun)
            }
        }
    }

    /// Nothing to be done about it now: the step that began there waits a while. A failure is answered at once, and that
    /// wakes the shard, so a retry at its next turn would be one for ever.
    fn be_stuck(&mut self, begun: Cursor) {
        let rotations = self.metrics.rotations + 1;
        self.carrying.state = Carry::Stuck { begun, rotations, calls: STUCK_CALLS };
    }

    /// Takes in what a plan read, and writes again what of it is still live. A group that has lost something is fenced
    /// ([`Wal::fence`]) and holds up nobody; returns those that were.
    ///
    /// # Errors
    /// As [`Wal::maintain`]. A failed read is no error of the log: the segment that was read stays.
    pub fn carried(&mut self, done: CarryDone) -> Result<Vec<(GroupId, Corrupt)>, WalError> {
        self.check_poisoned()?;
        let Carry::Reading { begun, next } = self.carrying.state else {
            panic!("entries were carried while the log was {:?}", self.carrying.state);
        };
        let CarryDone { parts, damaged, failed } = done;
        let mut fenced = Vec::new();
        for (group, corrupt) in damaged {
            if self.fence(group, &corrupt)? {
                fenced.push((group, corrupt));
            }
        }
        if let Some(error) = failed {
            tracing::error!(%error, "the oldest segment cannot be read: it is kept, and its space is not given back");
            self.be_stuck(begun);
        } else if !self.is_made(self.tail.seq()) {
            self.carrying.state = Carry::Scanning(begun);
        } else if !self.has_room_to_land(&parts) {
            // A record with much in it that died is larger than its part of the live bytes says.
            self.be_stuck(begun);
        } else {
            for part in &parts {
                self.append_copies(part)?;
            }
            self.submit_open();
            self.carrying.state = Carry::Scanning(next);
        }
        Ok(fenced)
    }

    /// Writes again what of a part still stands where it was read: not replaced, released or destroyed since.
    fn append_copies(&mut self, part: &Part) -> Result<(), WalError> {
        let Some(state) = self.contents.group(part.group) else { return Ok(()) };
        let entries = match &part.content {
            Content::Entries(entries) => entries,
            Content::Snapshot(head, content) => {
                if state.snapshot().is_some_and(|kept| kept.place == part.from) {
                    logdrive_raft::reached!("snapshot carried forward");
                    let snapshot = head.with_content(content);
                    self.append_snapshot(part.group, &snapshot, Some(part.from))?;
                }
                return Ok(());
            }
        };
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return Ok(());
        };
        for live in state.index.standing(part.from, first.index, last.index) {
            let at = |index: LogIndex| {
                usize::try_from(first.index.entries_until(index)).expect("inside a record")
            };
            let entries = &entries[at(live.first)..=at(live.last)];
            logdrive_raft::reached!("entries carried forward");
            self.append_run(part.group, entries, Some(part.from))?;
        }
        Ok(())
    }

    /// The victim: the oldest segment, once it is full and on disk.
    fn victim(&self) -> Option<&Sealed> {
        let oldest = self.contents.oldest().seq;
        let is_victim = |sealed: &&Sealed| sealed.seq == oldest && !self.is_being_renewed(oldest);
        self.chain.oldest().filter(is_victim)
    }

    /// True if room is being won back, or is about to be.
    pub(super) fn is_giving_back(&self) -> bool {
        match self.carrying.state {
            Carry::Idle => {
                self.space.supply().is_leaving()
                    || (self.is_worth_carrying() && self.has_step_capacity())
            }
            Carry::Scanning(_) => self.has_step_capacity(),
            Carry::Reading { .. } | Carry::Landing(_) => true,
            Carry::Stuck { .. } => false,
        }
    }

    /// The bytes that carrying will take of the last room on a full disk, if carrying is worth it.
    pub(super) fn carry_price(&self) -> u64 {
        if self.is_worth_carrying() { self.price_of_the_rest() } else { 0 }
    }

    /// The price of writing again all that still lives of the victim: its bytes, and the headers and padding of as
    /// many batches as there are steps, of which two together take more than a batch holds.
    fn price_of_the_rest(&self) -> u64 {
        let oldest = self.contents.oldest();
        let batches =
            2 * oldest.live / self.step_bytes() + (oldest.groups.len() / STEP_GROUPS) as u64;
        oldest.live + batches * BATCH_PADDING_BYTES + STEP_SLACK_BYTES
    }

    /// The most that a step writes again and plans, but for a single record that is larger.
    fn step_bytes(&self) -> u64 {
        STEP_BYTES.min(u64::from(self.config.batch_bytes_max))
    }

    fn is_worth_carrying(&self) -> bool {
        let Some(victim) = self.victim() else { return false };
        let oldest = self.contents.oldest();
        let (live, written) = (self.contents.live(), self.contents.written());
        let is_cheap =
            oldest.live * 4 <= u64::from(oldest.used) || u64::from(oldest.used) * 4 <= victim.bytes;
        let half_is_dead = self.chain.sealed() >= CHAIN_MIN && live * 2 <= written;
        let used = self.used();
        let is_urgent = self.space.is_short_of_room(used) && live * 4 <= written * 3;
        let is_for_votes =
            oldest.seq <= self.carrying.round_end && self.space.is_short_for_votes(used);
        is_cheap || half_is_dead || is_urgent || is_for_votes
    }

    /// Whether a step can be taken now. It must not pile up in memory behind a segment in the making. On a full disk
    /// what is begun must come to its end: a part of the victim frees nothing, and what it took was the votes'.
    fn has_carry_room(&self) -> bool {
        self.is_made(self.tail.seq()) && self.has_step_capacity()
    }

    fn has_step_capacity(&self) -> bool {
        let needed = if self.space.supply().is_disk_full() {
            self.price_of_the_rest()
        } else {
            self.contents.oldest().live.min(self.step_bytes()) + STEP_SLACK_BYTES
        };
        self.space.capacity(self.used()) >= needed
    }

    /// Whether what was read can be written again. On a full disk not into a segment that cannot be made: all later
    /// batches would wait behind it, with the votes in them.
    fn has_room_to_land(&self, parts: &[Part]) -> bool {
        let bytes = parts.iter().map(|part| part.content.bytes()).sum();
        let largest = parts.iter().map(|part| part.content.largest()).max().unwrap_or(0);
        let used = self.used();
        match self.space.supply().is_disk_full() {
            true => {
                largest <= self.entry_bytes_max()
                    && self.space.fits_made(space::Wanted { bytes, largest }, used)
            }
            false => self.space.capacity(used) >= bytes as u64 + STEP_SLACK_BYTES,
        }
    }

    fn scan(&mut self, begun: Cursor) -> Result<Option<CarryPlan>, WalError> {
        self.carrying.state = Carry::Scanning(begun);
        if !self.has_carry_room() {
            return Ok(None);
        }
        let victim = self.contents.oldest().seq;
        let groups = self.contents.oldest().groups.len();
        let mut at = begun;
        let mut step = Step::default();
        let bytes_max = self.step_bytes();
        while at.group < groups && at.group - begun.group < STEP_GROUPS && step.takes(1, bytes_max)
        {
            let group = self.contents.oldest().groups[at.group];
            step.bytes += self.carry_small(group, victim)?;
            if at.from == LogIndex::ZERO && !self.plan_snapshot_copy(group, victim, &mut step) {
                break;
            }
            if let Some(rest) = self.plan_copies(group, victim, at.from, &mut step) {
                at.from = rest;
                break;
            }
            at = Cursor { group: at.group + 1, from: LogIndex::ZERO };
        }
        self.submit_open();
        if !step.parts.is_empty() {
            self.carrying.state = Carry::Reading { begun, next: at };
            return Ok(Some(CarryPlan { parts: step.parts }));
        }
        self.carrying.state = if at.group < groups {
            Carry::Scanning(at)
        } else {
            self.write_missing_fences()?;
            // All that made the victim's records dead stands below this place, too.
            self.close_batch();
            Carry::Landing(self.tail.position())
        };
        Ok(None)
    }

    /// Writes a group's small records again if their latest stand in the victim; returns their bytes.
    fn carry_small(&mut self, group: GroupId, victim: SegmentSeq) -> Result<u64, WalError> {
        let tombstone = self.contents.tombstone_in(group, victim);
        if let Some(since) = tombstone.filter(|_| rules::tombstones_are_carried()) {
            self.append_tombstone(group, since)?;
            self.tail.note_carried();
            return Ok(TOMBSTONE_RECORD_BYTES as u64);
        }
        let mut bytes = 0;
        let Some(state) = self.contents.group(group) else { return Ok(bytes) };
        for small in rules::small_records_to_carry(state.small_in(victim)) {
            logdrive_raft::reached!("hard state or membership carried forward");
            bytes += small.record_bytes() as u64;
            self.append_small(group, small)?;
            self.tail.note_carried();
        }
        Ok(bytes)
    }

    /// A group that was fenced after the scan had passed it, when there was no room for its record, counts as dead: its
    /// record must not come after the segment has gone.
    fn write_missing_fences(&mut self) -> Result<(), WalError> {
        for (group, damage) in self.contents.missing_fences() {
            self.append_small(group, Small::Fence(damage))?;
        }
        Ok(())
    }

    /// Plans to read a group's snapshot, if it is in the victim; false if it is for the next step.
    fn plan_snapshot_copy(&self, group: GroupId, victim: SegmentSeq, step: &mut Step) -> bool {
        let kept = self.contents.group(group).and_then(|state| state.snapshot());
        let Some(kept) = kept.filter(|kept| kept.place.segment() == victim) else { return true };
        let bytes = kept.head.padded_bytes() as u64 + RECORD_SLACK_BYTES;
        if !step.takes(bytes, self.step_bytes()) {
            return false;
        }
        step.bytes += bytes;
        step.looked_at += 1;
        step.parts.push((group, Wanted::Snapshot(self.spot(kept.place))));
        true
    }

    /// Plans to read a group's entries in the victim, from `from` on; returns from where on it stopped, if it did.
    fn plan_copies(
        &self,
        group: GroupId,
        victim: SegmentSeq,
        from: LogIndex,
        step: &mut Step,
    ) -> Option<LogIndex> {
        let index = &self.contents.group(group)?.index;
        for piece in index.pieces_from(from) {
            let is_here = piece.place.segment() == victim;
            let bytes = if is_here { u64::from(piece.bytes) + RECORD_SLACK_BYTES } else { 0 };
            if !step.takes(bytes, self.step_bytes()) {
                return Some(piece.first);
            }
            step.looked_at += 1;
            if is_here {
                step.bytes += bytes;
                step.parts.push((group, Wanted::Entries(self.span(&piece))));
            }
        }
        None
    }

    /// Nothing in the victim is needed any more, and what replaces it is durable.
    fn retire(&mut self) {
        let victim = self.chain.retire();
        self.contents.retire(victim.seq);
        self.carrying.state = Carry::Idle;
        self.give_up(&victim);
    }

    /// Gives up a segment in which nothing counts any more.
    pub(super) fn give_up(&mut self, victim: &Sealed) {
        // A reader may still have the file open: then its bytes must stay what they were.
        let is_free = !victim.inherited
            && victim.bytes == self.config.segment_bytes
            && Arc::strong_count(&victim.reader) == 1;
        let fate = match () {
            () if victim.damaged => Fate::SetAside,
            () if is_free && self.space.supply().may_keep() => Fate::Recycle,
            () => Fate::Remove,
        };
        self.space.supply_mut().give_up(victim.bytes, fate);
        self.space.forget_copies();
        let first = self.contents.oldest().seq;
        self.disk.retire(RetireSegment { segment: victim.seq, first, bytes: victim.bytes, fate });
    }

    pub(super) fn retired(&mut self, segment: SegmentSeq) {
        tracing::debug!(?segment, "a segment was given up");
        logdrive_raft::reached!("segment given back");
        self.metrics.retired += 1;
        self.space.supply_mut().on_given_up();
        self.keep_spares(0);
    }
}

/// Groups looked at in one step.
const STEP_GROUPS: usize = 256;
/// Bytes written again or planned in one step; a group's small records more, or one record of entries alone, at most. Copying
/// them and summing them takes less than a millisecond of a turn.
const STEP_BYTES: u64 = 1 << 20;
/// Records of entries looked at in one step: a group's may be many, and few of them in the victim.
const STEP_RECORDS: usize = 16 << 10;
/// Calls of [`Wal::maintain`] after which a step that failed is tried again: there is one in every turn of the shard, and
/// an idle one takes 50 a second.
const STUCK_CALLS: u32 = 256;
/// For headers and padding of a step.
const STEP_SLACK_BYTES: u64 = 2 * BATCH_SLACK_BYTES;
/// For those of one batch.
const BATCH_SLACK_BYTES: u64 = 2 * BLOCK_BYTES as u64;
/// The most that a batch takes beside its records: its header, its directory's, and what pads it to a block.
const BATCH_PADDING_BYTES: u64 = (BLOCK_BYTES + 2 * BATCH_HEADER_BYTES) as u64;
/// The bytes that a record's padding and its group in the directory take.
const RECORD_SLACK_BYTES: u64 = (RECORD_ALIGN_BYTES + DIRECTORY_ENTRY_BYTES) as u64;
/// A shorter log is left alone by the second rule.
const CHAIN_MIN: usize = 4;
