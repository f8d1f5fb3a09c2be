//! The log's base: the last entry that the log has let go of, because the state up to there is kept outside the log.
//!
//! A release moves the base up within the log. An installed snapshot moves it past what this replica has applied, and
//! perhaps past the log's end. The base never falls, not even by a crash or for want of room on the disk.
//!
//! In:     how far the log may be released; the last entry of a snapshot.
//! Out:    a base that is further on, and that the disk is to be told of.
//! Cost:   of what is let go of, whatever the log holds; the terms' memory shrinks with it.
//! Fails:  a base before what is committed and applied, or before the present one, panics.
//! Source: paper §7 and figure 13.

use super::Log;
use crate::{LogId, LogIndex, NoTerm, rules};

impl Log {
    /// The last entry that the log has let go of; `ZERO` if none.
    pub(crate) fn base(&self) -> LogId {
        self.base
    }

    /// The last entry that was handed to the disk, or the base.
    pub(crate) fn submitted(&self) -> LogIndex {
        self.submitted
    }

    /// The entry at `index`, where `known` is an entry of this log. `None` if the log has let go of it, and its term is
    /// not known either: terms never fall, so it is known if `known`, before it, has the term of the base, behind it.
    #[inline]
    pub(crate) fn name(&self, index: LogIndex, known: LogId) -> Option<LogId> {
        match self.term_at(index) {
            Ok(term) => Some(LogId { term, index }),
            Err(NoTerm::Released) if known.index <= index && known.term == self.base.term => {
                Some(LogId { index, ..known })
            }
            Err(_) => None,
        }
    }

    /// Lets go of the entries up to `to`.
    pub(crate) fn release(&mut self, to: LogIndex) {
        assert!(to > self.base.index, "{to:?} was released before: {:?}", self.base);
        assert!(to <= self.applied, "{to:?} is not applied yet: {:?}", self.applied);
        assert!(to <= self.durable, "{to:?} is not durable yet: {:?}", self.durable);
        let term = self.term_at(to).expect("it is behind the base and durable");
        self.move_base(LogId { term, index: to });
        self.check();
    }

    /// The state machine is at `snapshot` by other means than this log's entries. If `keeps_behind`, the log has that
    /// entry, and those behind it stay; else the log is replaced whole.
    pub(crate) fn install(&mut self, snapshot: LogId, keeps_behind: bool) {
        assert!(snapshot.index > self.commit, "{snapshot:?} is not after {:?}", self.commit);
        if keeps_behind {
            self.move_base(snapshot);
        } else {
            self.replace_by(snapshot);
        }
        self.commit = snapshot.index;
        self.applying = snapshot.index;
        self.applied = snapshot.index;
        self.handed_out.clear();
        self.handed_out_bytes = 0;
        self.check();
    }

    /// The log begins behind `base`, which is in it.
    fn move_base(&mut self, base: LogId) {
        self.base = base;
        let first = base.index.next();
        if first > self.last.index {
            self.runs.clear();
        } else {
            let before = self.runs.partition_point(|run| run.first <= first) - 1;
            self.runs.drain(..before);
            self.runs[0].first = first;
        }
        if self.runs.capacity() > RUNS_KEPT.max(4 * self.runs.len()) {
            self.runs.shrink_to(2 * self.runs.len());
        }
        self.forget_while(|log| log.tail_first < first);
        // An installed snapshot may cover entries that the disk has not been given: it needs them no more.
        self.submitted = self.submitted.max(base.index);
    }

    /// Nothing of the log is left but `base`. Writes in flight hold entries of the old log, so none of them vouches for
    /// anything in this one: the base is durable with the write that tells the disk of it.
    fn replace_by(&mut self, base: LogId) {
        crate::reached!("log replaced by a snapshot");
        self.base = base;
        self.last = base;
        self.runs.clear();
        self.tail.clear();
        self.tail_first = base.index.next();
        self.tail_bytes = 0;
        self.owned = base.index;
        self.submitted = base.index;
        self.durable = LogIndex::ZERO;
        for write in &mut self.writes {
            write.last = rules::vouched_for_after_cut(write.last, LogId::ZERO);
        }
    }
}

/// Room for this many runs of terms is kept however few there are.
const RUNS_KEPT: usize = 16;

#[cfg(test)]
mod tests {
    use super::super::tests::{entries, finish, log, restored};
    use super::*;
    use crate::{ConfigError, HardState, Restored, Term};
    use alloc::vec::Vec;

    const TERMS: [u64; 8] = [1, 1, 3, 3, 3, 4, 7, 7];

    fn id(term: u64, index: u64) -> LogId {
        LogId { term: Term(term), index: LogIndex(index) }
    }

    /// A log of [`TERMS`], all of it applied and durable, released up to `base`.
    fn released(base: u64) -> Log {
        let mut log = log(&TERMS);
        finish(&mut log);
        if base > 0 {
            log.release(LogIndex(base));
        }
        log
    }

    #[test]
    fn the_base_has_its_term_and_before_it_there_is_another_answer_than_past_the_end() {
        for base in 0..=8 {
            let log = released(base);
            for index in 0..=10 {
                let expected = match index {
                    _ if index < base => Err(NoTerm::Released),
                    0 => Ok(Term::ZERO),
                    1..=8 => Ok(Term(TERMS[usize::try_from(index - 1).unwrap()])),
                    _ => Err(NoTerm::PastEnd),
                };
                assert_eq!(log.term_at(LogIndex(index)), expected, "base {base}, index {index}");
            }
        }
    }

    #[test]
    fn a_search_finds_what_it_found_before_or_says_that_it_was_released() {
        let whole = released(0);
        for base in 1..=8 {
            let log = released(base);
            for index in 0..12 {
                for term in 0..9 {
                    let found = whole.last_at_most(LogIndex(index), Term(term));
                    let expected = if found.index < LogIndex(base) { LogId::ZERO } else { found };
                    let is = log.last_at_most(LogIndex(index), Term(term));
                    assert_eq!(is, expected, "base {base}, index {index}, term {term}");
                }
            }
        }
    }

    /// A peer is known to have entry 2 of term 1. Then the log is released up to a base. Then the peer acknowledges a later
    /// entry, which may be released by then.
    #[test]
    fn an_entry_is_named_unless_it_was_released_and_its_term_forgotten() {
        for base in 0..=8 {
            let log = released(base);
            for index in 0..=9 {
                let expected = match index {
                    9 => None,
                    _ if index >= base => log.term_at(LogIndex(index)).ok(),
                    _ => None,
                };
                let expected = expected.map(|term| LogId { term, index: LogIndex(index) });
                assert_eq!(log.name(LogIndex(index), id(1, 2)), expected, "base {base}, {index}");
            }
        }
        let log = released(5);
        assert_eq!(log.name(LogIndex(4), id(3, 3)), Some(id(3, 4)));
        assert_eq!(log.name(LogIndex(4), id(1, 2)), None, "it may be of term 1 or 3");
        assert_eq!(log.name(LogIndex(2), id(3, 3)), None, "it may be of any term up to 3");
    }

    #[test]
    fn a_release_gives_back_the_memory_of_terms_and_entries() {
        let terms: Vec<u64> = (1..=1000).collect();
        let mut log = log(&terms);
        finish(&mut log);
        log.release(LogIndex(999));
        assert_eq!((log.runs.len(), log.tail_first()), (1, LogIndex(1000)));
        assert!(log.runs.capacity() <= RUNS_KEPT, "{}", log.runs.capacity());
        assert_eq!(log.tail_bytes(), 40);
        log.release(LogIndex(1000));
        assert_eq!((log.runs.len(), log.tail_bytes()), (0, 0));
        assert_eq!(log.last(), id(1000, 1000));
    }

    #[test]
    #[should_panic(expected = "is not applied yet")]
    fn what_is_not_applied_is_not_released() {
        let mut log = log(&TERMS);
        let write = log.submit(None, None).unwrap();
        log.on_durable(write.id);
        log.commit_to(LogIndex(8));
        log.release(LogIndex(1));
    }

    #[test]
    fn a_log_goes_on_behind_its_base_and_is_cut_back_to_it() {
        let mut log = released(8);
        log.append(entries(9, &[7, 8]));
        assert_eq!(log.term_at(LogIndex(9)), Ok(Term(7)));
        log.truncate(LogIndex(9));
        assert_eq!((log.last(), log.durable()), (id(7, 8), LogIndex(8)));
        log.append(entries(9, &[9]));
        let write = log.submit(None, None).unwrap();
        assert_eq!(write.entries.first().unwrap().id(), id(9, 9));
    }

    #[test]
    fn a_snapshot_at_an_entry_of_the_log_keeps_what_is_behind_it() {
        let mut log = log(&TERMS);
        let first = log.submit(None, None).unwrap();
        log.append(entries(9, &[7, 7]));
        log.install(id(4, 6), true);
        assert_eq!((log.base(), log.last()), (id(4, 6), id(7, 10)));
        assert_eq!((log.tail_first(), log.durable()), (LogIndex(7), LogIndex::ZERO));
        assert_eq!(log.submitted(), LogIndex(8));
        let second = log.submit(None, None).unwrap();
        assert_eq!(second.entries.first().unwrap().id(), id(7, 9));
        log.on_durable(first.id);
        assert_eq!(log.durable(), LogIndex(8));
        log.on_durable(second.id);
        assert_eq!(log.durable(), LogIndex(10));
    }

    #[test]
    fn a_snapshot_covers_entries_that_the_disk_was_not_given() {
        let mut log = log(&TERMS);
        log.install(id(4, 6), true);
        assert_eq!(log.submitted(), LogIndex(6));
        let write = log.submit(None, None).unwrap();
        assert_eq!(write.entries.first().unwrap().id(), id(7, 7));
    }

    /// The entries of the old log are written after the snapshot was taken, and before its own write.
    #[test]
    fn no_write_of_the_old_log_vouches_for_a_snapshot_that_replaces_it() {
        for snapshot in [id(5, 6), id(7, 20)] {
            let mut log = log(&TERMS);
            let old = log.submit(None, None).unwrap();
            log.install(snapshot, false);
            assert_eq!((log.base(), log.last()), (snapshot, snapshot));
            assert_eq!((log.commit(), log.applied()), (snapshot.index, snapshot.index));
            assert_eq!(log.submitted(), snapshot.index);
            let new = log.submit(Some(HardState::default()), None).unwrap();
            assert!(new.entries.is_empty());
            log.append(entries(snapshot.index.get() + 1, &[8]));
            let behind = log.submit(None, None).unwrap();
            log.on_durable(old.id);
            assert_eq!(log.durable(), LogIndex::ZERO);
            log.on_durable(new.id);
            assert_eq!(log.durable(), snapshot.index);
            log.on_durable(behind.id);
            assert_eq!(log.durable(), snapshot.index.next());
        }
    }

    /// RULES.md W10.
    #[test]
    fn a_base_whose_write_is_withdrawn_stays() {
        let mut log = log(&TERMS);
        let old = log.submit(None, None).unwrap();
        log.install(id(8, 20), false);
        let new = log.submit(Some(HardState::default()), None).unwrap();
        log.append(entries(21, &[8]));
        let behind = log.submit(None, None).unwrap();
        assert!(!log.withdraw(behind.id));
        assert_eq!(log.last(), id(8, 20));
        assert!(log.withdraw(new.id));
        assert_eq!(log.last(), id(8, 20));
        assert_eq!((log.submitted(), log.durable()), (LogIndex(20), LogIndex::ZERO));
        let again = log.submit(Some(HardState::default()), None).unwrap();
        assert_eq!(again.id, old.id.next());
        log.on_durable(again.id);
        assert_eq!((log.durable(), log.commit()), (LogIndex(20), LogIndex(20)));
    }

    #[test]
    fn a_restart_begins_at_the_base_and_commits_it() {
        let behind = |runs: &[(u64, u64)], last, applied, commit| Restored {
            base: id(3, 5),
            ..restored(runs, last, applied, commit)
        };
        for (runs, last, applied, commit) in
            [(&[][..], 5, 5, 0), (&[(6, 3)][..], 8, 5, 3), (&[(6, 4), (8, 7)][..], 8, 6, 2)]
        {
            let found = behind(runs, last, applied, commit);
            assert_eq!(found.check(), Ok(()));
            let log = Log::restore(found);
            assert_eq!((log.base(), log.commit()), (id(3, 5), LogIndex(applied)));
            assert_eq!((log.last().index, log.durable()), (LogIndex(last), LogIndex(last)));
            assert_eq!(log.term_at(LogIndex(5)), Ok(Term(3)));
        }
        for (runs, last) in [
            (&[(1, 1)][..], 8),
            (&[(5, 3)][..], 8),
            (&[(7, 3)][..], 8),
            (&[(6, 2)][..], 8),
            (&[(6, 3)][..], 5),
            (&[][..], 8),
            (&[][..], 4),
        ] {
            let found = behind(runs, last, 5, 5).check();
            assert!(matches!(found, Err(ConfigError::BadLog(_))), "{runs:?} to {last}: {found:?}");
        }
        // The terms are 3 at the base, 4 at 6 and 7, and 7 at 8.
        for (applied, in_log) in [(5, 3), (6, 4), (7, 4), (8, 7)] {
            for term in [3, 4, 7].map(Term) {
                let applied_term = Some(term);
                let found = behind(&[(6, 4), (8, 7)], 8, applied, 2);
                let is = Restored { applied_term, ..found }.check();
                let (applied, in_log) = (LogIndex(applied), Term(in_log));
                let other = Err(ConfigError::AppliedOther { applied, term, in_log });
                assert_eq!(is, if term == in_log { Ok(()) } else { other });
            }
        }
        let (applied, base) = (LogIndex(4), LogIndex(5));
        let found = behind(&[(6, 3)], 8, 4, 5).check();
        assert_eq!(found, Err(ConfigError::AppliedBeforeBase { applied, base }));
        for base in [id(0, 5), id(3, 0), id(10, 5)] {
            let found = Restored { base, ..behind(&[(6, 10)], 8, 5, 5) }.check();
            assert!(matches!(found, Err(ConfigError::BadLog(_))), "{base:?}: {found:?}");
        }
    }
}
