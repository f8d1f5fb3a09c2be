//! A leader never replaces an entry of its own log (paper §5.3).

use super::{Check, Invariant, require};
use crate::testing::event::Event;
use crate::testing::ghost::Ghost;
use logdrive_raft::Role;

pub(super) const INVARIANT: Invariant = Invariant { name: "3 leader append-only", check };

fn check(ghost: &Ghost, event: &Event<'_>) -> Check {
    let Event::Turned { node, group, status, .. } = event else { return Ok(()) };
    let replica = ghost.replica(*node, *group);
    let led_all_along = status.role == Role::Leader && replica.leads() == Some(status.term);
    require(!led_all_along || replica.replaced.is_none(), || {
        let (term, replaced) = (status.term, replica.replaced);
        format!("{node:?} leads {group:?} in {term:?} and replaced its entry {replaced:?}")
    })
}
