//! A marked replica neither votes nor acknowledges entries that it took after the mark, and is readmitted only when
//! every other voter has stated its term (RULES.md C3, W8; `engine/raft/src/mark.rs`).

use super::{Check, Invariant, require};
use crate::testing::event::Event;
use crate::testing::ghost::Ghost;
use logdrive_raft::{AppendResult, Message};
use std::collections::BTreeSet;

pub(super) const INVARIANT: Invariant = Invariant { name: "34 mark", check };

fn check(ghost: &Ghost, event: &Event<'_>) -> Check {
    match event {
        Event::Written { node, group, change } => {
            let Some(after) = change.hard_state else { return Ok(()) };
            let replica = ghost.replica(*node, *group);
            let Some(mark) = &replica.mark else { return Ok(()) };
            let before = replica.state.hard_state;
            if after.marked {
                let is_same = (before.term, before.voted_for) == (after.term, after.voted_for);
                return require(is_same || after.voted_for.is_none(), || {
                    format!("{node:?} is marked in {group:?}, and votes: {before:?}, {after:?}")
                });
            }
            let others: BTreeSet<_> = ghost.nodes.iter().copied().filter(|n| n != node).collect();
            require(mark.stated == others, || {
                let stated = &mark.stated;
                format!("{node:?} is readmitted to {group:?} by {stated:?}, not all of {others:?}")
            })
        }
        Event::Sent { node, group, message: Message::AppendReply(reply), .. } => {
            let mark = ghost.replica(*node, *group).mark.as_ref();
            let (Some(mark), AppendResult::Accepted { match_index }) = (mark, reply.result) else {
                return Ok(());
            };
            // An acknowledgement from before the mark may have waited for the disk.
            require(match_index <= mark.last, || {
                let last = mark.last;
                format!(
                    "{node:?} was marked in {group:?} at {last:?}, and acknowledges {match_index:?}"
                )
            })
        }
        _ => Ok(()),
    }
}
