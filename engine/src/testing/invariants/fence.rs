//! A replica that may have lost something it promised says and does nothing more, whatever restarts; and
//! only what was harmed is fenced (RULES.md invariant 18).

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
        // The log's own word, to which the group is but an address.
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
