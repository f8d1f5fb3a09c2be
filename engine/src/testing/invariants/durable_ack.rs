//! An acknowledgement leaves a node only when the node's disk has the acknowledged entries and the term
//! (thesis §10.2.1, §3.8).

use super::{Check, Invariant, require};
use crate::LogIndex;
use crate::testing::event::Event;
use crate::testing::ghost::{Ghost, place};
use logdrive_raft::{AppendResult, Message};

pub(super) const INVARIANT: Invariant = Invariant { name: "9 durable ack", check };

fn check(ghost: &Ghost, event: &Event<'_>) -> Check {
    let Event::Sent { node, to, group, message: Message::AppendReply(reply) } = event else {
        return Ok(());
    };
    let (AppendResult::Accepted { match_index } | AppendResult::Taken { match_index }) =
        reply.result
    else {
        return Ok(());
    };
    if match_index == LogIndex::ZERO {
        return Ok(());
    }
    let replica = ghost.replica(*node, *group);
    let durable = &replica.durable;
    require(durable.hard_state.term >= reply.term, || {
        let (of, term) = (durable.hard_state.term, reply.term);
        format!("{node:?} acknowledges in {term:?} of {group:?}, its disk is in {of:?}")
    })?;
    if durable.hard_state.term == reply.term {
        let log = durable.log.len();
        require(place(match_index) < log, || {
            format!("{node:?} acknowledges {match_index:?} of {group:?}, its disk has {log}")
        })?;
        // The leader's own log says what was acknowledged, while it still leads that term.
        let leader = ghost.replica(*to, *group);
        if leader.leads() == Some(reply.term) {
            let at = place(match_index);
            let (own, theirs) = (durable.log.get(at), leader.state.log.get(at));
            require(own == theirs, || {
                format!(
                    "{node:?} acknowledges {own:?} at {match_index:?} of {group:?}, {to:?} has {theirs:?}"
                )
            })?;
        }
        return Ok(());
    }
    // The disk has a later term by now; it must have had the entry at some time.
    let there = replica.ever_durable.range((match_index, crate::Term::ZERO)..);
    let there = there.take_while(|(index, _)| *index == match_index).count();
    require(there > 0, || {
        format!("{node:?} acknowledges {match_index:?} of {group:?}, which its disk never had")
    })
}
