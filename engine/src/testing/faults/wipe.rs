//! A node comes back without its disk's content, or without a part of it, and must not start (RULES.md P6). Arguments:
//! the node; what is lost: all, only the segments, or only the manifest.

use super::{Fault, node};

pub(super) const FAULT: Fault = Fault {
    name: "wiped disk",
    often: 1,
    draw: |random, shape| [shape.any_node(random), random.below(3), 0],
    inject: |run, [at, kind, _]| run.wipe(node(at), kind),
};
