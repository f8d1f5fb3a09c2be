//! Every shard keeps few entries in memory for peers that are slow: the bounds that real shards have are beyond a run's
//! reach (RULES.md invariant 23). Arguments: bytes of a group, bytes of all groups of a shard.

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
