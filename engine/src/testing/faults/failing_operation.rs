//! An operation of a disk fails: a read, a sync, a removal, a step of making a segment (RULES.md W6, W7, W11). The
//! node must stop, or not start. Arguments: the node, operations before the failing one, whether the process ends
//! first.

use super::{Fault, node};

pub(super) const FAULT: Fault = Fault {
    name: "failing operation",
    often: 3,
    draw: |random, shape| [shape.any_node(random), random.below(40), random.below(2)],
    inject: |run, [at, operation, restart]| run.fail_operation(node(at), operation, restart == 1),
};
