//! After a restart a log is what was durable, and some prefix of what was written after it, in the
//! order it was written (RULES.md invariant 14).

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
    // From the moment the platter is known to have reached, on.
    let durable = history.reaches(&replica.durable);
    require(durable, || format!("the disk had {}, which was no prefix", ends(&replica.durable)))?;
    let found = history.reaches(state);
    require(found, || format!("the disk had {}", ends(&replica.durable)))
}

/// `Err` if the log holds an entry that no log of the group ever held. Where its end was lost, that is what can be said.
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
    /// Goes on until the state is `wanted`; false if it never is.
    fn reaches(&mut self, wanted: &LogState) -> bool {
        loop {
            if is_same(&self.state, wanted) {
                return true;
            }
            let Some((change, rest)) = self.changes.split_first() else { return false };
            if let Some(hard_state) = change.hard_state {
                self.state.hard_state = hard_state;
                if is_same(&self.state, wanted) {
                    // The entries of this change are still to come.
                    return true;
                }
            }
            if !change.entries.is_empty() {
                self.state.log.truncate(place(change.first));
                for (n, mark) in change.entries.iter().enumerate() {
                    self.state.log.push(*mark);
                    if n + 1 < change.entries.len() && is_same(&self.state, wanted) {
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
