//! Room for what is to come: segments ordered ahead, the quota, and what is refused while none can be had.
//!
//! In:     what an append would take; which segments are made, and how many there may be.
//! Out:    orders for segments; a refusal before anything is encoded; how much is used, and by whom.
//! Cost:   a sum over an append's entries.
//! Fails:  [`WalError::NoSpace`], [`WalError::OverQuota`], [`WalError::TooLarge`].
//! Source: RULES.md W9, W10.
//!
//! With a quota, the last two segments' worth, and a 64th of it, are not for entries: half of a segment is for votes, half
//! of one for releases alone, one for carrying, which has to write before it frees, and the 64th for what a round for votes
//! loses. The records of one segment fit a fresh one, whatever the entries' sizes. Every open begins a segment, so a
//! log opened at its quota goes over it, by that and what carrying needs, until it has given back as much
//! ([`Wal::bytes_limit`]); by no more at the next open, which writes again what little its last segment holds.
//!
//! The votes' reserve renews itself. A batch of votes takes a block, of which next to nothing lives once there is a newer
//! vote; but only the oldest segment is ever given up, and at the quota it may be full of entries that all live. So when
//! the reserve comes to its end, the log is carried round until the blocks of votes that it has written since have been
//! passed, whatever else lives ([`Wal::begins_round`]). There is one for each quarter of a segment that votes have taken: a
//! log that writes no votes carries nothing for them. An eighth of a segment of the reserve is left when it begins. The
//! bytes that a victim's copies take meanwhile, and that its end gives back, are not counted against votes.
//!
//! A round wins what votes took, and the copies may take more than their originals: their batches are padded, and their
//! segments end, elsewhere. That is lost once, for the next round wins it back with the copies of the copies. Steps of
//! copies end with their batch, so there are at most twice as many batches as there were, each with less than a block of
//! padding: with batches of 1 MiB less than a 64th of the log, which is kept back from entries. Not claimed: that it is
//! enough for batches of far less, or for entries of more than a 64th of a segment, of which one leaves a segment's end
//! empty. Where it is not, the log says that it is at its quota ([`Wal::room`]), not that it is behind: entries and votes
//! wait for a release. A new leader's no-op, too, takes its bytes for good, until it is replaced or released.
//!
//! On a full disk without a quota nothing renews the reserve. Entries leave an eighth of a segment, 32 KiB at least, in
//! segments that are made, and the price of carrying the oldest one, where that is worth it. A vote is refused where less
//! than its record and four blocks are left, and each batch of votes takes a block: so one batch of votes and
//! (reserve - 16,432) / 4,096 more, rounded down, become durable at least: 4 with the smallest reserve, 2,044 with segments of
//! 64 MiB. A batch has the votes of all groups of a turn. Beyond them votes wait for room, and the groups without a leader
//! with them: a reserve that renews itself would have to carry round a log that may be all alive, on a disk that gives it
//! nothing to carry into.
//!
//! A segment that cannot be made holds up every later batch, the votes in it among them, so entries are best given only
//! to segments that are made, in parts if need be ([`Wal::takes_now`]).

use super::{Append, Room, Spare, Wal};
use crate::disk::MakeSegment;
use crate::error::WalError;
use crate::format::{
    BLOCK_BYTES, ENTRIES_HEAD_BYTES, ENTRY_HEADER_BYTES, FORMAT_VERSION, HARD_STATE_RECORD_BYTES,
    RECORD_ALIGN_BYTES, SegmentHeader, SegmentSeq, is_segment_file_bytes, membership_record_bytes,
};
use logdrive_raft::{Entry, EntryKind, GroupId};

/// The space that a log takes on disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Usage {
    /// Bytes of its segment files: those that hold the log, those made ahead, and those kept to be used again.
    pub bytes: u64,
    /// The most they may come to, if there is such a bound.
    pub bytes_max: Option<u64>,
    /// Record bytes in the segments that hold the log.
    pub written: u64,
    /// Those among them that are still needed.
    pub live: u64,
}

impl Wal {
    /// Whether to go on proposing. Never [`Room::Free`] while there is no room for entries that were refused: whoever had
    /// them would send them again and again.
    #[must_use]
    pub fn room(&self) -> Room {
        let half_full = self.open.tail > self.active.image.len() / 2;
        let next_ready = self.ready_spares() > 0;
        let is_refused = self.capacity_within(self.config.log_bytes_max) < self.refused;
        if self.no_space && (!next_ready || is_refused) {
            Room::Reserve
        } else if self.is_near_quota() {
            // Proposers wait for room that is being won back.
            if self.is_giving_back() { Room::Behind } else { Room::Quota }
        } else if !self.is_made(self.active.seq) && half_full {
            Room::Behind
        } else {
            Room::Free
        }
    }

    /// The space that the log takes on disk.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            bytes: self.file_bytes(),
            bytes_max: self.config.log_bytes_max,
            written: self.ledger.written(),
            live: self.ledger.live(),
        }
    }

    /// Record bytes of a group's entries in this log; `None` if it is not in it.
    #[must_use]
    pub fn group_bytes(&self, group: GroupId) -> Option<u64> {
        self.groups.get(&group).map(|state| state.index.bytes())
    }

    /// The `count` groups with the most bytes, most first: who should release. Walks the groups.
    #[must_use]
    pub fn heaviest_groups(&self, count: usize) -> Vec<(GroupId, u64)> {
        let mut all: Vec<_> =
            self.groups.iter().map(|(id, state)| (*id, state.index.bytes())).collect();
        all.sort_unstable_by_key(|(id, bytes)| (std::cmp::Reverse(*bytes), *id));
        all.truncate(count);
        all
    }

    /// How many of a write's entries, the first of `entries` among them, are best appended now: those for which no
    /// segment is needed that is still being made, votes for a while put aside. None only if one is being made, and that is
    /// followed by an event. Entries for which there is no room at all are found out by [`Wal::append`].
    #[must_use]
    pub fn takes_now(&mut self, entries: &[Entry]) -> usize {
        if self.no_space || logdrive_raft::bug!("entries_wait_in_the_log") {
            return entries.len();
        }
        let (mut bytes, mut largest) = (SMALL_BYTES, 0);
        for entry in entries {
            bytes += entry.payload.len() + ENTRY_HEADER_BYTES;
            largest = largest.max(entry.payload.len());
        }
        if self.fits_beside_votes(bytes, largest) {
            return entries.len();
        }
        (bytes, largest) = (SMALL_BYTES, 0);
        let fits = |entry: &&Entry| {
            bytes += entry.payload.len() + ENTRY_HEADER_BYTES;
            largest = largest.max(entry.payload.len());
            self.fits_beside_votes(bytes, largest)
        };
        let count = entries.iter().take_while(fits).count();
        let is_making = !self.is_made(self.active.seq) || self.ready_spares() < self.spares.len();
        if is_making && count == 0 {
            self.disk.hurry();
        }
        if is_making { count } else { count.max(1) }
    }

    fn fits_beside_votes(&self, bytes: usize, largest: usize) -> bool {
        let (in_one, across) = self.room_for(bytes, largest);
        let rest = if self.is_made(self.active.seq) { self.rest() } else { 0 };
        let in_one = in_one + self.votes_reserve();
        in_one <= rest || in_one + across <= rest + self.made_ahead()
    }

    /// The bytes kept for votes when no segment can be made: enough for several, however small a segment is.
    fn votes_reserve(&self) -> u64 {
        (self.config.segment_bytes / 8).max(VOTES_BYTES_MIN)
    }

    /// True if the quota is why there is less than [`Room::Free`].
    #[must_use]
    pub fn is_near_quota(&self) -> bool {
        let Some(max) = self.config.log_bytes_max else { return false };
        let segment = self.config.segment_bytes;
        let enough = (FOR_ENTRIES + 1) * segment / 2 + self.round_loss();
        // More than an empty log has is not waited for.
        let refused = self.refused.min(max - 2 * segment);
        self.capacity_within(Some(max)) < enough.max(refused)
    }

    /// Entries that were refused may come again.
    pub(super) fn forget_refusal(&mut self) {
        if self.capacity_within(self.config.log_bytes_max) >= self.refused {
            self.refused = 0;
        }
    }

    /// Whether the votes' reserve has come to its end, and so much of it was taken by votes that a round wins it back.
    pub(super) fn begins_round(&self) -> bool {
        let segment = self.config.segment_bytes;
        self.small_bytes >= segment / 4 && self.is_short_for_votes()
    }

    /// True while a round for votes has not won enough.
    pub(super) fn is_short_for_votes(&self) -> bool {
        let segment = self.config.segment_bytes;
        let left = (3 * segment / 8).max(VOTES_BYTES_MIN) + self.round_loss();
        self.has_quota() && self.capacity() < FOR_VOTES * segment / 2 + left
    }

    /// The most that a round of a log at its quota may lose: batches and segments end elsewhere in the copy.
    fn round_loss(&self) -> u64 {
        self.config.log_bytes_max.unwrap_or(0) / ROUND_LOSS_PART
    }

    /// Refuses what cannot be encoded whole. The estimate is an upper bound: each batch and each segment boundary
    /// it may cross costs at most a block and a few headers.
    pub(super) fn check_room(&mut self, append: &Append<'_>) -> Result<(), WalError> {
        let max = self.entry_bytes_max();
        let mut bytes = HARD_STATE_RECORD_BYTES;
        if let Some(membership) = append.membership {
            bytes += membership_record_bytes(membership.len());
            if membership.len() > max {
                return Err(WalError::TooLarge { bytes: membership.len(), max });
            }
        }
        for entry in append.entries {
            if entry.payload.len() > max {
                return Err(WalError::TooLarge { bytes: entry.payload.len(), max });
            }
            bytes += entry.payload.len() + ENTRY_HEADER_BYTES;
        }
        if !self.no_space && !self.has_quota() {
            return Ok(());
        }
        let runs = append.entries.chunk_by(|a, b| a.term == b.term).count();
        bytes += runs * (ENTRIES_HEAD_BYTES + RECORD_ALIGN_BYTES);
        let largest = append.entries.iter().map(|entry| entry.payload.len()).max().unwrap_or(0);
        // A new leader's no-op belongs to its election: refused, it would hold up the group's later votes.
        let is_small = append.entries.iter().all(|entry| entry.kind == EntryKind::Noop);
        self.check_capacity(bytes, largest, if is_small { FOR_VOTES } else { FOR_ENTRIES })
    }

    /// Refuses a release or a tombstone for which there is no room. They lead to more, so they go deeper than votes.
    pub(super) fn check_room_to_release(&mut self, bytes: usize) -> Result<(), WalError> {
        if self.no_space || self.has_quota() {
            return self.check_capacity(bytes, 0, FOR_RELEASES);
        }
        Ok(())
    }

    fn check_capacity(
        &mut self,
        bytes: usize,
        largest: usize,
        halves: u64,
    ) -> Result<(), WalError> {
        let (in_one, across) = self.room_for(bytes, largest);
        let needed = in_one + across;
        let is_entries = halves == FOR_ENTRIES;
        let max = if is_entries { self.config.log_bytes_max } else { self.bytes_limit };
        let capacity = self.capacity_within(max);
        let segment = self.config.segment_bytes;
        let reserve = match (self.no_space, is_entries) {
            (true, true) => self.votes_reserve() + self.carry_price(),
            (true, false) => 0,
            (false, true) => halves * segment / 2 + self.round_loss(),
            (false, false) => (halves * segment / 2).saturating_sub(self.carry_taken.min(segment)),
        };
        if needed + reserve <= capacity {
            return Ok(());
        }
        if is_entries {
            self.refused = needed + reserve;
        }
        Err(if self.no_space { WalError::NoSpace } else { WalError::OverQuota })
    }

    /// The bytes that records of `bytes`, no entry among them above `largest`, take at most of one segment; and those
    /// that they take more if they go on in others, each of which one entry may end early that does not fit its rest.
    fn room_for(&self, bytes: usize, largest: usize) -> (u64, u64) {
        let batches = bytes / self.config.batch_bytes_max as usize + 2;
        let half = self.config.segment_bytes / 2;
        let segments = bytes as u64 / half + 1;
        ((bytes + batches * (2 * BLOCK_BYTES)) as u64, segments * largest as u64)
    }

    /// Whether records of `bytes` can be written without a segment that is still to be made, `largest` as above.
    pub(super) fn fits_made(&self, bytes: usize, largest: usize) -> bool {
        let (in_one, across) = self.room_for(bytes, largest);
        in_one <= self.rest() || in_one + across <= self.rest() + self.made_ahead()
    }

    /// Bytes that can still be written while giving space back.
    pub(super) fn capacity(&self) -> u64 {
        self.capacity_within(self.bytes_limit)
    }

    /// Bytes that can still be written: what is left of the active segment, of those ahead, and of those that may
    /// still be ordered.
    fn capacity_within(&self, max: Option<u64>) -> u64 {
        let ahead = match (self.no_space, max) {
            (true, _) => self.made_ahead(),
            (false, Some(max)) => {
                let more = max.saturating_sub(self.segment_bytes()) / self.config.segment_bytes;
                (self.spares.len() as u64 + more) * self.fresh()
            }
            (false, None) => return u64::MAX,
        };
        self.rest() + ahead
    }

    /// The room left in the active segment.
    fn rest(&self) -> u64 {
        self.active.image.len().saturating_sub(self.open.tail) as u64
    }

    /// The room in the segments that are made, and not begun.
    fn made_ahead(&self) -> u64 {
        self.ready_spares() as u64 * self.fresh()
    }

    /// The room in a segment, but for its header, and the batch that says what came before it.
    fn fresh(&self) -> u64 {
        self.config.segment_bytes - 2 * BLOCK_BYTES as u64
    }

    fn has_quota(&self) -> bool {
        self.config.log_bytes_max.is_some()
    }

    /// Whether space must be won back at a higher price.
    pub(super) fn is_short_of_room(&self) -> bool {
        let segment = self.config.segment_bytes;
        match self.config.log_bytes_max {
            _ if self.no_space => true,
            Some(max) => self.capacity_within(Some(max)) <= (max / 4).max(4 * segment),
            None => false,
        }
    }

    /// Bytes of all files but those free to be used again, which orders would take first.
    fn segment_bytes(&self) -> u64 {
        let images = self.closing.iter().chain([&self.active]);
        let images: u64 = images.map(|segment| segment.image.len() as u64).sum();
        let spares: u64 = self.spares.iter().map(|spare| spare.bytes).sum();
        let leaving: u64 = self.leaving.iter().sum();
        self.sealed_bytes + images + spares + leaving
    }

    fn file_bytes(&self) -> u64 {
        let ordered = self.spares.len() - self.ready_spares();
        let ordered = ordered + usize::from(!self.is_made(self.active.seq));
        let free = self.free_segments.saturating_sub(ordered);
        self.segment_bytes() + free as u64 * self.config.segment_bytes
    }

    /// The log has been opened, whatever its quota: from here on it gives back before it takes more.
    pub(super) fn set_bytes_limit(&mut self) {
        // The room for the first batch's records was won back where these records stood before.
        self.small_bytes = 0;
        let least = self.segment_bytes() + 2 * self.config.segment_bytes;
        self.bytes_limit = self.config.log_bytes_max.map(|max| max.max(least));
    }

    pub(super) fn ready_spares(&self) -> usize {
        self.spares.iter().filter(|spare| self.is_made(spare.seq)).count()
    }

    pub(super) fn is_made(&self, seq: SegmentSeq) -> bool {
        seq <= self.made
    }

    /// Orders segments so that there are always some ahead of the active one, as far as the quota goes. They have `least`
    /// bytes at least.
    pub(super) fn keep_spares(&mut self, least: u64) {
        while self.spares.len() < self.config.spare_segments && self.may_order(least) {
            self.order_spare(least);
        }
    }

    fn may_order(&self, least: u64) -> bool {
        let after = self.segment_bytes() + self.config.segment_bytes.max(least);
        self.config.log_bytes_max.is_none_or(|max| after <= max)
    }

    pub(super) fn order_spare(&mut self, least: u64) {
        let newest = self.spares.back().map_or(self.active.seq, |spare| spare.seq);
        let seq = SegmentSeq(newest.0.checked_add(1).expect("segment numbers are used up"));
        let id = (self.entropy)();
        let bytes = self.config.segment_bytes.max(least);
        self.order(seq, id, bytes, false);
        self.spares.push_back(Spare { seq, id, bytes });
    }

    pub(super) fn order(&mut self, seq: SegmentSeq, id: u128, bytes: u64, urgent: bool) {
        assert!(is_segment_file_bytes(bytes), "no open would take a segment of {bytes} bytes");
        let identity = &self.config.identity;
        let header = SegmentHeader {
            version: FORMAT_VERSION,
            shard: self.config.shard,
            seq,
            id,
            store: identity.store,
            node: identity.node,
            incarnation: identity.incarnation,
            bytes,
            cluster: identity.cluster.clone(),
        };
        let make = MakeSegment { segment: seq, bytes, header: header.encode() };
        self.disk.make(make, urgent);
    }
}

/// The bytes beside a write's entries in its first batch.
const SMALL_BYTES: usize = HARD_STATE_RECORD_BYTES + ENTRIES_HEAD_BYTES + RECORD_ALIGN_BYTES;
/// A vote is taken to need up to four blocks ([`Wal::room_for`]), and takes one.
const VOTES_BYTES_MIN: u64 = 8 * BLOCK_BYTES as u64;
/// Kept back from entries, with a quota: this part of it ([`Wal::round_loss`]).
const ROUND_LOSS_PART: u64 = 64;
/// And so much, in halves of a segment.
const FOR_ENTRIES: u64 = 4;
/// Kept back from votes.
const FOR_VOTES: u64 = 3;
/// Kept back from releases.
const FOR_RELEASES: u64 = 2;
