//! After its first failed write a log promises nothing more in this incarnation (RULES.md rule 17).

use super::{Check, Invariant, require};
use crate::testing::event::Event;
use crate::testing::ghost::Ghost;
use logdrive_raft::{AppendResult, Message};

pub(super) const INVARIANT: Invariant = Invariant { name: "19 poison", check };

fn check(ghost: &Ghost, event: &Event<'_>) -> Check {
    let Event::Sent { node, group, message, .. } = event else { return Ok(()) };
    let is_promise = match message {
        Message::VoteReply(m) => m.granted,
        Message::RequestVote(_) => true,
        Message::AppendReply(m) => !matches!(m.result, AppendResult::Rejected { .. }),
        Message::Marked(_) | Message::TermStated(_) => true,
        _ => false,
    };
    let is_poisoned = ghost.poisoned.contains(&(*node, ghost.shard_of(*node, *group)));
    require(!is_promise || !is_poisoned, || {
        format!("{node:?} says {message:?} of {group:?} after a write of it failed")
    })
}
