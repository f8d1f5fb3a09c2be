//! Every node that leads anything takes no turns for a while (RULES.md D4). Arguments: for how long.

use super::Fault;

pub(super) const FAULT: Fault = Fault {
    name: "paused leaders",
    often: 4,
    draw: |random, _| [*random.pick(&[30, 60, 120]), 0, 0],
    inject: |run, [steps, _, _]| run.pause_leaders(steps),
};
