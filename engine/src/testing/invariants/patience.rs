//! A replica that hears its leader in a turn does not ask for votes in that turn (RULES.md D5): frames are taken in
//! before timers fire, so that a thread that was held up is not the first to unsettle a leader.

use super::{Check, Invariant, require};
use crate::testing::{event::Event, ghost::Ghost};
use logdrive_raft::Message;

pub(super) const INVARIANT: Invariant = Invariant { name: "29 patience", check };

fn check(ghost: &Ghost, event: &Event<'_>) -> Check {
    let Event::Sent { node, group, message: Message::PreVote(_), .. } = event else {
        return Ok(());
    };
    let replica = ghost.replica(*node, *group);
    // A decision of an earlier turn may leave with this one.
    let heard = replica.heard_leader.filter(|(step, _)| {
        *step == ghost.counts.steps && !replica.is_behind && replica.status.is_some()
    });
    require(heard.is_none(), || {
        let leader = heard.map(|(_, leader)| leader);
        format!("{node:?} asks for votes in {group:?} in the turn in which it heard {leader:?}")
    })
}
