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
//! ([`Space::bytes_limit`]); by no more at the next open, which writes again what little its last segment holds.
//!
//! The votes' reserve renews itself. A batch of votes takes a block, of which next to nothing lives once there is a newer
//! vote; but only the oldest segment is ever given up, and at the quota it may be full of entries that all live. So when
//! the reserve comes to its end, the log is carried round until the blocks of votes that it has written since have been
//! passed, whatever else lives ([`Space::begins_round`]). There is one for each quarter of a segment that votes have taken: a
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
//! On a full disk entries leave two segments alone that are made ahead of need (`VOTES_SEGMENTS`), and beside them an eighth
//! of a segment, 32 KiB at least, and the price of carrying the oldest segment, where that is worth it. Votes go on in what
//! entries have left, then in the two segments in turn, for ever (`renew.rs`). If the disk is known to be full before the two
//! are made, entries take a quarter of the active segment and no more, so that it can be one of the two. So a disk too small
//! for them takes votes for ever all the same, as long as one segment is made ahead, and an open needs only the segment that
//! it begins. Not claimed: votes for ever where the disk becomes full after an open before three segments were made ahead, and
//! entries have filled what was made by then. Those entries would have to wait on every disk, after every open, until three
//! segments are made.
//!
//! A segment that cannot be made holds up every later batch, the votes in it among them, so entries are best given only
//! to segments that are made, in parts if need be ([`Wal::takes_now`]).

use super::supply::{Spare, Supply};
use super::tail::Taken;
use super::{Append, Room, Wal};
use crate::Config;
use crate::disk::MakeSegment;
use crate::error::WalError;
use crate::format::{
    BLOCK_BYTES, ENTRIES_HEAD_BYTES, ENTRY_HEADER_BYTES, FORMAT_VERSION, HARD_STATE_RECORD_BYTES,
    RECORD_ALIGN_BYTES, SegmentHeader, SegmentSeq, is_segment_file_bytes, membership_record_bytes,
};
use crate::rules;
use logdrive_raft::{Entry, EntryKind, GroupId, LogIndex};

/// The space that a log takes on disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Usage {
    /// Bytes of its segment files: those that hold the log, those made ahead, and those kept to be used again.
    pub bytes: u64,
    /// The most they may come to, if there is such a bound.
    pub bytes_max: Option<u64>,
    /// Record bytes in the segments that hold the log.
    pub written: u64,
    /// Record bytes in these segments that are still needed.
    pub live: u64,
    /// Of the needed bytes, those of snapshots.
    pub snapshots: u64,
}

/// The groups that a log's space belongs to, from [`Wal::holders`].
#[derive(Clone, Debug)]
pub struct Holders {
    /// The oldest segment, the next to be given up.
    pub oldest: SegmentSeq,
    /// The groups in the log.
    pub groups: usize,
    /// The groups of which something in the oldest segment is still needed.
    pub in_oldest: usize,
    /// Those with the most bytes, most first.
    pub heaviest: Vec<Holder>,
}

/// A group's part of a log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Holder {
    /// The group.
    pub group: GroupId,
    /// Record bytes of its entries.
    pub bytes: u64,
    /// The last entry that was released; all later ones are in the log.
    pub released: LogIndex,
    /// The last entry.
    pub last: LogIndex,
    /// True if something of it in the oldest segment is still needed.
    pub is_in_oldest: bool,
}

/// The one judge of a log's room: everything that asks whether something fits asks here.
///
/// Invariants: nothing is encoded for which [`Self::check`] or [`Self::check_release`] found no room; while entries that
/// were refused would be refused again, [`Self::room`] is never [`Room::Free`].
pub(super) struct Space {
    segment_bytes: u64,
    batch_bytes_max: usize,
    /// The largest payload that an entry may have.
    entry_bytes_max: usize,
    log_bytes_max: Option<u64>,
    /// The quota, or more if the log was over its quota when it was opened.
    bytes_limit: Option<u64>,
    /// The bytes that refused entries needed; 0 once there was that much room.
    refused: u64,
    /// Bytes that copies of the victim's records have taken so far.
    carry_taken: u64,
    /// Bytes that batches without copies have taken since the last round for votes began, less their records of
    /// entries: a round wins back what stands beside a new leader's no-op as it wins back a vote.
    small_bytes: u64,
    supply: Supply,
}

/// The space that the log takes at one moment.
#[derive(Clone, Copy)]
pub(super) struct Used {
    /// The active segment.
    active: SegmentSeq,
    /// True if the open batch's end is past the middle of the active segment.
    is_past_middle: bool,
    /// The room left in the active segment.
    rest: u64,
    /// The bytes of the files that hold the log, the active segment's among them.
    files: u64,
}

/// Records that are to be written.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    /// All of their bytes.
    pub(super) bytes: usize,
    /// The bytes of the largest entry among them.
    pub(super) largest: usize,
}

/// The bytes that records take at most.
struct Needed {
    /// In one segment.
    in_one: u64,
    /// And if they go on in others, so many more: each of these one entry may end early that does not fit its rest.
    across: u64,
}

impl Wal {
    /// Whether to go on proposing. Never [`Room::Free`] while there is no room for entries that were refused: whoever had
    /// them would send them again and again.
    #[must_use]
    pub fn room(&self) -> Room {
        self.space.room(self.used(), || self.is_giving_back())
    }

    /// The space that the log takes on disk.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            bytes: self.space.file_bytes(self.used()),
            bytes_max: self.config.log_bytes_max,
            written: self.contents.written(),
            live: self.contents.live(),
            snapshots: self.contents.snapshots(),
        }
    }

    /// Record bytes of a group's entries in this log; `None` if it is not in it.
    #[must_use]
    pub fn group_bytes(&self, group: GroupId) -> Option<u64> {
        self.contents.group(group).map(|state| state.index.bytes())
    }

    /// The groups that the log's space belongs to, and the `count` of them with the most bytes. Walks the groups.
    #[must_use]
    pub fn holders(&self, count: usize) -> Holders {
        let oldest = self.contents.oldest().seq;
        let mut all: Vec<_> = self
            .contents
            .groups()
            .map(|(group, state)| Holder {
                group,
                bytes: state.index.bytes(),
                released: state.index.released().0,
                last: state.index.last(),
                is_in_oldest: state.needs(oldest),
            })
            .collect();
        let (groups, in_oldest) = (all.len(), all.iter().filter(|it| it.is_in_oldest).count());
        all.sort_unstable_by_key(|it| (std::cmp::Reverse(it.bytes), it.group));
        all.truncate(count);
        Holders { oldest, groups, in_oldest, heaviest: all }
    }

    /// How many of a write's entries, the first of `entries` among them, are best appended now: those for which no
    /// segment is needed that is still being made, votes for a while put aside. None only if one is being made, and that is
    /// followed by an event. Entries for which there is no room at all are found out by [`Wal::append`].
    #[must_use]
    pub fn takes_now(&mut self, entries: &[Entry]) -> usize {
        let count = self.space.takes_now(entries, self.used());
        if count == 0 && !entries.is_empty() {
            self.disk.hurry();
        }
        count
    }

    /// True if the quota is why there is less than [`Room::Free`].
    #[must_use]
    pub fn is_near_quota(&self) -> bool {
        self.space.is_near_quota(self.used())
    }

    /// The space that the log takes now.
    #[inline]
    pub(super) fn used(&self) -> Used {
        Used {
            active: self.tail.seq(),
            is_past_middle: self.tail.is_past_middle(),
            rest: self.tail.rest(),
            files: self.chain.bytes() + self.tail.segment().bytes(),
        }
    }

    /// Refuses what cannot be encoded whole.
    #[inline]
    pub(super) fn check_room(&mut self, append: &Append<'_>) -> Result<(), WalError> {
        let price = if self.space.supply().is_disk_full() { self.carry_price() } else { 0 };
        self.space.check(append, self.used(), price)
    }

    /// Refuses a release, a tombstone or a fence for which there is no room; `largest` of its bytes are a snapshot's.
    pub(super) fn check_room_to_release(
        &mut self,
        bytes: usize,
        largest: usize,
    ) -> Result<(), WalError> {
        self.space.check_release(Wanted { bytes, largest }, self.used())
    }

    /// Whether a record of `bytes` can be written without waiting for a segment to be made.
    pub(super) fn fits_soon(&self, bytes: usize) -> bool {
        self.tail.fits(bytes) || self.space.supply().ready() > 0
    }

    /// Orders segments so that there are always some ahead of the active one, as far as the quota goes. One of them has
    /// `least` bytes at least.
    pub(super) fn keep_spares(&mut self, least: u64) {
        let mut next = if self.space.supply().has_ahead(least) { 0 } else { least };
        while self.space.supply().ahead() < self.config.segments_ahead()
            && self.space.may_order(next, self.used())
        {
            self.order_spare(next);
            next = 0;
        }
    }

    pub(super) fn order_spare(&mut self, least: u64) {
        let bytes = self.config.segment_bytes.max(least);
        let spare = self.space.supply_mut().add(self.tail.seq(), bytes);
        self.order(spare, false);
    }

    pub(super) fn order(&mut self, spare: Spare, urgent: bool) {
        let Spare { seq, id, bytes } = spare;
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

impl Wanted {
    /// One entry more.
    #[inline]
    fn add(&mut self, entry: &Entry) {
        self.bytes += entry.payload.len() + ENTRY_HEADER_BYTES;
        self.largest = self.largest.max(entry.payload.len());
    }
}

impl Space {
    /// The space of a log in which nothing was written yet since it was opened: no bound of bytes holds before
    /// [`Self::set_bytes_limit`].
    pub(super) fn new(config: &Config, supply: Supply) -> Self {
        Self {
            segment_bytes: config.segment_bytes,
            batch_bytes_max: config.batch_bytes_max as usize,
            entry_bytes_max: config.entry_bytes_max(),
            log_bytes_max: config.log_bytes_max,
            bytes_limit: None,
            refused: 0,
            carry_taken: 0,
            small_bytes: 0,
            supply,
        }
    }

    #[inline]
    pub(super) fn supply(&self) -> &Supply {
        &self.supply
    }

    #[inline]
    pub(super) fn supply_mut(&mut self) -> &mut Supply {
        &mut self.supply
    }

    /// See [`Wal::room`].
    fn room(&self, used: Used, is_giving_back: impl FnOnce() -> bool) -> Room {
        let next_ready = self.supply.ready_for_entries() > 0;
        let is_refused = self.capacity_for_entries(used) < self.refused;
        if self.supply.is_disk_full() && (!next_ready || is_refused) {
            Room::Reserve
        } else if self.is_near_quota(used) {
            // Proposers wait for room that is being won back.
            if is_giving_back() { Room::Behind } else { Room::Quota }
        } else if !self.supply.is_made(used.active) && used.is_past_middle {
            Room::Behind
        } else {
            Room::Free
        }
    }

    /// True if entries come to the end of what is made, and more is being made.
    pub(super) fn needs_segment_soon(&self, used: Used) -> bool {
        let supply = &self.supply;
        used.is_past_middle && supply.ready_for_entries() == 0 && supply.ready() < supply.ahead()
    }

    /// See [`Wal::takes_now`].
    fn takes_now(&self, entries: &[Entry], used: Used) -> usize {
        if self.supply.is_disk_full() || !rules::entries_wait_before_the_log() {
            return entries.len();
        }
        let mut wanted = Wanted { bytes: SMALL_BYTES, largest: 0 };
        for entry in entries {
            wanted.add(entry);
        }
        if self.fits_beside_votes(wanted, used) {
            return entries.len();
        }
        wanted = Wanted { bytes: SMALL_BYTES, largest: 0 };
        let fits = |entry: &&Entry| {
            wanted.add(entry);
            self.fits_beside_votes(wanted, used)
        };
        let count = entries.iter().take_while(fits).count();
        let is_making =
            !self.supply.is_made(used.active) || self.supply.ready() < self.supply.ahead();
        if is_making { count } else { count.max(1) }
    }

    fn fits_beside_votes(&self, wanted: Wanted, used: Used) -> bool {
        let Needed { in_one, across } = self.room_for(wanted);
        let rest = if self.supply.is_made(used.active) { self.rest_for_entries(used) } else { 0 };
        let in_one = in_one + self.votes_reserve();
        in_one <= rest || in_one + across <= rest + self.made_ahead()
    }

    /// The bytes kept for votes when no segment can be made: enough for several, however small a segment is.
    fn votes_reserve(&self) -> u64 {
        (self.segment_bytes / 8).max(VOTES_BYTES_MIN)
    }

    /// See [`Wal::is_near_quota`].
    fn is_near_quota(&self, used: Used) -> bool {
        let Some(max) = self.log_bytes_max else { return false };
        let segment = self.segment_bytes;
        let enough = (FOR_ENTRIES + 1) * segment / 2 + self.round_loss();
        // More than an empty log has is not waited for.
        let refused = self.refused.min(max - 2 * segment);
        self.capacity_within(Some(max), used) < enough.max(refused)
    }

    /// Entries that were refused may come again.
    pub(super) fn forget_refusal(&mut self, used: Used) {
        if self.capacity_for_entries(used) >= self.refused {
            self.refused = 0;
        }
    }

    /// A batch was closed.
    #[inline]
    pub(super) fn count(&mut self, taken: Taken) {
        if taken.carries {
            self.carry_taken += taken.bytes;
        } else {
            self.small_bytes += taken.bytes - taken.entry_bytes;
        }
    }

    /// The victim's copies give back what they took: the victim goes.
    pub(super) fn forget_copies(&mut self) {
        self.carry_taken = 0;
    }

    /// True if a round for votes is to begin: the votes' reserve has come to its end, and so much of it was taken by
    /// votes that a round wins it back. What votes take from now on is for the next round.
    pub(super) fn begins_round(&mut self, used: Used) -> bool {
        let begins = self.small_bytes >= self.segment_bytes / 4 && self.is_short_for_votes(used);
        if begins {
            self.small_bytes = 0;
        }
        begins
    }

    /// True while a round for votes has not won enough.
    pub(super) fn is_short_for_votes(&self, used: Used) -> bool {
        let segment = self.segment_bytes;
        let left = (3 * segment / 8).max(VOTES_BYTES_MIN) + self.round_loss();
        self.has_quota() && self.capacity(used) < FOR_VOTES * segment / 2 + left
    }

    /// The most that a round of a log at its quota may lose: batches and segments end elsewhere in the copy.
    fn round_loss(&self) -> u64 {
        self.log_bytes_max.unwrap_or(0) / ROUND_LOSS_PART
    }

    /// Refuses what cannot be encoded whole. The estimate is an upper bound: each batch and each segment boundary
    /// it may cross costs at most a block and a few headers. `carry_price` is what carrying will take of the last room
    /// on a full disk.
    fn check(&mut self, append: &Append<'_>, used: Used, carry_price: u64) -> Result<(), WalError> {
        let max = self.entry_bytes_max;
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
        if !self.supply.is_disk_full() && !self.has_quota() {
            return Ok(());
        }
        let runs = append.entries.chunk_by(|a, b| a.term == b.term).count();
        bytes += runs * (ENTRIES_HEAD_BYTES + RECORD_ALIGN_BYTES);
        let largest = append.entries.iter().map(|entry| entry.payload.len()).max().unwrap_or(0);
        // A new leader's no-op belongs to its election: refused, it would hold up the group's later votes.
        let is_small = append.entries.iter().all(|entry| entry.kind == EntryKind::Noop);
        let halves = if is_small { FOR_VOTES } else { FOR_ENTRIES };
        self.check_capacity(Wanted { bytes, largest }, halves, used, carry_price)
    }

    /// Refuses a release or a tombstone for which there is no room. They lead to more, so they go deeper than votes.
    fn check_release(&mut self, wanted: Wanted, used: Used) -> Result<(), WalError> {
        if self.supply.is_disk_full() || self.has_quota() {
            return self.check_capacity(wanted, FOR_RELEASES, used, 0);
        }
        Ok(())
    }

    fn check_capacity(
        &mut self,
        wanted: Wanted,
        halves: u64,
        used: Used,
        carry_price: u64,
    ) -> Result<(), WalError> {
        let Needed { in_one, across } = self.room_for(wanted);
        let needed = in_one + across;
        let is_entries = halves == FOR_ENTRIES;
        let is_disk_full = self.supply.is_disk_full();
        let capacity = match (is_entries, is_disk_full) {
            (true, _) => self.capacity_for_entries(used),
            (false, true) => self.capacity_for_votes(used),
            (false, false) => self.capacity(used),
        };
        let segment = self.segment_bytes;
        let reserve = match (is_disk_full, is_entries) {
            (true, true) => self.votes_reserve() + carry_price,
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
        Err(if is_disk_full { WalError::NoSpace } else { WalError::OverQuota })
    }

    /// The bytes that records take at most.
    fn room_for(&self, wanted: Wanted) -> Needed {
        let Wanted { bytes, largest } = wanted;
        let batches = bytes / self.batch_bytes_max + 2;
        let half = self.segment_bytes / 2;
        let segments = bytes as u64 / half + 1;
        Needed {
            in_one: (bytes + batches * (2 * BLOCK_BYTES)) as u64,
            across: segments * largest as u64,
        }
    }

    /// Whether records can be written without a segment that is still to be made.
    pub(super) fn fits_made(&self, wanted: Wanted, used: Used) -> bool {
        let Needed { in_one, across } = self.room_for(wanted);
        in_one <= used.rest || in_one + across <= used.rest + self.made_ahead()
    }

    /// Bytes that can still be written while giving space back.
    pub(super) fn capacity(&self, used: Used) -> u64 {
        self.capacity_within(self.bytes_limit, used)
    }

    /// Bytes that can still be written: what is left of the active segment, of those ahead, and of those that may
    /// still be ordered.
    fn capacity_within(&self, max: Option<u64>, used: Used) -> u64 {
        let ahead = match (self.supply.is_disk_full(), max) {
            (true, _) => self.made_ahead(),
            (false, Some(max)) => {
                let more = max.saturating_sub(self.bytes(used)) / self.segment_bytes;
                (self.supply.ahead() as u64 + more) * self.fresh()
            }
            (false, None) => return u64::MAX,
        };
        used.rest + ahead
    }

    /// The room in the segments that are made, not begun, and not kept for votes.
    fn made_ahead(&self) -> u64 {
        self.supply.ready_for_entries() as u64 * self.fresh()
    }

    /// The room for entries in the active segment. On a disk that is known to be full, while the votes' segments are not
    /// made, so much of it is left that it can be one of them itself (`renew.rs`).
    fn rest_for_entries(&self, used: Used) -> u64 {
        match !self.supply.is_disk_full() || self.supply.has_votes_segments() {
            true => used.rest,
            false => used.rest.saturating_sub(self.segment_bytes - self.segment_bytes / 4),
        }
    }

    /// Bytes of entries that can still be written.
    fn capacity_for_entries(&self, used: Used) -> u64 {
        match self.supply.is_disk_full() {
            true => self.rest_for_entries(used) + self.made_ahead(),
            false => self.capacity_within(self.log_bytes_max, used),
        }
    }

    /// Bytes of small records that can still be written on a full disk. The next segment may begin with what counts of the
    /// active one, half of it at most (`renew.rs`).
    fn capacity_for_votes(&self, used: Used) -> u64 {
        let ahead = self.supply.ready() as u64 * self.fresh();
        used.rest + ahead.saturating_sub(self.segment_bytes / 2)
    }

    /// The room in a segment, but for its header, and the batch that says what came before it.
    fn fresh(&self) -> u64 {
        self.segment_bytes - 2 * BLOCK_BYTES as u64
    }

    fn has_quota(&self) -> bool {
        self.log_bytes_max.is_some()
    }

    /// Whether space must be won back at a higher price.
    pub(super) fn is_short_of_room(&self, used: Used) -> bool {
        let segment = self.segment_bytes;
        match self.log_bytes_max {
            _ if self.supply.is_disk_full() => true,
            Some(max) => self.capacity_within(Some(max), used) <= (max / 4).max(4 * segment),
            None => false,
        }
    }

    /// Bytes of all files but those free to be used again, which orders would take first.
    fn bytes(&self, used: Used) -> u64 {
        used.files + self.supply.ahead_bytes() + self.supply.leaving_bytes()
    }

    fn file_bytes(&self, used: Used) -> u64 {
        self.bytes(used) + self.supply.kept(used.active) as u64 * self.segment_bytes
    }

    /// The log has been opened, whatever its quota: from here on it gives back before it takes more.
    pub(super) fn set_bytes_limit(&mut self, used: Used) {
        // The room for the first batch's records was won back where these records stood before.
        self.small_bytes = 0;
        let least = self.bytes(used) + 2 * self.segment_bytes;
        self.bytes_limit = self.log_bytes_max.map(|max| max.max(least));
    }

    fn may_order(&self, least: u64, used: Used) -> bool {
        let after = self.bytes(used) + self.segment_bytes.max(least);
        self.log_bytes_max.is_none_or(|max| after <= max)
    }
}

/// The bytes beside a write's entries in its first batch.
const SMALL_BYTES: usize = HARD_STATE_RECORD_BYTES + ENTRIES_HEAD_BYTES + RECORD_ALIGN_BYTES;
/// A vote is taken to need up to four blocks ([`Space::room_for`]), and takes one.
const VOTES_BYTES_MIN: u64 = 8 * BLOCK_BYTES as u64;
/// Kept back from entries, with a quota: this part of it ([`Space::round_loss`]).
const ROUND_LOSS_PART: u64 = 64;
/// And so much, in halves of a segment.
const FOR_ENTRIES: u64 = 4;
/// Kept back from votes.
const FOR_VOTES: u64 = 3;
/// Kept back from releases.
const FOR_RELEASES: u64 = 2;
