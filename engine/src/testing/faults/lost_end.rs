//! The power of a node fails, and its disk loses the last batches that it had said to be durable: entries that its
//! logs acknowledged are gone, and nothing on the disk shows that (RULES.md C3, W8). If the number of batches is even,
//! a leader pauses soon after the restart, so that a candidate needs this replica's vote. Arguments: the node, how
//! many batches, for how many steps the node is down.

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
