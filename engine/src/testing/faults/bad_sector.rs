//! A sector of a batch that later batches record as durable becomes unreadable (RULES.md C9): the groups of the batch
//! are fenced, or the log does not open. Arguments: the node, which batch, which of its bits lies in the sector.

use super::{Fault, node};
use crate::testing::disks::Decay;

pub(super) const FAULT: Fault = Fault {
    name: "unreadable sector",
    often: 1,
    draw: |random, shape| [shape.any_node(random), random.any(), random.any()],
    inject: |run, [at, batch, bit]| run.decay(node(at), batch, bit, &Decay::Unreadable),
};
