//! A term of a group has at most one leader, over all of history (paper §5.2).

use super::{Check, Invariant, require};
use crate::testing::event::Event;
use crate::testing::ghost::Ghost;
use logdrive_raft::Role;

pub(super) const INVARIANT: Invariant = Invariant { name: "1 election safety", check };

fn check(ghost: &Ghost, event: &Event<'_>) -> Check {
    let Event::Turned { node, group, status, .. } = event else { return Ok(()) };
    if status.role != Role::Leader {
        return Ok(());
    }
    let other = ghost.leaders.get(&(*group, status.term));
    require(other.is_none_or(|other| other == node), || {
        format!("{node:?} leads {group:?} in {:?}, where {other:?} led", status.term)
    })
}
