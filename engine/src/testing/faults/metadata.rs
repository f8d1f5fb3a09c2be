//! The manifest or a segment's header is damaged while the power is off (RULES.md C4, C8): the node must refuse to start
//! and change nothing, and starts when somebody has mended it. Arguments: the node, a bit of the manifest, its end, or a
//! bit of a header; which one.

use super::{Fault, node};

pub(super) const FAULT: Fault = Fault {
    name: "damaged metadata",
    often: 1,
    draw: |random, shape| [shape.any_node(random), random.below(4), random.any()],
    inject: |run, [at, what, bit]| run.damage_metadata(node(at), what, bit),
};
