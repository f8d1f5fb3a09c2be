//! One shard's thread takes no turns, while the other threads of its node do (RULES.md D3): its groups are silent. The
//! watchdog makes the whole node resign its leaderships, and ends the process if the thread stays stuck. Arguments:
//! the node, the shard, the steps.

use super::{Fault, node};

pub(super) const FAULT: Fault = Fault {
    name: "stuck thread",
    often: 2,
    draw: |random, shape| {
        [shape.any_node(random), random.below(3), random.below(10 * shape.election_ticks)]
    },
    inject: |run, [at, shard, steps]| run.stick_thread(node(at), node(shard), steps),
};
