//! A write fails once; from then on reads show it and syncs succeed, and the power takes it (RULES.md W7). Arguments:
//! the node, writes before it, steps until the power fails.

use super::{Fault, node};

pub(super) const FAULT: Fault = Fault {
    name: "false success",
    often: 1,
    draw: |random, shape| [shape.any_node(random), random.below(6), *random.pick(&[20, 60, 120])],
    inject: |run, [at, after, power]| run.fail_falsely(node(at), after, power),
};
