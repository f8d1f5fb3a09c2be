//! A node hears nothing but is heard, or is not heard but hears; from and by all others or one (RULES.md N2, N3).
//! Arguments: the node, the kind, for how many steps.

use super::{Fault, node};

pub(super) const FAULT: Fault = Fault {
    name: "one-way partition",
    often: 8,
    draw: |random, shape| [shape.any_node(random), random.below(4), *random.pick(&[20, 60, 150])],
    inject: |run, [at, kind, steps]| {
        let nodes = run.shape.nodes.clone();
        let about = nodes[node(at)];
        let others = nodes.iter().copied().filter(|other| *other != about);
        let others: Vec<_> = if kind < 2 { others.collect() } else { others.take(1).collect() };
        for other in others {
            if kind % 2 == 0 {
                run.cut(other, about, steps);
            } else {
                run.cut(about, other, steps);
            }
        }
    },
};
