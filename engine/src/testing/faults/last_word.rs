//! A leader's last entries reach one follower only, whose disk is slow, and the leader is silent for longer than that
//! disk takes. Meanwhile a node without the entries asks for votes (RULES.md rule 10). Arguments: the group and one of
//! its followers, steps until the leader is silent, steps that the disk takes.

use super::{Fault, Staged, node};

pub(super) const FAULT: Fault = Fault {
    name: "last word",
    often: 3,
    draw: |random, shape| {
        let whom = random.below(shape.groups.len() as u64 * 8);
        let timeout = shape.election_ticks;
        // Long enough for another node to ask for votes once, not twice; the follower's node does not resign before.
        let stall = 2 * timeout - timeout / 8 + random.below(timeout / 2);
        [whom, random.between(2, 2 + timeout / 4), stall]
    },
    inject: |run, [whom, after, stall]| run.last_word(node(whom / 8), whom % 8, after, stall),
};

pub(super) const STAGED: Staged =
    Staged { fault: FAULT, steps: |[_, after, stall], _| after + 2 * stall };
