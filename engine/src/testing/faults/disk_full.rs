//! For a while a disk has no room for further segments, or not even for a block (RULES.md W9, W10). Arguments: the
//! node, or one past the last node for all nodes; segments left, or 2 for a disk full to its last block; how many
//! steps.

use super::{Fault, node};

pub(super) const FAULT: Fault = Fault {
    name: "full disk",
    often: 4,
    draw: |random, shape| {
        let nodes = shape.nodes.len() as u64;
        [random.below(nodes + 1), random.below(3), *random.pick(&[30, 100, 200])]
    },
    inject: |run, [at, left, steps]| {
        if node(at) < run.nodes.len() {
            run.fill_disk(node(at), left, steps);
        } else {
            (0..run.nodes.len()).for_each(|at| run.fill_disk(at, left, steps));
        }
    },
};
