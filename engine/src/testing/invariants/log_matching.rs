//! Two entries of a group with the same index and term are the same, and so are the terms before
//! them: hence all before them (paper §5.3).

use super::{Check, Invariant, require};
use crate::Term;
use crate::testing::event::Event;
use crate::testing::ghost::{Ghost, place};

pub(super) const INVARIANT: Invariant = Invariant { name: "4 log matching", check };

fn check(ghost: &Ghost, event: &Event<'_>) -> Check {
    let Event::Written { node, group, change } = event else { return Ok(()) };
    if change.entries.is_empty() {
        return Ok(());
    }
    let log = &ghost.replica(*node, *group).state.log;
    let mut before = match place(change.first) {
        0 => Term::ZERO,
        at => log.get(at - 1).map_or(Term::ZERO, |mark| mark.term),
    };
    let mut index = change.first;
    for mark in &change.entries {
        let here = (mark.checksum, before);
        let known = ghost.entries.get(&(*group, index, mark.term));
        require(known.is_none_or(|known| *known == here), || {
            format!(
                "{node:?} has {here:?} at {index:?} {:?} of {group:?}, not {known:?}",
                mark.term
            )
        })?;
        before = mark.term;
        index = index.next();
    }
    Ok(())
}
