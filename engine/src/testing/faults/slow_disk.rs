//! A disk finishes nothing for a while, or for long (RULES.md D1-D3). Arguments: the node, for how long.

use super::{Fault, node};

pub(super) const FAULT: Fault = Fault {
    name: "slow disk",
    often: 8,
    draw: |random, shape| [shape.any_node(random), *random.pick(&[3, 10, 40, 120]), 0],
    inject: |run, [at, steps, _]| run.stall_disk(node(at), steps),
};
