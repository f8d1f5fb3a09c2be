//! A disk completes no write for a short or a long while (RULES.md D1-D3). Arguments: the node, for how many steps.

use super::{Fault, node};

pub(super) const FAULT: Fault = Fault {
    name: "slow disk",
    often: 8,
    draw: |random, shape| [shape.any_node(random), *random.pick(&[3, 10, 40, 120]), 0],
    inject: |run, [at, steps, _]| run.stall_disk(node(at), steps),
};
