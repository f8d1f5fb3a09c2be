//! Two nodes try to start on each other's disks, must not start, and get their own disks back (RULES.md C7).
//! Arguments: the two nodes.

use super::{Fault, node};

pub(super) const FAULT: Fault = Fault {
    name: "swapped disks",
    often: 1,
    draw: |random, shape| [shape.any_node(random), shape.any_node(random), 0],
    inject: |run, [a, b, _]| run.swap_disks(node(a), node(b)),
};
