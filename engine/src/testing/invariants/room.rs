//! A log that has said that it takes no entries is sent none until it says that it does (RULES.md W9, W10).

use super::{Check, Invariant, require};
use crate::testing::event::Event;
use crate::testing::ghost::Ghost;
use logdrive_raft::Message;

pub(super) const INVARIANT: Invariant = Invariant { name: "31 room", check };

fn check(ghost: &Ghost, event: &Event<'_>) -> Check {
    let Event::Sent { node, to, group, message: Message::AppendEntries(append) } = event else {
        return Ok(());
    };
    let there = u32::try_from(ghost.shard_of(*to, *group)).expect("a few shards");
    let key = (*node, ghost.shard_of(*node, *group), *to, there);
    require(append.entries.is_empty() || !ghost.full.contains(&key), || {
        format!("{node:?} sends entries of {group:?} to {to:?}, whose log has no room")
    })
}
