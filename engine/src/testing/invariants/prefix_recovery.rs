//! After a restart a log has all that was durable, and some prefix of the writes after that, in the order of writing.
//! Its commit index had been saved by then, and covers only entries that the log has (RULES.md invariant 14).

use super::{Check, Invariant, require};
use crate::testing::event::{Change, Event, LogState};
use crate::testing::ghost::{Ghost, Replica, place};
use crate::{GroupId, LogIndex, Term};

pub(super) const INVARIANT: Invariant = Invariant { name: "14 prefix recovery", check };

fn check(ghost: &Ghost, event: &Event<'_>) -> Check {
    let Event::Recovered { node, group, state, has_lost } = event else { return Ok(()) };
    let Some(replica) = ghost.replicas.get(&(*node, *group)) else { return Ok(()) };
    let followed = if *has_lost { was_once(ghost, *group, state) } else { follows(replica, state) };
    followed.map_err(|what| format!("{node:?} recovered {} of {group:?}: {what}", ends(state)))
}

/// `Err` if a restart must not find `state`.
pub(super) fn follows(replica: &Replica, state: &LogState) -> Check {
    let mut history = History { state: replica.found.clone(), changes: &replica.changes };
    // The search for `state` begins where the platter is known to be.
    let durable = history.reaches(&replica.durable);
    require(durable, || format!("the disk had {}, which was no prefix", ends(&replica.durable)))?;
    let found = history.reaches(state);
    require(found, || format!("the disk had {}", ends(&replica.durable)))?;
    let (commit, saved) = (state.hard_state.commit, history.saved_by(state));
    let last = LogIndex(state.log.len() as u64);
    require(commit <= saved.min(last), || {
        format!("a commit index of {commit:?}, of which {saved:?} was saved and {last:?} is there")
    })
}

/// `Err` if the log holds an entry that no log of the group ever held. No more can be asked of a log that lost its
/// end.
fn was_once(ghost: &Ghost, group: GroupId, state: &LogState) -> Check {
    let (mut index, mut before) = (LogIndex(1), Term::ZERO);
    for mark in &state.log {
        let known = ghost.entries.get(&(group, index, mark.term));
        require(known == Some(&(mark.checksum, before)), || {
            format!("no log ever held {mark:?} at {index:?} behind one of {before:?}")
        })?;
        (index, before) = (index.next(), mark.term);
    }
    Ok(())
}

/// All states a log passes through as its changes land, one entry at a time.
struct History<'a> {
    state: LogState,
    changes: &'a [Change],
}

impl History<'_> {
    /// Lands changes until the state is `wanted`; false if it never is.
    fn reaches(&mut self, wanted: &LogState) -> bool {
        self.land(|state, _| is_same(state, wanted))
    }

    /// The largest commit index that was saved when the state was `wanted` for the last time. A hard state of which only
    /// the commit index is new leaves the state as it was.
    fn saved_by(mut self, wanted: &LogState) -> LogIndex {
        let mut largest = LogIndex::ZERO;
        self.land(|state, saved| {
            if is_same(state, wanted) {
                largest = saved;
            }
            false
        });
        largest
    }

    /// Lands changes until `is_enough` is true of the state and the largest commit index saved so far; false if it
    /// never is. The next call lands the change at which this one stopped once more, which alters nothing.
    fn land(&mut self, mut is_enough: impl FnMut(&LogState, LogIndex) -> bool) -> bool {
        let mut saved = self.state.hard_state.commit;
        loop {
            if is_enough(&self.state, saved) {
                return true;
            }
            let Some((change, rest)) = self.changes.split_first() else { return false };
            if let Some(hard_state) = change.hard_state {
                saved = saved.max(hard_state.commit);
                self.state.hard_state = hard_state;
                if is_enough(&self.state, saved) {
                    // The entries of this change are still to come.
                    return true;
                }
            }
            if !change.entries.is_empty() {
                self.state.log.truncate(place(change.first));
                for (n, mark) in change.entries.iter().enumerate() {
                    self.state.log.push(*mark);
                    if n + 1 < change.entries.len() && is_enough(&self.state, saved) {
                        return true;
                    }
                }
            }
            self.changes = rest;
        }
    }
}

fn is_same(a: &LogState, b: &LogState) -> bool {
    let vote = |state: &LogState| (state.hard_state.term, state.hard_state.voted_for);
    a.log.len() == b.log.len()
        && a.log.last() == b.log.last()
        && vote(a) == vote(b)
        && a.log == b.log
}

pub(super) fn ends(state: &LogState) -> String {
    format!("{} entries to {:?} with {:?}", state.log.len(), state.log.last(), state.hard_state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::event::Mark;
    use logdrive_raft::{HardState, WriteId};

    fn hard_state(term: u64, commit: u64) -> HardState {
        HardState { term: Term(term), commit: LogIndex(commit), ..HardState::default() }
    }

    fn log(terms: &[u64]) -> Vec<Mark> {
        terms.iter().map(|term| Mark { term: Term(*term), checksum: 7 }).collect()
    }

    fn change(state: Option<HardState>, first: u64, terms: &[u64]) -> Change {
        let (write, first, entries) = (WriteId(first), LogIndex(first), log(terms));
        Change { write, hard_state: state, first, cost_bytes: vec![1; entries.len()], entries }
    }

    /// RULES.md B1.
    #[test]
    fn a_commit_index_that_was_not_saved_or_covers_missing_entries_is_never_recovered() {
        let changes = vec![
            change(Some(hard_state(1, 0)), 1, &[1, 1, 1]),
            change(Some(hard_state(1, 2)), 4, &[]),
            change(Some(hard_state(2, 3)), 4, &[2, 2]),
            change(Some(hard_state(2, 5)), 6, &[]),
        ];
        let replica = Replica { changes, ..Replica::default() };
        let is_possible = |term, commit, terms: &[u64]| {
            let state = LogState { hard_state: hard_state(term, commit), log: log(terms) };
            follows(&replica, &state).is_ok()
        };
        assert!(is_possible(1, 0, &[1, 1, 1]) && is_possible(1, 2, &[1, 1, 1]));
        assert!(!is_possible(1, 3, &[1, 1, 1]), "saved only with the next term");
        assert!(is_possible(2, 3, &[1, 1, 1]) && is_possible(2, 3, &[1, 1, 1, 2]));
        assert!(!is_possible(2, 4, &[1, 1, 1, 2]), "saved only when all entries were there");
        assert!(is_possible(2, 5, &[1, 1, 1, 2, 2]));
        assert!(!is_possible(2, 6, &[1, 1, 1, 2, 2]), "never saved");
        assert!(!is_possible(1, 2, &[1]), "covers an entry that is missing");
    }
}
