//! The power of a node fails again and again, a few steps after each start, while the node hears nobody: each of its
//! starts costs space, and nothing else does (RULES.md W17). Before that leaders get a command in every step, so that the
//! node's logs have something in them, and are at their quota if they have one. Arguments: the node, for how many steps
//! leaders get commands, the number of failures.

use super::{Added, Fault, When, node};

const FAULT: Fault = Fault {
    name: "crash loop",
    often: 1,
    draw: |random, shape| {
        let eager = match shape.log_bytes_max {
            Some(_) => random.between(100, 200),
            None => random.between(20, 60),
        };
        [shape.any_node(random), eager, random.between(8, 16)]
    },
    inject: |sim, [at, eager, times]| sim.crash_again(node(at), eager, times),
};

pub(super) const ADDED: Added =
    Added { fault: FAULT, once_in: 4, strikes: |_| true, when: When::Anytime };
