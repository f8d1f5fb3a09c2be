//! A machine that fails stops its group on its node and nothing else (FAULTS.md §4, 21; P9).

use super::{Check, Invariant, require};
use crate::testing::ghost::{Event, Ghost};

pub(super) const INVARIANT: Invariant = Invariant { name: "21 group isolation", check };

fn check(ghost: &Ghost, event: &Event<'_>) -> Check {
    let Event::End { at } = event else { return Ok(()) };
    for (group, alive) in &at.alive {
        require(alive.len() >= ghost.majority(), || {
            format!("only {} replicas of {group:?} are alive", alive.len())
        })?;
    }
    Ok(())
}
