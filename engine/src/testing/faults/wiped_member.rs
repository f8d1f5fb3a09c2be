//! A node loses its directory and is started with a new one under its old id (RULES.md P6). Arguments: the node, steps
//! until it starts.

use super::{Fault, node};

pub(super) const FAULT: Fault = Fault {
    name: "wiped member",
    often: 2,
    draw: |random, shape| [shape.any_node(random), random.below(60), 0],
    inject: |sim, [at, down, _]| sim.make_anew(node(at), down),
};
