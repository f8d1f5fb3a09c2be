//! A replica that hears its leader in a turn does not ask for votes in that turn (RULES.md D5): frames are taken in
//! before timers fire, so that a thread that was held up does not disturb a leader that is alive.

use super::{Check, Invariant, require};
use crate::testing::{event::Event, ghost::Ghost};
use logdrive_raft::Message;

pub(super) const INVARIANT: Invariant = Invariant { name: "29 patience", check };

fn check(ghost: &Ghost, event: &Event<'_>) -> Check {
    let Event::Sent { node, group, message: message @ Message::PreVote(_), .. } = event else {
        return Ok(());
    };
    let replica = ghost.replica(*node, *group);
    // A decision of an earlier turn may leave in this turn. Another message of this turn may have told of a later
    // term: then the leader that was heard leads no more. A pre-vote asks for the term after the replica's own.
    let heard = replica.heard_leader.filter(|(step, term, _)| {
        let leads = term.next() == message.term();
        *step == ghost.counts.steps && leads && !replica.is_behind && replica.status.is_some()
    });
    require(heard.is_none(), || {
        let leader = heard.map(|(_, _, leader)| leader);
        format!("{node:?} asks for votes in {group:?} in the turn in which it heard {leader:?}")
    })
}
