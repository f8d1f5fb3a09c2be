//! applied ≤ applying ≤ commit ≤ last, durable ≤ last, and what a replica believes durable is, and stays
//! (FAULTS.md §4, 12).

use super::{Check, Invariant, require};
use crate::testing::event::Event;
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
            require(log == count(status.last_log.index), || {
                let last = status.last_log;
                format!("{node:?} ends {group:?} at {last:?}, but has written {log}")
            })?;
            // As far as it believes, its disk has what its log has.
            let believed = count(status.durable);
            let (on_disk, own) = (&replica.durable.log, &replica.state.log);
            let real = believed == 0
                || (on_disk.len() >= believed && on_disk[believed - 1] == own[believed - 1]);
            require(real, || {
                let there = on_disk.len();
                format!("{node:?} believes {believed} of {group:?} durable; its disk has {there}")
            })
        }
        // Nor does a write that was under way take any of that from the disk (rule 16, W14).
        Event::Landed { node, group, change } if !change.entries.is_empty() => {
            let replica = ghost.replica(*node, *group);
            let Some(status) = replica.status else { return Ok(()) };
            let kept = replica.replaced.map_or(status.durable, |first| first.prev());
            let believed = status.durable.min(kept);
            require(change.first > believed, || {
                format!(
                    "{node:?} believes {believed:?} of {group:?} durable; then {change:?} lands"
                )
            })
        }
        Event::Recovered { node, group, state, .. } => {
            let (commit, log) = (state.hard_state.commit, state.log.len());
            require(count(commit) <= log, || {
                format!("{node:?} recovered {group:?} with commit {commit:?} and {log} entries")
            })
        }
        _ => Ok(()),
    }
}
