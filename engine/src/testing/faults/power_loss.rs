//! The power of all nodes fails at once (RULES.md P4). Arguments: steps until they start again.

use super::Fault;

pub(super) const FAULT: Fault = Fault {
    name: "power loss of all",
    often: 3,
    draw: |random, _| [random.between(1, 40), 0, 0],
    inject: |run, [down, _, _]| {
        for at in 0..run.nodes.len() {
            run.crash(at, down + at as u64);
        }
    },
};
