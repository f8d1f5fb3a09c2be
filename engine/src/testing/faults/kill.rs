//! The process of one node ends; its writes in flight may be read, land late, or never land (rule 8, 19).
//! Arguments: the node, steps until it starts again, steps until late writes land, or 0 if they never do.

use super::{Fault, node};

pub(super) const FAULT: Fault = Fault {
    name: "kill",
    often: 12,
    draw: |random, shape| {
        [shape.any_node(random), *random.pick(&[1, 5, 30, 90]), *random.pick(&[0, 2, 10, 60])]
    },
    inject: |run, [at, down, late]| {
        run.kill(node(at), down);
        if late > 0 {
            run.land_late(node(at), late);
        }
    },
};
