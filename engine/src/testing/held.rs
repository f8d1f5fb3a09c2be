//! Entries that a shard keeps in memory for peers that are slow.
//!
//! In:     a shard after its turn.
//! Out:    nothing, or invariant 23 is broken.
//! Cost:   a walk over the shard's groups and their entries that are not durable or not handed out.
//! Source: RULES.md invariant 23; `limits.rs` for the arithmetic.

use super::{ghost::count, invariants::Broken, sim::Sim};

impl Sim<'_> {
    /// What a node keeps for peers is little from now on: `group` bytes for each group, `shard` bytes for all of a shard.
    pub(super) fn keep_little(&mut self, group: u64, shard: u64) {
        let bytes = |bytes: u64| usize::try_from(bytes).expect("small");
        let limits = &mut self.shape.limits;
        limits.of_group.tail_bytes_max = bytes(group);
        limits.of_shard.tails_bytes_max = bytes(shard);
    }

    /// Of what a shard holds, its own disk and machines do not need any more what is durable and handed out. That is kept
    /// for peers alone, and each group and all groups together have a bound for it.
    pub(super) fn check_held(&self, at: usize, shard: usize) {
        let node = &self.nodes[at];
        let Some(process) = &node.process else { return };
        let (limits, host) = (&self.shape.limits, &process.shards[shard].host);
        // A turn that gave nothing out forgets nothing.
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
        // A group that was within the bound when it was gathered may be followed by others, each with its share.
        let max = 2 * limits.of_shard.tails_bytes_max;
        if all > max {
            let id = node.id;
            let what =
                format!("{id:?} keeps {all} bytes of shard {shard} for its peers, at most {max}");
            Broken { invariant: "23 bounds".to_owned(), what }.throw();
        }
    }
}
