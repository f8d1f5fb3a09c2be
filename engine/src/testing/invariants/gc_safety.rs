//! All that a segment held has a newer copy on disk before the segment is given up: without the segment, a log is
//! recovered to what a restart may find (RULES.md rule 28, invariant 22).

use super::{
    Check, Invariant,
    prefix_recovery::{ends, follows},
};
use crate::testing::event::Event;
use crate::testing::ghost::Ghost;

pub(super) const INVARIANT: Invariant = Invariant { name: "22 GC safety", check };

fn check(ghost: &Ghost, event: &Event<'_>) -> Check {
    let Event::GivenBack { node, group, state } = event else { return Ok(()) };
    let Some(state) = state else {
        return Err(format!("{group:?} of {node:?} would be fenced for a segment given back"));
    };
    follows(ghost.replica(*node, *group), state)
        .map_err(|what| format!("{node:?} would find {} of {group:?}: {what}", ends(state)))
}
