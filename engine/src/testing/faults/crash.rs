//! The power of one node fails: each sector in flight may be on the disk afterwards, or not (RULES.md W1, W2).
//! Arguments: the node, steps until it starts again.

use super::{Fault, node};

pub(super) const FAULT: Fault = Fault {
    name: "crash",
    often: 12,
    draw: |random, shape| [shape.any_node(random), *random.pick(&[1, 5, 30, 90]), 0],
    inject: |run, [at, down, _]| run.crash(node(at), down),
};
