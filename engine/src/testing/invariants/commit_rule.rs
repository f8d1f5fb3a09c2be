//! A leader commits by counting only entries of its own term, and only what a majority has on its
//! disks at that moment (paper §5.4.2, figure 8).

use super::{Check, Invariant, require};
use crate::testing::event::Event;
use crate::testing::ghost::{Ghost, place};
use logdrive_raft::Role;

pub(super) const INVARIANT: Invariant = Invariant { name: "8 commit rule", check };

fn check(ghost: &Ghost, event: &Event<'_>) -> Check {
    let Event::Turned { node, group, status, .. } = event else { return Ok(()) };
    let replica = ghost.replica(*node, *group);
    let before = replica.status.map(|status| status.commit);
    if status.role != Role::Leader
        || replica.leads() != Some(status.term)
        || before == Some(status.commit)
    {
        return Ok(());
    }
    let at = place(status.commit);
    let own = replica.state.log.get(at);
    require(own.is_some_and(|own| own.term == status.term), || {
        let (commit, term) = (status.commit, status.term);
        format!("{node:?} leads {group:?} in {term:?} and commits {own:?} at {commit:?}")
    })?;
    // A leader may still count entries that a disk said it has and then lost, as long as it has not heard of the loss.
    let holds = |node| {
        let other = ghost.replicas.get(&(node, *group));
        let said = other.and_then(|other| other.lost.as_ref()).map(|lost| &lost.said.log);
        other.is_some_and(|other| other.durable.log.get(at) == own)
            || said.is_some_and(|said| said.get(at) == own)
    };
    let holders: Vec<_> = ghost.nodes.iter().copied().filter(|node| holds(*node)).collect();
    require(holders.len() >= ghost.majority(), || {
        let (commit, of) = (status.commit, ghost.nodes.len());
        format!("{node:?} commits {commit:?} of {group:?}, durable on {holders:?} of {of}")
    })
}
