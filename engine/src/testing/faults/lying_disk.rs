//! A disk says that the bytes it was given are durable when they are not (RULES.md W8). A node that loses bytes that a
//! later batch records as durable must notice. Arguments: the node, steps of lying, honest steps until the power
//! fails.

use super::{Fault, node};

pub(super) const FAULT: Fault = Fault {
    name: "lying disk",
    often: 1,
    draw: |random, shape| {
        [shape.any_node(random), random.between(5, 60), *random.pick(&[0, 20, 20])]
    },
    inject: |run, [at, steps, honest]| run.lie(node(at), steps, honest),
};
