//! A replica that was founded with other members than the others acknowledges nothing, unless it is its only member
//! and no other replica has told it yet. When all has healed the replica has stopped, and it and the group's leader
//! have both said why (RULES.md M14).

use super::{Check, Invariant, require};
use crate::testing::event::Event;
use crate::testing::ghost::Ghost;

pub(super) const INVARIANT: Invariant = Invariant { name: "36 foundings", check };

fn check(ghost: &Ghost, event: &Event<'_>) -> Check {
    match event {
        Event::AnsweredApart { node, group } => {
            let apart = &ghost.apart[&(*node, *group)];
            require(apart.members == [*node] && apart.told.is_empty(), || {
                format!("{node:?} acknowledges a command of {group:?}, and is {apart:?}")
            })
        }
        Event::End { at } => {
            for apart in &at.apart {
                require(apart.has_stopped && apart.both_say, || {
                    let (node, group, has_stopped) = (apart.node, apart.group, apart.has_stopped);
                    let both_say = apart.both_say;
                    format!(
                        "{group:?} was founded otherwise on {node:?}, which has stopped it: {has_stopped}; \
                         both it and the leader say so: {both_say}"
                    )
                })?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}
