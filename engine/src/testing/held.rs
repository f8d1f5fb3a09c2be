//! What peers can make a shard hold in memory and do in a turn: entries that it keeps for slow peers, frames that wait
//! for it, messages that it takes in.
//!
//! In:     a shard before or after its turn.
//! Out:    nothing, or invariant 23 is broken.
//! Cost:   a walk over the shard's groups and their entries that are not durable or not handed out.
//! Source: RULES.md invariant 23; `limits.rs` for the arithmetic.

use super::{ghost::count, invariants::Broken, sim::Sim};
use crate::{
    NodeId,
    inbox::{Arrivals, Inbox},
    limits::OfShard,
};
use std::sync::Arc;

/// The frames of a shard's own connections that wait for its turn are bounded by their bytes: one more is read while less
/// than the bound waits, and none is larger than `frame_bytes_max`, the largest that has come to the node. With them counts
/// the rest of a forwarded frame, of which the last turn has taken a part.
pub(super) fn check_frames(node: NodeId, arrivals: &Arrivals, frame_bytes_max: usize) {
    let (bytes, max) = (arrivals.frame_bytes(), arrivals.inbox().limits().frame_bytes_max);
    if bytes >= max + 2 * frame_bytes_max.max(1) {
        let what = format!(
            "frames of {bytes} bytes wait at a shard of {node:?}: at most {max} and two of {frame_bytes_max}"
        );
        Broken { invariant: "23 bounds".to_owned(), what }.throw();
    }
}

/// The bytes of forwarded frames that wait at each shard.
pub(super) fn forwarded_bytes(inboxes: &[Arc<Inbox>]) -> Vec<usize> {
    inboxes.iter().map(|inbox| inbox.forwarded_bytes()).collect()
}

/// A frame has come, and some of it may have been forwarded: a shard takes it only if less than the bound waited there
/// `before`.
pub(super) fn check_forwarded(node: NodeId, before: &[usize], inboxes: &[Arc<Inbox>]) {
    for (before, inbox) in before.iter().zip(inboxes) {
        let (after, max) = (inbox.forwarded_bytes(), inbox.limits().forwarded_bytes_max);
        if after > *before && *before >= max {
            let what = format!(
                "{after} bytes of frames are forwarded to a shard of {node:?}, {before} before: at most {max} and one frame"
            );
            Broken { invariant: "23 bounds".to_owned(), what }.throw();
        }
    }
}

/// A turn takes in so many messages at most: each of them is a step of work, or more.
pub(super) fn check_turn(node: NodeId, taken: usize, limits: &OfShard) {
    let max = limits.turn_steps_max;
    if taken > max {
        let what = format!("a turn of {node:?} takes in {taken} messages, at most {max}");
        Broken { invariant: "23 bounds".to_owned(), what }.throw();
    }
}

impl Sim<'_> {
    /// From now on a node keeps little for its peers: `group` bytes for each group, `shard` bytes for all of a shard. So
    /// many bytes of forwarded frames wait for a shard.
    pub(super) fn keep_little(&mut self, group: u64, shard: u64, forwarded: u64) {
        let bytes = |bytes: u64| usize::try_from(bytes).expect("small");
        let limits = &mut self.shape.limits;
        limits.of_group.tail_bytes_max = bytes(group);
        limits.of_shard.tails_bytes_max = bytes(shard);
        limits.of_shard.forwarded_bytes_max = bytes(forwarded);
    }

    /// A shard's own disk and machines do not need entries any more that are durable and were given to the machines.
    /// Such entries are kept for peers alone: each group, and all groups of the shard together, have a bound for their
    /// bytes.
    pub(super) fn check_held(&self, at: usize, shard: usize) {
        let node = &self.nodes[at];
        let Some(process) = &node.process else { return };
        let (limits, host) = (&self.shape.limits, &process.shards[shard].host);
        // A turn that gave nothing out drops no entries either.
        if host.shard().is_dirty() {
            return;
        }
        let mut all = 0;
        for group in process.machines.keys().filter(|group| node.log_of(**group) == shard) {
            let Some((held, status)) = host.shard().held(*group) else { continue };
            let Some(replica) = self.judge.ghost.replicas.get(&(node.id, *group)) else { continue };
            let own = count(status.applying.min(status.durable));
            let needed: usize = replica.cost_bytes.iter().skip(own).sum();
            let kept = held.saturating_sub(needed);
            all += kept;
            let max = limits.of_group.tail_bytes_max;
            if kept > max {
                let what = format!(
                    "{:?} keeps {kept} bytes of {group:?} for its peers, at most {max}: {status:?}",
                    node.id
                );
                Broken { invariant: "23 bounds".to_owned(), what }.throw();
            }
        }
        // The shard trims a group only when its round is gathered: groups gathered later in the turn may add their
        // shares.
        let max = 2 * limits.of_shard.tails_bytes_max;
        if all > max {
            let id = node.id;
            let what =
                format!("{id:?} keeps {all} bytes of shard {shard} for its peers, at most {max}");
            Broken { invariant: "23 bounds".to_owned(), what }.throw();
        }
    }
}
