//! Every shard keeps few entries in memory for peers that are slow: the bounds of real shards are so large that no run
//! reaches them (RULES.md invariant 23). Arguments: the bound of a group, and of all groups of a shard, in bytes.

use super::{Added, Fault, When};

const FAULT: Fault = Fault {
    name: "small memory",
    often: 1,
    draw: |random, _| {
        let group = *random.pick(&[4 << 10, 16 << 10, 64 << 10]);
        [group, *random.pick(&[4 << 10, 16 << 10]), 0]
    },
    inject: |sim, [group, shard, _]| sim.keep_little(group, shard),
};

pub(super) const ADDED: Added =
    Added { fault: FAULT, once_in: 5, strikes: |_| true, when: When::First };
