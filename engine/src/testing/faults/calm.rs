//! Every trouble that passes by itself ends now: pauses, partitions, slow and full disks. This is no fault: it comes
//! before a staged fault, which needs a cluster at rest. Arguments: none.

use super::Fault;

pub(super) const FAULT: Fault =
    Fault { name: "calm", often: 0, draw: |_, _| [0, 0, 0], inject: |run, _| run.calm() };
