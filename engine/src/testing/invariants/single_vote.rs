//! A node votes once in a term, across restarts, and its vote is on its disk before it leaves; a vote
//! request is a vote for oneself (paper §5.2, thesis §3.8).

use super::{Check, Invariant, require};
use crate::testing::event::Event;
use crate::testing::ghost::Ghost;
use logdrive_raft::Message;

pub(super) const INVARIANT: Invariant = Invariant { name: "2 single durable vote", check };

fn check(ghost: &Ghost, event: &Event<'_>) -> Check {
    let Event::Sent { node, to, group, message } = event else { return Ok(()) };
    let (term, candidate) = match message {
        Message::VoteReply(m) if m.granted => (m.term, *to),
        Message::RequestVote(m) => (m.term, *node),
        _ => return Ok(()),
    };
    let replica = ghost.replica(*node, *group);
    let before = replica.granted.get(&term);
    require(before.is_none_or(|before| *before == candidate), || {
        format!("{node:?} votes for {candidate:?} in {term:?} of {group:?}, after {before:?}")
    })?;
    let durable = replica.durable_votes.get(&term);
    require(durable == Some(&Some(candidate)), || {
        format!(
            "{node:?} votes for {candidate:?} in {term:?} of {group:?}, but its disk has {durable:?} \
             of that term, and {:?} now",
            replica.durable.hard_state
        )
    })
}
