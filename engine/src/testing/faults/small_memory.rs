//! Every shard keeps few entries in memory for peers that are slow, and few forwarded frames: the bounds of real shards are
//! so large that no run reaches them (RULES.md invariant 23). Arguments, in bytes: the bound of a group, of all groups of a
//! shard, and of the frames that are forwarded to a shard.

use super::{Added, Fault, When};

const FAULT: Fault = Fault {
    name: "small memory",
    often: 1,
    draw: |random, _| {
        let group = *random.pick(&[4 << 10, 16 << 10, 64 << 10]);
        let shard = *random.pick(&[4 << 10, 16 << 10]);
        [group, shard, *random.pick(&[4 << 10, 32 << 10])]
    },
    inject: |sim, [group, shard, forwarded]| sim.keep_little(group, shard, forwarded),
};

pub(super) const ADDED: Added =
    Added { fault: FAULT, once_in: 5, strikes: |_| true, when: When::First };
