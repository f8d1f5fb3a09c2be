//! The process of one node ends within a write or a sync of one of its machines, in most cases because the power
//! fails; machines that live in memory do neither. Arguments: the node, steps until it starts again, and four times
//! the number of operations before that one, plus three if the power stays on.

use super::{Fault, node};

pub(super) const FAULT: Fault = Fault {
    name: "end within a machine's write",
    often: 12,
    draw: |random, shape| [shape.any_node(random), *random.pick(&[1, 5, 30, 90]), random.below(16)],
    inject: |run, [at, down, way]| {
        run.end_within_machine(node(at), down, way / 4, way % 4 != 3);
    },
};
