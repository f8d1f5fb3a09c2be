//! A node's directory is copied, and later the copy takes the directory's place (RULES.md C7). Arguments: the node,
//! steps between copying and restoring, steps until the node starts.

use super::{Fault, node};

pub(super) const FAULT: Fault = Fault {
    name: "restored directory",
    often: 2,
    draw: |random, shape| [shape.any_node(random), random.between(20, 200), random.below(60)],
    inject: |sim, [at, after, down]| sim.restore_later(node(at), after, down),
};
