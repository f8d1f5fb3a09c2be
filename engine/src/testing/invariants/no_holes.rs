//! A log's entries follow one another, in memory and on disk (RULES.md invariant 13).

use super::{Check, Invariant, require};
use crate::testing::event::Event;
use crate::testing::ghost::{Ghost, place};

pub(super) const INVARIANT: Invariant = Invariant { name: "13 no holes", check };

fn check(ghost: &Ghost, event: &Event<'_>) -> Check {
    let (node, group, change, log) = match event {
        Event::Written { node, group, change } => {
            (node, group, change, &ghost.replica(*node, *group).state.log)
        }
        Event::Landed { node, group, change } => {
            (node, group, change, &ghost.replica(*node, *group).durable.log)
        }
        _ => return Ok(()),
    };
    if change.entries.is_empty() {
        return Ok(());
    }
    require(place(change.first) <= log.len(), || {
        let (first, end) = (change.first, log.len());
        format!("{node:?} puts {first:?} of {group:?} behind entry {end}")
    })
}
