//! The log's rules: each question that a promise of the log hangs on, as one small function named for its rule.
//!
//! The files that write, carry and recover ask here and act on the answer. A mutation of the bug bank breaks one rule,
//! so every [`logdrive_raft::bug!`] of the log stands in this file, inside the rule that the mutation breaks. The
//! mutations of the simulated disk stand in `disk/sim/steps.rs`.
//!
//! In:     places in the log, what is known durable, what a read found.
//! Out:    an answer (may it leave, does it count, is it damage).
//! Cost:   a few comparisons; no allocation.
//! Source: RULES.md, by the numbers that each rule cites.

use crate::checksum::checksum;
use crate::format::{FIRST_BATCH_AT, Position};
use crate::group::Small;
use logdrive_raft::{LogIndex, bug};
use std::io;
use std::ops::Range;

// Writing.

/// The number that a segment's id adds to every checksum in the segment, so that no bytes of another segment, or of
/// another life of the file, pass for the segment's own (RULES.md rule 2).
pub(crate) fn checksum_seed(segment_id: u128) -> u32 {
    if bug!("no_segment_id_in_the_checksum") { !0 } else { checksum(&segment_id.to_le_bytes()) }
}

/// A hard state stands in the log before the entries that came with it: a write may land in part, and entries of a term
/// must not outlive the term (RULES.md rules 11, 12).
#[inline]
pub(crate) fn hard_state_goes_first() -> bool {
    !bug!("hard_state_behind_its_entries")
}

/// A saved commit index covers only entries that the log had before it; `accepted` is the last of them (RULES.md B1).
#[inline]
pub(crate) fn commit_to_save(commit: LogIndex, accepted: LogIndex) -> LogIndex {
    if bug!("commit_saved_past_its_entries") { commit } else { commit.min(accepted) }
}

/// When several buffered writes share an open file, the kernel reports an error once, to any of them: a write that failed may
/// be reported as a success. So one is in flight at a time (RULES.md W7).
pub(crate) fn writes_in_flight(is_direct: bool, max: usize) -> usize {
    if is_direct || bug!("buffered_writes_in_flight_together") { max } else { 1 }
}

/// A segment's first write is started only when all writes before it are durable: so a bad batch in a segment that has
/// a successor is damage, never a torn tail (RULES.md rules 8, 20).
#[inline]
pub(crate) fn may_start(write_at: Position, writes_in_flight: usize) -> bool {
    write_at.offset() != FIRST_BATCH_AT
        || writes_in_flight == 0
        || bug!("segment_before_the_last_is_durable")
}

/// The start record ends the log before the records that an open writes again behind it, so that their older copies
/// count no more. So the record's block is written last, when `rest`, the bytes behind that block, is durable (RULES.md
/// rule 23, W3).
pub(crate) fn start_record_waits_for(rest: &Range<usize>) -> bool {
    !rest.is_empty() && !bug!("start_record_before_what_it_moves")
}

/// Entries that need a segment which is still being made are not put into the log before it is made, because votes
/// would have to wait behind them there (RULES.md W9).
#[inline]
pub(crate) fn entries_wait_before_the_log() -> bool {
    !bug!("entries_wait_in_the_log")
}

// Durability.

/// The first failure of a write is final: nothing is known of the bytes, and a sync that succeeds afterwards proves
/// nothing, because the kernel reports such an error once (RULES.md rule 17, W7).
#[inline]
pub(crate) fn outcome_of_write(
    result: io::Result<()>,
    sync: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    match result {
        Err(_) if bug!("failed_write_taken_for_done") => Ok(()),
        Err(_) if bug!("sync_retried") && sync().is_ok() => Ok(()),
        outcome => outcome,
    }
}

/// How many of the writes in flight, oldest first, are durable: the contiguous prefix of those that are done, because a
/// batch counts only once all batches before it are there (RULES.md rule 10, W5).
#[inline]
pub(crate) fn durable_prefix(are_done: impl Iterator<Item = bool> + Clone) -> usize {
    if bug!("durable_by_any_completion") && are_done.clone().any(|is_done| is_done) {
        return are_done.count();
    }
    are_done.take_while(|is_done| *is_done).count()
}

/// True if the write that an event names was counted as durable before the event. That never happens but by a mutation:
/// a write counts only once it has ended (RULES.md rule 10).
#[inline]
pub(crate) fn counted_before_its_end(token: u64, oldest: Option<u64>) -> bool {
    bug!("durable_by_any_completion") && oldest.is_none_or(|oldest| token < oldest)
}

// Giving space back.

/// Memory for more than four times as many items as there are left is given back (RULES.md W20).
#[inline]
pub(crate) fn is_too_much_memory(capacity: usize, items: usize, least: usize) -> bool {
    capacity > (4 * items).max(least) && !bug!("index_keeps_its_memory")
}

/// The least size of a new segment in which a record must fit; `needed` bytes are enough for the record. The record may
/// be from a time when segments were larger than new ones are (RULES.md W18).
pub(crate) fn least_segment_bytes(needed: u64) -> u64 {
    if bug!("segments_too_small_for_old_records") { 0 } else { needed }
}

/// On a full disk a segment of votes is written again when it is full, so that votes go on for ever (RULES.md W16).
pub(crate) fn votes_reserve_is_renewed() -> bool {
    !bug!("votes_reserve_not_renewed")
}

/// A segment is given up only when everything that was written again of it, which ends at `upto`, is durable (RULES.md
/// rule 28, invariant 22).
#[inline]
pub(crate) fn may_give_up(durable: Position, upto: Position) -> bool {
    durable >= upto || bug!("space_before_its_copies_are_durable")
}

/// A tombstone is written again before the segment that holds it is given up: a group that was destroyed stays dead
/// (RULES.md rule 28, M7).
pub(crate) fn tombstones_are_carried() -> bool {
    !bug!("tombstone_dropped_early")
}

/// A group's vote, membership, release and fence are written again before the segment that holds the latest of them is
/// given up; `found` are those of these records that the segment holds (RULES.md rule 28, S6).
pub(crate) fn small_records_to_carry(
    found: impl Iterator<Item = Small>,
) -> impl Iterator<Item = Small> {
    found.take_while(|_| !bug!("space_without_carrying_the_vote"))
}

// Recovery.

/// A last segment of which no more than `little` is needed is written again as a whole into the segment that an open
/// begins, and goes: so restarts take no space for good (RULES.md W17).
pub(crate) fn is_written_again_as_a_whole(needed: Option<usize>, little: usize) -> bool {
    needed.is_some_and(|needed| needed <= little) && !bug!("restart_keeps_its_segment")
}

/// A batch is whole only if its body has the checksum that its header states (RULES.md rules 2, 4).
#[inline]
pub(crate) fn is_body_whole(found: u32, stated: u32) -> bool {
    found == stated || bug!("batch_checksum_not_looked_at")
}

/// A bad batch that something vouches for was durable: it is damage, and not a torn tail that may be cut (RULES.md rules
/// 20, 21).
pub(crate) fn is_damage(is_vouched_for: bool) -> bool {
    is_vouched_for && !bug!("damage_cut_as_a_tail")
}

/// Damage that is limited to the groups of one batch fences these groups (RULES.md rule 24).
pub(crate) fn damage_fences() -> bool {
    !bug!("damage_passed_over")
}

/// The last hard state in the log is the one that counts, also where the log has an earlier one: votes and terms never
/// fall back (RULES.md invariant 11).
#[inline]
pub(crate) fn later_hard_state_counts(has_earlier: bool) -> bool {
    !(has_earlier && bug!("recovery_keeps_the_first_vote"))
}

/// The page cache is not believed: where writes are not known to go past it, the bytes that an open reads do not prove
/// that they are on disk, and the batches that nothing vouches for are written again (RULES.md rule 19, W7).
pub(crate) fn is_page_cache_believed(is_direct: bool) -> bool {
    !is_direct && bug!("page_cache_believed_by_an_open")
}
