//! Terms on disk never fall, nor do term, commit and applied within an incarnation; a vote on disk is never replaced
//! by another vote of its term (RULES.md invariant 11).

use super::{Check, Invariant, require};
use crate::testing::event::Event;
use crate::testing::ghost::Ghost;
use logdrive_raft::HardState;

pub(super) const INVARIANT: Invariant = Invariant { name: "11 monotone", check };

fn check(ghost: &Ghost, event: &Event<'_>) -> Check {
    match event {
        Event::Turned { node, group, status, .. } => {
            let Some(before) = ghost.replica(*node, *group).status else { return Ok(()) };
            let grows = status.term >= before.term
                && status.commit >= before.commit
                && status.applied >= before.applied;
            require(grows, || format!("{node:?} {group:?} went from {before:?} to {status:?}"))
        }
        Event::Landed { node, group, change } => {
            let Some(state) = change.hard_state else { return Ok(()) };
            let durable = ghost.replica(*node, *group).durable.hard_state;
            follows(durable, state)
                .map_err(|what| format!("the disk of {node:?}, {group:?}: {what}"))
        }
        Event::Recovered { node, group, state, has_lost: false } => {
            let Some(replica) = ghost.replicas.get(&(*node, *group)) else { return Ok(()) };
            follows(replica.durable.hard_state, state.hard_state)
                .map_err(|what| format!("recovery of {node:?}, {group:?}: {what}"))
        }
        _ => Ok(()),
    }
}

fn follows(before: HardState, after: HardState) -> Check {
    let same_term = before.term == after.term;
    let keeps = before.voted_for.is_none() || before.voted_for == after.voted_for;
    require(after.term >= before.term && (!same_term || keeps), || {
        format!("{before:?} became {after:?}")
    })
}
