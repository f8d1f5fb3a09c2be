//! A node is stopped as by an operator: its log writes all that it was given, and a footer (RULES.md W15). Arguments:
//! the node, steps until it starts again.

use super::{Fault, node};

pub(super) const FAULT: Fault = Fault {
    name: "clean stop",
    often: 4,
    draw: |random, shape| [shape.any_node(random), *random.pick(&[1, 5, 30]), 0],
    inject: |run, [at, down, _]| run.close(node(at), down),
};
