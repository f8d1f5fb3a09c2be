//! The bound on the memory of a shard for entries that it keeps for slow peers.
//!
//! In:     a shard after its turn.
//! Out:    nothing, or invariant 23 is broken.
//! Cost:   a walk over the shard's groups and their entries that are not durable or not handed out.
//! Source: RULES.md invariant 23; `limits.rs` for the arithmetic.

use super::{ghost::count, invariants::Broken, sim::Sim};

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
