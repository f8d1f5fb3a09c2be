//! A replica that may have lost something it promised is fenced: it sends, writes and applies nothing more, not even
//! after a restart. Only replicas that were harmed are fenced (RULES.md invariant 18).

use super::{Check, Invariant, require};
use crate::testing::event::Event;
use crate::testing::ghost::Ghost;
use logdrive_raft::Message;

pub(super) const INVARIANT: Invariant = Invariant { name: "18 fence", check };

fn check(ghost: &Ghost, event: &Event<'_>) -> Check {
    let (node, group, what) = match event {
        Event::Fenced { node, group, harmed } => {
            return require(*harmed, || format!("{group:?} of {node:?} is fenced, unharmed"));
        }
        Event::Recovered { node, group, .. } => (node, group, "forgot its fence"),
        // These messages speak for the log, not for the replica: the group is only their address.
        Event::Sent { message: Message::Room(_) | Message::Founding(_), .. } => return Ok(()),
        Event::Sent { node, group, .. } => (node, group, "speaks"),
        Event::Written { node, group, .. } => (node, group, "writes"),
        Event::Applied { node, group, .. } => (node, group, "applies"),
        _ => return Ok(()),
    };
    require(!ghost.fenced.contains(&(*node, *group)), || {
        format!("{group:?} of {node:?} is fenced, and {what}")
    })
}
