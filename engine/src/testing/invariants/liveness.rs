//! When faults are over, every group with a whole majority has one leader and serves, and all its replicas catch up;
//! no term grows when all is quiet (RULES.md invariant 26).

use super::{Check, Invariant, require};
use crate::testing::event::Event;
use crate::testing::ghost::Ghost;
use logdrive_raft::Role;
use std::collections::BTreeSet;

pub(super) const INVARIANT: Invariant = Invariant { name: "26 liveness", check };

fn check(ghost: &Ghost, event: &Event<'_>) -> Check {
    let Event::End { at } = event else { return Ok(()) };
    for (group, replicas) in &at.alive {
        let leaders = replicas.iter().filter(|(_, s)| s.role == Role::Leader).count();
        require(leaders == 1, || {
            format!("{group:?} has {leaders} leaders in peace: {replicas:?}")
        })?;
        let commits: BTreeSet<_> = replicas.iter().map(|(_, status)| status.commit).collect();
        require(commits.len() == 1, || format!("commits of {group:?} differ: {replicas:?}"))?;
        let behind = replicas.iter().find(|(_, s)| s.applied != s.commit);
        require(behind.is_none(), || format!("{group:?} does not catch up: {behind:?}"))?;
        let served = at.served.get(group).copied().unwrap_or(0);
        require(served > 0, || format!("{group:?} serves nobody in peace: {replicas:?}"))?;
        let term = replicas.iter().map(|(_, status)| status.term).max();
        let before = at.terms_before.get(group).copied();
        // A log that runs may come upon old damage at any time, and fence a leader.
        let mut fenced = ghost.fenced.difference(&at.fenced_before);
        let is_shaken = fenced.any(|(_, of)| of == group);
        require(term == before || is_shaken && term > before, || {
            format!("{group:?} went from {before:?} to {term:?} when all was quiet")
        })?;
    }
    Ok(())
}
