//! An entry that was once committed at an index stays committed there for all replicas (paper §5.4.3).

use super::{Check, Invariant, require};
use crate::testing::event::{Change, Event};
use crate::testing::ghost::{Ghost, count};

pub(super) const INVARIANT: Invariant = Invariant { name: "7 committed immutable", check };

fn check(ghost: &Ghost, event: &Event<'_>) -> Check {
    match event {
        Event::Turned { node, group, status, .. } => {
            let replica = ghost.replica(*node, *group);
            let from = replica.status.map_or(0, |status| count(status.commit));
            let (to, log) = (count(status.commit), replica.state.log.len());
            require(to <= log || ghost.is_cut_short(*node, *group), || {
                format!("{node:?} commits {to} of {group:?}, its log has {log}")
            })?;
            let to = to.min(log);
            let committed = ghost.committed.get(group).map_or(&[][..], Vec::as_slice);
            for (at, known) in committed.iter().enumerate().take(to).skip(from) {
                let own = replica.state.log[at];
                require(own == *known, || {
                    let index = at + 1;
                    format!("{node:?} commits {own:?} at {index} of {group:?}, not {known:?}")
                })?;
            }
            Ok(())
        }
        // The entries that a log calls committed when it is opened again must be the committed ones: its hard state
        // may have landed without the entries that came with it.
        Event::Recovered { node, group, state, .. } => {
            let committed = ghost.committed.get(group).map_or(&[][..], Vec::as_slice);
            let called = state.log.iter().take(count(state.hard_state.commit));
            let differs = called.zip(committed).position(|(own, known)| own != known);
            require(differs.is_none(), || {
                let at = differs.unwrap_or(0);
                let (own, known, state) = (state.log[at], committed[at], state.hard_state);
                let index = at + 1;
                format!(
                    "{node:?} recovers {own:?} at {index} of {group:?} as committed ({state:?}), not {known:?}"
                )
            })
        }
        // So must the entries be that a hard state calls committed when it lands, whatever lands behind it (B1).
        Event::Landed { node, group, change: Change { hard_state: Some(state), .. } } => {
            let durable = &ghost.replica(*node, *group).durable;
            let committed = ghost.committed.get(group).map_or(&[][..], Vec::as_slice);
            let from = count(durable.hard_state.commit);
            let called = durable.log.iter().zip(committed).take(count(state.commit)).skip(from);
            let differs = called.clone().position(|(own, known)| own != known);
            require(differs.is_none(), || {
                let index = from + differs.unwrap_or(0) + 1;
                let (own, known) = (durable.log[index - 1], committed[index - 1]);
                format!(
                    "{node:?} saves {state:?} of {group:?}; its disk has {own:?} at {index}, not {known:?}"
                )
            })
        }
        Event::Written { node, group, change } if !change.entries.is_empty() => {
            let commit = ghost.replica(*node, *group).status.map(|status| status.commit);
            require(commit.is_none_or(|commit| commit < change.first), || {
                let first = change.first;
                format!("{node:?} replaces {first:?} of {group:?}, committed up to {commit:?}")
            })
        }
        _ => Ok(()),
    }
}
