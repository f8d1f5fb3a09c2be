//! All machines of a group apply the same commands at the same places, in order, each once per
//! incarnation, and reply the same (paper §5.4.3). Nothing is applied before it is durable here.

use super::{Check, Invariant, require};
use crate::testing::ghost::{Event, Ghost, Known, place};

pub(super) const INVARIANT: Invariant = Invariant { name: "6 state-machine safety", check };

fn check(ghost: &Ghost, event: &Event<'_>) -> Check {
    let Event::Applied { node, group, applied } = event else { return Ok(()) };
    let replica = ghost.replica(*node, *group);
    require(replica.applied.is_none_or(|before| before < applied.index), || {
        format!("{node:?} applied {applied:?} of {group:?} after {:?}", replica.applied)
    })?;
    let known = ghost.applied.get(&(*group, applied.index));
    require(known.is_none_or(|known| known == applied), || {
        format!("{node:?} applied {applied:?} in {group:?}, another {known:?}")
    })?;
    let command =
        usize::try_from(applied.serial).ok().and_then(|serial| ghost.commands.get(serial));
    require(command.is_some_and(|c| c.group == *group && c.known != Known::No), || {
        format!("{applied:?} is applied in {group:?}, but that command is {command:?}")
    })?;
    let durable = replica.durable.log.get(place(applied.index));
    require(durable.is_some_and(|mark| mark.term == applied.term), || {
        format!("{node:?} applied {applied:?} of {group:?}, its disk has {durable:?} there")
    })
}
