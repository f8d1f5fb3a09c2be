//! A leader's last entries reach one node only, whose disk is slow, and the leader is not heard for longer than
//! that; who has not got them asks for votes meanwhile (RULES.md rule 10). Arguments: the group and the node
//! beside its leader, steps until it is silent, steps that the disk takes.

use super::{Fault, Staged, node};

pub(super) const FAULT: Fault = Fault {
    name: "last word",
    often: 3,
    draw: |random, shape| {
        let whom = random.below(shape.groups.len() as u64 * 8);
        let timeout = shape.election_ticks;
        // Long enough for another to ask for votes, not for it to ask again; its node is not resigned before.
        let stall = 2 * timeout - timeout / 8 + random.below(timeout / 2);
        [whom, random.between(2, 2 + timeout / 4), stall]
    },
    inject: |run, [whom, after, stall]| run.last_word(node(whom / 8), whom % 8, after, stall),
};

pub(super) const STAGED: Staged =
    Staged { fault: FAULT, steps: |[_, after, stall], _| after + 2 * stall };
