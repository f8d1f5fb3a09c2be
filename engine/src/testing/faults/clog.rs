//! A link holds up the messages that it is given and delivers all of them at the end (RULES.md N11).
//! Arguments: the sending node, the receiving node, for how many steps.

use super::{Fault, node};

pub(super) const FAULT: Fault = Fault {
    name: "clogged link",
    often: 10,
    draw: |random, shape| {
        [shape.any_node(random), shape.any_node(random), *random.pick(&[10, 40, 120])]
    },
    inject: |run, [from, to, steps]| run.clog(node(from), node(to), steps),
};
