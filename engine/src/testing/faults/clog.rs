//! A link holds up what it is given and delivers all of it at the end (RULES.md N11).
//! Arguments: from whom, to whom, for how long.

use super::{Fault, node};

pub(super) const FAULT: Fault = Fault {
    name: "clogged link",
    often: 10,
    draw: |random, shape| {
        [shape.any_node(random), shape.any_node(random), *random.pick(&[10, 40, 120])]
    },
    inject: |run, [from, to, steps]| run.clog(node(from), node(to), steps),
};
