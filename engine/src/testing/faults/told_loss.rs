//! A follower's power fails and its disk loses the end of a log, and the follower is back before anything else has
//! changed. The leader that counted the lost entries tells the follower, which is marked and readmitted (RULES.md C3,
//! W8). In one of three ways the follower then hears nobody for a while, and would stand for election if it were not
//! marked; in another way the follower alone gets entries, so that its leader owes it a no-op. Arguments: the group
//! and one of its followers, steps until the power fails, and three times the batches that are lost, plus the way.

use super::{Added, Fault, When, node};

const FAULT: Fault = Fault {
    name: "told loss",
    often: 1,
    draw: |random, shape| {
        let whom = random.below(shape.groups.len() as u64 * 8);
        [whom, random.between(20, 40), 3 * random.between(3, 8) + *random.pick(&[0, 1, 1, 2, 2])]
    },
    inject: |sim, [whom, after, lost]| {
        sim.lose_and_tell(node(whom / 8), whom % 8, after, lost / 3, lost % 3);
    },
};

pub(super) const ADDED: Added = Added {
    fault: FAULT,
    once_in: 4,
    strikes: |shape| shape.nodes.len() >= 3,
    when: When::Staged(|[_, after, _], shape| after + 8 * shape.election_ticks),
};
