//! Appends reach only one node, whose disk is stuck, while leaders come and go: its log is replaced
//! again and again before any of it is durable (FAULTS.md W14, rule 10). Arguments: the node, for how
//! many election timeouts each leader pauses, whether other faults wait meanwhile.

use super::{Fault, node};

pub(super) const FAULT: Fault = Fault {
    name: "shuffle",
    often: 2,
    draw: |random, shape| [shape.any_node(random), random.between(1, 3), random.below(2)],
    inject: |run, [at, timeouts, alone]| {
        let steps = timeouts * 2 * run.shape.election_ticks;
        if alone == 1 {
            run.alone(4 * steps);
        }
        run.shuffle(node(at), steps);
    },
};
