//! A machine that is durable by itself opens where it was: no further than it was given commands, not before the index
//! that it said is durable, and with the state that the group's other machines have at that index (27).

use super::{Check, Invariant, require, state_machine_safety::same_digest};
use crate::testing::event::Event;
use crate::testing::ghost::Ghost;

pub(super) const INVARIANT: Invariant = Invariant { name: "27 reopened machine", check };

fn check(ghost: &Ghost, event: &Event<'_>) -> Check {
    match *event {
        Event::Opened { node, group, at, digest } => {
            let replica = ghost.replica(node, group);
            require(at <= replica.given, || {
                let given = replica.given;
                format!(
                    "the machine of {group:?} on {node:?} opens at {at:?}, but was given commands \
                     up to {given:?} only"
                )
            })?;
            require(at >= replica.machine_durable, || {
                let durable = replica.machine_durable;
                format!(
                    "the machine of {group:?} on {node:?} said that it is durable up to \
                     {durable:?}, and opens at {at:?}"
                )
            })?;
            let known = ghost.reached.get(&group).copied().unwrap_or_default();
            same_digest(ghost, (node, group), at, known, digest)
        }
        Event::Reached { node, group, at, durable, .. } => require(durable <= at, || {
            format!(
                "the machine of {group:?} on {node:?} has applied up to {at:?}, and says that it \
                 is durable up to {durable:?}"
            )
        }),
        _ => Ok(()),
    }
}
