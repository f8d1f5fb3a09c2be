//! A write fails once; from then on reads show its bytes and syncs succeed, until the power fails and the bytes are
//! lost (RULES.md W7). Arguments: the node, writes before it, steps until the power fails.

use super::{Fault, node};

pub(super) const FAULT: Fault = Fault {
    name: "false success",
    often: 1,
    draw: |random, shape| [shape.any_node(random), random.below(6), *random.pick(&[20, 60, 120])],
    inject: |run, [at, after, power]| run.fail_falsely(node(at), after, power),
};
