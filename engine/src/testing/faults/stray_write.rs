//! A write succeeds, but its bytes go to where another batch stands, or nowhere (RULES.md C10). Arguments: the node,
//! writes before it, where the bytes go.

use super::{Fault, node};

pub(super) const FAULT: Fault = Fault {
    name: "stray write",
    often: 1,
    draw: |random, shape| [shape.any_node(random), random.below(6), random.any()],
    inject: |run, [at, after, place]| run.misplace_write(node(at), after, place),
};
