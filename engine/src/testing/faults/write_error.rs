//! A write fails: the node must stop (FAULTS.md W6, W7). Arguments: the node, writes before it.

use super::{Fault, node};

pub(super) const FAULT: Fault = Fault {
    name: "write error",
    often: 4,
    draw: |random, shape| [shape.any_node(random), random.below(6), 0],
    inject: |run, [at, after, _]| run.nodes[node(at)].platter.fail_write(after),
};
