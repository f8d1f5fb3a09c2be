//! One group's log as the core knows it: the terms of all of it, the entries at its end, and the
//! cursors over it.
//!
//! ```text
//!              (forgotten: on disk only)      tail (in memory)
//!   |--------------------------------------|=====================|
//!   1                                       tail_first            last
//!
//!   applied ≤ applying ≤ commit ≤ last         applied     the state machine is here
//!             applying ≤ durable               applying    handed to the state machine
//!   durable ≤ submitted ≤ last                 commit      known to be on a majority, for ever
//!   tail_first ≤ durable + 1                   durable     on this disk
//!                                              submitted   handed to the disk
//!
//!   Not claimed: commit ≤ durable. A majority may commit what this node has not yet synced (thesis
//!   §10.2.1); it is applied here only once it is durable here.
//!   Not claimed: durable only grows. A new leader's entries replace what does not agree with them,
//!   durable or not, as long as it is not committed.
//!   Not claimed: applying ≥ tail_first - 1. After a restart the tail is empty, and what a slow state
//!   machine has not taken is forgotten rather than hoarded; both come back by a fetch.
//! ```
//!
//! In:     entries to append, writes and applies that finished.
//! Out:    [`Log::submit`]: the next write; [`Log::copy`]: entries from memory; terms of any index.
//! Cost:   16 bytes per leader the log ever had, the tail, 48 bytes per write in flight.
//! Fails:  a cursor that would leave its place panics; nothing a peer sends may lead there.
//! Source: paper §5.3; thesis §10.2.1; FAULTS.md rules 10, 14, 15.

use crate::{
    Command, ConfigError, Entry, EntryBatch, EntryKind, HardState, LogId, LogIndex, LogRange,
    Restored, Term, TermRun, Write, WriteId,
};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use bytes::Bytes;

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Log {
    runs: Vec<TermRun>,
    tail: VecDeque<Entry>,
    tail_first: LogIndex,
    tail_bytes: usize,
    last: LogId,
    submitted: LogIndex,
    durable: LogIndex,
    commit: LogIndex,
    applying: LogIndex,
    applied: LogIndex,
    /// Batches handed to the state machine and not yet applied: last entry and bytes of each.
    handed_out: VecDeque<(LogIndex, usize)>,
    handed_out_bytes: usize,
    /// Writes handed to the disk and not yet durable, oldest first.
    writes: VecDeque<InFlight>,
    newest_write: WriteId,
}

/// What becomes true when a write is durable.
#[derive(Debug)]
struct InFlight {
    id: WriteId,
    /// The log's end as of this write, or as much of it as is still in the log.
    ///
    /// Comparing terms when the write is done would not do (ABA, FAULTS.md W14): 1. write 1 holds
    /// entry 7 of term 2. 2. The leader of term 3 replaces it, write 2. 3. The leader of term 4 has
    /// 7 of term 2 and puts it back, write 3. Write 1 done says that entry 7 of term 2 is durable, but
    /// write 2 may be on disk over it and write 3 not. So a truncation lowers this for every write in
    /// flight, and nothing raises it.
    last: LogId,
    hard_state: Option<HardState>,
}

impl Log {
    /// The log as recovery found it, its end durable and nothing of it in memory.
    pub(crate) fn restore(restored: Restored) -> Result<Self, ConfigError> {
        let Restored { hard_state, runs, last, applied } = restored;
        check_runs(&runs, last, hard_state.term)?;
        if applied > last {
            return Err(ConfigError::AppliedPastLog { applied, last });
        }
        let term = runs.last().map_or(Term::ZERO, |run| run.term);
        Ok(Self {
            runs,
            tail: VecDeque::new(),
            tail_first: last.next(),
            tail_bytes: 0,
            last: LogId { term, index: last },
            submitted: last,
            durable: last,
            // What the machine applied was committed, whatever the saved index says (rule 15).
            commit: hard_state.commit.min(last).max(applied),
            applying: applied,
            applied,
            handed_out: VecDeque::new(),
            handed_out_bytes: 0,
            writes: VecDeque::new(),
            newest_write: WriteId::ZERO,
        })
    }

    /// The last entry, durable or not.
    pub(crate) fn last(&self) -> LogId {
        self.last
    }

    pub(crate) fn durable(&self) -> LogIndex {
        self.durable
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

    /// The term of the entry at `index`; `Term::ZERO` before the first, `None` after the last.
    pub(crate) fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index > self.last.index {
            return None;
        }
        if index == LogIndex::ZERO {
            return Some(Term::ZERO);
        }
        // Nearly every question is about the newest term.
        match self.runs.last() {
            Some(run) if index >= run.first => Some(run.term),
            _ => {
                let after = self.runs.partition_point(|run| run.first <= index);
                Some(self.runs[after - 1].term)
            }
        }
    }

    /// True if the log has this entry (and so, all before it: log matching, paper §5.3).
    pub(crate) fn contains(&self, id: LogId) -> bool {
        self.term_at(id.index) == Some(id.term)
    }

    /// The last entry at or before `index` whose term is at most `term`.
    ///
    /// No later one up to `index` can be in a log whose entry at `index` has `term`: terms never fall.
    pub(crate) fn last_at_most(&self, index: LogIndex, term: Term) -> LogId {
        let index = index.min(self.last.index);
        let after = self.runs.partition_point(|run| run.term <= term);
        let end = self.runs.get(after).map_or(self.last.index, |run| run.first.prev());
        let index = index.min(end);
        LogId { term: self.term_at(index).expect("at most the last"), index }
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
        let term = self.runs.last().map_or(Term::ZERO, |run| run.term);
        self.last = LogId { term, index: keep };
        self.submitted = self.submitted.min(keep);
        self.durable = self.durable.min(keep);
        for write in &mut self.writes {
            if write.last.index > keep {
                write.last = self.last;
            }
        }
        self.check();
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

    /// The next write: the entries not yet handed to the disk, and `hard_state` if it changed.
    pub(crate) fn submit(&mut self, hard_state: Option<HardState>) -> Option<Write> {
        if hard_state.is_none() && self.submitted == self.last.index {
            return None;
        }
        let skip = self.offset(self.submitted.next());
        let entries: Vec<Entry> = self.tail.range(skip..).cloned().collect();
        let id = self.newest_write.next();
        self.newest_write = id;
        self.submitted = self.last.index;
        self.writes.push_back(InFlight { id, last: self.last, hard_state });
        Some(Write { id, hard_state, entries: EntryBatch::contiguous(entries) })
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
            assert!(
                self.contains(write.last),
                "write {:?} ends at {:?}, which is not in the log",
                write.id,
                write.last
            );
            self.durable = self.durable.max(write.last.index);
            hard_state = write.hard_state.or(hard_state);
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
        let entries = self.tail.range(skip..skip + count).cloned().collect();
        (EntryBatch::contiguous(entries), bytes)
    }

    /// True if all of `entries` are in the log as they are here.
    pub(crate) fn contains_all(&self, entries: &EntryBatch) -> bool {
        entries.as_slice().iter().all(|entry| self.contains(entry.id()))
    }

    /// What may be applied: committed, and durable here (rule 16).
    pub(crate) fn appliable(&self) -> LogIndex {
        self.commit.min(self.durable)
    }

    /// Entries up to `last` go to the state machine, `bytes` of them.
    pub(crate) fn hand_out(&mut self, last: LogIndex, bytes: usize) {
        assert!(last > self.applying, "{last:?} was handed out before {:?}", self.applying);
        assert!(last <= self.appliable(), "{last:?} is after appliable {:?}", self.appliable());
        self.applying = last;
        self.handed_out.push_back((last, bytes));
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
        while let Some(&(last, bytes)) = self.handed_out.front() {
            if last > self.applied {
                break;
            }
            self.handed_out.pop_front();
            self.handed_out_bytes -= bytes;
        }
    }

    /// Drops entries from memory that nobody here needs: durable, and either applied and `matched`
    /// by every peer that keeps up, or too many.
    pub(crate) fn forget(&mut self, matched: LogIndex, tail_bytes_max: usize) {
        let done = self.applied.min(self.durable).min(matched);
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
        payloads: &mut dyn Iterator<Item = (Term, u32, Bytes)>,
    ) {
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
    pub(crate) fn own_tail(&mut self) {
        for entry in &mut self.tail {
            entry.payload = Bytes::copy_from_slice(&entry.payload);
        }
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
            self.tail_first <= self.durable.next(),
            "tail begins at {:?}, after durable {:?}",
            self.tail_first,
            self.durable
        );
    }
}

fn check_runs(runs: &[TermRun], last: LogIndex, term: Term) -> Result<(), ConfigError> {
    let bad = |what| Err(ConfigError::BadLog(what));
    if runs.is_empty() != (last == LogIndex::ZERO) {
        return bad("the terms and the last entry disagree whether there is a log");
    }
    if runs.first().is_some_and(|run| run.first != LogIndex(1) || run.term == Term::ZERO) {
        return bad("the log does not begin at entry 1, in a term after zero");
    }
    if !runs.is_sorted_by(|a, b| a.first < b.first && a.term < b.term) {
        return bad("indexes or terms fall");
    }
    if runs.last().is_some_and(|run| run.first > last || run.term > term) {
        return bad("an entry is past the last one or of a term past the newest");
    }
    Ok(())
}

/// Bytes of committed entries kept in memory, over the tail's own bound, for a state machine that
/// is behind.
const HOARD_BYTES_MAX: usize = 4 << 20;

/// A tail's room for this many entries is kept however few it holds.
const TAIL_KEPT_ENTRIES: usize = 64;
