//! applied ≤ applying ≤ commit ≤ last and durable ≤ last. Entries that a replica believes durable are durable and stay
//! so. A disk has a term before entries of it, and entries before a hard state that calls them committed (RULES.md
//! rule 11, invariant 12).

use super::{Check, Invariant, require};
use crate::testing::event::{Change, Event, LogState, Mark};
use crate::testing::ghost::{Ghost, count};

pub(super) const INVARIANT: Invariant = Invariant { name: "12 state order", check };

fn check(ghost: &Ghost, event: &Event<'_>) -> Check {
    match event {
        Event::Turned { node, group, status, .. } => {
            let ordered = status.applied <= status.applying
                && status.applying <= status.commit
                && status.commit <= status.last_log.index
                && status.durable <= status.last_log.index;
            require(ordered, || format!("{node:?} {group:?} is {status:?}"))?;
            let replica = ghost.replica(*node, *group);
            let log = replica.state.log.len();
            let is_cut_short = ghost.is_cut_short(*node, *group);
            let last = count(status.last_log.index);
            require(log == last || is_cut_short && log < last, || {
                let last = status.last_log;
                format!("{node:?} ends {group:?} at {last:?}, but has written {log}")
            })?;
            // Up to the index that the replica believes durable, its disk has what its log has.
            let believed = count(status.durable);
            let (on_disk, own) = (&replica.durable.log, &replica.state.log);
            let real = believed == 0
                || (on_disk.len() >= believed && on_disk[believed - 1] == own[believed - 1]);
            require(real, || {
                let there = on_disk.len();
                format!("{node:?} believes {believed} of {group:?} durable; its disk has {there}")
            })
        }
        // A saved commit index covers only entries that are on the disk before it: a write may land in part (B1).
        Event::Landed { node, group, change: Change { hard_state: Some(state), .. } } => {
            let there = ghost.replica(*node, *group).durable.log.len();
            require(count(state.commit) <= there, || {
                format!("{node:?} saves {state:?} of {group:?}; its disk has {there} entries")
            })
        }
        // No write that was under way replaces an entry on the disk that the replica believes durable (rule 16, W14).
        Event::Landed { node, group, change } if !change.entries.is_empty() => {
            let replica = ghost.replica(*node, *group);
            in_order(&replica.durable, &change.entries)
                .map_err(|what| format!("{node:?} has {what} of {group:?} on its disk"))?;
            let Some(status) = replica.status else { return Ok(()) };
            let kept = replica.replaced.map_or(status.durable, |first| first.prev());
            let believed = status.durable.min(kept);
            require(change.first > believed, || {
                format!(
                    "{node:?} believes {believed:?} of {group:?} durable; then {change:?} lands"
                )
            })
        }
        // The lost end may have held the copies of records that were carried forward, whose originals are gone.
        Event::Recovered { node, group, has_lost, .. }
            if *has_lost || ghost.has_lost(*node, *group) =>
        {
            Ok(())
        }
        Event::Recovered { node, group, state, .. } => {
            let (commit, log) = (state.hard_state.commit, state.log.len());
            in_order(state, &state.log)
                .map_err(|what| format!("{node:?} recovered {what} of {group:?}"))?;
            require(count(commit) <= log, || {
                format!("{node:?} recovered {group:?} with commit {commit:?} and {log} entries")
            })
        }
        _ => Ok(()),
    }
}

/// A term is on the disk before entries of it (rule 11).
fn in_order(state: &LogState, entries: &[Mark]) -> Check {
    let term = state.hard_state.term;
    let newest = entries.iter().map(|mark| mark.term).max();
    require(newest <= Some(term), || format!("entries of {newest:?} before that term, in {term:?}"))
}
