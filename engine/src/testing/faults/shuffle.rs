//! Appends reach only one node, whose disk is stuck, while leaders come and go: the end of that node's log is replaced
//! again and again before any of it is durable (RULES.md W14, rule 10). Arguments: the node, half the number of
//! election timeouts for which each leader pauses, the group.

use super::{Fault, Staged, node};

pub(super) const FAULT: Fault = Fault {
    name: "shuffle",
    often: 2,
    draw: |random, shape| {
        [
            shape.any_node(random),
            *random.pick(&[1, 2, 2, 3]),
            random.below(shape.groups.len() as u64),
        ]
    },
    inject: |run, [at, timeouts, group]| {
        run.shuffle(node(at), node(group), timeouts * 2 * run.shape.election_ticks);
    },
};

pub(super) const STAGED: Staged = Staged {
    fault: FAULT,
    steps: |[_, timeouts, _], shape| (6 * timeouts + 1) * shape.election_ticks,
};
