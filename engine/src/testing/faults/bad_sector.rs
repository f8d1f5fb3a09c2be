//! A sector of a batch that later batches know durable cannot be read any more (RULES.md C9): its groups are fenced,
//! or the log is refused. Arguments: the node, which batch, which of its bits the sector holds.

use super::{Fault, node};
use crate::testing::disks::Decay;

pub(super) const FAULT: Fault = Fault {
    name: "unreadable sector",
    often: 1,
    draw: |random, shape| [shape.any_node(random), random.any(), random.any()],
    inject: |run, [at, batch, bit]| run.decay(node(at), batch, bit, &Decay::Unreadable),
};
