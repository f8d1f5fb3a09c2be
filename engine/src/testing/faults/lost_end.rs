//! The power of a node fails, and its disk has lost the last batches that it had said to be durable: what its logs
//! acknowledged is gone, and nothing on the disk tells (RULES.md C3, W8). If their number is even, a leader pauses
//! soon after the restart: a candidate needs the replica's vote then. Arguments: the node, how many batches, for how many
//! steps it is down.

use super::{Fault, node};

pub(super) const FAULT: Fault = Fault {
    name: "lost end",
    often: 4,
    draw: |random, shape| {
        let down = random.between(1, 4 * shape.election_ticks);
        [shape.any_node(random), random.between(1, 8), down]
    },
    inject: |sim, [at, batches, down]| sim.lose_end(node(at), batches, down),
};
