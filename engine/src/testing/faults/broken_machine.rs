//! A group's machine fails on one node: that group stops on that node, and nothing else stops (RULES.md P9).
//! Arguments: the node, the group.

use super::{Fault, node};

pub(super) const FAULT: Fault = Fault {
    name: "failing machine",
    often: 1,
    draw: |random, shape| [shape.any_node(random), random.below(shape.groups.len() as u64), 0],
    inject: |run, [at, group, _]| {
        let group = run.shape.groups[node(group)];
        run.break_machine(node(at), group, 0);
    },
};
