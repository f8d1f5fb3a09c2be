//! One group's log as the core knows it: the terms of all of it behind its base, the entries at its end, and the
//! cursors over it.
//!
//! ```text
//!   (released)    (forgotten: on disk only)      tail (in memory)
//!   - - - - - |-------------------------------|=====================|
//!   1     base                                 tail_first            last
//!
//!   base ≤ applied ≤ applying ≤ commit ≤ last  base        the last entry that the log has let go of
//!             applying ≤ max(durable, base)    applied     the state machine is here
//!   durable ≤ submitted ≤ last                 applying    handed to the state machine
//!   tail_first ≤ max(durable, base) + 1        commit      known to be on a majority, for ever
//!                                              durable     on this disk
//!                                              submitted   handed to the disk
//!
//!   Not claimed: commit ≤ durable. A majority may commit what this node has not yet synced (thesis
//!   §10.2.1); it is applied here only once it is durable here.
//!   Not claimed: durable only grows. A new leader's entries replace what does not agree with them,
//!   durable or not, as long as it is not committed.
//!   Not claimed: commit only grows. Entries for which this disk has no room are withdrawn, committed by others or not.
//!   Not claimed: applying ≥ tail_first - 1. After a restart the tail is empty, and what a slow state
//!   machine has not taken is forgotten rather than hoarded; both come back by a fetch.
//!   Not claimed: base ≤ durable. An installed snapshot is the base at once, and durable with its write.
//! ```
//!
//! In:     entries to append, writes and applies that finished.
//! Out:    [`Log::submit`]: the next write; [`Log::copy`]: entries from memory; terms of any index from the base on.
//! Cost:   16 bytes per leader of the entries behind the base, the tail, 48 bytes per write in flight.
//! Fails:  a cursor that would leave its place panics; nothing a peer sends may lead there.
//! Source: paper §5.3, §7; thesis §10.2.1; RULES.md rules 10, 14, 15. `log/base.rs` moves the base.

mod base;

use crate::{
    Command, Entry, EntryBatch, EntryKind, HardState, LogId, LogIndex, LogRange, NoTerm, Release,
    Restored, Term, TermRun, Write, WriteId, rules,
};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use bytes::Bytes;

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Log {
    /// The last entry that the log has let go of; `ZERO` if none.
    base: LogId,
    /// The terms of the entries behind `base`.
    runs: Vec<TermRun>,
    tail: VecDeque<Entry>,
    tail_first: LogIndex,
    tail_bytes: usize,
    /// Nothing up to here is borrowed from the log's image.
    owned: LogIndex,
    last: LogId,
    submitted: LogIndex,
    durable: LogIndex,
    commit: LogIndex,
    applying: LogIndex,
    applied: LogIndex,
    /// Batches handed to the state machine and not yet applied, oldest first.
    handed_out: VecDeque<HandedOut>,
    handed_out_bytes: usize,
    /// Writes handed to the disk and not yet durable, oldest first.
    writes: VecDeque<InFlight>,
    newest_write: WriteId,
}

/// A batch that the state machine has.
#[derive(Clone, Copy, Debug)]
struct HandedOut {
    /// The batch's last entry.
    last: LogIndex,
    bytes: usize,
}

/// The consequences of a write once it is durable.
#[derive(Debug)]
struct InFlight {
    id: WriteId,
    /// The log's end as of this write, or as much of it as is still in the log.
    ///
    /// Comparing terms when the write is done would not do (ABA, RULES.md W14): 1. write 1 holds
    /// entry 7 of term 2. 2. The leader of term 3 replaces it, write 2. 3. The leader of term 4 has
    /// 7 of term 2 and puts it back, write 3. Write 1 done says that entry 7 of term 2 is durable, but
    /// write 2 may be on disk over it and write 3 not. So a truncation lowers this for every write in
    /// flight, and nothing raises it.
    last: LogId,
    hard_state: Option<HardState>,
}

impl Log {
    /// The log as recovery found it ([`Restored::check`]), its end durable and nothing of it in memory.
    pub(crate) fn restore(restored: Restored) -> Self {
        let Restored { hard_state, base, runs, last, applied, .. } = restored;
        let term = runs.last().map_or(base.term, |run| run.term);
        Self {
            base,
            runs,
            tail: VecDeque::new(),
            tail_first: last.next(),
            tail_bytes: 0,
            owned: last,
            last: LogId { term, index: last },
            submitted: last,
            durable: last,
            // The entries that the machine has applied were committed, even if the saved index lags (rule 15). The base
            // is among them.
            commit: hard_state.commit.min(last).max(applied),
            applying: applied,
            applied,
            handed_out: VecDeque::new(),
            handed_out_bytes: 0,
            writes: VecDeque::new(),
            newest_write: WriteId::ZERO,
        }
    }

    /// The last entry, durable or not.
    pub(crate) fn last(&self) -> LogId {
        self.last
    }

    pub(crate) fn durable(&self) -> LogIndex {
        self.durable
    }

    /// The last entry on this disk; `ZERO` while the base that replaces it is not durable.
    pub(crate) fn durable_id(&self) -> LogId {
        let index = self.durable;
        self.term_at(index).map_or(LogId::ZERO, |term| LogId { term, index })
    }

    pub(crate) fn commit(&self) -> LogIndex {
        self.commit
    }

    pub(crate) fn applying(&self) -> LogIndex {
        self.applying
    }

    pub(crate) fn applied(&self) -> LogIndex {
        self.applied
    }

    /// The first entry that is in memory; the one after the last if none is.
    pub(crate) fn tail_first(&self) -> LogIndex {
        self.tail_first
    }

    /// The last write handed out.
    pub(crate) fn newest_write(&self) -> WriteId {
        self.newest_write
    }

    /// Bytes handed to the state machine and not yet applied.
    pub(crate) fn handed_out_bytes(&self) -> usize {
        self.handed_out_bytes
    }

    /// The term of the entry at `index`, from the base on; `Term::ZERO` before the first entry.
    pub(crate) fn term_at(&self, index: LogIndex) -> Result<Term, NoTerm> {
        if index > self.last.index {
            return Err(NoTerm::PastEnd);
        }
        // Nearly every question is about the newest term.
        match self.runs.last() {
            Some(run) if index >= run.first => Ok(run.term),
            _ => self.older_term_at(index),
        }
    }

    fn older_term_at(&self, index: LogIndex) -> Result<Term, NoTerm> {
        if index <= self.base.index {
            return if index == self.base.index {
                Ok(self.base.term)
            } else {
                Err(NoTerm::Released)
            };
        }
        let after = self.runs.partition_point(|run| run.first <= index);
        Ok(self.runs[after - 1].term)
    }

    /// True if the log has this entry (and so, all before it: log matching, paper §5.3).
    pub(crate) fn contains(&self, id: LogId) -> bool {
        self.term_at(id.index) == Ok(id.term)
    }

    /// True if nothing in the log speaks against this entry: the log has it, or has let go of the entry at its index.
    /// That one was committed, so it is the entry that every later leader has there (paper §5.4.3).
    pub(crate) fn agrees_with(&self, id: LogId) -> bool {
        match self.term_at(id.index) {
            Ok(term) => term == id.term,
            Err(NoTerm::Released) => id.term <= self.base.term,
            Err(NoTerm::PastEnd) => false,
        }
    }

    /// The last entry at or before `index` whose term is at most `term`; `ZERO` if the log has let go of it.
    ///
    /// No later one up to `index` can be in a log whose entry at `index` has `term`: terms never fall.
    pub(crate) fn last_at_most(&self, index: LogIndex, term: Term) -> LogId {
        let index = index.min(self.last.index);
        let after = self.runs.partition_point(|run| run.term <= term);
        let end = self.runs.get(after).map_or(self.last.index, |run| run.first.prev());
        let index = index.min(end);
        match self.term_at(index) {
            Ok(found) if found <= term => LogId { term: found, index },
            _ => LogId::ZERO,
        }
    }

    /// Adds commands of `term` at the end, draining them.
    pub(crate) fn append_commands(&mut self, term: Term, commands: &mut Vec<Command>) -> LogRange {
        assert!(!commands.is_empty(), "a proposal of {} commands", commands.len());
        let first = self.last.index.next();
        let mut index = self.last.index;
        self.tail.reserve(commands.len());
        for command in commands.drain(..) {
            index = index.next();
            let Command { checksum, payload } = command;
            let entry = Entry { term, index, kind: EntryKind::Command, checksum, payload };
            self.tail_bytes += entry.cost_bytes();
            self.tail.push_back(entry);
        }
        self.end_at(term, first, index);
        LogRange { term, first, last: index }
    }

    /// Adds a no-op of `term` at the end.
    pub(crate) fn append_noop(&mut self, term: Term) {
        let index = self.last.index.next();
        let entry =
            Entry { term, index, kind: EntryKind::Noop, checksum: 0, payload: Bytes::new() };
        self.tail_bytes += entry.cost_bytes();
        self.tail.push_back(entry);
        self.end_at(term, index, index);
    }

    /// Adds entries that follow the last one. They are contiguous: they come out of a batch.
    pub(crate) fn append(&mut self, entries: Vec<Entry>) {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return };
        assert!(
            first.index == self.last.index.next(),
            "entry {:?} does not follow {:?}",
            first.id(),
            self.last
        );
        let last = last.id();
        if first.term == last.term {
            self.end_at(last.term, first.index, last.index);
        } else {
            for entry in &entries {
                self.end_at(entry.term, entry.index, entry.index);
            }
        }
        self.tail_bytes += entries.iter().map(Entry::cost_bytes).sum::<usize>();
        self.tail.extend(entries);
    }

    /// Removes `from` and everything after it: a leader's log says otherwise.
    pub(crate) fn truncate(&mut self, from: LogIndex) {
        assert!(from > self.commit, "truncation from {from:?} removes commit {:?}", self.commit);
        assert!(from <= self.last.index, "{from:?} is past the log's end {:?}", self.last);
        let keep = from.prev();
        while self.tail.back().is_some_and(|entry| entry.index > keep) {
            let entry = self.tail.pop_back().expect("just seen");
            self.tail_bytes -= entry.cost_bytes();
        }
        self.tail_first = self.tail_first.min(from);
        while self.runs.last().is_some_and(|run| run.first > keep) {
            self.runs.pop();
        }
        let term = self.runs.last().map_or(self.base.term, |run| run.term);
        self.last = LogId { term, index: keep };
        self.submitted = self.submitted.min(keep);
        self.durable = self.durable.min(keep);
        self.owned = self.owned.min(keep);
        for write in &mut self.writes {
            write.last = rules::vouched_for_after_cut(write.last, self.last);
        }
        self.check();
    }

    /// The disk has no room for the writes from `from` on: what they hold is gone, as after a crash, and with it what
    /// was not handed out yet. The commit index goes back to what is left: a later leader says it again. True if there
    /// was a hard state among the writes. The base stays where it is.
    ///
    /// Entries that a withdrawn write would have replaced may still be on the disk, behind the new end. They do no harm:
    /// the replica does not count on them, and the next entries replace them there.
    pub(crate) fn withdraw(&mut self, from: WriteId) -> bool {
        assert!(from > WriteId::ZERO && from <= self.newest_write, "write {from:?} is unknown");
        let at = self.writes.partition_point(|write| write.id < from);
        let withdrawn = self.writes.split_off(at);
        let ends = self.writes.iter().map(|write| write.last.index);
        let keep = ends.chain([self.durable, self.base.index]).max().expect("one of them");
        self.newest_write = from.prev();
        if keep < self.last.index {
            self.commit = self.commit.min(keep);
            self.truncate(keep.next());
        }
        withdrawn.iter().any(|write| write.hard_state.is_some())
    }

    /// Entries up to `to` are committed.
    pub(crate) fn commit_to(&mut self, to: LogIndex) {
        assert!(to <= self.last.index, "commit {to:?} is past the log's end {:?}", self.last);
        assert!(to >= self.commit, "commit {to:?} is before {:?}", self.commit);
        self.commit = to;
    }

    /// Bytes of the entries `first..=last` that are in memory.
    pub(crate) fn bytes_in_memory(&self, first: LogIndex, last: LogIndex) -> usize {
        let skip = self.offset(first.max(self.tail_first));
        let end = self.offset(last.next().max(self.tail_first));
        if skip >= end {
            return 0;
        }
        self.tail.range(skip..end).map(Entry::cost_bytes).sum()
    }

    /// The next write: the entries not yet handed to the disk, `hard_state` if it changed, and beside a hard state
    /// `release` if the base is new.
    #[inline]
    pub(crate) fn submit(
        &mut self,
        hard_state: Option<HardState>,
        release: Option<Box<Release>>,
    ) -> Option<Write> {
        let is_something = hard_state.is_some() || self.has_to_submit();
        is_something.then(|| self.next_write(hard_state, release))
    }

    /// True if there are entries that were not handed to the disk yet.
    #[inline]
    pub(crate) fn has_to_submit(&self) -> bool {
        self.submitted < self.last.index
    }

    #[inline]
    fn next_write(
        &mut self,
        hard_state: Option<HardState>,
        release: Option<Box<Release>>,
    ) -> Write {
        let skip = self.offset(self.submitted.next());
        let entries = self.cloned(skip, self.tail.len() - skip);
        let id = self.newest_write.next();
        self.newest_write = id;
        self.submitted = self.last.index;
        self.writes.push_back(InFlight { id, last: self.last, hard_state });
        Write { id, release, hard_state, entries: EntryBatch::contiguous(entries) }
    }

    /// Every write up to `upto` is on disk. Returns the newest hard state among them.
    pub(crate) fn on_durable(&mut self, upto: WriteId) -> Option<HardState> {
        assert!(
            upto <= self.newest_write,
            "write {upto:?} is durable, but the newest is {:?}",
            self.newest_write
        );
        let mut hard_state = None;
        while let Some(write) = self.writes.front() {
            if write.id > upto {
                break;
            }
            if rules::vouches(self, write.id, write.last) {
                self.durable = self.durable.max(write.last.index);
                hard_state = write.hard_state.or(hard_state);
            }
            self.writes.pop_front();
        }
        self.check();
        hard_state
    }

    /// Entries from `first` on that are in memory, up to `last`, about `bytes_max` bytes of them:
    /// never more, but for the first if `at_least_one`.
    pub(crate) fn copy(
        &self,
        first: LogIndex,
        last: LogIndex,
        bytes_max: usize,
        at_least_one: bool,
    ) -> (EntryBatch, usize) {
        if first < self.tail_first || first > last {
            return (EntryBatch::new(), 0);
        }
        let skip = self.offset(first);
        let end = self.offset(last.next());
        let mut count = 0;
        let mut bytes = 0;
        for entry in self.tail.range(skip..end) {
            let cost = entry.cost_bytes();
            if bytes + cost > bytes_max && !(at_least_one && count == 0) {
                break;
            }
            bytes += cost;
            count += 1;
        }
        (EntryBatch::contiguous(self.cloned(skip, count)), bytes)
    }

    /// `count` entries of the tail, from place `skip` on. For one or two of them, the fewest instructions.
    fn cloned(&self, skip: usize, count: usize) -> Vec<Entry> {
        let mut entries = Vec::with_capacity(count);
        for entry in self.tail.range(skip..skip + count) {
            entries.push(entry.clone());
        }
        entries
    }

    /// True if all of `entries` are in the log as they are here.
    pub(crate) fn contains_all(&self, entries: &EntryBatch) -> bool {
        entries.as_slice().iter().all(|entry| self.contains(entry.id()))
    }

    /// The last entry that may be applied.
    pub(crate) fn appliable(&self) -> LogIndex {
        rules::appliable(self.commit, self.durable)
    }

    /// Entries up to `last` go to the state machine, `bytes` of them.
    pub(crate) fn hand_out(&mut self, last: LogIndex, bytes: usize) {
        assert!(last > self.applying, "{last:?} was handed out before {:?}", self.applying);
        assert!(last <= self.appliable(), "{last:?} is after appliable {:?}", self.appliable());
        self.applying = last;
        self.handed_out.push_back(HandedOut { last, bytes });
        self.handed_out_bytes += bytes;
    }

    /// The state machine is at `index`.
    pub(crate) fn applied_to(&mut self, index: LogIndex) {
        assert!(
            index <= self.applying,
            "applied {index:?}, but only {:?} was handed out",
            self.applying
        );
        self.applied = self.applied.max(index);
        while let Some(&HandedOut { last, bytes }) = self.handed_out.front() {
            if last > self.applied {
                break;
            }
            self.handed_out.pop_front();
            self.handed_out_bytes -= bytes;
        }
    }

    /// Another state machine is at `index`: everything behind it is to be handed out again.
    pub(crate) fn reapply_from(&mut self, index: LogIndex) {
        assert!(index <= self.applying, "{index:?} was not handed out: {:?}", self.applying);
        assert!(index >= self.base.index, "{index:?} is before the base {:?}", self.base);
        self.applying = index;
        self.applied = index;
        self.handed_out.clear();
        self.handed_out_bytes = 0;
        self.check();
    }

    /// Drops entries from memory that nobody here needs: durable, and either applied and `matched`
    /// by every peer that keeps up, or too many.
    #[inline]
    pub(crate) fn forget(&mut self, matched: LogIndex, tail_bytes_max: usize) {
        let done = self.applied.min(self.durable).min(matched);
        // Nearly always there is nothing to forget.
        if self.tail_first <= done
            || self.tail_bytes > tail_bytes_max
            || self.tail.capacity() > TAIL_KEPT_ENTRIES
        {
            self.forget_upto(done, tail_bytes_max);
        }
    }

    fn forget_upto(&mut self, done: LogIndex, tail_bytes_max: usize) {
        self.forget_while(|log| log.tail_first <= done);
        // Handed-out entries are held by the state machine already; followers get them by a fetch.
        let handed_out = self.applying.min(self.durable);
        self.forget_while(|log| log.tail_first <= handed_out && log.tail_bytes > tail_bytes_max);
        // A state machine that does not keep up is served by fetches rather than from a hoard.
        let hoard_bytes_max = tail_bytes_max.saturating_add(HOARD_BYTES_MAX);
        let appliable = self.appliable();
        self.forget_while(|log| log.tail_first <= appliable && log.tail_bytes > hoard_bytes_max);
        // A burst must not cost a group its memory for ever.
        if self.tail.capacity() > TAIL_KEPT_ENTRIES && self.tail.len() < self.tail.capacity() / 8 {
            self.tail.shrink_to(self.tail.capacity() / 2);
        }
    }

    fn forget_while(&mut self, is_needless: impl Fn(&Self) -> bool) {
        while !self.tail.is_empty() && is_needless(self) {
            let entry = self.tail.pop_front().expect("just seen");
            self.tail_bytes -= entry.cost_bytes();
            self.tail_first = entry.index.next();
        }
    }

    /// See [`crate::Raft::rehome`].
    pub(crate) fn rehome(
        &mut self,
        first: LogIndex,
        payloads: impl Iterator<Item = (Term, u32, Bytes)>,
    ) {
        self.owned = self.owned.min(first.prev());
        let mut index = first;
        for (term, checksum, payload) in payloads {
            if index > self.last.index {
                return;
            }
            if index >= self.tail_first {
                let at = self.offset(index);
                let entry = &mut self.tail[at];
                if entry.term == term
                    && entry.checksum == checksum
                    && entry.payload.len() == payload.len()
                {
                    entry.payload = payload;
                }
            }
            index = index.next();
        }
    }

    /// See [`crate::Raft::own_tail`].
    pub(crate) fn own_tail(&mut self) -> usize {
        let skip = self.offset(self.owned.next().max(self.tail_first));
        let mut copied = 0;
        for entry in self.tail.range_mut(skip..) {
            entry.payload = Bytes::copy_from_slice(&entry.payload);
            copied += entry.payload.len();
        }
        self.owned = self.last.index;
        copied
    }

    /// See [`crate::Raft::tail_bytes`].
    pub(crate) fn tail_bytes(&self) -> usize {
        self.tail_bytes
    }

    /// The log now ends with entries `first..=last` of `term`.
    fn end_at(&mut self, term: Term, first: LogIndex, last: LogIndex) {
        assert!(
            term >= self.last.term && term > Term::ZERO,
            "term {term:?} at {first:?} is below {:?}",
            self.last
        );
        if self.runs.last().is_none_or(|run| run.term < term) {
            self.runs.push(TermRun { first, term });
        }
        self.last = LogId { term, index: last };
    }

    /// Where `index` stands in the tail; `index` is in it or just after it.
    fn offset(&self, index: LogIndex) -> usize {
        let offset = index.get() - self.tail_first.get();
        usize::try_from(offset).expect("the tail is in memory")
    }

    /// The drawing at the module's head.
    fn check(&self) {
        assert!(self.applied <= self.applying, "{:?} > {:?}", self.applied, self.applying);
        assert!(self.applying <= self.commit, "{:?} > {:?}", self.applying, self.commit);
        assert!(self.commit <= self.last.index, "{:?} > {:?}", self.commit, self.last);
        assert!(self.durable <= self.submitted, "{:?} > {:?}", self.durable, self.submitted);
        assert!(self.submitted <= self.last.index, "{:?} > {:?}", self.submitted, self.last);
        assert!(
            self.tail_first <= self.durable.next() || self.tail_first <= self.base.index.next(),
            "tail begins at {:?}, after durable {:?} and base {:?}",
            self.tail_first,
            self.durable,
            self.base
        );
    }
}

/// Bytes of committed entries kept in memory, over the tail's own bound, for a state machine that
/// is behind.
const HOARD_BYTES_MAX: usize = 4 << 20;

/// A tail's room for this many entries is kept however few it holds.
const TAIL_KEPT_ENTRIES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ConfigError;
    use alloc::vec;

    pub(super) fn entries(first: u64, terms: &[u64]) -> Vec<Entry> {
        (terms.iter().zip(first..))
            .map(|(&term, index)| Entry {
                term: Term(term),
                index: LogIndex(index),
                kind: EntryKind::Command,
                checksum: 0,
                payload: Bytes::from(vec![0; 8]),
            })
            .collect()
    }

    pub(super) fn log(terms: &[u64]) -> Log {
        let mut log = Log::restore(Restored::default());
        log.append(entries(1, terms));
        log
    }

    pub(super) fn restored(runs: &[(u64, u64)], last: u64, applied: u64, commit: u64) -> Restored {
        Restored {
            hard_state: HardState {
                term: Term(9),
                commit: LogIndex(commit),
                ..HardState::default()
            },
            runs: (runs.iter())
                .map(|&(first, term)| TermRun { first: LogIndex(first), term: Term(term) })
                .collect(),
            base: LogId::ZERO,
            last: LogIndex(last),
            applied: LogIndex(applied),
            applied_term: None,
        }
    }

    /// Makes all durable, committed and applied.
    pub(super) fn finish(log: &mut Log) {
        if let Some(write) = log.submit(None, None) {
            log.on_durable(write.id);
        }
        let last = log.last().index;
        log.commit_to(last);
        log.hand_out(last, 1);
        log.applied_to(last);
    }

    /// RULES.md W10, B5.
    /// A vote that waited behind entries without room waited for ever; one that overtook them would,
    /// once durable, have vouched for them.
    #[test]
    fn what_has_no_room_is_withdrawn_and_the_next_write_vouches_for_nothing_of_it() {
        let mut log = log(&[1, 1]);
        let first = log.submit(None, None).unwrap();
        log.append(entries(3, &[1, 1]));
        let state =
            HardState { term: Term(1), voted_for: None, commit: LogIndex(2), marked: false };
        let second = log.submit(Some(state), None).unwrap();
        log.append(entries(5, &[2]));
        let third = log.submit(None, None).unwrap();
        log.append(entries(6, &[2]));
        log.commit_to(LogIndex(4));
        assert!(log.withdraw(second.id), "a hard state is to be handed out again");
        assert_eq!(log.last(), LogId { term: Term(1), index: LogIndex(2) });
        assert_eq!((log.commit(), log.durable()), (LogIndex(2), LogIndex::ZERO));
        let vote = log.submit(Some(HardState { term: Term(3), ..state }), None).unwrap();
        assert!(vote.entries.is_empty() && vote.id <= third.id);
        log.on_durable(vote.id);
        assert_eq!(log.durable(), LogIndex(2));
        assert!(vote.id > first.id);
    }

    #[test]
    fn every_index_has_the_term_it_was_given() {
        let terms = [1, 1, 3, 3, 3, 4, 7, 7];
        let log = log(&terms);
        for (&term, index) in terms.iter().zip(1..) {
            assert_eq!(log.term_at(LogIndex(index)), Ok(Term(term)), "{index}");
        }
        assert_eq!(log.term_at(LogIndex::ZERO), Ok(Term::ZERO));
        assert_eq!(log.term_at(LogIndex(9)), Err(NoTerm::PastEnd));
        assert_eq!(log.runs.len(), 4);
    }

    #[test]
    fn the_last_entry_of_at_most_a_term_is_what_a_search_finds() {
        let terms = [1, 1, 3, 3, 3, 4, 7, 7];
        let log = log(&terms);
        for index in 0..12 {
            for term in 0..9 {
                let expected = (terms.iter().zip(1u64..))
                    .filter(|&(&t, i)| t <= term && i <= index)
                    .map(|(&t, i)| LogId { term: Term(t), index: LogIndex(i) })
                    .last()
                    .unwrap_or(LogId::ZERO);
                let found = log.last_at_most(LogIndex(index), Term(term));
                assert_eq!(found, expected, "index {index}, term {term}");
            }
        }
    }

    #[test]
    fn a_truncation_lowers_what_is_durable_and_what_writes_in_flight_will_make_so() {
        let mut log = log(&[1, 1, 1]);
        let first = log.submit(None, None).unwrap().id;
        log.truncate(LogIndex(2));
        log.append(entries(2, &[1, 1]));
        log.on_durable(first);
        assert_eq!(log.durable(), LogIndex(1), "equal entries, another write");
        let second = log.submit(None, None).unwrap();
        assert_eq!(second.entries.first().unwrap().index, LogIndex(2));
        log.on_durable(second.id);
        assert_eq!(log.durable(), LogIndex(3));
        log.truncate(LogIndex(3));
        assert_eq!(log.durable(), LogIndex(2));
    }

    #[test]
    #[should_panic(expected = "removes commit")]
    fn what_is_committed_is_not_truncated() {
        let mut log = log(&[1, 1, 1]);
        log.commit_to(LogIndex(2));
        log.truncate(LogIndex(2));
    }

    /// RULES.md rule 15.
    #[test]
    fn a_restart_clamps_the_commit_index() {
        let commit = |last, applied, commit| {
            let restored = restored(&[(1, 1)], last, applied, commit);
            restored.check().map(|()| Log::restore(restored).commit().get())
        };
        assert_eq!(commit(5, 0, 3), Ok(3));
        assert_eq!(commit(5, 0, 9), Ok(5), "saved, but its entries were not durable");
        assert_eq!(commit(5, 4, 3), Ok(4), "applied is committed");
        let (applied, last) = (LogIndex(6), LogIndex(5));
        assert_eq!(commit(5, 6, 3), Err(ConfigError::AppliedPastLog { applied, last }));
    }

    #[test]
    fn a_log_that_cannot_be_is_refused() {
        for (runs, last) in [
            (&[][..], 1),
            (&[(1, 1)][..], 0),
            (&[(2, 1)][..], 3),
            (&[(1, 0)][..], 3),
            (&[(1, 2), (3, 1)][..], 3),
            (&[(1, 2), (2, 2)][..], 3),
            (&[(1, 1), (4, 2)][..], 3),
            (&[(1, 10)][..], 3),
        ] {
            let found = restored(runs, last, 0, 0).check();
            assert!(matches!(found, Err(ConfigError::BadLog(_))), "{runs:?} to {last}: {found:?}");
        }
    }

    #[test]
    fn applied_entries_are_forgotten_once_every_peer_that_keeps_up_has_them() {
        let mut log = log(&[1; 10]);
        finish(&mut log);
        log.forget(LogIndex(4), usize::MAX);
        assert_eq!(log.tail_first(), LogIndex(5));
        log.forget(LogIndex(10), usize::MAX);
        assert_eq!((log.tail_first(), log.tail_bytes), (LogIndex(11), 0));
        assert_eq!(log.term_at(LogIndex(1)), Ok(Term(1)));
    }

    #[test]
    fn over_its_bound_the_tail_forgets_what_followers_still_want() {
        let mut log = log(&[1; 10]);
        finish(&mut log);
        log.forget(LogIndex::ZERO, 3 * 40);
        assert_eq!((log.tail_first(), log.tail_bytes), (LogIndex(8), 120));
    }

    #[test]
    fn what_is_not_durable_is_never_forgotten() {
        let mut log = log(&[1; 10]);
        log.submit(None, None);
        log.commit_to(LogIndex(10));
        log.forget(LogIndex(10), 0);
        assert_eq!(log.tail_first(), LogIndex(1));
    }

    #[test]
    fn a_burst_does_not_keep_its_memory() {
        let mut log = log(&[1; 4096]);
        finish(&mut log);
        for _ in 0..16 {
            log.forget(LogIndex(u64::MAX), 0);
        }
        assert!(log.tail.capacity() <= TAIL_KEPT_ENTRIES, "{}", log.tail.capacity());
    }

    #[test]
    fn a_copy_keeps_to_its_bytes_but_for_a_first_entry_alone() {
        let log = log(&[1; 10]);
        let copied = |bytes_max, at_least_one| {
            log.copy(LogIndex(3), LogIndex(9), bytes_max, at_least_one).0.len()
        };
        assert_eq!(copied(usize::MAX, false), 7);
        assert_eq!(copied(80, false), 2);
        assert_eq!(copied(79, false), 1);
        assert_eq!((copied(39, false), copied(39, true)), (0, 1));
    }

    #[test]
    fn a_payload_moves_only_to_its_equal() {
        let mut log = log(&[1, 1, 2]);
        let there = Bytes::from_static(b"01234567");
        let offer = |term, checksum, payload: &Bytes| (Term(term), checksum, payload.clone());
        let short = Bytes::from_static(b"0123");
        let offers = [offer(1, 0, &there), offer(1, 1, &there), offer(1, 0, &there)];
        log.rehome(LogIndex(1), offers.into_iter());
        let moved: Vec<bool> =
            log.tail.iter().map(|entry| entry.payload.as_ptr() == there.as_ptr()).collect();
        assert_eq!(moved, [true, false, false], "by checksum, then by term");
        log.rehome(LogIndex(2), [offer(1, 0, &short)].into_iter());
        assert_eq!(log.tail[1].payload.len(), 8);
        assert_eq!(log.own_tail(), 24);
        assert_eq!(log.tail[0].payload, there);
        assert_ne!(log.tail[0].payload.as_ptr(), there.as_ptr());
        // It was copied again at every sealed segment, whole.
        assert_eq!(log.own_tail(), 0, "what is owned is not copied again");
        log.rehome(LogIndex(2), &mut [offer(1, 0, &there)].into_iter());
        assert_eq!(log.tail[1].payload.as_ptr(), there.as_ptr());
        assert_eq!(log.own_tail(), 16, "what was borrowed since, and what is behind it");
        assert_ne!(log.tail[1].payload.as_ptr(), there.as_ptr());
    }
}
