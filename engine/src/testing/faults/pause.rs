//! A node takes no turns; what is sent to it waits (RULES.md D4). Arguments: the node, for how long.

use super::{Fault, node};

pub(super) const FAULT: Fault = Fault {
    name: "pause",
    often: 6,
    draw: |random, shape| [shape.any_node(random), *random.pick(&[5, 30, 100, 200]), 0],
    inject: |run, [at, steps, _]| run.pause(node(at), steps),
};
