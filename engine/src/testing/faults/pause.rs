//! A node takes no turns; messages to it wait (RULES.md D4). Arguments: the node, for how many steps.

use super::{Fault, node};

pub(super) const FAULT: Fault = Fault {
    name: "pause",
    often: 6,
    draw: |random, shape| [shape.any_node(random), *random.pick(&[5, 30, 100, 200]), 0],
    inject: |run, [at, steps, _]| run.pause(node(at), steps),
};
