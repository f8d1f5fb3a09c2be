//! The connections of a node break and come back (RULES.md N10). Arguments: the node.

use super::{Fault, node};

pub(super) const FAULT: Fault = Fault {
    name: "broken connections",
    often: 12,
    draw: |random, shape| [shape.any_node(random), 0, 0],
    inject: |run, [at, _, _]| run.break_connections(node(at)),
};
