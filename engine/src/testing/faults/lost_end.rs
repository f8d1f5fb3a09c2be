//! A disk says for a moment that everything is durable, and its power fails: the end of what its logs acknowledged is
//! gone, and mostly nothing on the disk tells (FAULTS.md C3, W8). Arguments: the node, for how many steps.

use super::{Fault, node};

pub(super) const FAULT: Fault = Fault {
    name: "lost end",
    often: 3,
    draw: |random, shape| [shape.any_node(random), random.between(2, 30), 0],
    inject: |sim, [at, steps, _]| sim.lie(node(at), steps, 0),
};
