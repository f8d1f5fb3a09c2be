//! A disk says that what it was given is durable, and it is not (RULES.md W8). A node that loses something that
//! a later batch knew durable must find out. Arguments: the node, for how long, honest steps until the power fails.

use super::{Fault, node};

pub(super) const FAULT: Fault = Fault {
    name: "lying disk",
    often: 1,
    draw: |random, shape| {
        [shape.any_node(random), random.between(5, 60), *random.pick(&[0, 20, 20])]
    },
    inject: |run, [at, steps, honest]| run.lie(node(at), steps, honest),
};
