//! Every trouble that passes by itself passes now: pauses, partitions, slow and full disks. Not a fault, but the
//! curtain before one that has the stage. Arguments: none.

use super::Fault;

pub(super) const FAULT: Fault =
    Fault { name: "calm", often: 0, draw: |_, _| [0, 0, 0], inject: |run, _| run.calm() };
