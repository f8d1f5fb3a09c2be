//! A machine that fails stops its group on its node and nothing else (RULES.md P9, invariant 21).

use super::{Check, Invariant, require};
use crate::testing::event::Event;
use crate::testing::ghost::Ghost;
use logdrive_raft::Message;

pub(super) const INVARIANT: Invariant = Invariant { name: "21 group isolation", check };

fn check(ghost: &Ghost, event: &Event<'_>) -> Check {
    let (node, group, what) = match event {
        // These messages speak for the log, not for the replica: the group is only their address.
        Event::Sent { message: Message::Room(_) | Message::Founding(_), .. } => return Ok(()),
        Event::Sent { node, group, .. } => (node, group, "speaks"),
        Event::Written { node, group, .. } => (node, group, "writes"),
        Event::Applied { node, group, .. } => (node, group, "applies"),
        Event::End { at } => {
            // The other replicas on a node where one has stopped have applied all that is committed.
            for (group, replicas) in &at.alive {
                let commit = replicas.iter().map(|(_, status)| status.commit).max();
                let beside = |node| ghost.stopped.iter().any(|(of, _)| *of == node);
                for (node, status) in replicas.iter().filter(|(node, _)| beside(*node)) {
                    require(Some(status.applied) == commit, || {
                        format!(
                            "a machine of {node:?} has failed, and {group:?} there is {status:?}, \
                             committed up to {commit:?}"
                        )
                    })?;
                }
            }
            return Ok(());
        }
        _ => return Ok(()),
    };
    require(!ghost.stopped.contains(&(*node, *group)), || {
        format!("the machine of {group:?} on {node:?} has failed, and it {what}")
    })
}
